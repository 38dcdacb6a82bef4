"""Everything that can go wrong, in one place: exceptions, warnings and convergence codes.

A message is one sentence that says what was found, what was expected and what to try next.
"""

from __future__ import annotations

import sys
import warnings
from enum import IntEnum

_PACKAGE = __name__.partition(".")[0]


class MixedlmError(Exception):
    """Root of every exception this package raises on purpose."""


class FormulaError(MixedlmError, ValueError):
    """A formula that cannot be read, or that asks for what formulas may not do."""


class DataError(MixedlmError, ValueError):
    """Data that the formula or the family cannot be fitted to."""


class ArgumentError(MixedlmError, ValueError):
    """An argument outside the values it may take."""


class FitError(MixedlmError, RuntimeError):
    """No optimiser reached a finite log-likelihood."""


class MissingPackageError(MixedlmError, ImportError):
    """An optional package that what was asked for needs, and that is not installed."""


class MixedlmWarning(UserWarning):
    """Root of every warning this package issues."""


class ConvergenceWarning(MixedlmWarning):
    """The fit stands, but its verdict is not clean; `checkConv(model)` says why."""


class SingularFitWarning(MixedlmWarning):
    """The optimum lies where a random effect has no variance of its own."""


class DataWarning(MixedlmWarning):
    """The data were usable only after a change that is named in the message."""


class StoreWarning(MixedlmWarning):
    """Compiled programs could not be kept between processes, or not be read back."""


def warn(message: str, category: type[MixedlmWarning]) -> None:
    """Issue a warning at the line that called the package, however deep inside it this is."""
    frame, level, depth = sys._getframe().f_back, 2, 2
    while frame is not None:
        depth += 1
        if frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
            level = depth
        frame = frame.f_back
    warnings.warn(message, category, stacklevel=level)


def brief(value: object, most: int = 60) -> str:
    """A value as messages show it: its repr, or its type where that is long (a frame, a model)."""
    text = repr(value)
    if len(text) <= most and "\n" not in text:
        return text
    return f"an object of type {type(value).__name__}"


class Code(IntEnum):
    """How an optimisation ended. Values fit an int8; negative means "not an optimum"."""

    CONVERGED = 0
    SINGULAR = 1
    LIMIT = 2
    SEPARATED = -1
    NOT_AT_OPTIMUM = -2
    INDEFINITE = -3
    ILL_CONDITIONED = -4
    EVALUATION_LIMIT = -5
    NOT_FINITE = -6
    CONSTANT = -7

    @property
    def message(self) -> str:
        return _MESSAGES[self]


_MESSAGES = {
    Code.CONVERGED: "converged",
    Code.SINGULAR: "on the boundary: a standard deviation is 0 or a correlation is +-1",
    Code.LIMIT: "a dispersion parameter is at its limit, where the likelihood is flat in it",
    Code.SEPARATED: "separated data: a fixed effect grows without bound",
    Code.NOT_AT_OPTIMUM: "stopped before the optimum",
    Code.INDEFINITE: "the Hessian is not positive definite: a saddle or a flat direction",
    Code.ILL_CONDITIONED: "the Hessian is nearly singular: some parameters cannot be told apart",
    Code.EVALUATION_LIMIT: "the limit on evaluations was reached",
    Code.CONSTANT: "the response is constant or missing throughout: there is nothing to model",
    Code.NOT_FINITE: "the log-likelihood or its derivatives are not finite",
}
