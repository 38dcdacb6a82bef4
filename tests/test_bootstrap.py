"""The bootstrap against slow computations by hand, the ratio test, and pooling."""

from __future__ import annotations

import warnings
from statistics import NormalDist
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from fitted import CBPP, cbpp
from scipy import stats

import mixedlm_jax as mlm
from mixedlm_jax import bootstrap
from mixedlm_jax.inference import standard_errors

NSIM = 80


@pytest.fixture(scope="module")
def model():
    return mlm.glmer(CBPP, cbpp(), "binomial")


@pytest.fixture(scope="module")
def boot(model):
    return mlm.bootMer(model, nsim=NSIM, seed=2, progress=False)


def quiet(data, formula=CBPP, family="binomial"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlm.MixedlmWarning)
        return mlm.glmer(formula, data, family)


def test_replicates_are_refits_of_simulated_responses(model, boot):
    y = model.simulate(NSIM, seed=2)
    assert boot.t.shape == (int(boot.fits.ok.sum()), 5)
    assert list(boot.t0.index) == [*model.labels.fixed, "sd_(Intercept)|herd"]
    np.testing.assert_allclose(boot.t0.iloc[:4], model.fit.beta)
    assert boot.t0.iloc[4] == pytest.approx(float(model.theta[0]))
    for replicate in (0, 7):
        other = model.refit(y.iloc[:, replicate].to_numpy())
        expected = [*other.fit.beta, float(other.fit.theta[0])]
        np.testing.assert_allclose(boot.t.loc[replicate], expected, atol=1e-5)
    assert boot.failures == NSIM - len(boot.t)


def test_percentile_and_basic_intervals(boot):
    values, t0 = boot.t["period3"].to_numpy(), boot.t0["period3"]
    low, high = np.quantile(values, [0.05, 0.95])
    found = boot.confint(0.9)
    assert list(found.columns) == ["5 %", "95 %"]
    np.testing.assert_allclose(found.loc["period3"], [low, high])
    np.testing.assert_allclose(
        boot.confint(0.9, type="basic").loc["period3"], [2 * t0 - high, 2 * t0 - low]
    )


def test_bca_intervals_by_hand(model, boot):
    data = cbpp()
    left_out = np.array(
        [quiet(data[data["herd"] != herd]).fit.beta[2] for herd in data["herd"].unique()]
    )
    away = left_out.mean() - left_out
    a = np.sum(away**3) / (6 * np.sum(away**2) ** 1.5)
    assert boot.acceleration["period3"] == pytest.approx(a, abs=1e-4)
    values = boot.t["period3"].to_numpy()
    z0 = stats.norm.ppf(np.mean(values < boot.t0["period3"]))
    z = z0 + stats.norm.ppf([0.025, 0.975])
    limits = np.quantile(values, stats.norm.cdf(z0 + z / (1 - a * z)))
    np.testing.assert_allclose(boot.confint(type="bca").loc["period3"], limits, atol=1e-4)


def test_bca_is_the_percentile_interval_of_a_symmetric_statistic():
    values = np.linspace(-1.0, 1.0, 201)
    tails = bootstrap._bca_tails(values, 0.0, 0.0, np.array([0.025, 0.975]))
    np.testing.assert_allclose(tails, [0.025, 0.975], atol=1e-12)
    # all replicates on one side: the shift is large and finite
    tails = bootstrap._bca_tails(values, 5.0, 0.0, np.array([0.025, 0.975]))
    shift = NormalDist().inv_cdf(1.0 - 0.5 / 201)
    assert tails[0] == pytest.approx(NormalDist().cdf(2 * shift - 1.959963985), abs=1e-6)


