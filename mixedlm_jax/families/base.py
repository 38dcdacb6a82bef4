"""What every response distribution offers to the engine.

A family is a pure JAX log-density of one observation in its linear predictor eta and its own
parameters phi; score and information come from autodiff. It is frozen and hashable, so that it can
be a static argument of a compiled program.

    log f(y | eta, phi) = log_density(y, eta, phi, trials, precision) + log_base_measure(y, trials)

The base measure holds what depends on neither eta nor phi, and is evaluated once a fit.
`phi` holds unconstrained coordinates of the dispersion and shape parameters that are estimated (log
sigma), in the order of `dispersion_names`; each of phi[0], phi[1] is a number or one a row. A shape
that was given to the family is no part of phi. `Parameter.natural` gives the natural scale.
`sample` draws responses and takes the same arguments as `log_density`, a key in place of y.
`precision` divides the dispersion: prior weights of exponential dispersion families (Gaussian
variance sigma^2 / w). Other families see no weight: it multiplies their log-density from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.links import resolve_link

# Where log and logit links are as good as saturated, and halvings from there to the last digit.
_SATURATED = 80.0
_BISECTIONS = 64
_FARTHEST = 700.0  # what stands for the infinite eta of a mean that has been rounded to its end

Shapes: TypeAlias = Any
"""Natural values of the estimated parameters in order, each a number or an array (n,)."""

LIMIT = 1e5  # a shape beyond it is told apart from an infinite one by no data


@dataclass(frozen=True)
class Parameter:
    """A dispersion or shape parameter between `low` and `high`.

    Its unconstrained coordinate is the logit of its place in a bounded range, the logarithm of its
    distance from `low` where there is no `high`, and itself where there are neither. Outside
    `usual` it cannot be told from its limit, whose name is `limit`.
    """

    low: float = 0.0
    high: float = np.inf
    usual: tuple[float, float] = (0.0, np.inf)
    limit: str = ""

    @property
    def scale(self) -> str:
        """What the unconstrained coordinate is called."""
        if np.isfinite(self.high):
            return "logit"
        return "log" if np.isfinite(self.low) else "identity"

    @property
    def described(self) -> str:
        """What values it takes, for messages."""
        if np.isfinite(self.high):
            return f"between {self.low:g} and {self.high:g}"
        if not np.isfinite(self.low):
            return "finite"
        return f"above {self.low:g}" if self.low else "positive"

    def natural(self, coordinate: Array) -> Array:
        """The value at an unconstrained coordinate (JAX)."""
        if np.isfinite(self.high):
            return self.low + (self.high - self.low) * jax.nn.sigmoid(coordinate)
        if not np.isfinite(self.low):
            return coordinate
        return self.low + jnp.exp(coordinate) if self.low else jnp.exp(coordinate)

    def value(self, coordinate: Any) -> Any:
        """`natural` in NumPy."""
        if np.isfinite(self.high):
            return self.low + (self.high - self.low) * (0.5 + 0.5 * np.tanh(0.5 * coordinate))
        return self.low + np.exp(coordinate) if np.isfinite(self.low) else coordinate

    def coordinate(self, value: Any) -> Any:
        """The inverse of `natural` (NumPy); not finite for a value that cannot be."""
        with np.errstate(invalid="ignore", divide="ignore"):
            if np.isfinite(self.high):
                return np.log(value - self.low) - np.log(self.high - value)
            return np.log(value - self.low) if np.isfinite(self.low) else value


def named(**parameters: Parameter) -> Mapping[str, Parameter]:
    """The parameters of a family by name, in order."""
    return MappingProxyType(parameters)


@dataclass(frozen=True)
class Family:
    """Base of all response families.

    A field of the name of a parameter holds its value where it was given, None where it is to be
    estimated.
    """

    link: Any  # a name, a `Link` or a function eta -> mu; a `Link` once the family is made

    name: ClassVar[str]
    links: ClassVar[tuple[str, ...]]
    log_concave_links: ClassVar[tuple[str, ...]] = ()
    mean_range: ClassVar[tuple[float, float]] = (-np.inf, np.inf)  # of the link's mu, ends excluded
    parameters: ClassVar[Mapping[str, Parameter]] = named()
    takes_trials: ClassVar[bool] = False
    weights_are_precisions: ClassVar[bool] = False
    has_expected_information: ClassVar[bool] = False
    # "inflated" where more zeros may be added, "hurdle" where there are none without a zero part
    zeros: ClassVar[str] = "none"
    has_residual_sd: ClassVar[bool] = False  # a residual standard deviation, named sigma
    counts_zeros: ClassVar[bool] = False  # a count that may be 0: `log_density` at 0 is log P(0)
    is_quasi: ClassVar[bool] = False  # `log_density` is a quasi-likelihood, dispersion Pearson's
    takes_fractions: ClassVar[bool] = False  # trials may be one each and y a proportion

    def __post_init__(self) -> None:
        link = resolve_link(self.link, self.links, self.name, self.mean_range)
        object.__setattr__(self, "link", link)
        for name, parameter in self.parameters.items():
            value = self._given(name)
            if value is None:
                continue
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not parameter.low < value < parameter.high:
                raise ArgumentError(
                    f"{name} of the {self.name} family is {value!r}; give a number that is "
                    f"{parameter.described}, or leave it out to have it estimated"
                )
            object.__setattr__(self, name, float(value))

    def __str__(self) -> str:
        return f"{self.name} ( {self.link.name} )"

    # The dispersion parameters.

    @property
    def dispersion_names(self) -> tuple[str, ...]:
        """The parameters that are estimated, in the order of phi."""
        return tuple(name for name in self.parameters if self._given(name) is None)

    def _given(self, name: str) -> float | None:
        """The value that a parameter was given, None where it is to be estimated."""
        return getattr(self, name, None)

    def coordinates(self, phi: Array) -> tuple[Array, ...]:
        """Unconstrained coordinates of all parameters, given or estimated."""
        return self._all(phi, lambda parameter, value: float(parameter.coordinate(value)))

    def shapes(self, dispersion: Shapes) -> tuple[Any, ...]:
        """Natural values of all parameters, from those that are estimated."""
        return self._all(dispersion, lambda parameter, value: value)

    def _all(self, estimated: Array, given: Callable[[Parameter, Any], Any]) -> tuple[Any, ...]:
        names = self.dispersion_names
        return tuple(
            estimated[names.index(name)] if name in names else given(part, self._given(name))
            for name, part in self.parameters.items()
        )

    def unconstrained(self, dispersion: np.ndarray) -> np.ndarray:
        """phi of the natural values of the parameters that are estimated (NumPy).

        Not finite for values that cannot be.
        """
        parts = [self.parameters[name].coordinate(x) for name, x in self._named(dispersion)]
        return np.array(parts, float) if parts else dispersion

    def at_limit(self, dispersion: Any) -> np.ndarray:
        """Which estimated parameters cannot be told from their limit, in no row (bool)."""
        found = []
        for name, value in self._named(dispersion):
            low, high = self.parameters[name].usual
            found.append(not np.any((low <= value) & (value <= high)))
        return np.array(found, bool)

    def limit_notes(self, dispersion: Shapes) -> tuple[str, ...]:
        """A sentence for each parameter that is at its limit."""
        return tuple(
            f"{name} = {np.median(value):.3g}: at {self.parameters[name].limit}"
            for (name, value), reached in zip(
                self._named(dispersion), self.at_limit(dispersion), strict=True
            )
            if reached
        )

    def _named(self, values: Array) -> list[tuple[str, Array]]:
        return [(name, values[j]) for j, name in enumerate(self.dispersion_names)]

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

    def sample(
        self,
        key: Array,
        eta: Array,
        phi: Array,
        trials: Array,
        precision: Array,
    ) -> Array:
        """Responses drawn at eta (n,), independent between rows: (n,) of eta's dtype.

        key: a JAX random key. The other arguments are those of `log_density`, and so is the
        distribution: `trials` trials, the dispersion divided by `precision`. Pure, jittable and
        vmappable over any argument; nan where there is no distribution. A response too near the end
        of its range for its dtype is the number nearest to that end.
        Raises `ArgumentError` where the family cannot be drawn from.
        """
        raise ArgumentError(
            f"the {self.name} family cannot be simulated: it has no method `sample`; write one "
            "that draws what `log_density` gives the density of"
        )

    def in_domain(self, eta: Array) -> Array:
        """Where eta gives a valid distribution (bool)."""
        valid = self.link.in_domain(eta)
        (low, high), (least, most) = self.mean_range, self.link.range
        if low <= least and most <= high:
            return valid
        mu = self.link.inverse(jnp.where(valid, eta, self.link.interior))
        return valid & (mu > low) & (mu < high)

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

    def effect_unit(self, phi: Array, y: Array, weights: Array) -> Array | float:
        """What random effects are small or large against: 1, where eta has no unit of its own."""
        return 1.0

    @property
    def is_linear(self) -> bool:
        """Whether the responses are normal around eta itself: a linear mixed model."""
        return False

    @property
    def log_concave(self) -> bool:
        """Whether log f is concave in eta, so that Newton's method needs no safeguard."""
        return self.link.name in self.log_concave_links

    # Moments and residuals (NumPy). mu is the link's inverse of eta, the mean of one trial unless
    # `mean` says otherwise; dispersion holds the estimated parameters on their natural scale. Means
    # and the probability of a zero are differentiated too: they take arrays of JAX as well.

    def mean(self, mu: np.ndarray, dispersion: Shapes) -> np.ndarray:
        """E(y), of one trial."""
        return mu

    def conditional_mean(self, mu: np.ndarray, dispersion: Shapes) -> np.ndarray:
        """E(y) of one trial given that it is no structural zero."""
        return self.mean(mu, dispersion)

    def zero_probability(self, dispersion: Shapes) -> np.ndarray | float:
        """The probability of a structural zero."""
        return 0.0

    @property
    def has_variance(self) -> bool:
        """Whether `variance` is known."""
        return True

    def variance(self, mu: np.ndarray, dispersion: Shapes) -> np.ndarray:
        """Var(y) of one trial, divided by the square of `residual_scale`."""
        raise NotImplementedError

    def variance_per_trial(
        self, mu: np.ndarray, trials: np.ndarray, dispersion: Shapes
    ) -> np.ndarray:
        """Var(y) over the number of trials: `variance`, where trials are independent."""
        return self.variance(mu, dispersion)

    def residual_scale(self, dispersion: Shapes) -> np.ndarray | float:
        """The square root of the dispersion that multiplies the variance function, 1 if none."""
        return 1.0

    def unit_deviance(
        self, y: np.ndarray, mu: np.ndarray, trials: np.ndarray, dispersion: Shapes
    ) -> np.ndarray:
        """2 (largest log f of y over the mean - log f at mu), shape (n,).

        At dispersion 1 where the family is an exponential dispersion model. By default at the
        fitted dispersion, the largest value found by bisecting the score.
        """
        return saturated_deviance(self, y, mu, trials, dispersion)

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

    def start_phi(
        self, y: np.ndarray, mu: np.ndarray, trials: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """Rough unconstrained phi from fitted means, shape (number of dispersion parameters,)."""
        used = weights > 0
        rough = self.moments(y[used], mu[used], trials[used], weights[used])
        names = self.dispersion_names
        return self.unconstrained(np.array([rough[name] for name in names], float))

    def moments(
        self, y: np.ndarray, mu: np.ndarray, trials: np.ndarray, weights: np.ndarray
    ) -> dict[str, Any]:
        """Rough natural values of all parameters from fitted means, rows of weight 0 left out."""
        return {}


def require(ok: np.ndarray, y: np.ndarray, family: str, expected: str, hint: str) -> None:
    """Raise `DataError` naming the first response that breaks a rule."""
    if not np.all(ok):
        row = int(np.argmin(ok))
        raise DataError(
            f"the {family} family expects {expected}, but response {y[row]:g} was found in row "
            f"{row} of the rows used ({int(np.sum(~ok))} such rows); {hint}"
        )


def _whole(values: np.ndarray) -> np.ndarray:
    """Which of some numbers that are not negative are whole, but for rounding."""
    rest = values - np.rint(values)
    exact = rest == 0.0
    if exact.all():
        return exact
    return np.abs(rest) <= 1e-6 * np.maximum(values, 1.0)


def require_counts(y: np.ndarray, family: str) -> None:
    """Raise `DataError` unless every y is 0, 1, 2, ..."""
    require(y >= 0, y, family, "counts that are not negative", "check the response")
    whole = _whole(y)
    hint = "model a rate as a count with `offset=` the log of the exposure"
    require(whole, y, family, "whole counts", hint)


def require_positive(y: np.ndarray, family: str) -> None:
    """Raise `DataError` unless every y is positive."""
    hint = "amounts with exact zeros belong to the tweedie family"
    require(y > 0, y, family, "responses that are positive", hint)


def require_successes(y: np.ndarray, trials: np.ndarray, family: str) -> None:
    """Raise `DataError` unless every y is a number of successes out of its trials."""
    require(
        trials >= 0,
        trials,
        family,
        "numbers of trials that are not negative",
        "check the denominator",
    )
    require(
        y >= 0,
        y,
        family,
        "numbers of successes from 0 to the number of trials",
        "check the response",
    )
    require(
        y <= trials,
        y,
        family,
        "no more successes than trials",
        "write `successes / trials ~ ...`, or code a two-valued response as 0 and 1",
    )
    require(
        _whole(y) & _whole(trials),
        y,
        family,
        "whole numbers of successes and trials",
        "give a proportion's number of trials as `weights=`, or write `successes / trials`",
    )


def bounded_below(family: Family, lowest: float, trials: np.ndarray) -> tuple[Any, Any]:
    """`Family.bounds` of a count whose smallest value is certain at a mean of 0.

    Only under the log link does a mean of 0 lie at an eta that is not finite.
    """
    low = lowest if family.link.name == "log" else -np.inf
    return np.full_like(trials, low), np.full_like(trials, np.inf)


def relative_unit(family: Family, y: Array, weights: Array) -> Array | float:
    """The change of eta that multiplies a typical mean by e, for `Family.effect_unit`."""
    if family.link.name == "log":
        return 1.0
    used = weights > 0
    typical = jnp.sum(jnp.where(used, weights * y, 0.0)) / jnp.sum(jnp.where(used, weights, 0.0))
    eta = family.link.link(typical)
    return 1.0 / jnp.abs(jax.grad(family.link.log_inverse)(eta))


def spread_unit(family: Family, y: Array, weights: Array) -> Array | float:
    """The standard deviation of y where eta has its unit, for `Family.effect_unit`."""
    if family.link.name != "identity":
        return 1.0
    used = jnp.where(weights > 0, weights, 0.0)
    mean = jnp.sum(used * y) / jnp.sum(used)
    return jnp.sqrt(jnp.sum(used * (y - mean) ** 2) / jnp.sum(used))


def saturated_deviance(
    family: Family, y: np.ndarray, mu: np.ndarray, trials: np.ndarray, dispersion: Shapes
) -> np.ndarray:
    """2 (largest log f of y over the mean - log f at mu), the former by bisecting the score.

    The score in eta of the family's first link must change its sign once; a largest value out in a
    tail is taken where the link is all but saturated.
    """
    with jax.enable_x64(True):
        plain = replace(family, link=family.links[0])
        phi = tuple(
            jnp.asarray(family.parameters[name].coordinate(value), float)
            for name, value in zip(family.dispersion_names, dispersion, strict=True)
        )
        response, out_of = jnp.asarray(y, float), jnp.asarray(trials, float)
        one = jnp.ones_like(response)

        def log_density(eta):
            return plain.log_density(response, eta, phi, out_of, one)

        top = log_density(bisected(log_density, -_SATURATED * one, _SATURATED * one))
        eta = plain.link.link(jnp.asarray(mu, float))
        here = log_density(jnp.clip(eta, -_FARTHEST, _FARTHEST))
        return np.maximum(2.0 * np.asarray(top - here), 0.0)


def bisected(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where an elementwise function is largest between low and high (n,), by its slope's sign.

    The slope must change its sign once, from rising to falling; where it is not a number, the
    point is taken to lie too far from 0 (JAX).
    """

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        slope = jax.jvp(function, (middle,), (jnp.ones_like(middle),))[1]
        rising = jnp.where(jnp.isnan(slope), middle < 0, slope > 0)
        return jnp.where(rising, middle, low), jnp.where(rising, high, middle)

    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (low, high))
    return 0.5 * (low + high)


def positive_number(log_y: Array) -> Array:
    """exp(log_y), within what is a positive number: for draws out in the tails."""
    ends = jnp.finfo(log_y.dtype)
    return jnp.clip(jnp.exp(log_y), ends.tiny, ends.max)


def exp_less_one(x: Array) -> Array:
    """exp(x) - 1, with derivatives that keep their digits where exp(x) is small (JAX)."""
    low = x < -1.0
    return jnp.where(low, jnp.exp(x) - 1.0, jnp.expm1(jnp.where(low, 0.0, x)))


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
