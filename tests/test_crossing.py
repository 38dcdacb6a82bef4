"""Crossed designs whose Schur complement is not formed, against the dense oracle.

Small designs are forced onto that path. What is exact to a tolerance (solutions, modes) must agree
with the oracle's; the log-determinant is a mean over random probes, and must be the oracle's within
its own standard error, exactly where the vectors span everything; the gradient must be that of the
very value that is returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import layouts
import numpy as np
import oracle
import pandas as pd
import pytest
from layouts import LAYOUTS, MORE_LAYOUTS, Group, Layout, Model
from threadpoolctl import threadpool_limits

import mixedlm_jax as mlm
from mixedlm_jax import pattern as listing
from mixedlm_jax import plan as planning
from mixedlm_jax.elimination import (
    assemble,
    factorize,
    leverages,
    log_determinant,
    log_determinant_error,
    row_products,
    selected_inverse,
    solve,
)
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.krylov import conjugate_gradients, quadratures
from mixedlm_jax.likelihood import laplace, laplace_gradient
from mixedlm_jax.objective import objective_for
from mixedlm_jax.optimize import begin
from mixedlm_jax.plan import Crossing, Plan, make_plan
from mixedlm_jax.problem import Problem, make_problem, random_rows, zero_effects
from mixedlm_jax.programs import hessian_at
from mixedlm_jax.uncertainty import conditional_variances

CROSSED = ["three-way crossed", "slopes nested and crossed"]
MORE_CROSSED = [
    "crossed",
    "slope crossed with intercept",
    "nested and crossed",
    "slopes crossed with slopes",
    "fewer levels with more effects",
    "nested three deep and crossed twice",
    "two factors of the same levels",
]
ALL = LAYOUTS | MORE_LAYOUTS
pytestmark = pytest.mark.usefixtures("x64", "_one_thread")


@pytest.fixture
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


@pytest.fixture
def never_formed(monkeypatch) -> None:
    """However small S is, forming it counts as too much work."""
    monkeypatch.setattr(planning, "_DENSE_WORK", 1e12)


def compiled(function) -> Any:
    """`jax.jit` that spends no time on optimising a program of a hundred rows."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def unformed(model: Model, n_probes: int = 16) -> Problem:
    """The model's problem with an S that is not formed."""
    problem = make_problem(
        model.design,
        model.family,
        information=model.problem.information,
        crossing=Crossing(0, n_probes),
    )
    assert problem.plan.unformed is not None
    return problem


def spanned(problem: Problem) -> Problem:
    """The problem with vectors that leave nothing to chance: an orthonormal basis."""
    basis = np.linalg.qr(np.random.default_rng(5).normal(size=(problem.plan.n_columns,) * 2))[0]
    lists = replace(problem.plan.unformed, exact=basis[:-1], probes=basis[-1:].repeat(3, axis=0))
    return problem.replace(plan=replace(problem.plan, unformed=lists))


@compiled
def evaluated(problem: Problem, flat: jax.Array) -> tuple:
    """Value, gradient and modes."""
    found = laplace_gradient(problem.split(flat), problem, zero_effects(problem))
    return found.value, found.gradient.flat, found.u


@compiled
def factored(problem: Problem, flat: jax.Array, weight: jax.Array, rhs: tuple) -> dict:
    """What a factored H with these weights gives."""
    plan, z = problem.plan, random_rows(problem, problem.split(flat))
    factor = factorize(plan, assemble(plan, z, weight))
    return {
        "solution": solve(plan, factor, rhs),
        "logdet": log_determinant(factor),
        "error": log_determinant_error(factor),
        "leverages": leverages(z, row_products(plan, selected_inverse(plan, factor), z)),
    }


def differences(problem: Problem, flat: np.ndarray) -> np.ndarray:
    """The gradient of the value by differences."""
    return oracle.gradient_fd(lambda x: float(evaluated(problem, jnp.asarray(x))[0]), flat)


def draw(name: str, rng: np.random.Generator, family: str = "binomial", link: str = "logit"):
    return layouts.draw(family, link, ALL[name], rng, weights="prior", offset=True)


