"""What every response distribution offers to the engine.

A family is a pure JAX log-density of one observation in its linear predictor eta and its own
parameters phi; score and information come from autodiff. It is frozen and hashable, so that it can
be a static argument of a compiled program.

    log f(y | eta, phi) = log_density(y, eta, phi, trials, precision) + log_base_measure(y, trials)

The base measure holds what depends on neither eta nor phi, and is evaluated once a fit.
`phi` is a vector of unconstrained coordinates (log sigma); `dispersion` gives the natural scale.
`precision` divides the dispersion: prior weights of exponential dispersion families (Gaussian
variance sigma^2 / w). Other families see no weight: it multiplies their log-density from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.errors import DataError
from mixedlm_jax.links import resolve_link


@dataclass(frozen=True)
class Family:
    """Base of all response families."""

    link: Any  # given by name or as a `Link`; a `Link` once the family is made

    name: ClassVar[str]
    links: ClassVar[tuple[str, ...]]
    log_concave_links: ClassVar[tuple[str, ...]] = ()
    takes_trials: ClassVar[bool] = False
    weights_are_precisions: ClassVar[bool] = False
    has_expected_information: ClassVar[bool] = False
    dispersion_names: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "link", resolve_link(self.link, self.links, self.name))

    def __str__(self) -> str:
        return f"{self.name} ( {self.link.name} )"

    # The log-density and what follows from it (JAX, elementwise, shape (n,)).

    def log_density(
        self,
        y: Array,
        eta: Array,
        phi: Array,
        trials: Array,
        precision: Array,
    ) -> Array:
        """log f(y | eta, phi) without the base measure; eta inside `in_domain`."""
        raise NotImplementedError

    def log_base_measure(self, y: Array, trials: Array) -> Array:
        """The part of log f that depends on neither eta nor phi."""
        return jnp.zeros_like(y)

    def in_domain(self, eta: Array) -> Array:
        """Where eta gives a valid distribution (bool)."""
        return self.link.in_domain(eta)

    @property
    def restricted(self) -> bool:
        """Whether some eta, however far out, lies outside `in_domain`, which is an interval."""
        return not bool(np.all(self.in_domain(np.array([-1e6, 1e6]))))

    def expected_information(
        self, eta: Array, phi: Array, trials: Array, precision: Array
    ) -> Array:
        """E(-d2 log f / d eta2), the Fisher information of eta in one observation.

        Only families that set `has_expected_information` have it in closed form.
        """
        raise NotImplementedError

    def ranef_scale(self, phi: Array) -> Array | float:
        """What theta is relative to: sigma for the Gaussian, 1 elsewhere."""
        return 1.0

    def effect_unit(self, phi: Array) -> Array | float:
        """What random effects are small or large against: 1, where eta has no unit of its own."""
        return 1.0

    def dispersion(self, phi: Array) -> Array:
        """phi on its natural scale, named by `dispersion_names`."""
        return phi

    def unconstrained(self, dispersion: np.ndarray) -> np.ndarray:
        """The inverse of `dispersion` (NumPy)."""
        return dispersion

    @property
    def is_linear(self) -> bool:
        """Whether the responses are normal around eta itself: a linear mixed model."""
        return False

    @property
    def log_concave(self) -> bool:
        """Whether log f is concave in eta, so that Newton's method needs no safeguard."""
        return self.link.name in self.log_concave_links

    # Moments and residuals (NumPy; mu is the mean of one trial).

    def variance(self, mu: np.ndarray) -> np.ndarray:
        """The variance function V(mu) of one trial at dispersion 1."""
        raise NotImplementedError

    def unit_deviance(self, y: np.ndarray, mu: np.ndarray, trials: np.ndarray) -> np.ndarray:
        """2 (log f at mu = y - log f at mu) at dispersion 1, shape (n,)."""
        raise NotImplementedError

    # The response.

    def check_response(self, y: np.ndarray, trials: np.ndarray) -> None:
        """Raise `DataError` unless every y can occur."""

    def bounds(self, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest response, whose likelihood grows as eta goes to -inf or +inf.

        Each (n,), infinite where there is none; this is what separation is judged by.
        """
        return np.full_like(trials, -np.inf), np.full_like(trials, np.inf)

    def one_row_per_level(self, trials: np.ndarray) -> str:
        """May a grouping factor have one row a level: "refuse", "warn" or "ok"."""
        return "refuse"

    # Where a fit starts.

    def start_mean(self, y: np.ndarray, trials: np.ndarray) -> np.ndarray:
        """A mean near each y (of one trial) whose link is finite."""
        raise NotImplementedError

    def start_phi(self, y: np.ndarray, mu: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Rough unconstrained phi from fitted means, shape (number of dispersion parameters,)."""
        return np.zeros(0)


def require(ok: np.ndarray, y: np.ndarray, family: str, expected: str, hint: str) -> None:
    """Raise `DataError` naming the first response that breaks a rule."""
    if not np.all(ok):
        row = int(np.argmin(ok))
        raise DataError(
            f"the {family} family expects {expected}, but response {y[row]:g} was found in row "
            f"{row} of the rows used ({int(np.sum(~ok))} such rows); {hint}"
        )


def xlogy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x log y for x >= 0, with 0 log y = 0 whatever y (NumPy)."""
    return x * np.log(np.where(x > 0, y, 1.0))


def elementwise_derivatives(
    log_density: Callable[[Array], Array], eta: Array
) -> tuple[Array, Array, Array]:
    """Value, first and second derivative in eta of an elementwise function, in one pass."""
    one = jnp.ones_like(eta)

    def value_and_slope(point):
        return jax.jvp(log_density, (point,), (one,))

    (value, slope), (_, curvature) = jax.jvp(value_and_slope, (eta,), (one,))
    return value, slope, curvature
