"""The likelihood as a JAX function: values, derivatives, estimates, precision."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import fitted
import jax
import jax.numpy as jnp
import layouts
import numpy as np
import optax
import pandas as pd
import pytest
import records
from layouts import FAMILY_LINKS, LAYOUTS, compiled
from scipy import stats

import mixedlm_jax as mlm
from mixedlm_jax import functional as mf
from mixedlm_jax.errors import ArgumentError, Code
from mixedlm_jax.families import FAMILIES
from mixedlm_jax.problem import row_log_density
from mixedlm_jax.quadrature import quadrature_obstacle


def functional(problem: Any, nAGQ: int = 1) -> mf.Problem:
    """An engine's problem as users of the functional module have it."""
    parts = {part.name: getattr(problem, part.name) for part in dataclasses.fields(problem)}
    return mf.Problem(**parts, nAGQ=nAGQ)


CBPP_FITS = [("cbpp_logit", 1), ("cbpp_logit_agq10", 10)]


@cache
def cbpp(nAGQ: int = 1) -> mf.Problem:
    with jax.enable_x64(True):
        return mf.make_problem(fitted.CBPP, fitted.cbpp(), "binomial", nAGQ)


@cache
def cbpp_start() -> mf.Params:
    return mf.init(cbpp())


@compiled
def solved(problem: mf.Problem, start: mf.Params) -> mf.Optimum:
    return mf.solve(problem, start)


# ----------------------------------------------------------------------------------------------
# Values


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "nAGQ"), CBPP_FITS)
def test_the_log_likelihood_is_what_glmer_maximises(name, nAGQ):
    model = fitted.recorded(name)
    params = mf.Params(model.theta, model.beta, np.zeros(0))
    found = mf.log_likelihood(params, cbpp(nAGQ))
    assert float(found) == pytest.approx(float(model.logLik()), abs=1e-9)
    slope = compiled(jax.grad(mf.log_likelihood))(params, cbpp(nAGQ))
    np.testing.assert_allclose(slope.flat, 0.0, atol=1e-4)