def check(model: Model, rng: np.random.Generator) -> None:
    problem, flat = unformed(model), jnp.asarray(model.flat)
    dense = model.oracle(model.flat)
    value, gradient, u = evaluated(problem, flat)
    for found, expected in zip(u, dense.modes(model.dense), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    expected = differences(problem, model.flat)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * np.max(np.abs(expected)))

    rhs = tuple(rng.normal(size=np.shape(part)) for part in u)
    found = factored(problem, flat, dense.W, rhs)
    vector = np.concatenate([part.T.ravel() for part in rhs])
    for part, other in zip(
        found["solution"],
        np.split(np.linalg.solve(dense.H, vector), np.cumsum([part.size for part in rhs])[:-1]),
        strict=True,
    ):
        np.testing.assert_allclose(part.T.ravel(), other, rtol=0, atol=1e-8)
    error = float(found["error"])
    assert abs(float(found["logdet"]) - dense.logdet) < 5.0 * error + 1e-6
    assert error < 0.1
    whole = problem.log_base - float(value)
    assert whole == pytest.approx(dense.log_likelihood, abs=2.5 * error + 1e-6)

    exact = factored(spanned(problem), flat, dense.W, rhs)
    assert float(exact["logdet"]) == pytest.approx(dense.logdet, abs=1e-7)
    np.testing.assert_allclose(exact["leverages"], dense.leverages, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("never_formed")
@pytest.mark.parametrize("name", CROSSED)
def test_modes_determinant_and_gradient(name, rng):
    check(draw(name, rng), rng)


@pytest.mark.slow
@pytest.mark.usefixtures("never_formed")
@pytest.mark.parametrize("name", MORE_CROSSED)
@pytest.mark.parametrize("family", [("binomial", "cauchit"), ("poisson", "log")])
def test_modes_determinant_and_gradient_everywhere(name, family, rng):
    check(draw(name, rng, *family), rng)


@pytest.mark.usefixtures("never_formed")
def test_without_the_second_order_term(monkeypatch, rng):
    """More products than may be listed: a larger error, and still a gradient of the value."""
    model = draw("slope crossed with intercept", rng)
    flat = jnp.asarray(model.flat)
    dense, rhs = model.oracle(model.flat), zero_effects(model.problem)
    listed = factored(unformed(model), flat, dense.W, rhs)
    monkeypatch.setattr(listing, "MAX_PRODUCTS", 0)
    problem = unformed(model)
    assert problem.plan.unformed.patterns is None
    found = factored(problem, flat, dense.W, rhs)
    assert float(found["error"]) > 2.0 * float(listed["error"])
    assert abs(float(found["logdet"]) - dense.logdet) < 5.0 * float(found["error"])
    expected = differences(problem, model.flat)
    gradient = evaluated(problem, flat)[1]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * np.max(np.abs(expected)))


@pytest.mark.usefixtures("never_formed")
def test_hessian_by_differences(rng):
    """With vectors that leave nothing to chance it is the oracle's."""
    model = draw("crossed", rng)
    problem, objective = spanned(unformed(model)), objective_for(1)
    x, u = model.flat, zero_effects(problem)
    search = begin(x, u, np.diag(np.full(len(x), 0.1)))._replace(value=np.zeros(()))
    found = hessian_at(objective, problem, search)
    exact = oracle.hessian_fd(lambda flat: -model.oracle(flat).log_likelihood, x)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-5 * np.max(np.abs(exact)))


@pytest.mark.usefixtures("never_formed")
def test_no_second_derivative_is_better_than_a_wrong_one(rng):
    model = draw("crossed", rng)
    problem = unformed(model)

    def value(flat):
        return laplace(problem.split(flat), problem, zero_effects(problem))

    with pytest.raises(ArgumentError, match="max_corner"):
        jax.eval_shape(jax.hessian(value), jnp.asarray(model.flat))


