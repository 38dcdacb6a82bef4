"""Links between the linear predictor eta and the mean mu, elementwise and in JAX.

A link gives mu = inverse(eta), eta = link(mu), and log mu and log(1 - mu) as functions of eta in a
form that keeps its digits in both tails; every derivative comes from autodiff. Where only part of
the eta axis maps to a valid mean, `in_domain` says which part and `interior` names a point in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mixedlm_jax.arrays import Array
from mixedlm_jax.errors import ArgumentError

_HUGE_LOG = 600.0  # exp of it squares without overflow in float64
_ARTANH_TERMS = 16  # what is left out is below 2e-17 of artanh(1/3)


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """log(1 + exp(x)), with the logistic function as its derivative."""
    return jnp.maximum(x, 0.0) + _log1p_unit(jnp.exp(-jnp.abs(x)))


def _log1p_unit(t: Array) -> Array:
    """log(1 + t) for t in [0, 1], as 2 artanh(s) with s = t / (2 + t), at most 1/3.

    A polynomial, because XLA calls the float64 logarithm for one number after the other.
    """
    s = t / (2.0 + t)
    square = s * s
    series = jnp.full_like(t, 1.0 / (2 * _ARTANH_TERMS - 1))
    for k in range(_ARTANH_TERMS - 2, -1, -1):
        series = series * square + 1.0 / (2 * k + 1)
    return 2.0 * s * series


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    return softplus(x), logistic(x) * dx


@jax.custom_jvp
def logistic(x: Array) -> Array:
    """1 / (1 + exp(-x)), from the exponential that `softplus` takes: one serves both."""
    small = jnp.exp(-jnp.abs(x))
    return jnp.where(x < 0.0, small, 1.0) / (1.0 + small)


@logistic.defjvp
def _logistic_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    value = logistic(x)
    return value, value * (1.0 - value) * dx


def _log_ndtr(x: Array) -> Array:
    """log Phi(x), its tail's series long enough for four derivatives to keep their digits."""
    return jax.scipy.special.log_ndtr(x, series_order=12)


class Link:
    """Base of all links. Instances of one class are equal, so they can be static in `jax.jit`."""

    name: str
    interior: float = 0.0
    range: ClassVar[tuple[float, float]]  # of mu over the domain

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"<link {self.name}>"

    def link(self, mu: ArrayLike) -> Array:
        """eta for a mean mu."""
        raise NotImplementedError

    def inverse(self, eta: Array) -> Array:
        """The mean mu at a linear predictor eta."""
        raise NotImplementedError

    def log_inverse(self, eta: Array) -> Array:
        """log mu."""
        return jnp.log(self.inverse(eta))

    def log_complement(self, eta: Array) -> Array:
        """log(1 - mu), for means that are probabilities."""
        return jnp.log1p(-self.inverse(eta))

    def in_domain(self, eta: Array) -> Array:
        """Where eta maps to a valid mean (bool, the shape of eta)."""
        return jnp.ones_like(eta, bool)

    def derivative(self, eta: Array) -> Array:
        """d mu / d eta."""
        return jax.jvp(self.inverse, (eta,), (jnp.ones_like(eta),))[1]

    def bernoulli(self, y: Array, trials: Array, eta: Array) -> Array:
        """y log mu + (trials - y) log(1 - mu)."""
        return y * self.log_inverse(eta) + (trials - y) * self.log_complement(eta)


class Identity(Link):
    """mu = eta."""

    name = "identity"
    range = (-np.inf, np.inf)
    interior = 1.0

    def link(self, mu):
        return jnp.asarray(mu)

    def inverse(self, eta):
        return eta


class Log(Link):
    """mu = exp(eta)."""

    name = "log"
    range = (0.0, np.inf)
    interior = -1.0

    def link(self, mu):
        return jnp.log(mu)

    def inverse(self, eta):
        return jnp.exp(eta)

    def log_inverse(self, eta):
        return eta

    def log_complement(self, eta):
        return jnp.log(-jnp.expm1(eta))


