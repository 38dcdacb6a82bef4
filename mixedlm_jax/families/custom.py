"""A family that a user writes down: the log-density of one observation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families.base import (
    Family,
    Parameter,
    bisected,
    named,
    spread_unit,
)
from mixedlm_jax.links import LINKS

TRANSFORMS: dict[str, tuple[float, float]] = {
    "positive": (0.0, np.inf),
    "unit": (0.0, 1.0),
    "real": (-np.inf, np.inf),
}
"""What a parameter's transform may be called, and the range it stands for."""

_FARTHEST = 30.0  # of asinh(eta), between which the largest density is sought
_SOME_ROWS = 1000  # that start values are searched with
_SWEEPS = 4
_IMPOSSIBLE = -1e6  # stands for the log-density of a row that is not finite


@dataclass(frozen=True, init=False)
class CustomFamily(Family):
    """A family given by `log_density(y, eta, phi)`, the log-density of one observation.

    Everything else follows from it: fit, quadrature, standard errors, predictions, deviance
    residuals. Two families are equal if their functions are the same objects and the rest is equal.

    Parameters
    ----------
    log_density
        A JAX function of numbers, normalised: y the response, eta the linear predictor, phi a dict
        of the parameters in `params` on their natural scale, `phi["kappa"]`. It may use anything of
        `jax.numpy` and `jax.scipy`, and `jnp.where` in place of `if`.
    link
        What makes a mean of eta: the name of a link, or a JAX function eta -> mu. It is what
        `fitted`, `predict` and residuals show; the density sees eta alone.
    params
        Dispersion and shape parameters by name, which are estimated, with their ranges: "positive",
        "unit" (between 0 and 1), "real", or a pair (low, high).
    sampler
        `sampler(key, eta, phi)`, one response drawn with a JAX random key; needed to simulate.
    variance
        `variance(mu, phi)`, Var(y), elementwise; needed for Pearson residuals, and the summary's
        scaled residuals.

    Raises
    ------
    ArgumentError
        For a log-density that does not give one number in JAX, or a parameter without a range.

    Notes
    -----
    The log-density is not taken to be concave in eta: the search for modes is safeguarded. Deviance
    residuals measure from its largest value over eta, and take it to have one maximum. Weights
    multiply it. A response of trials is for families that have them. Whether a y can occur is for
    the log-density to say: nan or -inf where it cannot.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> def exponential(y, eta, phi):
    ...     return -eta - y * jnp.exp(-eta)
    >>> mlm.families.CustomFamily(exponential, link="log")
    CustomFamily(exponential, link=log)
    """

    density: Callable[..., Array]
    params: tuple[tuple[str, tuple[float, float]], ...]
    sampler: Callable[..., Array] | None
    variance_function: Callable[..., Any] | None

    links = tuple(LINKS)

    def __init__(
        self,
        log_density: Callable[..., Array],
        link: Any = "identity",
        params: Mapping[str, Any] | None = None,
        sampler: Callable[..., Array] | None = None,
        variance: Callable[..., Any] | None = None,
    ) -> None:
        for what, function in (("sampler", sampler), ("variance", variance)):
            if function is not None and not callable(function):
                raise ArgumentError(f"{what} is {function!r}; give a function, or leave it out")
        if not callable(log_density):
            raise ArgumentError(
                f"log_density is {log_density!r}; give a JAX function of (y, eta, phi)"
            )
        if not isinstance(params or {}, Mapping):
            raise ArgumentError(
                f"params is {params!r}; give names with ranges, as in {{'kappa': 'positive'}}"
            )
        ranges = tuple((name, _range(name, how)) for name, how in (params or {}).items())
        name = getattr(log_density, "__name__", "custom")
        parts = {
            part: Parameter(low, high, usual=(-np.inf, np.inf)) for part, (low, high) in ranges
        }
        for attribute, value in {
            "link": link,
            "density": log_density,
            "params": ranges,
            "sampler": sampler,
            "variance_function": variance,
            "name": "custom" if name == "<lambda>" else name,
            "parameters": named(**parts),
        }.items():
            object.__setattr__(self, attribute, value)
        self.__post_init__()
        _check_scalar(log_density, ("y", "eta"), tuple(parts))

    def __repr__(self) -> str:
        names = "".join(f", {name}" for name, _ in self.params)
        return f"CustomFamily({self.name}, link={self.link.name}{names})"

    def _given(self, name):
        return None  # a parameter may be named like anything else, and none is ever given

    def _by_name(self, natural: Any) -> dict[str, Any]:
        return dict(zip(self.parameters, natural, strict=True))

    def log_density(self, y, eta, phi, trials, precision):
        natural = [part.natural(phi[j]) for j, part in enumerate(self.parameters.values())]
        return _by_row(self.density, self._by_name)(y, eta, *natural)

    def effect_unit(self, phi, y, weights):
        return spread_unit(self, y, weights)

    @property
    def has_variance(self):
        return self.variance_function is not None

    def variance(self, mu, dispersion):
        if self.variance_function is None:
            raise ArgumentError(
                f"Pearson residuals need the variance of the {self.name} family: give "
                "CustomFamily(..., variance=) a function of (mu, phi), or ask for "
                'residuals("deviance")'
            )
        with jax.enable_x64(True):
            found = self.variance_function(jnp.asarray(mu), self._by_name(dispersion))
        return np.broadcast_to(np.asarray(found, float), np.shape(mu))

    def unit_deviance(self, y, mu, trials, dispersion):
        with jax.enable_x64(True):
            phi = tuple(
                jnp.asarray(part.coordinate(value), float)
                for part, value in zip(self.parameters.values(), dispersion, strict=True)
            )
            response, one = jnp.asarray(y, float), jnp.ones(np.shape(y))

            def log_density(eta):
                return self.log_density(response, eta, phi, one, one)

            def far_out(place):  # asinh(eta), so that the bisection reaches any scale of eta
                valid = self.in_domain(jnp.sinh(place))
                eta = jnp.where(valid, jnp.sinh(place), self.link.interior)
                return jnp.where(valid, log_density(eta), jnp.nan * place)

            place = bisected(far_out, -_FARTHEST * one, _FARTHEST * one)
            here = log_density(self.link.link(jnp.asarray(mu, float)))
            # a maximum out in a tail is sought up to where the density stops being a number: the
            # density a little on this side of it counts
            top = jnp.fmax(far_out(place), far_out(0.99 * place))
            return 2.0 * np.asarray(jnp.fmax(top, here) - here)

    def sample(self, key, eta, phi, trials, precision):
        if self.sampler is None:
            raise ArgumentError(
                f"the {self.name} family cannot be simulated from its density alone: give "
                "CustomFamily(..., sampler=) a function of (key, eta, phi)"
            )
        natural = [part.natural(phi[j]) for j, part in enumerate(self.parameters.values())]
        rows = [jnp.broadcast_to(value, jnp.shape(eta)) for value in natural]
        sampler = self.sampler

        def draw(own: Array, point: Array, *values: Array) -> Array:
            drawn = jnp.asarray(sampler(own, point, self._by_name(values)))
            if drawn.shape:
                raise ArgumentError(
                    f"the sampler of the {self.name} family gave shape {drawn.shape} for one "
                    "observation; give a function of (key, eta, phi) that returns one number"
                )
            return drawn.astype(eta.dtype)

        return jax.vmap(draw)(jax.random.split(key, len(eta)), eta, *rows)

    def one_row_per_level(self, trials):
        return "warn" if self.params else "ok"

    # Where a fit starts: a crude search over a constant eta and the parameters in turn.

    def start_mean(self, y, trials):
        eta, _ = self._start(y)
        with jax.enable_x64(True):
            return np.full(np.shape(y), float(self.link.inverse(jnp.asarray(eta))))

    def start_phi(self, y, mu, trials, weights):
        _, phi = self._start(y[weights > 0])
        return phi

    def _start(self, y: np.ndarray) -> tuple[float, np.ndarray]:
        """A constant eta and unconstrained parameters of some likelihood."""
        some = np.unique(np.linspace(0, len(y) - 1, _SOME_ROWS).astype(int))
        with jax.enable_x64(True):
            eta, phi = _search(self, jnp.asarray(np.asarray(y, float)[some]))
            return float(eta), np.asarray(phi)


