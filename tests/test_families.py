"""Every family of the registry with every link it offers: a new one meets these tests by itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from scipy import optimize, special, stats

from mixedlm_jax import families
from mixedlm_jax.design import Design, Factor, Term
from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.families import FAMILIES, Family
from mixedlm_jax.families.loggamma import log_choose
from mixedlm_jax.likelihood import log_likelihood
from mixedlm_jax.links import LINKS, Link, resolve_link, softplus
from mixedlm_jax.problem import (
    Params,
    Problem,
    determinant_weights,
    make_problem,
    row_log_density,
    row_terms,
)

Array = np.ndarray
SIGMA = 0.8
BLOCK = 512


@dataclass(frozen=True)
class Case:
    """What the tests must know of a family besides its class."""

    shapes: tuple[float, ...]  # dispersion and shape parameters on their natural scale
    responses: Callable[[float, float, float], tuple[Array, Array]]  # (mu, m, w) -> y and dy
    some: tuple[float, ...]  # responses out of 6 trials, the extreme ones among them
    bad: tuple[tuple[float, float], ...]  # (y, trials) that cannot occur
    good: tuple[tuple[float, float], ...]
    bounds: tuple[float, float]  # smallest and largest response out of 6 trials
    saturated: tuple[float, float]  # means that stand for "as small, as large as can be"
    single_rows: dict[float, str]  # trials -> what one row per level is
    reach: float = 5.0  # how far from 0 the responses above cover all of the mass
    extremes: tuple[tuple[float, ...], ...] = ()  # shapes at which nothing may be nan
    spread: Callable[..., Any] | None = None  # (mu, m, *shapes) -> Var(y), where V does not
    own_deviance: bool = True  # the unit deviance has a formula, else the largest density is sought

    def phi(self, family: Family) -> tuple[float, ...]:
        """The unconstrained coordinates."""
        return tuple(family.unconstrained(np.array(self.shapes)))


def _successes(mu: float, m: float, w: float) -> tuple[Array, Array]:
    return np.arange(m + 1), np.ones(int(m) + 1)


def _counts(mu: float, m: float, w: float) -> tuple[Array, Array]:
    y = np.arange(np.ceil(mu + 14 * np.sqrt(mu)) + 40)
    return y, np.ones(len(y))


def _real_line(mu: float, m: float, w: float) -> tuple[Array, Array]:
    # the trapezoidal rule is exact to rounding for a function that decays on both sides
    sd = SIGMA / np.sqrt(w)
    y = mu + sd * np.linspace(-12, 12, 241)
    return y, np.full(len(y), sd * 0.1)


def _positive_line(mu: float, m: float, w: float) -> tuple[Array, Array]:
    # on the scale of log y, and an atom at 0 for those that have one
    y = mu * np.exp(np.linspace(-14.0, 9.0, 2301))
    return y, y * 0.01


def _amounts(mu: float, m: float, w: float) -> tuple[Array, Array]:
    y, dy = _positive_line(mu, m, w)
    return np.append(y, 0.0), np.append(dy, 1.0)


def _unit_interval(mu: float, m: float, w: float) -> tuple[Array, Array]:
    y = special.expit(np.linspace(-13.0, 13.0, 401))
    return y, y * (1 - y) * 0.065


def _heavy_line(mu: float, m: float, w: float) -> tuple[Array, Array]:
    t = np.linspace(-13.0, 13.0, 521)
    return mu + np.sinh(t), np.cosh(t) * 0.05


def _many_counts(mu: float, m: float, w: float) -> tuple[Array, Array]:
    y = np.arange(np.ceil(18 * mu) + 120)
    return y, np.ones(len(y))


def _from_one(mu: float, m: float, w: float) -> tuple[Array, Array]:
    y, dy = _many_counts(mu, m, w)
    return y[1:], dy[1:]


NOT_POSITIVE = ((0.0, 1.0), (-1.0, 1.0))
NO_COUNTS = ((-1.0, 1.0), (0.5, 1.0))
ONE_SHAPE = ((1e-6,), (1e8,))
CASES: dict[str, Case] = {
    "binomial": Case(
        shapes=(),
        responses=_successes,
        some=(0.0, 1.0, 4.0, 6.0),
        bad=((-1.0, 6.0), (7.0, 6.0), (2.5, 6.0), (1.0, 2.5), (1.0, 0.0), (0.0, -1.0), (2.0, 1.0)),
        good=((0.0, 6.0), (6.0, 6.0), (0.0, 0.0), (1.0, 1.0)),
        bounds=(0.0, 6.0),
        saturated=(1e-300, 1 - 2.0**-53),
        single_rows={1.0: "refuse", 6.0: "ok"},
    ),
    "poisson": Case(
        shapes=(),
        responses=_counts,
        some=(0.0, 1.0, 4.0, 30.0),
        bad=((-1.0, 1.0), (0.5, 1.0)),
        good=((0.0, 1.0), (1e6, 1.0)),
        bounds=(0.0, np.inf),
        saturated=(1e-300, 1e300),
        single_rows={1.0: "ok"},
    ),
    "gaussian": Case(
        shapes=(SIGMA,),
        responses=_real_line,
        some=(-1.5, 0.2, 3.0),
        bad=(),
        good=((-3.25, 1.0), (1e6, 1.0)),
        bounds=(-np.inf, np.inf),
        saturated=(1e-300, 1e300),
        single_rows={1.0: "refuse"},
    ),
    "gamma": Case(
        shapes=(3.0,),
        responses=_positive_line,
        some=(0.2, 1.0, 7.5),
        bad=NOT_POSITIVE,
        good=((1e-3, 1.0), (1e6, 1.0)),
        bounds=(-np.inf, np.inf),
        saturated=(1e-300, 1e300),
        single_rows={1.0: "refuse"},
        extremes=ONE_SHAPE,
    ),
    "inverse_gaussian": Case(
        shapes=(0.3,),
        responses=_positive_line,
        some=(0.2, 1.0, 7.5),
        bad=NOT_POSITIVE,
        good=((1e-3, 1.0), (1e6, 1.0)),
        bounds=(-np.inf, np.inf),
        saturated=(1e-300, 1e300),
        single_rows={1.0: "refuse"},
        extremes=ONE_SHAPE,
    ),
    "nbinom2": Case(
        shapes=(3.0,),
        responses=_many_counts,
        some=(0.0, 1.0, 4.0, 30.0),
        bad=NO_COUNTS,
        good=((0.0, 1.0), (1e6, 1.0)),
        bounds=(0.0, np.inf),
        saturated=(1e-300, 1e300),
        single_rows={1.0: "warn"},
        extremes=ONE_SHAPE,
    ),
    "nbinom1": Case(
        shapes=(1.5,),
        responses=_many_counts,
        some=(0.0, 1.0, 4.0, 30.0),
        bad=NO_COUNTS,
        good=((0.0, 1.0), (1e6, 1.0)),
        bounds=(0.0, np.inf),
        saturated=(1e-300, 1e300),
        single_rows={1.0: "warn"},
        extremes=(*ONE_SHAPE, (0.1,)),
        own_deviance=False,
    ),
    "beta": Case(
        shapes=(20.0,),
        responses=_unit_interval,
        some=(0.02, 0.4, 0.97),
        bad=((0.0, 1.0), (1.0, 1.0), (1.2, 1.0), (-0.1, 1.0)),
        good=((1e-6, 1.0), (0.999, 1.0)),
        bounds=(-np.inf, np.inf),
        saturated=(1e-300, 1 - 2.0**-53),
        single_rows={1.0: "refuse"},
        reach=0.5,
        extremes=ONE_SHAPE,
        own_deviance=False,
    ),
    "betabinomial": Case(
        shapes=(4.0,),
        responses=_successes,
        some=(0.0, 1.0, 4.0, 6.0),
        bad=((-1.0, 6.0), (7.0, 6.0), (2.5, 6.0), (1.0, 2.5), (1.0, 0.0), (0.0, -1.0), (2.0, 1.0)),
        good=((0.0, 6.0), (6.0, 6.0), (0.0, 0.0), (1.0, 1.0)),
        bounds=(0.0, 6.0),
        saturated=(1e-300, 1 - 2.0**-53),
        single_rows={1.0: "refuse", 6.0: "warn"},
        extremes=ONE_SHAPE,
        spread=lambda mu, m, phi: m * mu * (1 - mu) * (phi + m) / (phi + 1),
        own_deviance=False,
    ),
    "tweedie": Case(
        shapes=(0.8, 1.3),
        responses=_amounts,
        some=(0.0, 0.2, 7.5),
        bad=((-1e-9, 1.0),),
        good=((0.0, 1.0), (1e6, 1.0)),
        bounds=(0.0, np.inf),
        saturated=(1e-300, 1e300),
        single_rows={1.0: "refuse"},
        extremes=((1e-6, 1.5), (1e8, 1.5), (0.8, 1.0 + 1e-6), (0.8, 2.0 - 1e-6)),
    ),
    "student_t": Case(
        shapes=(SIGMA, 6.0),
        responses=_heavy_line,
        some=(-1.5, 0.2, 3.0),
        bad=(),
        good=((-3.25, 1.0), (1e6, 1.0)),
        bounds=(-np.inf, np.inf),
        saturated=(1e-300, 1e300),
        single_rows={1.0: "refuse"},
        extremes=((1e-6, 4.0), (1e8, 4.0), (SIGMA, 1e-6), (SIGMA, 1e8)),
    ),
    "lognormal": Case(
        shapes=(SIGMA,),
        responses=_positive_line,
        some=(0.2, 1.0, 7.5),
        bad=NOT_POSITIVE,
        good=((1e-3, 1.0), (1e6, 1.0)),
        bounds=(-np.inf, np.inf),
        saturated=(1e-300, 1e300),
        single_rows={1.0: "refuse"},
        extremes=ONE_SHAPE,
        own_deviance=False,
    ),
    "truncated_poisson": Case(
        shapes=(),
        responses=_from_one,
        some=(1.0, 2.0, 4.0, 30.0),
        bad=(*NO_COUNTS, (0.0, 1.0)),
        good=((1.0, 1.0), (1e6, 1.0)),
        bounds=(1.0, np.inf),
        saturated=(1e-300, 1e300),
        single_rows={1.0: "ok"},
        own_deviance=False,
    ),
    "truncated_nbinom2": Case(
        shapes=(3.0,),
        responses=_from_one,
        some=(1.0, 2.0, 4.0, 30.0),
        bad=(*NO_COUNTS, (0.0, 1.0)),
        good=((1.0, 1.0), (1e6, 1.0)),
        bounds=(1.0, np.inf),
        saturated=(1e-300, 1e300),
        single_rows={1.0: "warn"},
        extremes=ONE_SHAPE,
        own_deviance=False,
    ),
}

# The mean and, for probabilities, the logarithms of both tails, written with SciPy's functions.
MEANS: dict[str, Callable[..., Any]] = {
    "identity": np.asarray,
    "log": np.exp,
    "sqrt": np.square,
    "logit": special.expit,
    "probit": special.ndtr,
    "cloglog": stats.gumbel_l.cdf,
    "cauchit": stats.cauchy.cdf,
    "inverse": lambda eta: 1 / eta,
    "1/mu^2": lambda eta: eta**-0.5,
}
TAILS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "logit": (special.log_expit, lambda eta: special.log_expit(-eta)),
    "probit": (special.log_ndtr, lambda eta: special.log_ndtr(-eta)),
    "cloglog": (
        lambda eta: np.where(eta < -20, eta - np.exp(eta) / 2, np.log(stats.gumbel_l.cdf(eta))),
        lambda eta: -np.exp(eta),
    ),
    "cauchit": (
        lambda eta: np.log(np.arctan2(1, -eta) / np.pi),
        lambda eta: np.log(np.arctan2(1, eta) / np.pi),
    ),
    "log": (np.asarray, lambda eta: np.log(-np.expm1(eta))),
}

MEMBERS = [cls(link) for cls in FAMILIES.values() for link in cls.links]
NAMES = [f"{member.name}-{member.link.name}" for member in MEMBERS]
# Each family with its default link, and the first three with all of theirs; the rest is slow.
BY_DEFAULT = [
    member
    for member in MEMBERS
    if member.link.name == member.links[0] or list(FAMILIES).index(member.name) < 3
]
every_member = pytest.mark.parametrize(
    "family",
    [
        pytest.param(member, id=name, marks=[] if member in BY_DEFAULT else pytest.mark.slow)
        for member, name in zip(MEMBERS, NAMES, strict=True)
    ],
)
every_family = pytest.mark.parametrize("name", FAMILIES)
pytestmark = pytest.mark.usefixtures("x64")


def problem_of(
    family: Family,
    y: Array,
    trials: Array,
    weights: Array,
    kind: str,
    information: str = "observed",
) -> Problem:
    """Rows of a family, in one group."""
    n = len(y)
    design = Design(
        y=y,
        trials=trials,
        weights=weights,
        offset=np.zeros(n),
        X=np.ones((n, 1)),
        factors=(Factor(np.zeros(n, np.int32), 1, np.ones((1, n))),),
        terms=(Term(0, (0,), "us"),),
        weights_type=kind,
    )
    return make_problem(design, family, information=information)


# compile time is test time: little is gained by optimising a program of some hundred rows
@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def evaluate(problem: Problem, eta: jax.Array, phi: jax.Array) -> dict[str, jax.Array]:
    """Everything that a family says of its rows."""

    def curvature(point):
        return -row_terms(problem, point, phi).weight

    rows = row_terms(problem, eta, phi)
    expected = jnp.full_like(eta, jnp.nan)
    if problem.family.has_expected_information:
        expected = determinant_weights(problem.replace(information="expected"), eta, phi)
    return {
        "value": rows.value,
        "score": rows.score,
        "weight": rows.weight,
        "third": jax.jvp(curvature, (eta,), (jnp.ones_like(eta),))[1],
        "expected": expected,
        # reverse mode takes other branches of `where` than forward mode does
        "reverse": jax.grad(lambda point: jnp.sum(row_log_density(problem, point, phi)))(eta),
    }


def look(problem: Problem, eta: Array, phi: tuple[float, ...]) -> dict[str, Array]:
    """`evaluate` in NumPy, in blocks of one size: whatever is looked at shares its program."""
    parameters, parts = jnp.asarray(phi, float), []
    for first in range(0, len(eta), BLOCK):
        at = np.arange(first, min(first + BLOCK, len(eta)))
        rows: dict[str, Any] = {
            name: np.resize(getattr(problem, name)[at], BLOCK)
            for name in ("y", "trials", "weights")
        }
        # of its rows alone, no matter how they are grouped
        rows |= {"offset": None, "X": None, "Z": (), "plan": None}
        found = evaluate(problem.replace(**rows), np.resize(eta[at], BLOCK), parameters)
        parts.append({key: np.asarray(value)[: len(at)] for key, value in found.items()})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def predictors(family: Family, low: float = -5.0, high: float = 5.0, step: float = 0.5) -> Array:
    """A grid inside the domain, at least half a step from where it ends."""
    grid = np.arange(low, high, step) + step / 2
    around = grid + np.array([[-0.5], [0.5]]) * step
    return grid[np.all(np.asarray(family.in_domain(jnp.asarray(around))), axis=0)]


@cache
def table(family: Family, weight: float) -> dict[str, Array]:
    """Densities of every response (or of a fine grid of them) at every eta of a grid."""
    case, m = CASES[family.name], 6.0 if family.takes_trials else 1.0
    parts = []
    for point in predictors(family, -case.reach, case.reach):
        mu = float(MEANS[family.link.name](point))
        some, length = case.responses(mu, m, weight)
        parts.append((np.full(len(some), point), np.full(len(some), mu * m), some, length))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    eta, mean, y, width = columns
    trials = np.full(len(y), m)
    problem = problem_of(family, y, trials, np.full(len(y), weight), "prior")
    found = look(problem, eta, case.phi(family))
    base = family.log_base_measure(y, trials)
    mass = np.exp(found["value"] + base) * width
    claimed = m * family.mean(mean / m, np.array(case.shapes))
    return {**found, "eta": eta, "mu": mean / m, "mean": claimed, "y": y, "mass": mass}


def sums(rows: dict[str, Array], values: Array) -> tuple[Array, Array]:
    """Expectation of values at each eta, and where its rows begin."""
    _, first, which = np.unique(rows["eta"], return_index=True, return_inverse=True)
    return np.bincount(which, weights=rows["mass"] * values), first


@every_member
def test_density_has_mass_one_and_the_moments_it_claims(family):
    # a weight that is a precision belongs to the density; others multiply its logarithm
    for weight in (1.0, 2.5) if family.weights_are_precisions else (1.0,):
        rows = table(family, weight)
        mass, first = sums(rows, np.ones_like(rows["y"]))
        np.testing.assert_allclose(mass, 1.0, rtol=1e-10)
        mean, _ = sums(rows, rows["y"])
        np.testing.assert_allclose(mean, rows["mean"][first], rtol=1e-9, atol=1e-12)
        spread, _ = sums(rows, (rows["y"] - rows["mean"]) ** 2)
        m = 6.0 if family.takes_trials else 1.0
        case, mu = CASES[family.name], rows["mu"][first]
        scale = family.residual_scale(np.array(case.shapes)) ** 2 / weight
        expected = scale * m * family.variance(mu, np.array(case.shapes))
        if case.spread is not None:
            expected = case.spread(mu, m, *case.shapes)
        np.testing.assert_allclose(spread, expected, rtol=1e-8, atol=1e-12)


@every_member
def test_expected_information_is_the_mean_of_the_observed(family):
    for weight in (1.0, 2.5) if family.weights_are_precisions else (1.0,):
        rows = table(family, weight)
        score, _ = sums(rows, rows["score"])
        size, _ = sums(rows, np.abs(rows["score"]))
        np.testing.assert_allclose(score, np.zeros_like(score), atol=1e-10 * np.max(size + 1))
        observed, first = sums(rows, rows["weight"])
        squares, _ = sums(rows, rows["score"] ** 2)
        np.testing.assert_allclose(squares, observed, rtol=1e-8, atol=1e-13)
        if family.has_expected_information:
            expected = rows["expected"][first]
            np.testing.assert_allclose(observed, expected, rtol=1e-8, atol=1e-13)


DRAWS = 10_000  # a setting


@partial(jax.jit, static_argnums=0)
def draw(family: Family, key: jax.Array, *rows: Any) -> jax.Array:
    return family.sample(key, *rows)


@cache
def drawn(family: Family) -> dict[str, Array]:
    """Responses of some settings (settings, draws), and what each setting is.

    Every setting of `table` at some of its eta, and as many whose shapes are somewhat larger.
    """
    case, m = CASES[family.name], 6.0 if family.takes_trials else 1.0
    grid = predictors(family, -case.reach, case.reach)
    grid = grid[np.abs(grid) < 2.6]
    some = grid[np.unique(np.linspace(0, len(grid) - 1, 4).astype(int))]
    weights = (1.0, 2.5) if family.weights_are_precisions else (1.0,)
    settings = [(eta, w, 0.0) for w in weights for eta in some] + [(eta, 1.0, 0.4) for eta in some]
    eta, weight, shift = np.array(settings).T
    phi = [x + shift for x in case.phi(family)]
    rows = [np.repeat(part, DRAWS) for part in (eta, *phi, np.full_like(eta, m), weight)]
    each = [jnp.asarray(part) for part in rows]
    y = draw(family, jax.random.key(4), each[0], tuple(each[1:-2]), *each[-2:])
    shapes = [
        family.parameters[name].value(x) for name, x in zip(family.parameters, phi, strict=True)
    ]
    return {
        "y": np.asarray(y).reshape(len(eta), DRAWS),
        "eta": eta,
        "mu": MEANS[family.link.name](eta),
        "weight": weight,
        "shift": shift,
        "shapes": np.array(shapes).reshape(-1, len(eta)),
    }


@every_member
def test_sampler_has_the_mean_and_the_variance_of_the_family(family):
    case, m, found = CASES[family.name], 6.0 if family.takes_trials else 1.0, drawn(family)
    family.check_response(found["y"].ravel(), np.full(found["y"].size, m))
    shapes = tuple(found["shapes"])
    mean = m * family.mean(found["mu"], shapes)
    variance = m * family.variance(found["mu"], shapes) / found["weight"]
    variance = variance * family.residual_scale(shapes) ** 2
    if case.spread is not None:
        variance = case.spread(found["mu"], m, *shapes)
    error = np.sqrt(variance / DRAWS)
    assert np.max(np.abs(np.mean(found["y"], axis=1) - mean) / error) < 5
    squares = (found["y"] - mean[:, None]) ** 2
    error = np.std(squares, axis=1) / np.sqrt(DRAWS)
    assert np.max(np.abs(np.mean(squares, axis=1) - variance) / error) < 5


@every_member
def test_sampler_draws_from_the_density(family):
    """Chi-squared over some 20 cells, whose chances are sums of the densities of `table`."""
    found = drawn(family)
    for y, j in zip(found["y"], np.flatnonzero(found["shift"] == 0.0), strict=False):
        rows = table(family, float(found["weight"][j]))
        here = np.flatnonzero(rows["eta"] == found["eta"][j])
        here = here[np.argsort(rows["y"][here])]
        values, mass = rows["y"][here], rows["mass"][here]
        # cells end between two responses of the grid, and have a chance of 1/20 if that can be
        cell = np.minimum((np.cumsum(mass) - 0.5 * mass) * 20, 19.0).astype(int)
        last = np.flatnonzero(np.diff(cell))
        edges = 0.5 * (values[last] + values[last + 1])
        chances = np.add.reduceat(mass, np.append(0, last + 1))
        counts = np.bincount(np.searchsorted(edges, y), minlength=len(chances))
        statistic = np.sum((counts - DRAWS * chances) ** 2 / (DRAWS * chances))
        assert stats.chi2.sf(statistic, max(len(chances) - 1, 1)) > 1e-5


@every_family
def test_sampler_is_batched_and_ends_far_out(name):
    family, case = families.resolve(name), CASES[name]
    eta = jnp.asarray(np.tile([-700.0, -30.0, 0.5, 30.0, 700.0], len(case.extremes) + 1))
    if family.link.name == "identity":
        eta = jnp.clip(eta, -1e6, 1e6)
    shapes = np.repeat(np.array([case.shapes, *case.extremes]).T, 5, axis=-1)
    phi = tuple(
        jnp.asarray(part.coordinate(x))
        for part, x in zip(family.parameters.values(), shapes, strict=True)
    )
    trials = jnp.full_like(eta, 6.0 if family.takes_trials else 1.0)
    keys = jax.random.split(jax.random.key(1), 3)
    batched = jax.jit(
        jax.vmap(lambda key: family.sample(key, eta, phi, trials, jnp.ones_like(eta)))
    )
    y = np.asarray(batched(keys))
    assert not np.any(np.isnan(y))
    family.check_response(y.ravel(), np.tile(trials, 3))
    (alone,) = batched(keys[1:2])
    np.testing.assert_allclose(y[1], alone, rtol=1e-9)


def test_a_family_without_sampler_says_so():
    class Silent(families.Gaussian):
        name = "silent"
        sample = Family.sample

    one = jnp.ones(2)
    with pytest.raises(ArgumentError, match="silent family cannot be simulated"):
        Silent().sample(jax.random.key(0), one, (0.0,), one, one)


def sample(family: Family, weights: str) -> tuple[Problem, Array]:
    """Some responses at every eta of a coarse grid, with weights."""
    some = np.array(CASES[family.name].some)
    eta = predictors(family, -3.0, 3.0, 0.4)
    eta, y = (part.ravel() for part in np.meshgrid(eta, some, indexing="ij"))
    at = np.arange(len(y))
    some_zero = np.where(at % 5 == 0, 0.0, 0.5 + at % 4)
    weight = np.ones(len(y)) if weights == "none" else some_zero
    trials = np.full(len(y), 6.0 if family.takes_trials else 1.0)
    kind = "frequency" if weights == "frequency" else "prior"
    return problem_of(family, y, trials, weight, kind), eta


@every_member
@pytest.mark.parametrize("weights", ["none", "prior", "frequency"])
def test_rows_are_the_oracles(family, weights):
    problem, eta = sample(family, weights)
    phi = CASES[family.name].phi(family)
    found = look(problem, eta, phi)
    dense = oracle.Problem(
        family.name,
        family.link.name,
        problem.y,
        problem.X,
        [],
        problem.trials,
        problem.weights,
        weights_type=problem.weights_type,
    )
    shapes = np.array(CASES[family.name].shapes)
    rows = dense.density(eta, shapes if len(shapes) > 1 else float(shapes.sum()) or 1.0)
    assert np.sum(found["value"]) + problem.log_base == pytest.approx(rows.log_f.sum(), rel=1e-12)
    for key, closed in (
        ("score", rows.score),
        ("reverse", rows.score),
        ("weight", rows.observed),
        ("expected", rows.expected),
    ):
        if key == "expected" and not family.has_expected_information:
            continue
        np.testing.assert_allclose(found[key], closed, rtol=1e-9, atol=1e-9, err_msg=key)


@every_member
def test_derivatives_agree_with_differences(family):
    problem, eta = sample(family, "prior")
    phi = CASES[family.name].phi(family)
    here = look(problem, eta, phi)
    for of, derivative, sign in (
        ("value", "score", 1.0),
        ("score", "weight", -1.0),
        ("weight", "third", -1.0),
    ):

        def moved(h, of=of):
            return look(problem, eta + h[0], phi)[of]

        steps = oracle.jacobian_fd(moved, np.zeros(1), 0.01)
        scale = 1.0 + np.abs(here[derivative])
        np.testing.assert_allclose(
            here[derivative] / scale, sign * steps[:, 0] / scale, atol=1e-8, err_msg=derivative
        )


@every_member
def test_numerical_differentiation_stands_in_for_autodiff(family):
    problem, eta = sample(family, "prior")
    phi = CASES[family.name].phi(family)
    exact = look(problem, eta, phi)
    rough = look(problem.replace(differentiation="numerical"), eta, phi)
    for key, tolerance in (("value", 1e-14), ("score", 1e-8), ("weight", 1e-6)):
        scale = 1.0 + np.abs(exact["value"]) + np.abs(exact[key])
        np.testing.assert_allclose(rough[key] / scale, exact[key] / scale, atol=tolerance)


@every_member
def test_nothing_is_nan_far_out(family):
    some = np.array(CASES[family.name].some)
    eta = np.array([-700.0, -300.0, -37.5, -1e-3, 0.0, 1e-3, 37.5, 300.0, 700.0])
    eta, y = (part.ravel() for part in np.meshgrid(eta, some, indexing="ij"))
    trials = np.full(len(y), 6.0 if family.takes_trials else 1.0)
    phi = CASES[family.name].phi(family)
    inside = np.asarray(family.in_domain(jnp.asarray(eta)))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        # log f of a count falls like the mean, that of a measurement like its square
        mean = np.abs(np.where(inside, MEANS[family.link.name](eta), 1.0))
        squared = family.weights_are_precisions or family.mean_range[0] < 0
        fits = mean < (1e150 if squared else 1e306)
        if family.weights_are_precisions and family.mean_range[0] == 0:
            fits &= mean > 1e-100
    for kind, weight in (("prior", 1.0), ("frequency", 3.0), ("prior", 0.0)):
        found = look(problem_of(family, y, trials, np.full(len(y), weight), kind), eta, phi)
        for key, values in found.items():
            if key == "expected" and not family.has_expected_information:
                continue
            assert not np.any(np.isnan(values)), (kind, weight, key)
            if weight == 0.0:
                assert not np.any(values), key
            elif key != "value":
                assert not np.any(values[~inside]) or key == "expected", key
                ok = np.isfinite(values) | ~fits
                assert np.all(ok), (key, eta[~ok], y[~ok])
        if weight:
            assert np.all(np.isneginf(found["value"][~inside]))
            assert np.all(np.isfinite(found["value"][inside & fits]))
            assert np.all(np.isneginf(found["value"]) | np.isfinite(found["value"]))
    problem = problem_of(family, y, trials, np.ones(len(y)), "prior")
    for shapes in CASES[family.name].extremes:
        found = look(problem, eta, tuple(family.unconstrained(np.array(shapes))))
        for key, values in found.items():
            known = key != "expected" or family.has_expected_information
            assert not np.any(np.isnan(values)) or not known, (shapes, key)


@every_member
def test_concavity_is_claimed_where_it_holds_and_nowhere_else(family):
    some = np.array(CASES[family.name].some)
    eta = predictors(family, -30.0, 30.0, 0.1)
    eta, y = (part.ravel() for part in np.meshgrid(eta, some, indexing="ij"))
    trials = np.full(len(y), 6.0 if family.takes_trials else 1.0)
    problem = problem_of(family, y, trials, np.ones(len(y)), "prior")
    case = CASES[family.name]
    weight = look(problem, eta, case.phi(family))["weight"]
    if family.log_concave:
        assert np.min(weight) >= -1e-12
        return
    # some are concave except at extreme shapes
    smallest = [np.min(weight)]
    for shapes in case.extremes:
        phi = tuple(family.unconstrained(np.array(shapes)))
        smallest.append(np.min(look(problem, eta, phi)["weight"]))
    assert np.min(smallest) < -1e-3


def largest(family: Family, y: Array, trials: Array, phi: tuple[float, ...]) -> Array:
    """The largest log f of each y over the mean, by a line search."""
    plain = families.resolve(family.name)

    def negative(point: float, row: int) -> float:
        problem = problem_of(plain, y[[row]], trials[[row]], np.ones(1), "prior")
        return -float(look(problem, np.array([point]), phi)["value"][0])

    options = {"bounds": (-40.0, 40.0), "method": "bounded", "options": {"xatol": 1e-9}}
    best = {
        float(y[row]): -optimize.minimize_scalar(negative, args=(row,), **options).fun
        for row in np.unique(y, return_index=True)[1]
    }
    return np.array([best[float(value)] for value in y])


@every_member
def test_deviance_is_twice_the_distance_to_the_saturated_model(family, rng):
    case = CASES[family.name]
    y = np.repeat(case.some, 6)
    if family.link.name == "log" and not family.takes_trials:
        y = np.maximum(y, 0.0)
    trials = np.full(len(y), 6.0 if family.takes_trials else 1.0)
    grid = predictors(family, -2.0, 2.0, 0.3)
    eta = rng.choice(grid, len(y))
    problem = problem_of(family, y, trials, np.ones(len(y)), "prior")
    # at dispersion 1 of exponential dispersion models
    shapes = (1.0, *case.shapes[1:]) if family.weights_are_precisions else case.shapes
    phi = tuple(family.unconstrained(np.array(shapes)))
    here = look(problem, eta, phi)["value"]
    if case.own_deviance:
        saturated = np.asarray(family.link.link(np.clip(y / trials, *case.saturated)))
        if family.link.name == "identity" and case.bounds[0] == -np.inf:
            saturated = y
        assert np.all(family.in_domain(jnp.asarray(saturated)))
        top = look(problem, saturated, phi)["value"]
    else:
        top = largest(family, y, trials, phi)
    mu = np.asarray(family.link.inverse(jnp.asarray(eta)))
    dispersion = np.array(shapes)
    found = family.unit_deviance(y, mu, trials, dispersion)
    np.testing.assert_allclose(found, 2 * (top - here), rtol=1e-9, atol=1e-9)
    assert np.all(found >= 0)
    if case.own_deviance:
        at_itself = family.unit_deviance(y, y / trials, trials, dispersion)
        np.testing.assert_allclose(at_itself, np.zeros(len(y)), atol=1e-12)


def test_no_trials_have_no_deviance():
    family, none = families.Binomial(), np.zeros(3)
    found = family.unit_deviance(none, np.array([0.0, 0.4, 1.0]), none, none[:0])
    np.testing.assert_array_equal(found, none)


@every_member
def test_a_fit_can_start_at_any_response(family):
    case = CASES[family.name]
    y = np.array(case.some)
    trials = np.full(len(y), 6.0 if family.takes_trials else 1.0)
    mean = family.start_mean(y, trials)
    eta = np.asarray(family.link.link(mean))
    assert np.all(np.isfinite(eta))
    assert np.all(family.in_domain(jnp.asarray(eta)))
    if family.takes_trials:  # rows of trials with a denominator of 0 occur
        eta = np.asarray(family.link.link(family.start_mean(np.zeros(2), np.zeros(2))))
        assert np.all(np.isfinite(eta))


@every_member
def test_dispersion_has_a_start_and_a_natural_scale(family, rng):
    case = CASES[family.name]
    y, weights = rng.choice(np.array(case.some), 40), rng.uniform(0.5, 2.0, 40)
    weights[::5] = 0.0
    trials = np.full(40, 6.0 if family.takes_trials else 1.0)
    mu = np.full(40, np.mean(family.start_mean(y, trials)))
    start = family.start_phi(y, mu, trials, weights)
    assert start.shape == (len(family.dispersion_names),) == (len(family.parameters),)
    assert np.all(np.isfinite(start))
    parts = family.parameters.values()
    natural = np.array([part.natural(x) for part, x in zip(parts, start, strict=True)])
    np.testing.assert_allclose(family.unconstrained(natural), start, rtol=1e-12, atol=1e-12)
    values = [part.value(x) for part, x in zip(parts, start, strict=True)]
    np.testing.assert_allclose(values, natural, rtol=1e-14)
    if family.has_residual_sd:
        used = weights > 0
        expected = np.mean(weights[used] * (y - mu)[used] ** 2)
        assert natural[0] ** 2 == pytest.approx(expected)
        assert float(family.ranef_scale(jnp.asarray(start))) == pytest.approx(natural[0])
    else:
        assert family.ranef_scale(jnp.asarray(start)) == 1.0


@every_family
def test_a_shape_a_row_is_that_shape(name):
    family, case = families.resolve(name), CASES[name]
    if not case.shapes:
        return
    y = np.array(case.some)
    trials = np.full(len(y), 6.0 if family.takes_trials else 1.0)
    eta, one = jnp.full(len(y), 0.3), jnp.ones(len(y))
    phi = jnp.asarray(case.phi(family))
    rows = jnp.asarray(np.tile(np.asarray(phi)[:, None], len(y)))
    single = family.log_density(y, eta, phi, trials, one)
    np.testing.assert_allclose(family.log_density(y, eta, rows, trials, one), single, rtol=1e-13)


@every_family
def test_a_shape_that_is_given_is_not_estimated(name):
    case = CASES[name]
    cls: Any = FAMILIES[name]
    names = [part for part in cls.parameters if part in {f.name for f in fields(cls)}]
    for part in names:
        at = list(cls.parameters).index(part)
        whole, given = cls(), cls(**{part: case.shapes[at]})
        assert given.dispersion_names == tuple(p for p in cls.parameters if p != part)
        assert given != whole
        assert given == cls(**{part: case.shapes[at]})
        phi = np.array(case.phi(whole))
        y = np.array(case.some)
        trials = np.full(len(y), 6.0 if whole.takes_trials else 1.0)
        rows = (y, jnp.full(len(y), 0.3))
        one = jnp.ones(len(y))
        np.testing.assert_allclose(
            given.log_density(*rows, jnp.asarray(np.delete(phi, at)), trials, one),
            whole.log_density(*rows, jnp.asarray(phi), trials, one),
            rtol=1e-13,
        )
        np.testing.assert_array_equal(
            given.variance(np.full(3, 0.4), np.delete(case.shapes, at)),
            whole.variance(np.full(3, 0.4), np.array(case.shapes)),
        )
        for wrong in (0.0, -1.0, np.nan, "2"):
            with pytest.raises(ArgumentError, match=f"{part} of the {name} family"):
                cls(**{part: wrong})


@every_member
def test_likelihood_grows_towards_the_bounds(family):
    case = CASES[family.name]
    trials = np.full(3, 6.0 if family.takes_trials else 1.0)
    low, high = family.bounds(trials)
    # a response at the end of its range is a bound where the link's domain goes on for ever there
    for bound, extreme, sign in ((low, case.bounds[0], -1.0), (high, case.bounds[1], 1.0)):
        eta = sign * np.array([1.0, 5.0, 25.0])
        endless = bool(np.all(family.in_domain(jnp.asarray(eta))))
        if family.link.name == "identity":
            endless = False  # the mean runs past the end of the range
        np.testing.assert_array_equal(bound, np.full(3, extreme if endless else sign * np.inf))
        if np.isfinite(bound[0]):
            problem = problem_of(family, bound, trials, np.ones(3), "prior")
            found = look(problem, eta, case.phi(family))
            assert np.all(np.diff(found["value"]) >= 0)
            assert found["value"][1] > found["value"][0]
            assert np.all(sign * found["score"] >= 0)
    # between the bounds no direction goes up for ever
    inner = case.some[1]
    problem = problem_of(family, np.full(2, inner), trials[:2], np.ones(2), "prior")
    ends = np.array([-40.0, 40.0])
    usable = np.asarray(family.in_domain(jnp.asarray(ends)))
    score = look(problem, ends, case.phi(family))["score"]
    bounded = np.array([inner > case.bounds[0], inner < case.bounds[1]])
    assert np.all((score * ends < 0) | ~usable | ~bounded)


@every_family
def test_impossible_responses_are_refused(name):
    case, family = CASES[name], families.resolve(name)
    for y, trials in case.good:
        family.check_response(np.array([y]), np.array([trials]))
    possible = np.array(case.good)
    for y, trials in case.bad:
        rows = np.concatenate([possible, [[y, trials]], possible])
        with pytest.raises(DataError, match=f"row {len(possible)} of the rows used") as caught:
            family.check_response(rows[:, 0], rows[:, 1])
        assert name in str(caught.value)
        assert "expects" in str(caught.value)


@every_family
def test_one_row_per_level(name):
    family = families.resolve(name)
    for trials, answer in CASES[name].single_rows.items():
        assert family.one_row_per_level(np.full(5, trials)) == answer
    if family.takes_trials:
        several = CASES[name].single_rows[6.0]
        assert family.one_row_per_level(np.array([1.0, 1.0, 2.0])) == several
        assert family.one_row_per_level(np.array([1.0, 0.0, 1.0])) == "refuse"


# ----------------------------------------------------------------------------------------------
# Links


def link_grid(name: str, member: Family) -> Array:
    eta = np.concatenate([-np.geomspace(30.0, 0.01, 40), np.geomspace(0.01, 30.0, 40)])
    return eta[np.asarray(member.in_domain(jnp.asarray(eta)))]


@every_member
def test_link_undoes_its_inverse(family):
    link = family.link
    eta = link_grid(link.name, family)
    mu = np.asarray(link.inverse(jnp.asarray(eta)))
    slope = np.asarray(link.derivative(jnp.asarray(eta)))
    lost = np.finfo(float).eps * mu / np.where(slope == 0, np.nan, slope)  # one rounding of mu
    usable = np.isfinite(lost) & (lost < 0.1) & ((mu < 1) | (not family.takes_trials))
    assert np.mean(usable) > 0.5
    back = np.asarray(link.link(mu))
    error = np.abs(back - eta)[usable]
    assert np.all(error <= (10 * np.abs(lost) + 1e-12 * (1 + np.abs(eta)))[usable])


@every_member
def test_inverse_is_scipys_and_keeps_its_digits(family):
    link = family.link
    eta = link_grid(link.name, family)
    mu = np.asarray(link.inverse(jnp.asarray(eta)))
    np.testing.assert_allclose(mu, MEANS[link.name](eta), rtol=1e-12)
    if family.takes_trials:
        log_p, log_q = TAILS[link.name]
        ours = np.asarray(link.log_inverse(jnp.asarray(eta)))
        np.testing.assert_allclose(ours, log_p(eta), rtol=1e-11, atol=1e-15)
        ours = np.asarray(link.log_complement(jnp.asarray(eta)))
        np.testing.assert_allclose(ours, log_q(eta), rtol=1e-11, atol=1e-15)
    near = eta[np.abs(eta) < 4]
    near = near[np.asarray(family.in_domain(jnp.asarray(near + 0.005)))]
    if not family.in_domain(jnp.asarray(-1.0)):
        near = near[near > 0.5]  # away from a pole
    steps = oracle.jacobian_fd(lambda h: MEANS[link.name](near + h[0]), np.zeros(1), 0.004)
    slope = np.asarray(link.derivative(jnp.asarray(near)))
    np.testing.assert_allclose(slope, steps[:, 0], rtol=1e-9, atol=1e-12)


def test_probit_score_and_information_keep_their_digits_in_the_tails():
    # phi / Phi from the scaled complementary error function, which does not underflow
    eta = np.linspace(-15.0, -3.0, 25)
    mills = np.sqrt(2 / np.pi) / special.erfcx(-eta / np.sqrt(2))
    ones = np.ones(len(eta))
    for sign, y in ((1.0, ones), (-1.0, 0 * ones)):
        problem = problem_of(families.Binomial("probit"), y, ones, ones, "prior")
        found = look(problem, sign * eta, ())
        np.testing.assert_allclose(sign * found["score"], mills, rtol=1e-12)
        np.testing.assert_allclose(found["weight"], mills * (eta + mills), rtol=1e-10)


def test_cloglog_keeps_the_information_of_rare_events():
    # log(1 - exp(-t)) = log t - t/2 + t^2/24, whose curvature in log t is -t/2 + t^2/6
    eta = np.linspace(-60.0, -12.0, 33)
    ones = np.ones(len(eta))
    found = look(problem_of(families.Binomial("cloglog"), ones, ones, ones, "prior"), eta, ())
    series = np.exp(eta) / 2 - np.exp(2 * eta) / 6
    low = eta < -30  # where differences of nearly equal numbers would leave no digit
    np.testing.assert_allclose(found["weight"][low], series[low], rtol=1e-10)
    np.testing.assert_allclose(found["weight"][~low], series[~low], rtol=1e-8, atol=1e-15)


def test_softplus_keeps_its_digits():
    x = np.r_[np.linspace(-700.0, 700.0, 20_001), np.linspace(-3.0, 3.0, 20_001)]
    wide = x.astype(np.longdouble)
    exact = np.maximum(wide, 0) + np.log1p(np.exp(-np.abs(wide)))
    np.testing.assert_allclose(softplus(x), exact, rtol=6e-16)


@pytest.mark.parametrize("trials", [np.ones(4), np.array([1.0, 5.0, 40.0, 3.0])])
def test_counts_of_combinations(trials):
    """All single trials, which need no gamma function, and others; derivatives are the same."""
    y = np.array([1.0, 0.0, 1.0, 1.0])
    lgamma = special.gammaln
    expected = lgamma(trials + 1) - lgamma(y + 1) - lgamma(trials - y + 1)
    np.testing.assert_allclose(log_choose(trials, y), expected, rtol=1e-13, atol=1e-15)
    slopes = jax.grad(lambda y: jnp.sum(log_choose(trials, y)))(jnp.asarray(y))
    exact = special.digamma(trials - y + 1) - special.digamma(y + 1)
    np.testing.assert_allclose(slopes, exact, rtol=1e-12)


def test_every_link_belongs_to_a_family():
    assert set(LINKS) == {member.link.name for member in MEMBERS}
    assert set(MEANS) == set(LINKS)


def _softplus_mean(eta):
    return jnp.logaddexp(eta, 0.0)


def _falling_mean(eta):
    return 1.0 / (1.0 + eta)


@pytest.mark.parametrize("function", [_softplus_mean, _falling_mean, jnp.exp])
def test_a_link_may_be_a_function(function):
    family = families.Gamma(link=function)
    assert family == families.Gamma(link=function)
    assert hash(family) == hash(families.Gamma(link=function))
    assert family not in (families.Gamma(), families.Gamma(lambda eta: jnp.exp(eta)))
    assert not family.log_concave
    eta = np.array([0.03, 0.5, 2.0, 7.0, 19.0])
    mu = np.asarray(function(jnp.asarray(eta)))
    np.testing.assert_allclose(family.link.link(mu), eta, rtol=1e-10)
    assert family.in_domain(jnp.asarray(family.link.interior))
    np.testing.assert_array_equal(family.in_domain(jnp.asarray([-3.0, 3.0]))[1], True)
    y, one = np.full(5, 0.7), np.ones(5)
    found = look(problem_of(family, y, one, one, "prior"), eta, (0.0,))
    direct = stats.expon.logpdf(y, scale=mu) + np.log(y)
    np.testing.assert_allclose(found["value"], direct, rtol=1e-10)
    assert not any(np.any(np.isnan(values)) for values in found.values())


def test_a_function_that_is_no_link_is_refused():
    with pytest.raises(ArgumentError, match="no mean between 0 and 1"):
        families.Binomial(link=lambda eta: 2.0 + eta**2)
    with pytest.raises(ArgumentError, match="works elementwise"):
        families.Poisson(link=lambda eta: jnp.sum(jnp.exp(eta)))


RESTRICTED = [m for m in MEMBERS if not np.all(m.in_domain(jnp.array([-1.0, 1.0])))]
ENOUGH = (("poisson", "identity"), ("gamma", "inverse"), ("binomial", "log"))


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            m,
            id=f"{m.name}-{m.link.name}",
            marks=[] if (m.name, m.link.name) in ENOUGH else pytest.mark.slow,
        )
        for m in RESTRICTED
    ],
)
def test_laplace_is_near_the_integral_where_the_domain_ends(family):
    case = CASES[family.name]
    y = np.resize(np.array(case.some[-2:]), 6)
    trials = np.full(6, 8.0 if family.takes_trials else 1.0)
    problem = problem_of(family, y, trials, np.ones(6), "prior")
    centre = float(family.link.link(np.mean(y / trials)))
    theta = 0.15 * abs(centre)
    phi = jnp.asarray(case.phi(family))
    params = Params(jnp.array([theta]), jnp.array([centre]), phi)
    found = float(log_likelihood(params, problem, (jnp.zeros((1, 1)),)))

    u = np.linspace(-9.0, 9.0, 1801)
    rows = jax.vmap(lambda point: row_log_density(problem, centre + theta * point, phi))
    total = np.sum(np.asarray(rows(jnp.asarray(np.tile(u[:, None], 6)))), axis=1)
    exact = special.logsumexp(total + stats.norm.logpdf(u)) + np.log(0.01)
    assert found == pytest.approx(exact + float(problem.log_base), abs=0.02)


# ----------------------------------------------------------------------------------------------
# The table and its members


@every_family
def test_a_family_is_found_by_name_class_and_instance(name):
    cls = FAMILIES[name]
    assert cls.name == name
    assert name in CASES, "a new family needs a row in CASES"
    default = families.resolve(name)
    assert type(default) is cls
    assert default.link.name == cls.links[0]
    assert families.resolve(name.upper()) == families.resolve(cls) == default
    assert families.resolve(default) is default
    assert set(cls.log_concave_links) <= set(cls.links)


@every_member
def test_members_are_equal_by_value_and_usable_as_static_arguments(family):
    twin = type(family)(type(family.link)())
    assert twin == family
    assert hash(twin) == hash(family)
    assert str(family) == f"{family.name} ( {family.link.name} )"
    others = [other for other in MEMBERS if other is not family]
    assert family not in others


@pytest.mark.parametrize("wrong", ["tweedie-ish", 3, None, Link, object()])
def test_what_is_no_family_is_refused(wrong):
    with pytest.raises(ArgumentError, match="binomial, poisson, gaussian"):
        families.resolve(wrong)


@every_family
def test_links_of_other_families_are_refused(name):
    for link in (*(set(LINKS) - set(FAMILIES[name].links)), "inverse-ish"):
        with pytest.raises(ArgumentError, match=f"{name} family has no link '{re.escape(link)}'"):
            FAMILIES[name](link)
    with pytest.raises(ArgumentError, match="choose one of"):
        resolve_link("nothing", FAMILIES[name].links, name)


def test_a_family_without_closed_form_has_no_expected_information():
    @dataclass(frozen=True)
    class Plain(families.Gaussian):
        name = "plain"
        has_expected_information = False

    one = np.ones(1)
    problem = problem_of(Plain(), one, one, one, "prior")
    assert problem.information == "observed"
    with pytest.raises(ArgumentError, match=r'the plain family.*use information="observed"'):
        problem_of(Plain(), one, one, one, "prior", information="expected")
    with pytest.raises(NotImplementedError):
        Family.expected_information(Plain(), one, np.zeros(1), one, one)