@pytest.mark.usefixtures("x64")
def test_the_joint_density_is_that_of_its_parts(rng):
    problem, theta, beta = cbpp(), 0.6, np.array([-1.0, -0.5, -0.8, -1.2])
    u = rng.normal(size=(1, 15))
    params = mf.Params(np.array([theta]), beta, np.zeros(0))
    eta = np.asarray(problem.X) @ beta + theta * u[0, np.asarray(problem.plan.levels[0])]
    rows = stats.binom.logpmf(problem.y, problem.trials, 1 / (1 + np.exp(-eta)))
    expected = rows.sum() + stats.norm.logpdf(u).sum()
    assert float(mf.joint_log_density(params, (u,), problem)) == pytest.approx(expected, abs=1e-9)
    modes = mf.conditional_modes(params, problem)
    (slope,) = jax.grad(mf.joint_log_density, argnums=1)(params, modes, problem)
    np.testing.assert_allclose(slope, 0.0, atol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("family", "name", "nAGQ"),
    [
        ("poisson", "nested", 1),
        ("binomial", "intercept", 5),
        pytest.param("gamma", "slope", 1, marks=pytest.mark.slow),
    ],
)
def test_score_contributions_are_those_of_the_clusters_alone(family, name, nAGQ, rng):
    model = layouts.draw(family, FAMILIES[family].links[0], LAYOUTS[name], rng, weights="prior")
    problem, params = functional(model.problem, nAGQ), layouts.as_jax(model.params)
    scores = mf.score_contributions(params, problem).flat
    coarsest = problem.plan.chain[-1]
    cluster = np.asarray(problem.plan.levels[coarsest])
    assert scores.shape == (problem.plan.n_levels[coarsest], len(model.flat))
    slope = compiled(jax.grad(mf.log_likelihood))
    np.testing.assert_allclose(scores.sum(0), slope(params, problem).flat, rtol=1e-8, atol=1e-9)
    for c in (0, 2):
        alone = problem.replace(weights=np.where(cluster == c, problem.weights, 0.0))
        np.testing.assert_allclose(scores[c], slope(params, alone).flat, rtol=1e-8, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_many_responses_at_once_are_as_one_by_one(rng):
    problem, start = cbpp(), cbpp_start()
    y = rng.binomial(np.asarray(problem.trials).astype(int), 0.2, size=(3, 56))
    both = jax.value_and_grad(mf.log_likelihood)

    def one(response):
        other = problem.replace(y=response)
        return both(start, other), mf.solve(other, start)[:2]

    alone, together = compiled(one), compiled(jax.vmap(one))(y)  # whole numbers are welcome
    for lane, response in enumerate(y):
        for a, b in zip(jax.tree.leaves(alone(response)), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(b[lane], a, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_has_derivatives_in_response_trials_and_weight(family, rng):
    """By differences to one side where a count is at the end of its range."""
    model = layouts.draw(family, FAMILIES[family].links[0], LAYOUTS["intercept"], rng,
                         weights="prior")  # fmt: skip
    problem, beta, phi = model.problem, model.params.beta, model.params.phi

    def rows(y, trials, weights):
        changed = problem.replace(y=y, trials=trials, weights=weights)
        return row_log_density(changed, changed.X @ beta, phi) + changed.row_log_base

    own = (problem.y, problem.trials, problem.weights)
    unit = (problem.weights > 0).astype(float)
    density = compiled(rows)
    downwards = np.array(-25.0), np.array([48.0, -36.0, 16.0, -3.0])
    for at in range(3):
        axis = np.eye(3)[at]

        @compiled
        def slope(*arrays, axis=axis):
            return jax.jvp(rows, arrays, tuple(unit * step for step in axis))[1]

        # a response at its trials can only fall, one at 0 only rise
        top = at == 0 and FAMILIES[family].takes_trials
        sign = np.where(top & (problem.y > 0), -1.0, 1.0) * (1e-3 if family != "beta" else 1e-5)
        total = downwards[0] * density(*own)
        for k, factor in enumerate(downwards[1], 1):
            moved = tuple(a + k * sign * unit * step for a, step in zip(own, axis, strict=True))
            total = total + factor * density(*moved)
        expected = np.asarray(total / (12.0 * sign))
        smooth = (problem.y > 0) | (family != "tweedie") | (at > 0)  # zeros are atoms there
        found = np.asarray(slope(*own))
        np.testing.assert_allclose(found[smooth], expected[smooth], rtol=1e-5, atol=1e-7)


# ----------------------------------------------------------------------------------------------
# Estimates


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "nAGQ"), [CBPP_FITS[0], pytest.param(*CBPP_FITS[1], marks=pytest.mark.slow)]
)
def test_solve_ends_where_glmer_does(name, nAGQ):
    model = fitted.recorded(name)
    found = solved(cbpp(nAGQ), cbpp_start())
    assert found.code == Code.CONVERGED
    assert found.decrement < 1e-10
    np.testing.assert_allclose(found.params.flat, [*model.theta, *model.beta], atol=2e-6)
    assert float(found.log_likelihood) == pytest.approx(float(model.logLik()), abs=1e-9)


@pytest.mark.usefixtures("x64")
def test_solve_with_a_slope_and_a_dispersion():
    data, record = mlm.load_sleepstudy(), records.MODELS["sleepstudy_slope"]
    problem = mf.make_problem("Reaction ~ Days + (1 + Days | Subject)", data)
    found = solved(problem, mf.init(problem))
    assert found.code == Code.CONVERGED
    np.testing.assert_allclose(found.params.theta, record["theta"], atol=1e-4)
    np.testing.assert_allclose(found.params.beta, list(record["fixef"].values()), rtol=1e-5)
    np.testing.assert_allclose(np.exp(found.params.phi), record["sigma"], rtol=1e-5)
    assert problem.names.flat == (
        *("Subject.(Intercept)", "Subject.Days.(Intercept)", "Subject.Days"),
        *("(Intercept)", "Days", "sigma"),
    )


@pytest.mark.usefixtures("x64")
def test_a_singular_optimum_is_named_and_stays_where_it_is():
    y = np.array([1, 2, 3, 4] * 10)
    frame = {"y": y, "g": np.repeat(np.arange(10), 4)}
    problem = mf.make_problem("y ~ 1 + (1 | g)", pd.DataFrame(frame), "poisson")
    start = mf.init(problem)

    def estimates(weights):
        found = mf.solve(problem.replace(weights=weights), start)
        return found.params.flat, found.code

    slopes, code = compiled(jax.jacrev(estimates, has_aux=True))(problem.weights)
    assert code == Code.SINGULAR
    np.testing.assert_allclose(slopes[0], 0.0, atol=1e-6)
    # without random effects the intercept is the log of the mean
    np.testing.assert_allclose(slopes[1], (y - 2.5) / 100, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("nAGQ", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_derivative_of_the_estimates_is_that_of_refits(nAGQ, rng):
    problem, start = cbpp(nAGQ), cbpp_start()
    directions = {
        "weights": rng.normal(size=56),
        "offset": rng.normal(size=56),
        "X": rng.normal(size=(56, 4)),
        "y": rng.normal(size=56),
    }

    def estimates(arrays):
        found = mf.solve(problem.replace(**arrays), start)
        return jnp.append(found.params.flat, found.log_likelihood)

    @compiled
    def both(arrays):
        value, pull = jax.vjp(estimates, arrays)
        return value, jax.vmap(pull)(jnp.eye(len(value)))[0]

    own = {name: getattr(problem, name) for name in directions}
    _, slopes = both(own)
    for name, direction in directions.items():
        h = 2e-3

        def at(step, name=name, direction=direction):
            return np.asarray(both({**own, name: own[name] + step * direction})[0])

        wide, near = (at(2 * h) - at(-2 * h)) / (4 * h), (at(h) - at(-h)) / (2 * h)
        expected = (4 * near - wide) / 3
        axes = tuple(range(1, 1 + direction.ndim))
        found = np.sum(np.asarray(slopes[name]) * direction, axis=axes)
        assert np.max(np.abs(expected)) > 1e-2
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_second_derivative_of_the_estimates(rng):
    """Forward over reverse through the implicit derivative."""
    problem, start = cbpp(), cbpp_start()
    direction = rng.normal(size=56)

    def estimate(step):
        return mf.solve(problem.replace(offset=step * direction), start).params.flat

    slope = compiled(jax.jacfwd(estimate))
    h = 1e-4
    expected = (slope(h) - slope(-h)) / (2 * h)
    for second in (jax.jacfwd, jax.jacrev):
        found = compiled(second(jax.jacfwd(estimate)))(0.0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_influence_of_every_row_of_verbagg(rng):
    """Against brute-force deletion of 50 rows, in less time than 20 fits."""
    formula = "y ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)"
    data = mlm.load_verbagg()
    problem = mf.make_problem(formula, data, "binomial")
    start = mf.init(problem)

    @jax.jit
    def both(weights):
        return jax.value_and_grad(
            lambda w: mf.solve(problem.replace(weights=w), start).params.beta[1]
        )(weights)

    def seconds(function: Callable[[], Any]) -> float:
        function()  # compiled
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    one_fit = seconds(lambda: mlm.glmer(formula, data, "binomial"))
    assert seconds(lambda: jax.block_until_ready(both(problem.weights))) < 20 * one_fit
    value, influence = both(problem.weights)
    rows = rng.choice(len(data), 50, replace=False)
    without = [float(both(problem.weights.at[row].set(0.0))[0]) for row in rows]
    moved = float(value) - np.array(without)
    assert np.corrcoef(moved, np.asarray(influence)[rows])[0, 1] > 0.999


# ----------------------------------------------------------------------------------------------
# Precision


def in_single(tree: Any) -> Any:
    """The tree with its floating-point leaves in single precision."""
    arrays = jax.tree.map(np.asarray, tree)
    floating = {np.dtype(float), np.dtype(np.float32)}
    return jax.tree.map(lambda a: a.astype(np.float32) if a.dtype in floating else a, arrays)


def wide_arrays(jaxpr: Any) -> Iterator[str]:
    """Double-precision arrays anywhere in a traced program."""
    for equation in jaxpr.eqns:
        for out in equation.outvars:
            if getattr(out.aval, "dtype", None) == np.float64 and out.aval.ndim:
                yield f"{equation.primitive} {out.aval}"
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(part):
                yield from wide_arrays(getattr(part, "jaxpr", part))


def _is_program(part: Any) -> bool:
    return hasattr(part, "eqns") or hasattr(part, "jaxpr")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("family", "link"), FAMILY_LINKS)
def test_a_row_stays_in_the_precision_it_is_given(family, link, rng):
    model = layouts.draw(family, link, LAYOUTS["slope"], rng, weights="prior")
    problem, params = in_single((model.problem, model.params))

    def density(problem, beta, phi):
        return row_log_density(problem, problem.X @ beta, phi) + problem.row_log_base

    traced = jax.make_jaxpr(density)(problem, params.beta, params.phi)
    assert traced.out_avals[0].dtype == np.float32
    assert list(wide_arrays(traced.jaxpr)) == []


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("family", "nAGQ"), [("gaussian", 1), ("tweedie", 3), ("student_t", 1)])
def test_a_likelihood_stays_in_the_precision_it_is_given(family, nAGQ, rng):
    model = layouts.draw(family, FAMILIES[family].links[0], LAYOUTS["slope"], rng)
    problem, params = in_single((model.problem, model.params))
    assert nAGQ == 1 or quadrature_obstacle(problem, nAGQ) is None
    traced = jax.make_jaxpr(mf.log_likelihood)(params, functional(problem, nAGQ))
    assert traced.out_avals[0].dtype == np.float32
    assert list(wide_arrays(traced.jaxpr)) == []


@pytest.mark.usefixtures("x64")
def test_an_estimate_stays_in_the_precision_it_is_given():
    problem, start = in_single((cbpp(), cbpp_start()))
    traced = jax.make_jaxpr(
        jax.grad(lambda w: mf.solve(problem.replace(weights=w), start).params.beta[1])
    )(problem.weights)
    assert traced.out_avals[0].dtype == np.float32
    assert list(wide_arrays(traced.jaxpr)) == []


def test_single_precision_by_default():
    """A caller who never heard of float64."""
    problem = mf.make_problem(fitted.CBPP, fitted.cbpp(), "binomial")
    start = mf.init(problem)
    found = mf.solve(problem, start)
    kinds = {leaf.dtype for leaf in jax.tree.leaves((problem.y, problem.X, start, found[:3]))}
    assert kinds == {np.dtype(np.float32)}
    assert found.code == Code.CONVERGED
    model = fitted.recorded("cbpp_logit")
    np.testing.assert_allclose(found.params.flat, [*model.theta, *model.beta], rtol=2e-4)
    assert float(found.log_likelihood) == pytest.approx(float(model.logLik()), abs=1e-4)


@pytest.mark.parametrize("enabled", [False, True])
def test_the_callers_precision_is_left_as_it_was(enabled):
    """In a process of its own, in its main thread and in threads that it starts."""
    program = f"""
import jax, threading
import mixedlm_jax as mlm
from mixedlm_jax import functional as mf
def precision():
    return jax.config.jax_enable_x64, jax.numpy.ones(1).dtype.itemsize
jax.config.update("jax_enable_x64", {enabled})
before = precision()
problem = mf.make_problem("incidence / size ~ 1 + (1 | herd)", mlm.load_cbpp(), "binomial")
seen = []
def work():
    found = jax.value_and_grad(mf.log_likelihood)(mf.init(problem), problem)
    kinds = {{leaf.dtype.itemsize for leaf in jax.tree.leaves(found)}}
    mlm.glmer("incidence / size ~ 1 + (1 | herd)", mlm.load_cbpp(), "binomial")
    seen.append((precision(), kinds))
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
work()
with jax.enable_x64({not enabled}):
    thread = threading.Thread(target=work)
    thread.start(); thread.join()
assert seen == [(before, {{8 if {enabled} else 4}})] * 4, (before, seen)
assert precision() == before
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ.copy())


# ----------------------------------------------------------------------------------------------
# What is refused


def test_problems_that_cannot_be_are_refused():
    data = mlm.load_verbagg()
    with pytest.raises(ArgumentError, match="2 grouping factors, and quadrature is for one"):
        mf.make_problem("y ~ 1 + (1 | id) + (1 | item)", data, "binomial", 5)
    with pytest.raises(ArgumentError, match="nAGQ is 0; a likelihood of all parameters needs 1"):
        mf.make_problem(fitted.CBPP, fitted.cbpp(), "binomial", 0)
    crossed = mf.make_problem("y ~ 1 + (1 | id) + (1 | item)", data, "binomial")
    with pytest.raises(ArgumentError, match="the grouping factors cross"):
        mf.score_contributions(mf.init(crossed), crossed)
    with pytest.raises(ArgumentError, match="2 grouping factors"):
        crossed.replace(nAGQ=5)
    with pytest.raises(ArgumentError, match=r"log-density has shape \(1,\); return one number"):
        mf.solve(crossed, mf.init(crossed), prior=lambda params: params.beta)
    with pytest.raises(ArgumentError, match=r"nAGQ is 2\.5; a likelihood"):
        cbpp().replace(nAGQ=2.5)
    with pytest.raises(ArgumentError, match="there is no information 'fisher'"):
        cbpp().replace(information="fisher")
    quasi = mlm.families.QuasiFamily(variance_func="mu*(1-mu)", link="logit")
    with pytest.raises(ArgumentError, match="a quasi family has no likelihood"):
        mf.make_problem(fitted.CBPP, fitted.cbpp(), quasi)


def test_what_has_no_second_derivatives_is_not_solved(rng):
    frame = pd.DataFrame(rng.integers(0, [2, 3000, 2000], (6000, 3)), columns=["y", "a", "b"])
    formula = "y ~ 1 + (1 | a) + (1 | b)"
    problem = mf.make_problem(formula, frame, "binomial", max_corner=0)
    start = mf.init(problem)
    with pytest.raises(ArgumentError, match=r"is not formed.*make_problem\(\.\.\., max_corner="):
        mf.solve(problem, start)
    with pytest.raises(ArgumentError, match="no exact second derivatives"):
        mf.optimize(problem, optax.sgd(0.1))
    assert mf.make_problem(formula, frame, "binomial").plan.unformed is None


def test_too_coarse_a_precision_is_refused():
    half = jax.tree.map(
        lambda part: part.astype(jnp.float16) if part.dtype.kind == "f" else part, cbpp()
    )
    with pytest.raises(ArgumentError, match="in float16, too coarse for a likelihood"):
        mf.init(half)
    with pytest.raises(ArgumentError, match="in float16, too coarse for a likelihood"):
        mf.log_posterior(half)


def test_arrays_of_another_shape_are_refused():
    problem = cbpp()
    with pytest.raises(ArgumentError, match=r"weights has shape \(3,\), and the problem \(56,\)"):
        problem.replace(weights=np.ones(3))
    with pytest.raises(ArgumentError, match="give a matrix of 56 rows"):
        problem.replace(X=np.ones((3, 4)))
    with pytest.raises(ArgumentError, match="one \\(effects, rows\\) for each grouping factor"):
        problem.replace(Z=(np.ones((2, 56)),))
    with pytest.raises(ArgumentError, match="a problem has no 'wheights'"):
        problem.replace(wheights=np.ones(56))
    with pytest.raises(ArgumentError, match=r"have lengths \(1, 4, 0\)"):
        mf.log_likelihood(mf.Params(np.ones(2), np.ones(4), np.ones(0)), problem)
    params = mf.Params(np.ones(1), np.ones(4), np.ones(0))
    with pytest.raises(ArgumentError, match=r"u has parts of shapes \[\(1, 3\)\]; give one"):
        mf.joint_log_density(params, (np.ones((1, 3)),), problem)
    with pytest.raises(ArgumentError, match="init needs arrays with values"):
        jax.jit(mf.init)(problem)
    with pytest.raises(ArgumentError, match=r"prior is 3; give priors.Normal"):
        problem.replace(prior=3)


def test_lists_and_series_become_arrays():
    problem = cbpp()
    for weights in ([2.0] * 56, pd.Series(np.full(56, 2.0))):
        np.testing.assert_array_equal(problem.replace(weights=weights).weights, np.full(56, 2.0))


def test_other_columns_get_other_names():
    changed = cbpp().replace(X=np.ones((56, 2)))
    assert changed.names.beta == ("X0", "X1")
    assert changed.names.theta == cbpp().names.theta
