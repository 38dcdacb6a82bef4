"""What a user may set about the fitting itself."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.optimize import check_optimizer
from mixedlm_jax.plan import Crossing

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
    max_corner
        Crossed factors leave a Schur complement with a column for each random effect of the smaller
        ones. Up to so many columns it is formed: exact, 8 max_corner^2 bytes a copy and of the
        order of max_corner^3 operations an evaluation. A larger one is not, unless its products
        would cost more: solutions then come of conjugate gradients and the log-determinant of
        random probes, with a Monte Carlo error that the summary shows.
    n_probes
        Number of those probes, at least 2. The error falls with its square root, the time of a fit
        grows with it.

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
    max_corner: int = Crossing.max_columns
    n_probes: int = Crossing.n_probes

    @property
    def crossing(self) -> Crossing:
        """How crossed factors are to be held."""
        return Crossing(self.max_corner, self.n_probes)

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        if not _is_number(self.maxfun) or self.maxfun < 1 or self.maxfun != int(self.maxfun):
            raise ArgumentError(f"maxfun is {self.maxfun!r}; give a whole number from 1")
        object.__setattr__(self, "maxfun", int(self.maxfun))  # 1e5 is welcome
        for name, least in (("max_corner", 0), ("n_probes", 2)):
            value = getattr(self, name)
            if not _is_number(value) or value < least or value != int(value):
                raise ArgumentError(f"{name} is {value!r}; give a whole number from {least}")
            object.__setattr__(self, name, int(value))
        if not _is_number(self.tol) or not 0 < self.tol < 1:
            raise ArgumentError(f"tol is {self.tol!r}; give a number between 0 and 1")
        if self.information not in INFORMATION:
            raise ArgumentError(
                f"there is no information {self.information!r}; choose one of "
                f"{', '.join(INFORMATION)}"
            )
