"""Quantile residuals by simulation: uniform for right models, and not for wrong ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import fitted
import numpy as np
import pandas as pd
import pytest

import mixedlm_jax as mlm
from mixedlm_jax.simulated_residuals import SimulatedResiduals, _distance, _ranks

GROUPS, ROWS = 200, 5


@cache
def counts() -> mlm.GlmerResult:
    """A Poisson model of counts that are Poisson."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(GROUPS), ROWS)
    x = rng.normal(size=len(g))
    eta = 0.5 + 0.3 * x + rng.normal(0.0, 0.6, GROUPS)[g]
    return mlm.glmer(
        "y ~ x + (1 | g)", pd.DataFrame({"y": rng.poisson(np.exp(eta)), "x": x, "g": g}), "poisson"
    )


def test_ranks_are_shares_with_ties_broken():
    values = np.array([[2.0, 1.0], [1.0, 1.0], [2.0, 3.0], [5.0, 1.0]])
    breaks = np.array([[0.5, 0.25], [0.1, 0.2], [0.3, 0.4], [0.6, 0.7]])
    expected = (values[None] < values[:, None]).sum(axis=1)
    ties = (values[None] == values[:, None]).sum(axis=1)
    np.testing.assert_allclose(_ranks(values, breaks), (expected + breaks * ties) / 4)
    np.testing.assert_allclose(_ranks(values, breaks, rows=1), _ranks(values, breaks)[:1])


def test_kolmogorovs_distance():
    x = np.array([0.1, 0.2, 0.35, 0.9])
    grid = np.linspace(0, 1, 100_001)
    steps = np.mean(x[:, None] <= grid, axis=0)
    assert abs(_distance(x) - np.max(np.abs(steps - grid))) < 1e-4


def test_residuals_of_right_models_are_uniform():
    model, passed = counts(), 0
    responses = model.simulate(20, seed=5)
    for seed, name in enumerate(responses):
        found = mlm.simulate_residuals(model.refit(responses[name]), nsim=199, seed=seed)
        passed += found.uniformity().p_value > 0.01
    assert passed >= 19


def test_residuals_of_wrong_models_are_not():
    model, rng = counts(), np.random.default_rng(2)
    mean = model.predict(re_form="~0")
    u = np.repeat(rng.normal(0.0, 0.6, GROUPS), ROWS)
    wide = rng.poisson(mean * np.exp(u) * rng.gamma(1.0, 1.0, len(mean)))
    found = mlm.simulate_residuals(model.refit(wide), seed=1)
    assert found.uniformity().p_value < 0.01
    conditional = mlm.simulate_residuals(model.refit(wide), seed=1, re_form=None)
    assert conditional.dispersion().p_value < 0.01
    assert conditional.dispersion().statistic > 1.2
    y = model.getME("y")
    zeros = model.refit(np.where(rng.random(len(y)) < 0.25, 0, y + 1))
    assert mlm.simulate_residuals(zeros, seed=1, re_form=None).zero_inflation().p_value < 0.01
    spoiled = y.copy()
    spoiled[::50] += 60
    outlying = mlm.simulate_residuals(model.refit(spoiled), seed=1, re_form=None).outliers()
    assert outlying.p_value < 0.01
    assert outlying.statistic > outlying.expected


def test_dispersion_compares_like_with_like():
    # 1 + 50 samples of one distribution: none of them is nearer to the mean of all
    rows, nsim = 50_000, 50
    y, *simulated = np.random.default_rng(4).normal(size=(1 + nsim, rows))
    ranked = np.array([y, *simulated])
    found = SimulatedResiduals(pd.Series(y), y, ranked[1:], None, ranked, ranked)
    # standard deviation of a sum of squares over its mean: sqrt(2 / rows) = .0063
    assert abs(found.dispersion().statistic - 1.0) < 0.02
    assert found.dispersion().p_value > 0.05


def test_seeds_and_rows():
    model = counts()
    first = mlm.simulate_residuals(model, nsim=50, seed=3)
    again = mlm.simulate_residuals(model, nsim=50, seed=3)
    pd.testing.assert_series_equal(first.residuals, again.residuals)
    assert list(first.residuals.index) == list(range(GROUPS * ROWS))
    assert first.residuals.between(0, 1).all()
    assert list(first.tests().index) == ["uniformity", "dispersion", "zero inflation", "outliers"]
    assert "1000 rows, 50 simulations" in str(first)
    with pytest.raises(mlm.ArgumentError, match="nsim is 5"):
        mlm.simulate_residuals(model, nsim=5)
    with pytest.raises(mlm.ArgumentError, match="glmer returned"):
        mlm.simulate_residuals(fitted.cbpp())  # type: ignore[arg-type]


def test_with_refit_a_row_is_ranked_among_residuals_of_the_refits():
    model = counts()
    found = mlm.simulate_residuals(model, nsim=20, seed=4, re_form=None, refit=True)
    assert found.fits is not None
    assert len(found.fits) == len(found.simulated) == 20
    theirs = [model.refit(y).residuals("response") for y in found.simulated]
    own = model.residuals("response").to_numpy()
    below = np.sum(np.array(theirs) < own, axis=0)
    # residuals of refits are not tied: the place among 21, spread over a 21st
    np.testing.assert_array_equal(np.floor(found.residuals.to_numpy() * 21), below)


def test_typical_means_of_refits():
    model = fitted.recorded("cbpp_logit")
    found = mlm.simulate_residuals(model, nsim=20, seed=4, refit=True)
    size = model.design.trials
    means = np.array([model.refit(y).predict(re_form="~0") for y in found.simulated])
    # searches end within 1e-8 log-likelihood units of an optimum, 1.4e-4 standard errors
    np.testing.assert_allclose(found._ranked[1:], found.simulated - size * means, atol=1e-4)
    own = model.design.y - size * model.predict(re_form="~0")
    np.testing.assert_allclose(found._ranked[0], own, atol=1e-8)


def test_refits_that_fail(monkeypatch):
    model = fitted.recorded("cbpp_logit")
    wanted: dict[str, Any] = {"nsim": 200, "seed": 3, "re_form": None, "refit": True}
    with pytest.warns(mlm.ConvergenceWarning, match="1 of 200 fits") as caught:
        found = mlm.simulate_residuals(model, **wanted)  # one is separated
    assert caught[0].filename == __file__
    assert found.fits is not None
    assert (len(found.simulated), len(found.fits), np.sum(~found.fits.ok)) == (199, 200, 1)
    monkeypatch.setattr("mixedlm_jax.simulated_residuals._FEWEST", 200)
    with pytest.raises(mlm.FitError, match="1 of 200 fits to simulated responses failed, and 200"):
        mlm.simulate_residuals(model, **wanted)


def test_refits_allow_for_what_random_effects_have_taken():
    model, rng = counts(), np.random.default_rng(2)
    kept = mlm.simulate_residuals(model, nsim=100, seed=1, re_form=None)
    assert kept.dispersion().statistic < 0.97  # they are too central, the model being right
    refitted = mlm.simulate_residuals(model, nsim=100, seed=1, re_form=None, refit=True)
    assert refitted.dispersion().p_value > 0.05
    assert abs(refitted.dispersion().statistic - 1.0) < 0.05
    assert "100 simulations, refitted" in str(refitted)
    mean = model.fitted().to_numpy()
    wide = model.refit(rng.poisson(mean * rng.gamma(2.0, 0.5, len(mean))))
    found = mlm.simulate_residuals(wide, nsim=100, seed=1, re_form=None, refit=True)
    assert found.dispersion().p_value < 0.03
    assert found.uniformity().p_value < 0.03
