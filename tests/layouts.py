"""Small models with every layout of random effects, as the engine and as the oracle see them.

A row of `LAYOUTS` says which grouping factors a model has and which terms; `draw` puts a family, a
design and responses to it. The factors are shuffled over the rows, so that nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from scipy import special

from mixedlm_jax.design import Design, Factor, Term
from mixedlm_jax.families import FAMILIES, Family
from mixedlm_jax.problem import Params, Problem, make_problem

Array = np.ndarray
FAMILY_LINKS = [(name, link) for name, family in FAMILIES.items() for link in family.links]

SIGMA = 0.7
SIZES = np.array([1.0, 2.0, 4.0, 6.0])  # of binomial trials


@dataclass(frozen=True)
class Group:
    """A grouping factor: how many levels and effects per level, and what it is nested in."""

    n_levels: int
    n_effects: int = 1
    within: int | None = None


@dataclass(frozen=True)
class Layout:
    """Grouping factors, and terms as (factor, columns of its effects) where they are not whole."""

    groups: tuple[Group, ...]
    terms: tuple[tuple[int, tuple[int, ...]], ...] = ()

    @property
    def all_terms(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The terms; by default one for each factor, with all of its effects."""
        whole = tuple((f, tuple(range(g.n_effects))) for f, g in enumerate(self.groups))
        return self.terms or whole

    @property
    def n_theta(self) -> int:
        """Length of theta."""
        return sum(len(columns) * (len(columns) + 1) // 2 for _, columns in self.all_terms)


LAYOUTS: dict[str, Layout] = {
    "intercept": Layout((Group(8),)),
    "slope": Layout((Group(8, 2),)),
    "||": Layout((Group(8, 2),), ((0, (0,)), (0, (1,)))),
    "nested": Layout((Group(12, within=1), Group(4))),
    "crossed": Layout((Group(9), Group(5))),
    "slope crossed with intercept": Layout((Group(7, 2), Group(5))),
    "three-way crossed": Layout((Group(7), Group(5), Group(4))),
    "nested and crossed": Layout((Group(14, within=2), Group(6), Group(5))),
}
"""The layouts of the derivative tests. The last one's factors are subject, item and school: item
has more levels than school, so that the corner must hold item alone."""

MORE_LAYOUTS: dict[str, Layout] = {
    "three effects": Layout((Group(8, 3),)),
    "a pair and a single on one factor": Layout((Group(8, 3),), ((0, (0, 2)), (0, (1,)))),
    "slopes nested in slopes": Layout((Group(12, 2, within=1), Group(4, 3))),
    "nested three deep": Layout((Group(20, within=1), Group(8, within=2), Group(3))),
    "nested four deep with a slope": Layout(
        (Group(24, within=1), Group(12, 2, within=2), Group(6, within=3), Group(2))
    ),
    "two factors nested in one": Layout((Group(12, within=2), Group(9, within=2), Group(3))),
    "slopes crossed with slopes": Layout((Group(7, 2), Group(6, 2))),
    "fewer levels with more effects": Layout((Group(9), Group(5, 3))),
    "slopes nested and crossed": Layout((Group(14, 2, within=2), Group(7, 2), Group(5, 2))),
    "nested three deep and crossed twice": Layout(
        (Group(18, within=1), Group(8, within=3), Group(6, 2), Group(4), Group(3))
    ),
    "two factors of the same levels": Layout((Group(8, within=1), Group(8, 2))),
}

# Fixed effects that keep the predictor well inside the domain, and the mean there.
_BETA: dict[tuple[str, str], tuple[float, float]] = {
    ("binomial", "log"): (-1.4, 0.2),
    ("poisson", "sqrt"): (1.8, 0.2),
    ("poisson", "identity"): (3.5, 0.4),
    ("gaussian", "log"): (0.6, 0.3),
    ("gamma", "inverse"): (1.2, 0.1),
    ("gamma", "identity"): (2.5, 0.2),
    ("inverse_gaussian", "1/mu^2"): (1.2, 0.1),
    ("inverse_gaussian", "inverse"): (1.2, 0.1),
    ("inverse_gaussian", "identity"): (2.5, 0.2),
    ("nbinom2", "sqrt"): (1.8, 0.2),
    ("nbinom2", "identity"): (3.5, 0.4),
    ("nbinom1", "sqrt"): (1.8, 0.2),
    ("nbinom1", "identity"): (3.5, 0.4),
    ("tweedie", "sqrt"): (1.8, 0.2),
    ("tweedie", "identity"): (3.5, 0.4),
    ("student_t", "log"): (0.6, 0.3),
    ("lognormal", "identity"): (2.5, 0.2),
    ("truncated_poisson", "sqrt"): (1.8, 0.2),
    ("truncated_poisson", "identity"): (3.5, 0.4),
    ("truncated_nbinom2", "sqrt"): (1.8, 0.2),
    ("truncated_nbinom2", "identity"): (3.5, 0.4),
}
_MEAN: dict[str, Callable[[Array], Array]] = {
    "logit": special.expit,
    "probit": special.ndtr,
    "cloglog": lambda eta: -np.expm1(-np.exp(eta)),
    "cauchit": lambda eta: 0.5 + np.arctan(eta) / np.pi,
    "log": np.exp,
    "sqrt": np.square,
    "identity": np.asarray,
    "inverse": lambda eta: 1.0 / eta,
    "1/mu^2": lambda eta: eta**-0.5,
}

# Dispersion and shape parameters that responses are drawn with, on their natural scale.
SHAPES: dict[str, tuple[float, ...]] = {
    "gaussian": (SIGMA,),
    "gamma": (3.0,),
    "inverse_gaussian": (0.3,),
    "nbinom2": (1.5,),
    "nbinom1": (1.2,),
    "beta": (8.0,),
    "betabinomial": (4.0,),
    "tweedie": (0.9, 1.4),
    "student_t": (SIGMA, 4.0),
    "lognormal": (SIGMA,),
    "truncated_nbinom2": (1.5,),
}


def _positive(draw: Callable[[], Array]) -> Array:
    """Counts drawn until none is 0."""
    y = draw()
    while np.any(y == 0):
        y = np.where(y == 0, draw(), y)
    return y


def _tweedie(mean: Array, phi: float, p: float, rng: np.random.Generator) -> Array:
    number = rng.poisson(mean ** (2 - p) / (phi * (2 - p)))
    shape = number * (2 - p) / (p - 1)
    return np.where(number > 0, rng.gamma(np.maximum(shape, 1e-9)), 0.0) * (
        phi * (p - 1) * mean ** (p - 1)
    )


def _negative_binomial(mean: Array, theta: Array | float, rng: np.random.Generator) -> Array:
    return rng.poisson(rng.gamma(theta, mean / theta)).astype(float)


def respond(family: str, mean: Array, trials: Array, rng: np.random.Generator) -> Array:
    """Responses with this mean (before truncation, of families that are truncated)."""
    shapes = SHAPES.get(family, ())
    draws: dict[str, Callable[..., Array]] = {
        "binomial": lambda: rng.binomial(trials.astype(int), mean).astype(float),
        "poisson": lambda: rng.poisson(mean).astype(float),
        "gaussian": lambda sigma: rng.normal(mean, sigma),
        "gamma": lambda shape: rng.gamma(shape, mean / shape),
        "inverse_gaussian": lambda phi: rng.wald(mean, 1 / phi),
        "nbinom2": lambda theta: _negative_binomial(mean, theta, rng),
        "nbinom1": lambda phi: _negative_binomial(mean, mean / phi, rng),
        "beta": lambda phi: rng.beta(mean * phi, (1 - mean) * phi),
        "betabinomial": lambda phi: rng.binomial(
            trials.astype(int), rng.beta(mean * phi, (1 - mean) * phi)
        ).astype(float),
        "tweedie": lambda phi, p: _tweedie(mean, phi, p, rng),
        "student_t": lambda sigma, df: mean + sigma * rng.standard_t(df, len(mean)),
        "lognormal": lambda sigma: rng.lognormal(np.log(mean) - sigma**2 / 2, sigma),
        "truncated_poisson": lambda: _positive(lambda: rng.poisson(mean).astype(float)),
        "truncated_nbinom2": lambda theta: _positive(lambda: _negative_binomial(mean, theta, rng)),
    }
    return draws[family](*shapes)


@dataclass(frozen=True)
class Model:
    """One model: what the engine evaluates, what the oracle evaluates, and a point away from the
    optimum (NumPy)."""

    design: Design
    family: Family
    layout: Layout
    problem: Problem
    dense: oracle.Problem
    params: Params

    def lambdas(self, theta: Array) -> list[Array]:
        """Lambda of each factor, relative to sigma for the Gaussian."""
        factors = [np.zeros((g.n_effects, g.n_effects)) for g in self.layout.groups]
        at = 0
        for f, columns in self.layout.all_terms:
            k = len(columns)
            size = k * (k + 1) // 2
            factors[f][np.ix_(columns, columns)] = oracle.lower_triangular(theta[at : at + size], k)
            at += size
        assert at == len(theta)
        return factors

    def oracle(self, flat: Array, information: str = "observed") -> oracle.Laplace:
        """The dense Laplace approximation at (theta, beta, phi)."""
        q, p = self.layout.n_theta, self.design.X.shape[1]
        sigma = natural(self.family, flat[q + p :])
        return oracle.laplace(
            self.dense, flat[q : q + p], self.lambdas(flat[:q]), sigma, information
        )

    @property
    def flat(self) -> Array:
        """(theta, beta, phi) in one vector."""
        return np.concatenate(self.params)

    def at(self, theta: Array) -> Model:
        """The same model at another theta."""
        return replace(self, params=self.params._replace(theta=np.asarray(theta, float)))

    def with_design(self, **parts: Any) -> Model:
        """The same model with other arrays or factors in its design."""
        return assemble(replace(self.design, **parts), self.family, self.layout, self.params)


def natural(family: Family, phi: Array) -> Any:
    """What the oracle calls sigma: dispersion on its natural scale, 1 where there is none."""
    if not len(phi):
        return 1.0
    values = np.exp(phi)
    if "power" in family.dispersion_names:
        at = family.dispersion_names.index("power")
        values[at] = 1.0 + special.expit(phi[at])
    return values if len(values) > 1 else float(values[0])


def random_theta(layout: Layout, rng: np.random.Generator, scale: float = 1.0) -> Array:
    """Covariance parameters with diagonals in scale (.3, .6) and correlations of either sign."""
    parts = []
    for _, columns in layout.all_terms:
        k = len(columns)
        by_column, row = np.triu_indices(k)
        diagonal = by_column == row
        size = np.where(diagonal, rng.uniform(0.3, 0.6, len(row)), rng.uniform(-0.4, 0.4, len(row)))
        parts.append(scale * size)
    return np.concatenate(parts)


def draw_levels(layout: Layout, n: int, rng: np.random.Generator) -> list[Array]:
    """The level of each row in every factor; every level occurs."""
    levels: dict[int, Array] = {}
    while len(levels) < len(layout.groups):
        for f, group in enumerate(layout.groups):
            children = [c for c, other in enumerate(layout.groups) if other.within == f]
            if f in levels or not all(c in levels for c in children[:1]):
                continue
            if children:
                # the first child decides; a second one is drawn within the levels that result
                child = children[0]
                n_children = layout.groups[child].n_levels
                parent = rng.permutation(np.arange(n_children) % group.n_levels)
                levels[f] = parent[levels[child]]
                for other in children[1:]:
                    levels[other] = _within(levels[f], layout.groups[other].n_levels, rng)
            elif group.within is None or f == _first_child(layout, group.within):
                levels[f] = rng.permutation(np.arange(n) % group.n_levels)
    return [levels[f].astype(np.int32) for f in range(len(layout.groups))]


def _first_child(layout: Layout, parent: int) -> int:
    return next(c for c, group in enumerate(layout.groups) if group.within == parent)


def _within(parent: Array, n_levels: int, rng: np.random.Generator) -> Array:
    """A factor of n_levels levels nested in another whose levels divide them evenly."""
    n_parents = int(parent.max()) + 1
    each = n_levels // n_parents
    assert each * n_parents == n_levels
    own = np.empty(len(parent), int)
    for level in range(n_parents):
        rows = np.flatnonzero(parent == level)
        own[rows] = level + n_parents * rng.permutation(np.arange(len(rows)) % each)
    return own


def draw(
    family: str,
    link: str,
    layout: Layout,
    rng: np.random.Generator,
    *,
    n: int = 72,
    weights: str = "none",
    offset: bool = False,
    information: str = "observed",
) -> Model:
    """A model with random covariates and responses, and parameters near those it was drawn from.

    weights: "none", "prior" or "frequency"; the latter two put a weight of 0 on some rows.
    """
    levels = draw_levels(layout, n, rng)
    x = rng.normal(size=(2, n))
    rows = np.stack([np.ones(n), x[0], x[1]])
    # covariates of the slopes are kept short, so that restricted links stay in their domain
    Z = rows * np.array([[1.0], [0.7], [0.5]])
    factors = [
        Factor(level, group.n_levels, Z[: group.n_effects])
        for level, group in zip(levels, layout.groups, strict=True)
    ]
    restricted = (family, link) in _BETA and family not in ("gaussian", "student_t")
    theta = random_theta(layout, rng, 0.35 if restricted else 1.0)
    beta = np.array(_BETA.get((family, link), (0.3, -0.4)))
    X = np.stack([np.ones(n), np.clip(x[0], -1.5, 1.5)], axis=1)
    shift = rng.uniform(-0.3, 0.3, n) if offset else np.zeros(n)
    trials = rng.choice(SIZES, n) if FAMILIES[family].takes_trials else np.ones(n)
    eta = X @ beta + shift
    for level, group, z in zip(levels, layout.groups, Z[None].repeat(len(levels), 0), strict=True):
        effects = rng.normal(scale=0.12 if restricted else 0.4, size=(3, group.n_levels))
        eta = eta + np.sum((z * effects[:, level])[: group.n_effects], axis=0)
    if restricted:
        eta = np.sign(beta[0]) * np.maximum(np.sign(beta[0]) * eta, 0.1)
    y = respond(family, _MEAN[link](eta), trials, rng)
    weight = np.ones(n)
    if weights != "none":
        # whole where rows count several times; any positive number otherwise
        frequent = weights == "frequency"
        weight = rng.integers(1, 4, n).astype(float) if frequent else rng.uniform(0.4, 2.5, n)
        weight[::9] = 0.0
    design = Design(
        y=y,
        trials=trials,
        weights=weight,
        offset=shift,
        X=X,
        factors=tuple(factors),
        terms=tuple(Term(f, columns, "us") for f, columns in layout.all_terms),
        weights_type="frequency" if weights == "frequency" else "prior",
    )
    phi = FAMILIES[family](link).unconstrained(np.array(SHAPES.get(family, ()))) + 0.1
    params = Params(theta, beta + np.array([0.05, -0.06]), phi)
    made = FAMILIES[family](link)
    return assemble(design, made, layout, params, information)


def assemble(
    design: Design,
    family: Family,
    layout: Layout,
    params: Params,
    information: str = "observed",
) -> Model:
    """The engine's and the oracle's problem of one design."""
    dense = oracle.Problem(
        family.name,
        family.link.name,
        design.y,
        design.X,
        [oracle.Block(f.levels, f.n_levels, f.Z) for f in design.factors],
        design.trials,
        design.weights,
        design.offset,
        design.weights_type,
    )
    problem = make_problem(design, family, information=information)
    return Model(design, family, layout, problem, dense, params)


def compiled(function: Callable) -> Any:
    """`jax.jit` that spends no time on optimising a program of a hundred rows."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def as_jax(params: Params) -> Params:
    """Parameters as JAX arrays."""
    return Params(*(jnp.asarray(part) for part in params))
