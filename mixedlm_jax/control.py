"""What a user may set about the fitting itself."""

from __future__ import annotations

from dataclasses import dataclass

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.optimize import check_optimizer

INFORMATION = ("observed", "expected")


@dataclass(frozen=True)
class GlmerControl:
    """Settings of a fit.

    optimizer: "bfgs" (exact gradients; where they fail a derivative-free search takes over) or
        "bobyqa" (derivative-free from the start).
    maxfun: evaluations of the objective at most, in all stages together.
    tol: predicted gain in log-likelihood below which the search hands over to Newton steps.
    information: weights in the Laplace determinant, "observed" (glmmTMB's) or "expected" (lme4's).
    check_separation: look for fixed effects that grow without bound.

    Raises `ArgumentError` for a value outside these.
    """

    optimizer: str = "bfgs"
    maxfun: int = 10_000
    tol: float = 1e-11
    information: str = "observed"
    check_separation: bool = True

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        if self.maxfun < 1:
            raise ArgumentError(f"maxfun is {self.maxfun}; it must be at least 1")
        if not 0 < self.tol < 1:
            raise ArgumentError(f"tol is {self.tol}; it must lie between 0 and 1")
        if self.information not in INFORMATION:
            raise ArgumentError(
                f"there is no information {self.information!r}; choose one of "
                f"{', '.join(INFORMATION)}"
            )
