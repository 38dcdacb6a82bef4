"""What a fit tells while it runs: a line per iteration, or one line once it takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Protocol, TextIO

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.optimize import Search

# Seconds after which a fit on a terminal says that it is still at work.
PATIENCE = 5.0


class Watch(Protocol):
    """Called with the states an outer search passes through, all of them if `every`."""

    every: bool

    def __call__(self, search: Search, evaluations: int = 1) -> None:
        """Told of a state, and of how many evaluations lie between it and the one before."""


class _Unwatched:
    """Tells nobody."""

    every = False

    def __call__(self, search: Search, evaluations: int = 1) -> None:
        pass


unwatched: Watch = _Unwatched()


def check_verbose(verbose: int | None) -> None:
    """Raise `ArgumentError` unless `verbose` is None, or a whole number from 0."""
    if verbose is not None and (not isinstance(verbose, Integral) or verbose < 0):
        raise ArgumentError(
            f"verbose is {verbose!r}; give 1 for a line per iteration, 0 for silence, or None"
        )


@contextmanager
def progress(
    verbose: int | None,
    log_base: Callable[[], float],
    *,
    out: TextIO | None = None,
    terminal: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Watch]:
    """A watch to hand to a fit.

    verbose: 1 prints a line per iteration to standard output. 0 prints nothing. None shows one line
    of a fit that takes longer than `PATIENCE` seconds, on a terminal only (standard error), and
    clears it at the end. log_base: what objectives leave out of the log-likelihood.
    """
    terminal = terminal or sys.stderr
    tally = _Tally(log_base, clock)
    if verbose:
        yield _Lines(tally, out or sys.stdout)
    elif verbose is None and terminal.isatty():
        line = _StatusLine(tally, terminal)
        try:
            yield line
        finally:
            line.clear()
    else:
        yield unwatched


class _Tally:
    """Counts iterations and seconds, and puts a state of the search into figures."""

    def __init__(self, log_base: Callable[[], float], clock: Callable[[], float]) -> None:
        self._log_base, self._clock = log_base, clock
        self._base: float | None = None
        self._begun = clock()
        self._count = 0

    @property
    def seconds(self) -> float:
        return self._clock() - self._begun

    def count(self, evaluations: int) -> None:
        self._count += evaluations

    def figures(self, search: Search) -> tuple[str, str, str, str]:
        """Iteration, log-likelihood, decrement and seconds."""
        if self._base is None:
            self._base = self._log_base()
        log_likelihood = self._base - float(search.value)
        return (
            str(self._count),
            f"{log_likelihood:.6f}",
            f"{float(search.gain):.2e}",
            f"{self.seconds:.2f}",
        )


class _Lines:
    """A line per iteration under a header."""

    every = True

    def __init__(self, tally: _Tally, out: TextIO) -> None:
        self._tally, self._out = tally, out
        self._write("iteration", "log-likelihood", "decrement", "seconds")

    def __call__(self, search: Search, evaluations: int = 1) -> None:
        self._tally.count(evaluations)
        self._write(*self._tally.figures(search))

    def _write(self, iteration: str, value: str, gain: str, seconds: str) -> None:
        self._out.write(f"{iteration:>9} {value:>16} {gain:>10} {seconds:>8}\n")
        self._out.flush()


class _StatusLine:
    """One line that is written over and over, once patience is at its end."""

    every = False

    def __init__(self, tally: _Tally, terminal: TextIO) -> None:
        self._tally, self._terminal = tally, terminal
        self._width = 0

    def __call__(self, search: Search, evaluations: int = 1) -> None:
        self._tally.count(evaluations)
        if self._tally.seconds < PATIENCE:
            return
        iteration, value, gain, seconds = self._tally.figures(search)
        text = f"iteration {iteration}: log-likelihood {value}, decrement {gain}, {seconds} s"
        self._terminal.write(f"\r{text:<{self._width}}")
        self._terminal.flush()
        self._width = len(text)

    def clear(self) -> None:
        if self._width:
            self._terminal.write(f"\r{'':{self._width}}\r")
            self._terminal.flush()
