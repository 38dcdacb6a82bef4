"""What a fit tells while it runs."""

from __future__ import annotations

import contextlib
import io

import fitted
import numpy as np
import pytest
from fitted import CBPP

import mixedlm_jax as mlm
from mixedlm_jax.optimize import Search
from mixedlm_jax.progress import PATIENCE, progress, unwatched


class Terminal(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, interactive: bool = True) -> None:
        super().__init__()
        self.interactive = interactive

    def isatty(self) -> bool:
        return self.interactive


def state(value: float, gain: float) -> Search:
    nothing = np.zeros(0)
    return Search(
        x=nothing,
        value=np.float64(value),
        gradient=nothing,
        aux=None,
        inverse=nothing,
        length=np.ones(()),
        gain=np.float64(gain),
    )


class Clock:
    """Goes on by so many seconds each time it is read."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_a_line_per_iteration(capsys):
    model = mlm.glmer(CBPP, fitted.cbpp(), "binomial", verbose=1)
    printed = capsys.readouterr()
    header, *lines = printed.out.splitlines()
    assert printed.err == ""
    assert header.split() == ["iteration", "log-likelihood", "decrement", "seconds"]
    table = np.array([line.split() for line in lines], float)
    np.testing.assert_array_equal(table[:, 0], np.arange(1, len(table) + 1))
    assert abs(len(table) - model.optinfo["evaluations"]) <= 1
    assert table[-1, 1] == pytest.approx(model.logLik(), abs=1e-6)
    assert table[-1, 2] < 1e-6
    assert np.all(np.diff(table[:, 3]) >= 0)


def test_derivative_free_iterations_are_told_too(capsys):
    control = mlm.GlmerControl(optimizer="bobyqa")
    mlm.glmer(CBPP, fitted.cbpp(), "binomial", verbose=1, control=control)
    assert len(capsys.readouterr().out.splitlines()) > 50


@pytest.mark.parametrize("verbose", [None, 0])
def test_silent_by_default(capsys, verbose):
    mlm.glmer(CBPP, fitted.cbpp(), "binomial", verbose=verbose)
    assert capsys.readouterr() == ("", "")


def test_a_long_fit_on_a_terminal_shows_one_line_and_clears_it():
    terminal = Terminal()
    with progress(None, lambda: -10.0, terminal=terminal, clock=Clock(2.0)) as watch:
        watch(state(90.0, 0.5))
        assert terminal.getvalue() == ""  # patience is not at its end
        watch(state(80.0, 0.25))
        watch(state(70.0, 0.125))
        shown = terminal.getvalue()
    assert "\n" not in shown
    assert "iteration 3: log-likelihood -80.000000, decrement 1.25e-01" in shown
    assert terminal.getvalue().endswith("\r")
    assert terminal.getvalue().split("\r")[-2].isspace()


def test_the_line_goes_when_a_fit_fails():
    terminal = Terminal()
    with (
        contextlib.suppress(mlm.FitError),
        progress(None, lambda: 0.0, terminal=terminal, clock=Clock(PATIENCE)) as watch,
    ):
        watch(state(1.0, 1.0))
        raise mlm.FitError("stopped")
    assert terminal.getvalue().endswith("\r")


@pytest.mark.parametrize(("verbose", "interactive"), [(0, True), (None, False)])
def test_nobody_is_told_otherwise(verbose, interactive):
    terminal = Terminal(interactive)
    with progress(verbose, lambda: 0.0, terminal=terminal) as watch:
        assert watch is unwatched


@pytest.mark.parametrize("verbose", [-1, 0.5, "yes"])
def test_bad_verbose(verbose):
    with pytest.raises(mlm.ArgumentError, match="verbose is"):
        mlm.glmer(CBPP, fitted.cbpp(), "binomial", verbose=verbose)