@pytest.mark.usefixtures("never_formed")
def test_an_indefinite_matrix_is_found_out(rng):
    """A family whose weights can be negative: the modes are those of the oracle all the same."""
    model = draw("crossed", rng, "binomial", "cauchit")
    u = evaluated(unformed(model), jnp.asarray(model.flat))[2]
    for found, expected in zip(u, model.oracle(model.flat).modes(model.dense), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


# ----------------------------------------------------------------------------------------------
# Which way is taken


def plan_of(a: int, b: int, n: int, **crossing: int) -> Plan:
    rng = np.random.default_rng(0)
    return make_plan(
        [rng.integers(a, size=n), rng.integers(b, size=n)], [a, b], [1, 1], Crossing(**crossing)
    )


def test_counted_work_decides():
    assert plan_of(300, 200, 1500).unformed is None, "S is small"
    assert plan_of(4000, 3500, 9000).unformed is not None, "S is large and sparse"
    assert plan_of(4000, 3500, 9000, max_columns=3500).unformed is None, "as large as allowed"
    # every level meets every other: products with S cost more than its factor
    assert plan_of(120, 100, 40_000, max_columns=50).unformed is None


def test_probes_are_the_same_every_time():
    one, two = (plan_of(4000, 3500, 9000).unformed for _ in range(2))
    np.testing.assert_array_equal(one.probes, two.probes)
    np.testing.assert_allclose(one.exact @ one.exact.T, 1.0)
    np.testing.assert_allclose(one.probes @ one.exact.T, 0.0, atol=1e-10)


# ----------------------------------------------------------------------------------------------
# Whole fits


def crossed_frame(rng: np.random.Generator) -> pd.DataFrame:
    n, a, b = 1800, 90, 60
    s, i, x = rng.integers(a, size=n), rng.integers(b, size=n), rng.normal(size=n)
    eta = 0.3 + 0.5 * x + rng.normal(size=a)[s] + 0.7 * rng.normal(size=b)[i]
    y = (rng.random(n) < 1.0 / (1.0 + np.exp(-eta))).astype(int)
    return pd.DataFrame({"y": y, "x": x, "s": s, "i": i})


@pytest.mark.usefixtures("never_formed")
def test_a_whole_fit_is_that_of_the_formed_one(rng):
    frame = crossed_frame(rng)
    formula = "y ~ x + (1 | s) + (1 | i)"
    dense = mlm.glmer(formula, frame, family="binomial")
    control = mlm.GlmerControl(max_corner=0, n_probes=32)
    model = mlm.glmer(formula, frame, family="binomial", control=control)
    error = model.fit.log_likelihood_error
    assert dense.fit.log_likelihood_error == 0.0
    assert 0.0 < error < 0.02
    assert abs(float(model.logLik()) - float(dense.logLik())) < 5.0 * error
    found = mlm.checkConv(model)
    assert found.ok
    assert found.decrement < 1e-10
    se = dense.summary().coefficients
    ours = model.summary().coefficients
    np.testing.assert_allclose(ours["Estimate"], se["Estimate"], atol=0.02 * se["Std. Error"].max())
    np.testing.assert_allclose(ours["Std. Error"], se["Std. Error"], rtol=0.01)
    np.testing.assert_allclose(model.fit.theta, dense.fit.theta, rtol=0.01)
    assert "Monte Carlo standard error" in str(model.summary())
    assert "Monte Carlo" not in str(dense.summary())
    # what asks for more of H^-1 comes of the same probes
    variances = [
        conditional_variances(m.design, m.family, m.fit, joint=False) for m in (model, dense)
    ]
    for own, other in zip(*variances, strict=True):
        np.testing.assert_allclose(own, other, rtol=0.02)


def test_settings_are_checked():
    with pytest.raises(ArgumentError, match="n_probes is 1"):
        mlm.GlmerControl(n_probes=1)
    with pytest.raises(ArgumentError, match="max_corner is -1"):
        mlm.GlmerControl(max_corner=-1)
    assert mlm.GlmerControl(max_corner=500, n_probes=4).crossing == Crossing(500, 4)


# ----------------------------------------------------------------------------------------------
# Krylov's methods by themselves


def definite(rng: np.random.Generator, q: int = 40) -> np.ndarray:
    factor = rng.normal(size=(q, q)) / np.sqrt(q)
    matrix = factor @ factor.T + np.eye(q)
    scale = 1.0 / np.sqrt(np.diagonal(matrix))
    return matrix * scale[:, None] * scale


def test_conjugate_gradients(rng):
    matrix, rhs = definite(rng), rng.normal(size=40)
    found = conjugate_gradients(lambda x: matrix @ x, lambda x: x, jnp.asarray(rhs), 1e-12)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, rhs), atol=1e-10)
    nothing = conjugate_gradients(lambda x: matrix @ x, lambda x: x, jnp.zeros(40), 1e-12)
    np.testing.assert_array_equal(nothing, np.zeros(40))


def test_quadrature_and_its_derivative(rng):
    """z' g(A) z and its derivative along a direction, against eigenvalues and differences."""
    matrix, z = definite(rng), np.sign(rng.normal(size=(2, 40)))
    direction = rng.normal(size=(40, 40))
    direction += direction.T

    def expected(at):
        values, vectors = np.linalg.eigh(at)
        gap = values - 1.0
        return np.sum((z @ vectors) ** 2 * (np.log(values) - gap + 0.5 * gap**2), axis=1)

    found = quadratures(lambda x: matrix @ x, jnp.asarray(z), second_order_known=True)
    np.testing.assert_allclose(found.value, expected(matrix), rtol=1e-8)
    np.testing.assert_allclose(found.image, found.vector @ matrix, atol=1e-6)
    h = 1e-5
    slope = (expected(matrix + h * direction) - expected(matrix - h * direction)) / (2.0 * h)
    forms = np.einsum("pki,ij,pkj->pk", found.vector, direction, found.vector)
    ours = np.sum(np.asarray(found.weight) * forms, axis=1)
    np.testing.assert_allclose(ours, slope, rtol=1e-3, atol=1e-3 * np.max(np.abs(slope)))


def test_nothing_crosses_nothing_is_estimated():
    layout = Layout((Group(12, within=1), Group(4)))
    levels = layouts.draw_levels(layout, 72, np.random.default_rng(0))
    plan = make_plan(levels, [12, 4], [1, 1], Crossing(0))
    assert plan.unformed is None