def test_statistics_of_ones_own(model):
    y: dict[str, Any] = {"nsim": 6, "seed": 2, "progress": False}
    scalar = mlm.bootMer(model, lambda fit: fit.beta[0] - fit.beta[1], **y)
    array = mlm.bootMer(model, lambda fit: jnp.exp(fit.beta), **y)
    named = mlm.bootMer(model, lambda fit: {"sd": fit.components[0]}, **y)
    assert list(scalar.t.columns) == ["t1"]
    assert list(array.t.columns) == ["t1", "t2", "t3", "t4"]
    assert list(named.t.columns) == ["sd"]
    np.testing.assert_allclose(
        scalar.t["t1"], np.log(array.t["t1"] / array.t["t2"]), rtol=1e-4, atol=1e-5
    )
    assert "Parametric bootstrap, 6 replicates" in str(named)


def test_groups_drawn_again_are_groups_of_their_own(model):
    found = mlm.bootMer(model, nsim=5, seed=6, type="cluster", progress=False)
    data = cbpp()
    labels = list(model.ranef()["herd"].index)
    drawn = np.random.default_rng(6).integers(15, size=(5, 15))
    for lane in (0, 3):
        parts = [
            data[data["herd"].astype(str) == str(labels[level])].assign(herd=str(copy))
            for copy, level in enumerate(drawn[lane])
        ]
        other = quiet(pd.concat(parts, ignore_index=True))
        assert found.fits.logLik[lane] == pytest.approx(other.fit.log_likelihood, abs=1e-8)
        np.testing.assert_allclose(
            found.fits.se[lane], standard_errors(other.fixed_covariance), rtol=1e-5
        )
        assert found.fits.nobs[lane] == other.nobs


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"type": "residual"}, "no bootstrap of type 'residual'"),
        ({"nsim": 0}, "nsim is 0"),
        ({"seed": 1.5}, "seed is 1.5"),
    ],
)
def test_bad_arguments(model, given, words):
    with pytest.raises(mlm.ArgumentError, match=words):
        mlm.bootMer(model, **given)


def test_bad_intervals_and_statistics(model, boot):
    with pytest.raises(mlm.ArgumentError, match="no interval of type 'normal'"):
        boot.confint(type="normal")
    with pytest.raises(mlm.ArgumentError, match="level"):
        boot.confint(1.5)
    with pytest.raises(mlm.ArgumentError, match="takes a model that glmer returned"):
        mlm.bootMer("model")  # type: ignore[arg-type]
    with pytest.raises(mlm.ArgumentError, match="FUN is 'fixef'; give a function"):
        mlm.bootMer(model, "fixef")  # type: ignore[arg-type]
    with pytest.raises(mlm.ArgumentError, match="FUN gave 'a'; it must give a number"):
        mlm.bootMer(model, lambda fit: "a", nsim=3)
    one = mlm.bootMer(model, nsim=1, seed=2, progress=False)
    assert "1 replicates\n" in str(one)
    with pytest.raises(mlm.FitError, match=r"at least 2 replicates, and there are 1: 0 of 1"):
        one.confint()
    sizes = iter([1, 2, 1, 1])
    with pytest.raises(mlm.ArgumentError, match=r"FUN gave 1 numbers .t1. for the model and 2"):
        mlm.bootMer(model, lambda fit: np.ones(next(sizes)), nsim=3, seed=2, progress=False)


def test_the_cluster_bootstrap_draws_one_factor():
    crossed = quiet(mlm.load_pastes(), "strength ~ 1 + (1 | sample) + (1 | batch)", "gaussian")
    with pytest.raises(mlm.ArgumentError, match="one grouping factor, and the model has 2"):
        mlm.bootMer(crossed, nsim=2, type="cluster")


# ----------------------------------------------------------------------------------------------
# The likelihood ratio by parametric bootstrap