def _range(name: Any, how: Any) -> tuple[float, float]:
    """The range of a parameter from its transform."""
    if not isinstance(name, str):
        raise ArgumentError(f"params names a parameter {name!r}; give a word")
    if isinstance(how, str) and how in TRANSFORMS:
        return TRANSFORMS[how]
    try:
        low, high = (float(end) for end in how)
    except (TypeError, ValueError):
        low, high = np.inf, -np.inf
    if low < high and (np.isfinite(low) or (np.isposinf(high) and np.isneginf(low))):
        return low, high
    raise ArgumentError(
        f"the range of parameter {name} is {how!r}; give "
        f"{', '.join(repr(word) for word in TRANSFORMS)}, or a pair (low, high), low a number"
    )


def _by_row(function: Callable[..., Array], by_name: Callable[[Any], Any]) -> Callable[..., Array]:
    """A function of one observation's numbers, at rows of them."""
    return jnp.vectorize(lambda y, eta, *natural: function(y, eta, by_name(natural)))


def _check_scalar(function: Callable[..., Array], takes: tuple[str, ...], names: tuple) -> None:
    """Raise `ArgumentError` unless the log-density makes one number of numbers."""
    number = jax.ShapeDtypeStruct((), np.float32)
    try:
        made = jax.eval_shape(function, number, number, dict.fromkeys(names, number))
    except Exception as error:  # a caller's own function runs here, and may raise anything
        # JAX's errors while tracing have no common root: whatever is raised means the same, and is
        # named in the message and kept as its cause
        first = next(iter(str(error).splitlines()), "no message")
        raise ArgumentError(
            "log_density cannot be traced by JAX as a function of numbers y and eta and the dict "
            f"phi of {', '.join(names) or 'no parameters'}: write it with jax.numpy, and jnp.where "
            f"in place of if ({type(error).__name__}: {first})"
        ) from error
    shape, kind = getattr(made, "shape", None), getattr(made, "dtype", None)
    if shape != () or kind is None or not jnp.issubdtype(kind, jnp.floating):
        raise ArgumentError(
            f"log_density gave {made} for one observation; give a function that returns one number"
        )


