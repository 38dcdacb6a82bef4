"""What a user may set about the fitting itself."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.optimize import check_optimizer

INFORMATION = ("observed", "expected")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class GlmerControl:
    """Settings of a fit.

    Attributes
    ----------
    optimizer
        "bfgs" (exact gradients; where they fail a derivative-free search takes over) or "bobyqa"
        (derivative-free from the start).
    maxfun
        Evaluations of the objective that the searches of a fit may spend, all stages together.
    tol
        Predicted gain in log-likelihood below which the search hands over to Newton steps.
    information
        Weights in the Laplace determinant, "observed" (glmmTMB's) or "expected" (lme4's).
    check_separation
        Look for fixed effects that grow without bound.

    Raises
    ------
    ArgumentError
        For a value outside these.
    """

    optimizer: str = "bfgs"
    maxfun: int = 10_000
    tol: float = 1e-11
    information: str = "observed"
    check_separation: bool = True

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        if not _is_number(self.maxfun) or self.maxfun < 1 or self.maxfun != int(self.maxfun):
            raise ArgumentError(f"maxfun is {self.maxfun!r}; give a whole number from 1")
        object.__setattr__(self, "maxfun", int(self.maxfun))  # 1e5 is welcome
        if not _is_number(self.tol) or not 0 < self.tol < 1:
            raise ArgumentError(f"tol is {self.tol!r}; give a number between 0 and 1")
        if self.information not in INFORMATION:
            raise ArgumentError(
                f"there is no information {self.information!r}; choose one of "
                f"{', '.join(INFORMATION)}"
            )
