"""Adaptive Gauss-Hermite quadrature against one written out in NumPy, Monte Carlo, and itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import fitted
import jax
import jax.numpy as jnp
import layouts
import numpy as np
import oracle
import pandas as pd
import pytest
from fitted import CBPP
from layouts import FAMILY_LINKS, LAYOUTS, MORE_LAYOUTS, Group, Layout, Model
from scipy import integrate, special, stats
from threadpoolctl import threadpool_limits

import mixedlm_jax as mlm
from mixedlm_jax import quadrature as rules
from mixedlm_jax.families import Poisson
from mixedlm_jax.families.base import Parameter, named
from mixedlm_jax.likelihood import laplace_gradient
from mixedlm_jax.links import softplus
from mixedlm_jax.problem import Problem, zero_effects
from mixedlm_jax.quadrature import (
    MAX_NODES,
    nodes_at_once,
    product_rule,
    quadrature,
    quadrature_gradient,
)

FAMILIES = {
    (family, link): mlm.families.FAMILIES[family](link=link) for family, link in FAMILY_LINKS
}
# so few nodes that a misplaced one is seen
SHAPES = [
    ("intercept", LAYOUTS["intercept"], 5),
    ("slope", LAYOUTS["slope"], 4),
    ("||", LAYOUTS["||"], 3),
    ("three effects", MORE_LAYOUTS["three effects"], 2),
]
CASES = [
    (*member, *SHAPES[i % len(SHAPES)], ("none", "prior", "frequency")[i % 3])
    for i, member in enumerate(m for m, family in FAMILIES.items() if not family.restricted)
]


# A row's derivatives compile long here and are tested in test_families; their sum over nodes is the
# same for every family.
LONGEST = ("nbinom1", "beta", "betabinomial", "tweedie", "truncated_nbinom2")


def _by_default(family: str, link: str) -> bool:
    """A family's first link, and all of the binomial's, whose links share their density."""
    first = link == mlm.families.FAMILIES[family].links[0]
    return family == "binomial" or (first and family not in LONGEST)


pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def compiled(function: Any, **options: Any) -> Any:
    """`jax.jit` that spends no time on optimising a program of a hundred rows."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


def derivatives(problem: Problem, flat: jax.Array, n_nodes: int) -> Any:
    """Value, the gradient written out, and its Jacobian."""

    def gradient(point):
        start = zero_effects(problem)
        found = quadrature_gradient(problem.split(point), problem, start, n_nodes)
        return found.gradient.flat, (found.value, found.gradient.flat)

    hessian, (value, slope) = jax.jacfwd(gradient, has_aux=True)(flat)
    return value, slope, hessian


def evaluation(problem: Problem, flat: jax.Array, n_nodes: int) -> Any:
    """Value and gradient."""
    found = quadrature_gradient(problem.split(flat), problem, zero_effects(problem), n_nodes)
    return found.value, found.gradient.flat


def value_at(problem: Problem, flat: jax.Array, n_nodes: int) -> jax.Array:
    return quadrature(problem.split(flat), problem, zero_effects(problem), n_nodes)


all_at_once = compiled(derivatives, static_argnames="n_nodes")
first_order = compiled(evaluation, static_argnames="n_nodes")
value = compiled(value_at, static_argnames="n_nodes")


@compiled
def laplace_evaluation(problem: Problem, flat: jax.Array) -> Any:
    found = laplace_gradient(problem.split(flat), problem, zero_effects(problem))
    return found.value, found.gradient.flat


def dense(model: Model, n_nodes: int, flat: np.ndarray) -> float:
    """-log L of the oracle at (theta, beta, phi)."""
    q, p = model.layout.n_theta, model.design.X.shape[1]
    sigma = layouts.natural(model.family, flat[q + p :])
    return -oracle.quadrature(
        model.dense,
        flat[q : q + p],
        model.lambdas(flat[:q]),
        sigma,
        n_nodes,
        model.problem.information,
    )


