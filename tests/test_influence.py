"""Groups left out, against fits of the data without them."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import fitted
import jax
import numpy as np
import oracle
import pandas as pd
import pytest
import records

import mixedlm_jax as mlm
from mixedlm_jax.buckets import bucket, filled_rows, padded
from mixedlm_jax.inference import Point, cluster_derivatives, point_of, without_each
from mixedlm_jax.objective import objective_for
from mixedlm_jax.problem import Params, make_problem
from mixedlm_jax.resampling import leave_out_groups


def test_influence_is_that_of_fits_without_the_group():
    model = fitted.recorded("cbpp_logit")
    found = mlm.influence(model)
    assert list(found.dfbetas.index) == list(model.ranef()["herd"].index)
    data = fitted.cbpp()
    for herd in ("1", "8", "14"):
        without = model.update(data=data[data["herd"] != herd])
        change = model.beta - without.beta
        cook = change @ np.linalg.solve(model.vcov().to_numpy(), change) / len(change)
        np.testing.assert_allclose(found.cooks_distance[herd], cook, rtol=1e-4)
        se = np.sqrt(np.diag(without.vcov()))
        np.testing.assert_allclose(found.dfbetas.loc[herd], change / se, rtol=1e-3, atol=1e-5)
    frame = found.to_dataframe()
    assert frame["cooks.distance"].is_monotonic_decreasing
    assert str(found).startswith("Influence of 15 groups")


def test_another_factor_than_the_first():
    model = fitted.recorded("grouseticks_three")
    with pytest.raises(mlm.ArgumentError, match="one of INDEX, BROOD, LOCATION"):
        mlm.influence(model)
    with pytest.raises(mlm.ArgumentError, match="'herd'"):
        mlm.influence(model, group="herd")
    factor = model.design.factors[2]
    assert model.labels.factors[2] == "LOCATION"
    lanes = leave_out_groups(model, factor.n_levels, 2)
    n = len(factor.levels)
    weights = np.where(factor.levels == np.arange(factor.n_levels)[:, None], 0.0, 1.0)
    found = np.asarray(lanes.responses.weights)
    np.testing.assert_array_equal(found[:, :n], weights)
    np.testing.assert_array_equal(found[:, n:], 0.0)


def derivatives(model):
    """Scores and negative Hessians of the levels of a model's factor."""
    levels, count = model.design.factors[0].levels, model.design.factors[0].n_levels
    with jax.enable_x64(True):
        point = point_of(padded(model.design), model.family, model.fit)
        rows = filled_rows(levels, len(point.problem.y))
        objective = objective_for(model.fit.nAGQ)
        found = cluster_derivatives(
            objective, point.params, point.problem, point.u, rows, bucket(count)
        )
    return [np.asarray(part)[:count] for part in found]


@pytest.mark.parametrize(
    ("name", "nodes"),
    [("cbpp_logit", 0), pytest.param("cbpp_logit_agq10", 10, marks=pytest.mark.slow)],
)
def test_derivatives_of_each_group_are_those_of_its_likelihood(name, nodes):
    model = fitted.recorded(name)
    scores, hessians = derivatives(model)
    np.testing.assert_allclose(scores.sum(axis=0), 0.0, atol=1e-4)
    whole = np.linalg.inv(model.vcov(full=True))
    np.testing.assert_allclose(hessians.sum(axis=0), whole, rtol=1e-6, atol=1e-6)
    problem = records.arrays(records.MODELS[name]).problem
    block, trials = problem.blocks[0], problem.trials
    assert trials is not None

    def log_likelihood(rows, x):
        part = replace(
            problem,
            y=problem.y[rows],
            X=problem.X[rows],
            trials=trials[rows],
            blocks=[oracle.Block(block.levels[rows], block.n_levels, block.Z[:, rows])],
        )
        Lambda, beta = [np.array([[x[0]]])], x[1:]
        if nodes:
            return oracle.quadrature(part, beta, Lambda, n_nodes=nodes)
        return oracle.laplace(part, beta, Lambda).log_likelihood

    at = np.append(model.theta, model.beta)
    for herd in (0, 7):
        own = partial(log_likelihood, model.design.factors[0].levels == herd)
        np.testing.assert_allclose(scores[herd], oracle.gradient_fd(own, at), atol=1e-7)
        np.testing.assert_allclose(hessians[herd], -oracle.hessian_fd(own, at), atol=1e-5)


