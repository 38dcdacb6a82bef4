"""Robust standard errors against scores of each cluster by differences of the dense oracle."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import fitted
import numpy as np
import oracle
import pandas as pd
import pytest
import records

import mixedlm_jax as mlm


def part_of(problem: oracle.Problem, rows: np.ndarray) -> oracle.Problem:
    """Some rows of a problem; levels without rows add nothing to its likelihood."""
    blocks = [oracle.Block(b.levels[rows], b.n_levels, b.Z[:, rows]) for b in problem.blocks]
    trials = None if problem.trials is None else problem.trials[rows]
    return replace(
        problem, y=problem.y[rows], X=problem.X[rows], blocks=blocks, trials=trials
    )


def robust_by_differences(
    log_likelihood: Callable[[oracle.Problem, np.ndarray], float],
    problem: oracle.Problem,
    at: np.ndarray,
    clusters: np.ndarray,
    bread: np.ndarray,
) -> np.ndarray:
    """H^-1 (sum s s') H^-1 n / (n - 1) with each cluster's score by central differences."""
    parts = [part_of(problem, clusters == c) for c in np.unique(clusters)]
    scores = np.array([oracle.gradient_fd(partial(log_likelihood, own), at) for own in parts])
    n = len(parts)
    np.testing.assert_allclose(scores.sum(axis=0), 0.0, atol=1e-3)  # it is the optimum
    return bread @ scores.T @ scores @ bread * n / (n - 1)


def robust(model: mlm.GlmerResult, cluster=None) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlm.MixedlmWarning)
        return model.vcov(full=True, type="robust", cluster=cluster).to_numpy()


@pytest.mark.parametrize(("name", "nodes"), [("cbpp_logit", 0), ("cbpp_logit_agq10", 10)])
@pytest.mark.parametrize("groups", [1, 3])
def test_scores_of_herds_and_of_groups_of_herds(name, nodes, groups):
    model = fitted.recorded(name)
    problem = records.arrays(records.MODELS[name]).problem
    clusters = problem.blocks[0].levels // groups

    def log_likelihood(part, x):
        Lambda, beta = [np.array([[x[0]]])], x[1:]
        if nodes:
            return oracle.quadrature(part, beta, Lambda, n_nodes=nodes)
        return oracle.laplace(part, beta, Lambda).log_likelihood

    at = np.append(model.theta, model.beta)
    bread = model.vcov(full=True).to_numpy()
    expected = robust_by_differences(log_likelihood, problem, at, clusters, bread)
    ours = robust(model, None if groups == 1 else clusters)
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=1e-8)


@pytest.mark.slow
def test_factors_that_cross_within_clusters(rng):
    n, site = 240, np.repeat(np.arange(4), 60)
    data = pd.DataFrame(
        {"site": site, "a": site * 5 + rng.integers(5, size=n), "b": site * 6 + np.arange(n) % 6}
    )
    data["x"] = rng.normal(size=n)
    effects = rng.normal(size=20)[data["a"]] + 0.7 * rng.normal(size=24)[data["b"]]
    data["y"] = rng.poisson(np.exp(0.5 + 0.3 * data["x"] + effects))
    model = mlm.glmer("y ~ x + (1 | a) + (1 | b)", data, "poisson")
    levels = [factor.levels for factor in model.design.factors]
    blocks = [oracle.Block(level, level.max() + 1, np.ones((1, n))) for level in levels]
    y = data["y"].to_numpy(float)
    problem = oracle.Problem(family="poisson", link="log", y=y, X=model.design.X, blocks=blocks)

    def log_likelihood(part, x):
        Lambdas = [np.array([[x[0]]]), np.array([[x[1]]])]
        return oracle.laplace(part, x[2:], Lambdas).log_likelihood

    at = np.append(model.theta, model.beta)
    bread = model.vcov(full=True).to_numpy()
    expected = robust_by_differences(log_likelihood, problem, at, site, bread)
    np.testing.assert_allclose(robust(model, "site"), expected, rtol=1e-4, atol=1e-8)
    with pytest.raises(mlm.ArgumentError, match="cross"):
        model.vcov(type="robust")
    with pytest.raises(mlm.ArgumentError, match="of 'b' lies in several clusters of 'a'"):
        model.vcov(type="robust", cluster="a")


@pytest.mark.slow
def test_sigma_is_robust_on_its_own_scale():
    model = fitted.recorded("sleepstudy_slope")
    problem = records.arrays(records.MODELS["sleepstudy_slope"]).problem

    def log_likelihood(part, x):
        Lambda = [oracle.lower_triangular(x[:3], 2)]
        return oracle.laplace(part, x[3:5], Lambda, x[5]).log_likelihood

    at = np.concatenate([model.theta, model.beta, [model.sigma]])
    bread = model.vcov(full=True).to_numpy()
    clusters = problem.blocks[0].levels
    expected = robust_by_differences(log_likelihood, problem, at, clusters, bread)
    np.testing.assert_allclose(robust(model), expected, rtol=1e-4, atol=1e-7)


def test_few_clusters_are_warned_of_and_parts_are_shown():
    model = fitted.recorded("cbpp_logit")
    with pytest.warns(mlm.MixedlmWarning, match="15 clusters.*fewer than about 40") as caught:
        ours = model.vcov(type="robust")
    assert caught[0].filename == __file__
    assert list(ours.index) == list(model.fixef())
    np.testing.assert_array_equal(ours, robust(model)[1:, 1:])
    row = mlm.linear_hypothesis(model, "period2", vcov=ours)
    z = model.fixef()["period2"] / np.sqrt(ours.to_numpy()[1, 1])
    np.testing.assert_allclose(row["Chisq"], z**2, rtol=1e-10)


def test_rows_of_weight_0_make_no_cluster():
    data = fitted.cbpp().assign(
        site=lambda d: np.where(d["herd"].isin(["2", "3"]), np.arange(56), 99 + d["herd"].cat.codes)
    )
    absent = data["herd"].isin(["2", "3"])
    weights = np.where(absent, 0.0, 1.0)
    weighted = mlm.glmer(fitted.CBPP, data, "binomial", weights=weights)
    without = mlm.glmer(fitted.CBPP, data[~absent], "binomial")
    for cluster in (None, "site"):  # the absent herds lie across sites
        ours, expected = robust(weighted, cluster), robust(without, cluster)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-9)


def test_a_boundary_stays_unknown():
    ours = robust(fitted.singular())
    assert np.isnan(ours[0]).all()
    assert ours[1, 1] > 0.0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"type": "HC1"}, 'choose type="model"'),
        ({"cluster": "herd"}, "which clusters are for"),
        ({"type": "robust", "cluster": "period"}, "level '1' of 'herd' lies in several clusters"),
        ({"type": "robust", "cluster": np.zeros(56)}, "all rows are in one cluster"),
        ({"type": "robust", "cluster": np.zeros(7)}, "one label for each of the 56 rows"),
        ({"type": "robust", "cluster": "farm"}, "farm"),
    ],
)
def test_clusters_that_will_not_do(arguments, why):
    with pytest.raises(mlm.MixedlmError, match=re.compile(why)):
        fitted.recorded("cbpp_logit").vcov(**arguments)


def test_fits_without_scores():
    model = fitted.recorded("cbpp_logit")
    quasi = replace(model.call, family=mlm.families.QuasiFamily("mu*(1-mu)", "logit"))
    for other, why in (
        (replace(model, call=quasi), "quasi family"),
        (replace(model, fit=replace(model.fit, nAGQ=0)), "nAGQ=1"),
    ):
        with pytest.raises(mlm.ArgumentError, match=why):
            other.vcov(type="robust")