# ----------------------------------------------------------------------------------------------
# The likelihood and its derivatives


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("family", "link", "name", "layout", "n_nodes", "weights"),
    [
        pytest.param(*case, marks=[] if _by_default(*case[:2]) else pytest.mark.slow)
        for case in CASES
    ],
    ids=[f"{c[0]}-{c[1]}-{c[2]}" for c in CASES],
)
def test_value_gradient_and_hessian(family, link, name, layout, n_nodes, weights, rng):
    model = layouts.draw(family, link, layout, rng, n=48, weights=weights, offset=True)
    found, gradient, hessian = all_at_once(model.problem, jnp.asarray(model.flat), n_nodes)
    known = dense(model, n_nodes, model.flat)
    assert float(found) - model.problem.log_base == pytest.approx(known, rel=1e-12)
    if model.family.is_linear:  # any number of nodes is exact
        assert known == pytest.approx(-model.oracle(model.flat).log_likelihood, rel=1e-12)
    expected = oracle.gradient_fd(lambda at: dense(model, n_nodes, at), model.flat, depth=3)
    scale = np.max(np.abs(expected))
    assert scale > 0.1, "this is too near to the optimum to show anything"
    np.testing.assert_allclose(gradient / scale, expected / scale, rtol=0, atol=1e-6)
    by_differences = oracle.jacobian_fd(
        lambda at: np.asarray(all_at_once(model.problem, jnp.asarray(at), n_nodes)[1]), model.flat
    )
    scale = np.max(np.abs(by_differences))
    np.testing.assert_allclose(hessian / scale, by_differences / scale, rtol=0, atol=1e-7)
    np.testing.assert_allclose(hessian, hessian.T, rtol=0, atol=1e-9 * scale)


@pytest.mark.usefixtures("x64")
def test_the_expected_information_places_the_nodes_too(rng):
    model = layouts.draw("binomial", "cloglog", LAYOUTS["slope"], rng, information="expected")
    found, gradient = first_order(model.problem, jnp.asarray(model.flat), 3)
    assert float(found) - model.problem.log_base == pytest.approx(dense(model, 3, model.flat))
    expected = oracle.gradient_fd(lambda at: dense(model, 3, at), model.flat, depth=3)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


@pytest.fixture
def counts(rng) -> Model:
    """One model of a slope for the tests that compare two ways to compute the same."""
    return layouts.draw("poisson", "log", LAYOUTS["slope"], rng, weights="prior")


