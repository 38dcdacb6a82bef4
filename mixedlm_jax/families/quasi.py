"""Quasi-likelihood: a mean and a variance function, and no distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.errors import ArgumentError, FormulaError
from mixedlm_jax.expression import parse_expression
from mixedlm_jax.families.base import Family, bounded_below, relative_unit, require, spread_unit
from mixedlm_jax.links import LINKS

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "I": lambda value: value,
    "abs": jnp.abs,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "sqrt": jnp.sqrt,
}
"""What a variance function that is written as text may call."""

_NODES = 16  # of a Gauss-Legendre rule on each panel
_PANELS = 4
_MANY_PANELS = 32  # for deviances, whose way may be long
_LIMIT = 30.0  # of the logit of mu, beyond which 1 - mu has lost its digits
_LOG_LIMIT = 150.0  # of log mu, so that powers of mu do not overflow
_FARTHEST = 40.0  # from a mean, on its scale, that stands for the end of the range
_VANISHING = 1e-12


class Scale(NamedTuple):
    """Where means live, with the coordinate t that quasi-likelihoods are integrated over.

    mean(t) is mu, place(mu) is t and coordinate(link, eta) too, with all its digits. V is
    evaluated at |t| up to `limit`.
    """

    mean_range: tuple[float, float]
    links: tuple[str, ...]
    mean: Callable[[Array], Array]
    place: Callable[[Array], Array]
    coordinate: Callable[[Any, Array], Array]
    limit: float


_PROBABILITIES = ("logit", "probit", "cloglog", "cauchit", "log")
_POSITIVE = ("log", "sqrt", "inverse", "1/mu^2", "identity")
_REAL = ("identity", *(name for name in LINKS if name != "identity"))

UNIT = Scale(
    (0.0, 1.0),
    _PROBABILITIES,
    jax.nn.sigmoid,
    lambda mu: jnp.log(mu) - jnp.log1p(-mu),
    lambda link, eta: link.log_inverse(eta) - link.log_complement(eta),
    _LIMIT,
)
POSITIVE = Scale(
    (0.0, np.inf),
    _POSITIVE,
    jnp.exp,
    jnp.log,
    lambda link, eta: link.log_inverse(eta),
    _LOG_LIMIT,
)
REAL = Scale(
    (-np.inf, np.inf),
    _REAL,
    jnp.sinh,
    jnp.arcsinh,
    lambda link, eta: jnp.arcsinh(link.inverse(eta)),
    _LOG_LIMIT,
)


@dataclass(frozen=True, init=False)
class QuasiFamily(Family):
    """Quasi-likelihood with Var(y) = phi V(mu), for a variance function V.

    A row's log quasi-likelihood is m times the integral of (y/m - t) / V(t) over t up to mu, where
    m is its number of trials or 1 (Wedderburn 1974; McCullagh and Nelder 1989, equation 9.3); it
    is known up to a function of y. Its score in mu is (y - m mu) / V(mu), and the expected
    information m / V(mu).

    beta, theta and the modes are those that maximise the marginal quasi-likelihood at phi = 1: with
    V = mu (1 - mu) and the logit link, the binomial family's. The dispersion is estimated
    afterwards, as Pearson's statistic over n less the trace of the joint hat matrix of fixed and
    random effects; standard errors of the fixed effects are multiplied by its square root, theta
    stays as it is. There is no likelihood, hence no `logLik`, AIC or likelihood ratio test.

    Parameters
    ----------
    variance_func
        V as text in `mu`, such as "mu*(1-mu)", "mu" or "mu^1.5": numbers, + - * / ^ ** and
        parentheses, exp, log, sqrt, abs, expm1 and log1p. Or a JAX function of mu.
    link
        The name of a link, or a JAX function eta -> mu. By default logit where V vanishes at 0 and
        1, log where it vanishes at 0 or is positive for positive means only, else identity.

    Where V vanishes at 0 and at 1, means are probabilities: the response may be successes / trials,
    two-valued, or proportions of any kind.

    Raises
    ------
    ArgumentError
        For text outside this language, a V that is not positive on (0, 1), (0, inf) or everywhere,
        and a link whose means do not lie there.

    Examples
    --------
    >>> family = mlm.families.QuasiFamily(variance_func="mu*(1-mu)", link="logit")
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), family)
    >>> print(round(model.fixef()["period2"], 4), round(model.dispersion["phi"], 3))
    -0.9923 1.477
    """

    variance_func: Any

    _scale: ClassVar[Scale]  # set for each instance, as the class variables of the base are
    _function: ClassVar[Any]

    name = "quasi"
    has_expected_information = True
    is_quasi = True
    takes_fractions = True

    def __init__(self, variance_func: Any, link: Any = None) -> None:
        function = variance_function(variance_func)
        scale = _scale_of(function, variance_func)
        for attribute, value in {
            "variance_func": variance_func,
            "link": scale.links[0] if link is None else link,
            "links": scale.links,
            "mean_range": scale.mean_range,
            "takes_trials": scale is UNIT,
            "_function": function,
            "_scale": scale,
        }.items():
            object.__setattr__(self, attribute, value)
        self.__post_init__()

    def __repr__(self) -> str:
        return f"QuasiFamily({self.variance_func!r}, link={self.link.name})"

    def _rate(self, t: Array) -> Array:
        """dmu/dt over V(mu) at t, that of the limit beyond it."""
        scale = self._scale
        near = jnp.clip(t, -scale.limit, scale.limit)
        mu, slope = jax.jvp(scale.mean, (near,), (jnp.ones_like(near),))
        return slope / self._function(mu)

    def _slope(self, t: Array, y: Array, trials: Array) -> Array:
        """The derivative of the log quasi-likelihood in t."""
        return (y - trials * self._scale.mean(t)) * self._rate(t)

    def log_density(self, y, eta, phi, trials, precision):
        t = self._scale.coordinate(self.link, eta)
        start = self._scale.place(self._near(jnp.asarray(y, t.dtype), trials))
        return _quasi_likelihood(self, _PANELS, t, start, y, trials)

    def sample(self, key, eta, phi, trials, precision):
        raise ArgumentError(
            "quasi-likelihood cannot be simulated: it gives a mean and a variance, and no "
            "distribution to draw from; fit a family such as BetaBinomial or NegativeBinomial"
        )

    def _near(self, y: Array, trials: Array) -> Array:
        """A mean near each y, inside the range: where the integral of a row begins."""
        if self._scale is UNIT:
            return (y + 0.5) / (trials + 1.0)
        return jnp.where(y > 0, y, 0.1) if self._scale is POSITIVE else y

    def expected_information(self, eta, phi, trials, precision):
        # (dmu/deta)^2 / V(mu), by way of t
        one = jnp.ones_like(eta)
        scale = self._scale
        t, slope = jax.jvp(lambda point: scale.coordinate(self.link, point), (eta,), (one,))
        return trials * slope**2 * jax.jvp(scale.mean, (t,), (one,))[1] * self._rate(t)

    def effect_unit(self, phi, y, weights):
        if self._scale is POSITIVE:
            return relative_unit(self, y, weights)
        return spread_unit(self, y, weights)

    def variance(self, mu, dispersion):
        with jax.enable_x64(True):
            found = self._function(jnp.asarray(mu, float))
        return np.array(np.broadcast_to(np.asarray(found, float), np.shape(mu)))

    def unit_deviance(self, y, mu, trials, dispersion):
        with jax.enable_x64(True):
            response, out_of = jnp.asarray(y, float), jnp.asarray(trials, float)
            here = self._scale.place(jnp.asarray(mu, float))
            share = response / jnp.where(out_of > 0, out_of, 1.0)
            end = self._scale.place(share)
            top = jnp.clip(end, here - _FARTHEST, here + _FARTHEST)
            away = _quasi_likelihood(self, _MANY_PANELS, top, here, response, out_of)
            # where the slope does not vanish towards the end of the range, the way has no end
            slope = jnp.abs(self._slope(top, response, out_of))
            endless = jnp.isinf(end) & (slope > 1e-6 * (1.0 + jnp.abs(response)))
            return np.maximum(2.0 * np.asarray(jnp.where(endless, jnp.inf, away)), 0.0)

    def check_response(self, y, trials):
        if self._scale is REAL:
            return
        hint = "check the response, or use another variance function"
        require(y >= 0, y, self.name, "responses that are not negative", hint)
        if self._scale is UNIT:
            hint = "write `successes / trials ~ ...`, or give proportions"
            require(trials >= 0, trials, self.name, "numbers of trials from 0", hint)
            require(y <= trials, y, self.name, "no more successes than trials", hint)

    def bounds(self, trials):
        if self._scale is not UNIT:
            return (
                bounded_below(self, 0.0, trials)
                if self._scale is POSITIVE
                else super().bounds(trials)
            )
        highest = np.full_like(trials, np.inf) if self.link.name == "log" else trials
        return np.zeros_like(trials), highest

    def one_row_per_level(self, trials):
        return "refuse" if self._scale is UNIT and np.all(trials <= 1.0) else "warn"

    def start_mean(self, y, trials):
        if self._scale is UNIT:
            mean = (y + 0.5) / (trials + 1.0)
            return np.minimum(mean, 0.9) if self.link.name == "log" else mean
        if self._scale is POSITIVE:
            return np.maximum(y, 0.1 * np.mean(y))
        low, high = self.link.range
        if np.isfinite(high):
            return np.clip(y, 0.05, 0.95)
        return np.maximum(y, 0.1 * np.std(y)) if np.isfinite(low) else y


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _quasi_likelihood(
    family: QuasiFamily, panels: int, t: Array, start: Array, y: Array, trials: Array
) -> Array:
    """The integral of a row's slope from start to t, by Gauss and Legendre's rule (n,).

    Its derivative is the slope itself, so that scores and informations are exact to rounding.
    """
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    places = (np.arange(panels)[:, None] + 0.5 * (1.0 + points)).ravel() / panels
    shares = np.tile(0.5 * weights / panels, panels)
    way = t - start

    def add(total, node):
        place, share = node
        return total + share * family._slope(start + place * way, y, trials), None

    nodes = (jnp.asarray(places, way.dtype), jnp.asarray(shares, way.dtype))
    total, _ = jax.lax.scan(add, jnp.zeros_like(way), nodes)
    return way * total


@_quasi_likelihood.defjvp
def _quasi_likelihood_jvp(family, panels, primals, tangents):
    t, _, y, trials = primals
    value = _quasi_likelihood(family, panels, *primals)
    return value, family._slope(t, y, trials) * tangents[0]


# The variance function


class _Means:
    """The scope in which the text of a variance function is evaluated: mu, numbers, arithmetic."""

    def __init__(self, mu: Any) -> None:
        self.mu = mu

    def column(self, name: str) -> Any:
        if name != "mu":
            raise ArgumentError(f"it names {name!r}, and knows nothing but mu")
        return self.mu

    def number(self, value: float) -> Any:
        return value

    def string(self, value: str) -> Any:
        raise ArgumentError(f'it holds the text "{value}"')

    def operate(self, operator: str, operands: tuple[Any, ...]) -> Any:
        if len(operands) == 1 and operator in "+-":
            return operands[0] if operator == "+" else -operands[0]
        if operator not in _OPERATORS:
            raise ArgumentError(f"it holds the operator {operator!r}")
        return _OPERATORS[operator](*operands)

    def call(self, node: Any, operands: tuple[Any, ...]) -> Any:
        if node.function not in FUNCTIONS or node.constants:
            raise ArgumentError(f"it calls {node}")
        return FUNCTIONS[node.function](*operands)


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(exponent, float) and exponent.is_integer() and abs(exponent) < 100:
        return base ** int(exponent)
    return jnp.power(base, exponent)


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": _power,
}


def variance_function(given: Any) -> Callable[[Array], Array]:
    """V as a function of mu, from text or a function. Raises `ArgumentError` for anything else."""
    if callable(given):
        return given
    language = (
        "give arithmetic in mu, such as 'mu*(1-mu)' or 'mu^2', with + - * / ^ and "
        f"{', '.join(FUNCTIONS)}; or a JAX function of mu"
    )
    if not isinstance(given, str):
        raise ArgumentError(f"variance_func is {given!r}; {language}")
    try:
        tree = parse_expression(given)
        tree.evaluate(_Means(1.0))
    except FormulaError as error:
        raise ArgumentError(f"variance_func cannot be read: {error}\n{language}") from error
    except (ArgumentError, ArithmeticError) as error:
        if isinstance(error, ArgumentError):
            raise ArgumentError(f"variance_func is {given!r}: {error}; {language}") from error
    return lambda mu: tree.evaluate(_Means(mu))


def _scale_of(function: Callable[[Array], Array], given: Any) -> Scale:
    """Where V is positive: between its zeros at 0 and 1, above 0, or everywhere."""
    positive = np.geomspace(1e-6, 1e6, 121)
    inside = 1.0 / (1.0 + np.exp(-np.linspace(-13.0, 13.0, 121)))
    moderate = np.linspace(-50.0, 50.0, 121)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        ends, *samples = (
            _values(function, at, given) for at in ([0, 1], inside, moderate, positive)
        )
    vanishing = np.abs(ends) < _VANISHING
    for found, scale, fits in (
        (samples[0], UNIT, bool(vanishing.all())),
        (samples[1], REAL, not vanishing[0]),
        (samples[2], POSITIVE, True),
    ):
        if fits and np.all(found > 0):
            return scale
    raise ArgumentError(
        f"variance_func {given!r} is not positive for all means between 0 and 1, above 0, or "
        "everywhere: give a variance function such as 'mu*(1-mu)', 'mu' or '1'"
    )


def _values(function: Callable[[Array], Array], at: Any, given: Any) -> np.ndarray:
    mu = jnp.asarray(at, float)
    found, first = np.asarray(function(mu), float), np.asarray(function(mu[:1]), float)
    alone = np.array_equal(np.ravel(found)[:1], np.ravel(first), equal_nan=True)
    if found.shape not in ((), mu.shape) or not alone:
        raise ArgumentError(
            f"variance_func {given!r} gave shape {found.shape} for means of shape {mu.shape}; give "
            "a function of mu that works elementwise"
        )
    return np.broadcast_to(found, mu.shape)