def test_a_step_and_where_there_is_none():
    model = fitted.recorded("cbpp_logit")
    whole = np.array([[4.0, 1.0], [1.0, 2.0]])
    params = Params(np.array([0.5]), np.array([1.0]), np.zeros(0))
    problem = make_problem(model.design, model.family)
    point = Point(problem, params, (), np.linalg.inv(whole))
    scores, hessian = np.array([[0.3, -0.2], [0.1, 0.1]]), np.array([[1.0, 0.0], [0.0, 0.5]])
    found = without_each(point, scores, np.array([hessian, 5.0 * hessian]))
    np.testing.assert_array_equal(found.sound, [True, False])
    expected = np.array([0.5, 1.0]) - np.linalg.solve(whole - hessian, scores[0])
    np.testing.assert_allclose(found.params[0], expected, rtol=1e-12)
    np.testing.assert_allclose(found.covariance[0], np.linalg.inv(whole - hessian), rtol=1e-12)
    assert np.isnan(found.params[1]).all()
    assert np.isnan(found.covariance[1]).all()


def largest_error(model):
    """Of the dfbetas by one Newton step, and the largest dfbeta by refits."""
    refitted = mlm.influence(model, method="refit")
    step = mlm.influence(model, method="step")
    assert (refitted.fits is not None, step.fits) == (True, None)
    assert step.cooks_distance.idxmax() == refitted.cooks_distance.idxmax()
    assert "by one Newton step" in str(step)
    largest = refitted.dfbetas.to_numpy()
    return np.abs(step.dfbetas.to_numpy() - largest).max(), np.abs(largest).max()


def test_one_newton_step_against_refits():
    error, largest = largest_error(fitted.recorded("contraception_intercept"))
    assert (error < 0.0115, round(largest, 2)) == (True, 0.6)  # as the docstring has it


@pytest.mark.slow
def test_one_newton_step_for_many_groups_against_refits():
    rng = np.random.default_rng(1)
    g, x, z = np.repeat(np.arange(1500), 4), rng.normal(size=6000), rng.normal(size=1500)
    eta = 0.3 + 0.5 * x + (0.4 * z + rng.normal(size=1500))[g]
    y = rng.binomial(1, 1.0 / (1.0 + np.exp(-eta)))
    data = pd.DataFrame({"y": y, "x": x, "z": z[g], "g": g})
    error, largest = largest_error(mlm.glmer("y ~ x + z + (1 | g)", data, "binomial"))
    assert (error < 0.00075, round(largest, 2)) == (True, 0.17)  # as the docstring has it


def test_many_groups_are_left_out_by_a_step(monkeypatch):
    monkeypatch.setattr(sys.modules["mixedlm_jax.influence"], "MOST_GROUPS", 14)
    found = mlm.influence(fitted.recorded("cbpp_logit"))
    assert found.method == "step"
    assert found.ok.all()


def test_a_boundary_and_what_has_no_step():
    model = fitted.singular()
    step = mlm.influence(model, method="step")
    assert np.isfinite(step.cooks_distance).all()
    with pytest.raises(mlm.ArgumentError, match="'LOCATION' have rows in several groups of"):
        mlm.influence(fitted.recorded("grouseticks_three"), "BROOD", method="step")
    with pytest.raises(mlm.ArgumentError, match="no method 'jackknife'"):
        mlm.influence(model, method="jackknife")