class Sqrt(Link):
    """mu = eta^2 for eta > 0."""

    name = "sqrt"
    range = (0.0, np.inf)
    interior = 1.0

    def link(self, mu):
        return jnp.sqrt(mu)

    def inverse(self, eta):
        return eta * eta

    def log_inverse(self, eta):
        return 2.0 * jnp.log(eta)

    def in_domain(self, eta):
        return eta > 0.0


class Logit(Link):
    """mu = 1 / (1 + exp(-eta))."""

    name = "logit"
    range = (0.0, 1.0)

    def link(self, mu):
        return jnp.log(mu) - jnp.log1p(-jnp.asarray(mu))

    def inverse(self, eta):
        return logistic(eta)

    def log_inverse(self, eta):
        return -softplus(-eta)

    def log_complement(self, eta):
        return -softplus(eta)

    def bernoulli(self, y, trials, eta):
        # y log mu + (m - y) log(1 - mu) = y eta - m log(1 + exp(eta)): one exp and one log a row
        return y * eta - trials * softplus(eta)


class Probit(Link):
    """mu = Phi(eta), the normal distribution function."""

    name = "probit"
    range = (0.0, 1.0)

    def link(self, mu):
        return jax.scipy.special.ndtri(jnp.asarray(mu))

    def inverse(self, eta):
        return jax.scipy.special.ndtr(eta)

    def log_inverse(self, eta):
        return _log_ndtr(eta)

    def log_complement(self, eta):
        return _log_ndtr(-eta)


class Cloglog(Link):
    """Complementary log-log: mu = 1 - exp(-exp(eta))."""

    name = "cloglog"
    range = (0.0, 1.0)

    def link(self, mu):
        return jnp.log(-jnp.log1p(-jnp.asarray(mu)))

    def inverse(self, eta):
        return -jnp.expm1(-self._rate(eta))

    def log_inverse(self, eta):
        # below -30, 1 - exp(-t) = t (1 - t/2) to the last digit and t itself underflows further out
        low = eta < -30.0
        rate = self._rate(jnp.where(low, 0.0, eta))
        return jnp.where(low, eta - 0.5 * self._rate(eta), jnp.log(-jnp.expm1(-rate)))

    def log_complement(self, eta):
        return -self._rate(eta)

    @staticmethod
    def _rate(eta):
        # beyond the cap log(1 - mu) is below -1e260 already; without it 0 * inf gives nan
        return jnp.exp(jnp.minimum(eta, _HUGE_LOG))


class Cauchit(Link):
    """mu = 1/2 + arctan(eta) / pi."""

    name = "cauchit"
    range = (0.0, 1.0)

    def link(self, mu):
        return jnp.tan(jnp.pi * (jnp.asarray(mu) - 0.5))

    def inverse(self, eta):
        # 1/2 + arctan(eta)/pi, written so that small probabilities keep their digits
        return jnp.arctan2(jnp.ones_like(eta), -eta) / jnp.pi

    def log_complement(self, eta):
        return jnp.log(self.inverse(-eta))


class Inverse(Link):
    """mu = 1 / eta for eta > 0."""

    name = "inverse"
    range = (0.0, np.inf)
    interior = 1.0

    def link(self, mu):
        return 1.0 / jnp.asarray(mu)

    def inverse(self, eta):
        return 1.0 / eta

    def log_inverse(self, eta):
        return -jnp.log(eta)

    def in_domain(self, eta):
        return eta > 0.0


class InverseSquare(Link):
    """mu = 1 / sqrt(eta) for eta > 0."""

    name = "1/mu^2"
    range = (0.0, np.inf)
    interior = 1.0

    def link(self, mu):
        return jnp.asarray(mu) ** -2.0

    def inverse(self, eta):
        return eta**-0.5

    def log_inverse(self, eta):
        return -0.5 * jnp.log(eta)

    def in_domain(self, eta):
        return eta > 0.0


