"""Fisher scoring of theta in the working model, which for the Gaussian is the model itself."""

from __future__ import annotations

import fitted
import layouts
import numpy as np
import pytest
from layouts import LAYOUTS, MORE_LAYOUTS

import mixedlm_jax as mlm
from mixedlm_jax.problem import row_terms, rows_at
from mixedlm_jax.scoring import level_sums, scored, working_score

ALL = LAYOUTS | MORE_LAYOUTS
pytestmark = pytest.mark.usefixtures("x64")


def gaussian(name, seed=4):
    """A model with one grouping factor, at effects that are not its modes, and its level sums."""
    rng = np.random.default_rng(seed)
    model = layouts.draw("gaussian", "identity", ALL[name], rng, weights="prior")
    params = layouts.as_jax(model.params)
    sizes = zip(model.problem.plan.n_effects, model.problem.plan.n_levels, strict=True)
    u = tuple(rng.normal(size=size) for size in sizes)
    rows = row_terms(model.problem, rows_at(model.problem, params, u)[1], params.phi)
    return model, params, level_sums(model.problem, params, u, rows)


def covariance(model, theta):
    """Cov(y) of the rows of positive weight, dense (m, m)."""
    used = model.design.weights > 0
    factor = model.design.factors[0]
    rows = np.einsum("kj,kn->nj", model.lambdas(theta)[0], factor.Z)
    same = factor.levels[:, None] == factor.levels[None, :]
    V = (rows @ rows.T) * same + np.diag(1.0 / np.where(used, model.design.weights, 1.0))
    sigma = layouts.natural(model.family, model.params.phi)
    return float(sigma) ** 2 * V[np.ix_(used, used)]


def slopes(model, theta, step=1e-5):
    """dV/dtheta by central differences (n_theta, m, m); V is quadratic in theta."""
    moves = step * np.eye(len(theta))
    return [(covariance(model, theta + e) - covariance(model, theta - e)) / 2 / step for e in moves]


@pytest.mark.parametrize("name", ["intercept", "||", "a pair and a single on one factor"])
def test_score_and_information_are_those_of_the_marginal_model(name):
    model, params, levels = gaussian(name)
    found = working_score(model.problem, params, levels)

    theta = np.asarray(params.theta)
    used = model.design.weights > 0
    away = np.linalg.solve(
        covariance(model, theta), (model.design.y - model.design.X @ np.asarray(params.beta))[used]
    )
    parts = [np.linalg.solve(covariance(model, theta), part) for part in slopes(model, theta)]
    pulls = [away @ part @ away for part in slopes(model, theta)]
    score = [0.5 * (pull - np.trace(part)) for pull, part in zip(pulls, parts, strict=True)]
    np.testing.assert_allclose(found.theta, score, rtol=1e-7, atol=1e-7)

    information = np.array([[0.5 * np.sum(a * b.T) for b in parts] for a in parts])
    for where in model.problem.theta_slices:
        block = information[where, where]
        np.testing.assert_allclose(found.information[where, where], block, rtol=1e-7, atol=1e-7)


def test_scoring_goes_to_where_the_score_vanishes():
    model, params, levels = gaussian("slope")
    start = params._replace(theta=np.array([1.0, 0.0, 1.0]))
    before = working_score(model.problem, start, levels)
    theta, after = scored(model.problem, start, levels, 30)
    inside = (theta > 0.26) | (np.array([1.0, 0.0, 1.0]) == 0)  # not held at its least
    assert np.abs(np.asarray(after.theta)[inside]).max() < 1e-3 * np.abs(before.theta).max()
    same, _ = scored(model.problem, start, levels, 0)
    np.testing.assert_array_equal(same, start.theta)


def test_a_given_theta_is_where_the_search_begins():
    control = mlm.GlmerControl(maxfun=1)
    with pytest.warns(mlm.ConvergenceWarning):
        model = mlm.glmer(
            fitted.CBPP, fitted.cbpp(), "binomial", start={"theta": [0.9]}, control=control
        )
    np.testing.assert_allclose(model.theta, [0.9], rtol=1e-12)