def _search(family: CustomFamily, y: Array) -> tuple[Array, Array]:
    """eta and unconstrained phi by sweeps over grids, each coordinate given the others."""
    wide = jnp.sinh(jnp.linspace(-10.0, 10.0, 101))
    quantiles = jnp.quantile(y, jnp.linspace(0.02, 0.98, 25))
    etas = jnp.concatenate([jnp.linspace(-5.0, 5.0, 41), wide, quantiles])
    etas = jnp.where(family.in_domain(etas), etas, family.link.interior)
    logs = jnp.linspace(-12.0, 12.0, 49)
    one = jnp.ones_like(y)

    def total(eta, phi):
        rows = family.log_density(y, eta * one, phi, one, one)
        return jnp.sum(jnp.where(jnp.isfinite(rows), rows, _IMPOSSIBLE))

    def sweep(_, state):
        eta, phi = state
        eta = etas[jnp.argmax(jax.lax.map(lambda point: total(point, phi), etas))]
        for j, part in enumerate(family.parameters.values()):
            bounded = np.isfinite(part.low)
            grid = logs if bounded else jnp.sinh(logs * 0.6)
            moved = jnp.tile(phi, (len(grid), 1)).at[:, j].set(grid)
            phi = moved[jnp.argmax(jax.lax.map(partial(total, eta), moved))]
        return eta, phi

    first = (jnp.asarray(family.link.interior, float), jnp.zeros(len(family.params)))
    return jax.lax.fori_loop(0, _SWEEPS, sweep, first)