class FunctionLink(Link):
    """A link given as the function eta -> mu: monotone, elementwise, in JAX.

    Its inverse is found numerically, for |eta| up to 700. Two are equal if their functions are the
    same object. Where its domain ends is not known: eta is taken as inside wherever mu is a mean
    that the family can have.
    """

    range = (-np.inf, np.inf)

    def __init__(
        self,
        function: Callable[[Array], Array],
        mean_range: tuple[float, float] = (-np.inf, np.inf),
    ) -> None:
        """mean_range: ends, excluded, of the means that the family can have.

        Raises `ArgumentError` where the function gives no such mean, or is not elementwise.
        """
        self.function = function
        self.name = f"function {getattr(function, '__name__', type(function).__name__)}"
        with jax.enable_x64(True):
            try:
                mu = np.asarray(jax.jit(function)(jnp.asarray(_GRID)))
            except (TypeError, jax.errors.JAXTypeError) as error:
                raise ArgumentError(
                    f"the link {self.name} cannot be traced by JAX: write it with jax.numpy, as an "
                    "elementwise function of eta"
                ) from error
        if mu.shape != _GRID.shape or not np.issubdtype(mu.dtype, np.floating):
            raise ArgumentError(
                f"the link {self.name} gave shape {mu.shape} for eta of shape {_GRID.shape}; give "
                "a function of eta that works elementwise"
            )
        low, high = mean_range
        (usable,) = np.nonzero(np.isfinite(mu) & (mu > low) & (mu < high))
        if not len(usable):
            raise ArgumentError(
                f"the link {self.name} gives no mean between {low:g} and {high:g} for eta between "
                f"{_GRID[0]:g} and {_GRID[-1]:g}; give a function eta -> mu"
            )
        self._eta, self._mu = _GRID[usable], mu[usable]
        self.interior = float(self._eta[np.argmin(np.abs(self._eta - 0.5))])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FunctionLink) and self.function is other.function

    def __hash__(self) -> int:
        return hash(self.function)

    def inverse(self, eta):
        return self.function(eta)

    def link(self, mu):
        # the cell of a grid that holds mu, halved until nothing is left; a mean that the function
        # does not reach counts as the nearest one that it does
        mu = jnp.asarray(mu)
        sign = 1.0 if self._mu[-1] >= self._mu[0] else -1.0
        cell = jnp.searchsorted(jnp.asarray(sign * self._mu), sign * mu)
        cell = jnp.clip(cell, 1, len(self._mu) - 1)
        grid = jnp.asarray(self._eta)
        low, high = grid[cell - 1], grid[cell]
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            below = sign * (self.function(middle) - mu) < 0
            low, high = jnp.where(below, middle, low), jnp.where(below, high, middle)
        return 0.5 * (low + high)


# Points that bracket every eta a link is asked for, dense near 0.
_GRID = np.concatenate([-np.geomspace(700.0, 1e-9, 400), [0.0], np.geomspace(1e-9, 700.0, 400)])
_HALVINGS = 60

LINKS: dict[str, type[Link]] = {
    link.name: link
    for link in (
        Identity,
        Log,
        Sqrt,
        Logit,
        Probit,
        Cloglog,
        Cauchit,
        Inverse,
        InverseSquare,
    )
}


def resolve_link(
    link: str | Link | Callable[[Array], Array],
    allowed: tuple[str, ...],
    family: str,
    mean_range: tuple[float, float] = (-np.inf, np.inf),
) -> Link:
    """The link a family was asked for: by name, as an instance, or as a function eta -> mu.

    Raises `ArgumentError` when the family does not have it.
    """
    if isinstance(link, FunctionLink):
        return FunctionLink(link.function, mean_range)
    if isinstance(link, Link):
        if type(link) is not LINKS.get(link.name):
            return link  # a class of the caller's
        link = link.name
    if callable(link) and not isinstance(link, type):
        return FunctionLink(link, mean_range)
    if link not in allowed:
        raise ArgumentError(
            f"the {family} family has no link {link!r}; choose one of {', '.join(allowed)}, or "
            "give a function eta -> mu"
        )
    return LINKS[link]()