@pytest.mark.usefixtures("x64")
def test_one_node_is_laplace(counts):
    flat = jnp.asarray(counts.flat)
    one, slope = first_order(counts.problem, flat, 1)
    laplace, its_slope = laplace_evaluation(counts.problem, flat)
    assert float(one) == pytest.approx(float(laplace), rel=1e-14)
    np.testing.assert_allclose(slope, its_slope, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_gradient_by_autodiff_alone(counts):
    generic = compiled(jax.grad(value_at, argnums=1), static_argnames="n_nodes")
    flat = jnp.asarray(counts.flat)
    found, written_out = generic(counts.problem, flat, 3), first_order(counts.problem, flat, 3)[1]
    np.testing.assert_allclose(found, written_out, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_nodes_in_pieces_give_the_same(counts, monkeypatch):
    flat = jnp.asarray(counts.flat)
    whole = all_at_once(counts.problem, flat, 3)
    monkeypatch.setattr(rules, "ROW_NODES", 5 * len(counts.design.y))
    assert nodes_at_once(counts.problem, 3) == 5  # 9 nodes: 5 and 4

    def anew(problem, flat, n_nodes):  # a function of its own: what is compiled above is not used
        return derivatives(problem, flat, n_nodes)

    pieces = compiled(anew, static_argnames="n_nodes")
    for own, other in zip(pieces(counts.problem, flat, 3), whole, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_memory_does_not_grow_with_the_nodes(rng, monkeypatch):
    n = 20_000
    monkeypatch.setattr(rules, "ROW_NODES", 4 * n)
    layout = Layout((Group(500),))
    model = layouts.draw("binomial", "logit", layout, rng, n=n)

    def gradient(problem, flat, n_nodes):
        start = zero_effects(problem)
        return quadrature_gradient(problem.split(flat), problem, start, n_nodes).gradient.flat

    def temporary(n_nodes):
        program = jax.jit(gradient, static_argnames="n_nodes")
        lowered = program.lower(model.problem, model.flat, n_nodes)
        # as users compile it, which the other tests do not (see conftest)
        usual: dict[str, str | bool] = {
            "xla_cpu_use_fusion_emitters": True,
            "xla_backend_optimization_level": "3",
        }
        memory = lowered.compile(compiler_options=usual).memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    few, many = temporary(4), temporary(80)
    assert many < 1.5 * few
    assert many < 12 * 8 * rules.ROW_NODES + 40 * 8 * n


@pytest.mark.usefixtures("x64")
def test_a_level_without_rows_contributes_nothing(counts):
    plan, flat = counts.problem.plan, jnp.asarray(counts.flat)
    padded = counts.problem.replace(plan=replace(plan, n_levels=(plan.n_levels[0] + 3,)))
    own, slope = first_order(counts.problem, flat, 3)
    other, its_slope = first_order(padded, flat, 3)
    assert float(other) == pytest.approx(float(own), rel=1e-14)
    np.testing.assert_allclose(its_slope, slope, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("n_nodes", "k"), [(2, 1), (101, 1), (25, 2), (11, 3)])
def test_rules_integrate_polynomials(n_nodes, k):
    """Moments of z ~ N(0, I / 2), whose density is pi^(-k/2) exp(-|z|^2)."""
    nodes, log_weights = product_rule(n_nodes, k)
    weights = np.exp(log_weights - np.sum(nodes**2, axis=0))
    assert np.sum(weights) == pytest.approx(1.0, rel=1e-12)
    degree = min(2 * n_nodes - 2, 20)
    moment = math.prod(range(1, degree, 2)) / 2 ** (degree / 2)
    for axis in nodes:
        assert np.sum(weights * axis**degree) == pytest.approx(moment, rel=1e-10)
        assert np.sum(weights * axis) == pytest.approx(0.0, abs=1e-12)


# ----------------------------------------------------------------------------------------------
# Against plain Monte Carlo


def monte_carlo(model: Model, draws: int, rng: np.random.Generator) -> tuple[float, float]:
    """The log-likelihood as the mean of f(y | u) over draws of u ~ N(0, I), and its error."""
    problem, lambdas = model.dense, model.lambdas(model.params.theta)
    sigma = float(np.exp(model.params.phi[0])) if len(model.params.phi) else 1.0
    (block,), A = problem.blocks, problem.design(lambdas, sigma)
    base, k = problem.fixed(model.params.beta), block.Z.shape[0]
    total, variance = 0.0, 0.0
    for level in range(block.n_levels):
        rows = np.flatnonzero(block.levels == level)
        own = A[rows, level * k : (level + 1) * k]
        eta = base[rows, None] + own @ rng.normal(size=(k, draws))
        y, m = problem.y[rows, None], model.design.trials[rows, None]
        if model.family.name == "binomial":
            log_f = y * eta - m * np.logaddexp(0.0, eta)
            log_f += special.gammaln(m + 1) - special.gammaln(y + 1) - special.gammaln(m - y + 1)
        elif model.family.name == "poisson":
            log_f = y * eta - np.exp(eta) - special.gammaln(y + 1)
        else:
            log_f = -0.5 * (((y - np.exp(eta)) / sigma) ** 2 + np.log(2 * np.pi * sigma**2))
        f = np.exp(log_f.sum(axis=0))
        total += np.log(f.mean())
        variance += f.var() / draws / f.mean() ** 2
    return total, float(np.sqrt(variance))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("family", "link", "k", "n_nodes"),
    [
        ("binomial", "logit", 1, 25),
        ("poisson", "log", 2, 15),
        ("gaussian", "log", 1, 25),
        ("binomial", "logit", 3, 9),
    ],
)
def test_within_the_error_of_monte_carlo(family, link, k, n_nodes, rng):
    layout = Layout((Group(3, k),))
    model = layouts.draw(family, link, layout, rng, n=15)
    # effects large enough for Laplace's approximation to lie outside the error
    model = model.at(3.0 * model.params.theta)
    flat = jnp.asarray(model.flat)
    found = model.problem.log_base - float(value(model.problem, flat, n_nodes))
    known, error = monte_carlo(model, 1_000_000, rng)
    assert error < 0.01
    assert abs(found - known) < 3.0 * error
    assert abs(model.oracle(model.flat).log_likelihood - known) > 3.0 * error


# ----------------------------------------------------------------------------------------------
# A family from outside the package


@dataclass(frozen=True)
class SometimesZero(Poisson):
    """Poisson counts, of which a fraction 1 / (1 + exp(-phi)) is replaced by zeros."""

    name = "sometimes zero"
    log_concave_links = ()  # type: ignore[assignment]
    parameters = named(fraction=Parameter(0.0, 1.0))

    def log_density(self, y, eta, phi, trials, precision):
        counted = -softplus(phi[0]) + y * eta - jnp.exp(eta)
        return jnp.where(y > 0, counted, jnp.logaddexp(-softplus(-phi[0]), counted))


@pytest.mark.usefixtures("x64")
def test_a_zero_inflated_family_of_ones_own(rng):
    model = layouts.draw("poisson", "log", Layout((Group(6),)), rng, n=36)
    y = model.design.y * (rng.random(36) < 0.7)
    family, phi = SometimesZero(), -0.8
    problem = layouts.assemble(
        replace(model.design, y=y), model.family, model.layout, model.params
    ).problem.replace(family=family, phi_matrices=(None,))
    theta, beta = 2.0 * model.params.theta, model.params.beta
    eta, level = model.design.X @ beta, model.design.factors[0].levels

    def integrand(u: float, rows: np.ndarray, logit: float) -> float:
        mean, zero = np.exp(eta[rows] + theta[0] * u), special.expit(logit)
        f = (1 - zero) * stats.poisson.pmf(y[rows], mean) + zero * (y[rows] == 0)
        return float(np.prod(f) * stats.norm.pdf(u))

    def known(logit: float) -> float:
        rows = [np.flatnonzero(level == g) for g in range(6)]
        parts = [integrate.quad(integrand, -9, 9, args=(r, logit), limit=200)[0] for r in rows]
        return float(np.sum(np.log(parts)))

    flat = jnp.asarray(np.concatenate([theta, beta, [phi]]))
    found, gradient = first_order(problem, flat, 41)
    assert float(problem.log_base - found) == pytest.approx(known(phi), abs=1e-6)
    slope = oracle.gradient_fd(lambda at: -known(float(at[0])), np.array([phi]), depth=2)
    assert float(gradient[-1]) == pytest.approx(float(slope[0]), abs=1e-4)


# ----------------------------------------------------------------------------------------------
# Models


@pytest.fixture(scope="module")
def cbpp():
    return fitted.recorded("cbpp_logit_agq10")


def test_the_rest_of_a_model_works(cbpp):
    assert mlm.checkConv(cbpp).ok
    assert "(Adaptive Gauss-Hermite Quadrature, nAGQ = 10)" in str(cbpp.summary())
    again = cbpp.refit(cbpp.design.y)
    assert float(again.logLik()) == pytest.approx(float(cbpp.logLik()), abs=1e-9)
    assert cbpp.update(nAGQ=1).logLik() == pytest.approx(-92.0262822, abs=1e-6)
    variances = cbpp.ranef(condVar=True).condVar["herd"]
    joint = cbpp.ranef(condVar="joint").condVar["herd"]
    assert np.all(joint > variances)
    tidied = cbpp.tidy("all")
    assert tidied["std.error"].notna().all()
    assert cbpp.augment()[".cooksd"].notna().all()
    probabilities = cbpp.predict()
    assert np.all((probabilities > 0) & (probabilities < 1))


def test_log_likelihoods_are_comparable(cbpp):
    """Quadrature at the Laplace optimum lies between the two maxima, in one unit."""
    laplace = fitted.recorded("cbpp_logit")
    check = mlm.check_laplace(laplace, nAGQ=10)
    there = check.log_likelihoods["10 nodes"]
    assert float(laplace.logLik()) < there < float(cbpp.logLik())
    assert float(cbpp.logLik()) - there < 1e-3


def test_no_variance_between_groups():
    data = pd.DataFrame({"y": [1, 2, 3, 4] * 10, "g": np.repeat(np.arange(10), 4)})
    with pytest.warns(mlm.SingularFitWarning):
        model = mlm.glmer("y ~ 1 + (1 | g)", data, "poisson", nAGQ=5)
    assert model.converged
    assert model.isSingular()
    assert model.theta[0] == 0.0
    assert float(model.logLik()) == pytest.approx(float(fitted.singular().logLik()), abs=1e-10)


@pytest.mark.parametrize(
    ("formula", "family", "nAGQ", "message"),
    [
        ("s ~ x + (1 | g) + (1 | h)", "binomial", 5, r"2 grouping factors.*check_laplace\(model\)"),
        ("s ~ x + (1 | g / h)", "binomial", 5, "2 grouping factors"),
        ("s ~ x + (1 + x + z + x:z | g)", "poisson", 2, "4 random effects.*up to 3"),
        ("s ~ x + (1 | g)", "poisson", 102, "nAGQ is 102; with 1 random effect .* at most 101"),
        ("s ~ x + (x || g)", "poisson", 26, "with 2 random effects .* at most 25"),
        ("s ~ x + (x + z | g)", "poisson", 12, "with 3 random effects .* at most 11"),
        ("s ~ x + (1 | g)", mlm.families.Poisson("sqrt"), 5, "the sqrt link of the poisson"),
        ("s ~ x + (1 | g)", mlm.families.Binomial("log"), 5, "the log link of the binomial"),
    ],
)
def test_where_there_is_no_quadrature(formula, family, nAGQ, message, rng):
    data = pd.DataFrame(rng.normal(size=(80, 2)), columns=["x", "z"])
    data["g"], data["h"] = np.arange(80) % 8, np.arange(80) // 8 % 5
    data["s"] = rng.integers(0, 2, 80)
    with pytest.raises(mlm.ArgumentError, match=message) as caught:
        mlm.glmer(formula, data, family, nAGQ=nAGQ)
    assert "\n" not in str(caught.value)


def test_limits_and_domains():
    assert MAX_NODES == {1: 101, 2: 25, 3: 11}
    known = {("binomial", "log"), ("poisson", "sqrt"), ("poisson", "identity")}
    found = {member for member, family in FAMILIES.items() if family.restricted}
    assert {member for member in found if member[0] in ("binomial", "poisson")} == known


def test_the_tutorials_example():
    model = mlm.glmer(CBPP, mlm.load_cbpp(), family=mlm.families.Binomial(), nAGQ=10)
    assert str(model.summary())
    odds = {k: np.exp(v) for k, v in model.fixef().items() if k != "(Intercept)"}
    assert list(odds) == ["period2", "period3", "period4"]
    assert len(model.predict(type="response")) == 56
    assert mlm.checkConv(model).ok