def test_a_variance_that_is_there_and_one_that_is_not():
    pastes = mlm.load_pastes()
    model = quiet(pastes, "strength ~ 1 + (1 | sample) + (1 | batch)", "gaussian")
    null = model.update(". ~ . - (1 | batch)")
    found = mlm.PBmodcomp(model, null, nsim=60, seed=1, progress=False)
    assert found.statistic == pytest.approx(
        2 * (model.fit.log_likelihood - null.fit.log_likelihood), abs=1e-12
    )
    assert found.df == 1
    y = null.simulate(60, seed=1)
    for replicate in (0, 1, 2):
        own = pastes.assign(strength=y.iloc[:, replicate].to_numpy())
        ratio = 2 * (
            quiet(own, "strength ~ 1 + (1 | sample) + (1 | batch)", "gaussian").fit.log_likelihood
            - quiet(own, "strength ~ 1 + (1 | sample)", "gaussian").fit.log_likelihood
        )
        assert found.references[replicate] == pytest.approx(ratio, abs=1e-6)
    # on the boundary: the ratio is 0 for about half of the draws, not never as chi2_1 has it
    assert 0.3 < np.mean(found.references < 1e-6) < 0.9
    larger = np.sum(found.references >= found.statistic)
    assert found.p_value == (1 + larger) / 61
    assert "60 replicates" in str(found)
    with pytest.raises(mlm.ArgumentError, match="give a null model that is the model without"):
        mlm.PBmodcomp(null, model, nsim=3)
    other = quiet(pastes.iloc[2:], "strength ~ 1 + (1 | sample)", "gaussian")
    with pytest.raises(mlm.ArgumentError, match="not of the same rows"):
        mlm.PBmodcomp(model, other, nsim=3)


# ----------------------------------------------------------------------------------------------
# Pooling


def test_rubins_rules_by_hand(model, boot):
    y = model.simulate(3, seed=11)
    fits = model.refit_many(y, progress=False)
    table = mlm.pool(fits)
    m = 3
    for j, name in enumerate(model.labels.fixed):
        b, v = fits.beta[:, j], fits.se[:, j] ** 2
        mean = sum(b) / m
        within = sum(v) / m
        between = sum((part - mean) ** 2 for part in b) / (m - 1)
        total = within + (1 + 1 / m) * between
        r = (1 + 1 / m) * between / within
        df = (m - 1) * (1 + 1 / r) ** 2
        row = table.loc[name]
        assert row["estimate"] == pytest.approx(mean)
        assert row["std.error"] == pytest.approx(np.sqrt(total))
        assert row["df"] == pytest.approx(df)
        assert row["riv"] == pytest.approx(r)
        assert row["fmi"] == pytest.approx((r + 2 / (df + 3)) / (r + 1))
        assert row["p.value"] == pytest.approx(
            2 * stats.t.sf(abs(mean / np.sqrt(total)), df), rel=1e-10
        )
    models = [model.refit(y[name].to_numpy()) for name in y]
    pd.testing.assert_frame_equal(mlm.pool(models), table, rtol=1e-4)


def test_imputations_that_agree_have_infinite_df(model):
    y = model.design.y
    table = mlm.pool(model.refit_many(np.column_stack([y, y]), progress=False))
    assert np.all(np.isinf(table["df"]) | (table["df"] > 1e12))
    errors = standard_errors(model.fixed_covariance)
    np.testing.assert_allclose(table["std.error"], errors, rtol=1e-6)
    z = table["estimate"] / table["std.error"]
    np.testing.assert_allclose(table["p.value"], 2 * stats.norm.sf(np.abs(z)), rtol=1e-8)


def test_bad_input_of_pool(model):
    y = model.design.y
    with pytest.raises(mlm.ArgumentError, match="at least 2 fits, found 1"):
        mlm.pool(model.refit_many(y[:, None], progress=False))
    with pytest.raises(mlm.ArgumentError, match=r"1 of 2 fits are not ok.* number 1"):
        mlm.pool(model.refit_many(np.column_stack([y, 0 * y]), progress=False))
    with pytest.raises(mlm.ArgumentError, match="a list of models that glmer returned, found 1"):
        mlm.pool([1, 2])  # type: ignore[list-item]
    with pytest.raises(mlm.ArgumentError, match="found None"):
        mlm.pool(None)  # type: ignore[arg-type]
    with pytest.raises(mlm.ArgumentError, match="at least 2 fits, found 1"):
        mlm.pool(model)
    other = model.update(family=mlm.families.Binomial(link="probit"))
    with pytest.raises(mlm.ArgumentError, match=r"binomial . logit . and binomial . probit"):
        mlm.pool([model, other])
