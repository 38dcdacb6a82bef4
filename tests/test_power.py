"""Power by simulation against loops of single fits, and the designs it extends."""

from __future__ import annotations

import warnings
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from fitted import CBPP, cbpp
from scipy import stats

import mixedlm_jax as mlm
from mixedlm_jax.errors import Code
from mixedlm_jax.inference import standard_errors
from mixedlm_jax.power import Power, wilson

mpl.use("Agg")
NSIM = 120


@pytest.fixture(scope="module")
def model():
    return mlm.glmer(CBPP, cbpp(), "binomial")


@pytest.fixture(scope="module")
def curve(model):
    return mlm.powerCurve(
        model, "effect_size", [0.0, -0.5, -1.0], "period2", nsim=NSIM, seed=3, progress=False
    )


def quiet(function, *arguments, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlm.MixedlmWarning)
        return function(*arguments, **named)


@pytest.mark.parametrize(
    ("successes", "n", "level", "limits"),
    [  # R: prop.test(x, n, correct = FALSE, conf.level = level)$conf.int
        (8, 10, 0.95, (0.4901625, 0.9433178)),
        (0, 10, 0.95, (0.0, 0.2775328)),
        (10, 10, 0.95, (0.7224672, 1.0)),
        (431, 1000, 0.99, (0.3912476, 0.4716620)),
    ],
)
def test_wilsons_interval(successes, n, level, limits):
    np.testing.assert_allclose(wilson(successes, n, level), limits, atol=1e-7)


def test_power_is_that_of_a_loop_of_single_fits(model):
    found = mlm.powerSim(model, "period2", nsim=25, seed=5, progress=False)
    y = model.simulate(25, seed=5)
    expected = []
    for name in y:
        other = quiet(model.refit, y[name].to_numpy())
        z = other.fit.beta[1] / standard_errors(other.fixed_covariance)[1]
        expected.append(2 * stats.norm.sf(abs(z)))
    np.testing.assert_allclose(found.p_values, expected, rtol=1e-4, atol=1e-12)
    assert found.rejections == np.sum(np.array(expected) < 0.05)
    assert found.power == found.rejections / 25
    assert found.interval() == wilson(found.rejections, 25)
    assert "Power of period2 (Wald) at level 0.05" in str(found)


def test_power_is_that_of_data_made_by_hand(model, curve):
    """Data by NumPy from the same parameters, at -0.5: within 4 Monte Carlo errors."""
    rng = np.random.default_rng(8)
    data = cbpp()
    beta = model.fit.beta.copy()
    beta[1] = -0.5
    X, herd = model.getME("X"), pd.factorize(data["herd"])[0]
    b = float(model.theta[0]) * rng.normal(size=(400, 15))
    mu = 1.0 / (1.0 + np.exp(-(X @ beta + b[:, herd])))
    Y = rng.binomial(data["size"].to_numpy(int), mu).T.astype(float)
    fits = model.refit_many(Y, progress=False)
    by_hand = np.mean(fits.ok & (np.abs(fits.beta[:, 1] / fits.se[:, 1]) > 1.959964))
    ours = curve.powers[1].power
    error = np.sqrt(by_hand * (1 - by_hand) * (1 / 400 + 1 / NSIM))
    assert abs(ours - by_hand) < 4 * error
    assert 0.05 < by_hand < 0.95


@pytest.mark.slow
def test_terms_are_tested_jointly_and_by_likelihood_ratio(model):
    y = model.simulate(6, seed=5)
    wald = mlm.powerSim(model, "period", nsim=6, seed=5, progress=False)
    ratio = mlm.powerSim(model, "period", nsim=6, seed=5, method="LRT", progress=False)
    for lane in (0, 3):
        data = cbpp().assign(incidence=y.iloc[:, lane])
        large = quiet(mlm.glmer, CBPP, data, "binomial")
        small = quiet(mlm.glmer, "incidence / size ~ 1 + (1 | herd)", data, "binomial")
        statistic = 2 * (large.fit.log_likelihood - small.fit.log_likelihood)
        assert ratio.p_values[lane] == pytest.approx(stats.chi2.sf(statistic, 3), rel=1e-5)
        b, V = large.fit.beta[1:], large.fixed_covariance[1:, 1:]
        joint = stats.chi2.sf(b @ np.linalg.solve(V, b), 3)
        assert wald.p_values[lane] == pytest.approx(joint, rel=1e-3)
    assert "likelihood ratio" in str(ratio)


def test_a_test_of_ones_own_and_failures(model, monkeypatch):
    def below(fit):
        return float(stats.norm.cdf(fit.beta[1] / 0.3))

    found = mlm.powerSim(model, below, nsim=6, seed=5, progress=False)
    beta = model.refit_many(model.simulate(6, seed=5), progress=False).beta[:, 1]
    np.testing.assert_allclose(found.p_values, stats.norm.cdf(beta / 0.3))
    assert found.test == "below"
    # separated replicates count as not rejected and are told of
    same = mlm.extend(model, "n_groups", 15)
    hopeless = same.params._replace(beta=same.params.beta + np.array([0.0, 0.0, 0.0, -2.5]))
    rare = mlm.powerSim(replace(same, params=hopeless), "period4", nsim=30, seed=1, progress=False)
    assert rare.failures > 0
    assert np.isnan(rare.p_values).sum() == rare.failures
    assert f"{rare.failures} fits failed and count as not rejected" in str(rare)


def test_the_curve(model, curve):
    table = curve.to_dataframe()
    assert list(table.columns) == [
        *["effect_size", "power", "lower", "upper", "rejections", "nsim", "failures"]
    ]
    assert table["power"].iloc[0] < 0.2 < table["power"].iloc[2]
    assert list(table["effect_size"]) == [0.0, -0.5, -1.0]
    low, high = wilson(int(table["rejections"].iloc[1]), NSIM)
    assert (table["lower"].iloc[1], table["upper"].iloc[1]) == (low, high)
    # at its own estimate the curve is the power of the model
    none = {"beta": [model.fit.beta[0], 0.0, *model.fit.beta[2:]]}
    y = model.simulate(NSIM, seed=3, newparams=none)
    fits = model.refit_many(y, progress=False)
    z = np.abs(fits.beta[:, 1] / fits.se[:, 1])
    assert curve.powers[0].rejections == np.sum(fits.ok & (z > stats.norm.isf(0.025)))
    assert "Power of period2 (Wald) at level 0.05" in str(curve)


def test_the_picture(curve):
    axes = curve.plot()
    assert axes.get_ylabel() == "power of period2 (Wald)"
    line = axes.get_lines()[0].get_xydata()
    np.testing.assert_allclose(line[:, 1], curve.to_dataframe()["power"])
    assert curve.plot(axes) is axes
    axes.figure.clear()


def test_smaller_designs_are_lanes_of_the_largest(model):
    curve = mlm.powerCurve(
        model, "n_groups", [10, 15.0], "period2", nsim=10, seed=3, progress=False
    )
    data = cbpp()
    small = data[data["herd"].isin(data["herd"].unique()[:10])].reset_index(drop=True)
    largest = mlm.extend(model, "n_groups", 15)
    y = largest.draw(3, np.arange(10))[:, : len(small)]
    for lane in (0, 4):
        own = quiet(mlm.glmer, CBPP, small.assign(incidence=y[lane]), "binomial")
        z = own.fit.beta[1] / standard_errors(own.fixed_covariance)[1]
        found = curve.powers[0].p_values[lane]
        if own.fit.verdict.ok:
            assert found == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-3)
        else:
            assert np.isnan(found)


# ----------------------------------------------------------------------------------------------
# Extended designs


def test_more_groups_are_copies_under_new_names(model):
    grown = mlm.extend(model, "n_groups", 32)
    frame = grown.call.data
    assert frame["herd"].nunique() == 32
    original = cbpp().astype({"herd": str})
    for copy in ("3", "3_2"):
        rows = frame[frame["herd"] == copy].drop(columns="herd").reset_index(drop=True)
        own = original[original["herd"] == "3"].drop(columns="herd").reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, own)
    assert frame["herd"].str.endswith("_3").sum() > 0
    np.testing.assert_array_equal(grown.params.theta, model.fit.theta)


def test_more_rows_for_each_group(model):
    grown = mlm.extend(model, "n_per_group", 6)
    assert (grown.call.data.groupby("herd").size() == 6).all()


def test_groups_inside_groups_are_new_too():
    pastes = mlm.load_pastes()
    model = quiet(mlm.glmer, "strength ~ 1 + (1 | batch / cask)", pastes, "gaussian")
    grown = mlm.extend(model, "n_groups", 25, group="batch")
    assert sorted(factor.n_levels for factor in grown.design.factors) == [25, 75]
    model = quiet(mlm.glmer, "strength ~ 1 + (1 | batch) + (1 | sample)", pastes, "gaussian")
    grown = mlm.extend(model, "n_groups", 25, group="batch")
    assert sorted(factor.n_levels for factor in grown.design.factors) == [25, 75]
    with pytest.raises(mlm.ArgumentError, match=r"name the grouping column .* batch, sample"):
        mlm.extend(model, "n_groups", 25)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"test": "breed"}, mlm.ArgumentError, "neither a term .period. nor a fixed effect"),
        ({"test": None}, mlm.ArgumentError, "test is missing: name a term"),
        ({"alpha": 1.5}, mlm.ArgumentError, "alpha is 1.5"),
        ({"nsim": -2}, mlm.ArgumentError, "nsim is -2"),
        ({"method": "score"}, mlm.ArgumentError, "method is 'score'"),
        ({"test": "period2", "method": "LRT"}, mlm.ArgumentError, "leaves out a term"),
    ],
)
def test_bad_arguments_of_powersim(model, given, error, words):
    with pytest.raises(error, match=words):
        mlm.powerSim(model, **({"test": "period", "nsim": 2} | given))


@pytest.mark.parametrize(
    ("along", "values", "given", "error", "words"),
    [
        ("time", [1], {}, mlm.ArgumentError, "along is 'time'"),
        ("effect_size", [], {}, mlm.ArgumentError, "values is empty"),
        ("effect_size", [np.nan], {}, mlm.ArgumentError, "values holds nan"),
        ("effect_size", [1.0], {"test": "period"}, mlm.ArgumentError, "effect is None"),
        ("n_groups", [2.5], {}, mlm.ArgumentError, "each of values is 2.5"),
        ("n_groups", [20], {"group": "x"}, mlm.ArgumentError, "group is 'x'"),
        ("n_groups", 20, {}, mlm.ArgumentError, "values is 20; give a list"),
        ("effect_size", ["a"], {}, mlm.ArgumentError, "values holds 'a'"),
        ("n_groups", [20], {"effect": "period2"}, mlm.ArgumentError, "effect is of effect_size"),
        ("effect_size", [1.0], {"group": "herd"}, mlm.ArgumentError, "group is of n_groups"),
        ("effect_size", [1.0], {"test": lambda one: 2.0}, mlm.ArgumentError, "effect is None"),
        ("n_per_group", [1], {}, mlm.DataError, "only the level"),
    ],
)
def test_bad_arguments_of_powercurve(model, along, values, given, error, words):
    with pytest.raises(error, match=words):
        mlm.powerCurve(model, along, values, **({"test": "period2", "nsim": 2} | given))


@pytest.mark.parametrize(
    ("test", "given", "words"),
    [
        (lambda one: None, {}, "the test gave None; it must give a p-value"),
        (lambda one: 3.0, {}, "the test gave 3; a p-value lies between 0 and 1"),
        (lambda one: 0.5, {"method": "LRT"}, "method='LRT' is of named tests"),
        ("period2", {"alpha": "a"}, "alpha is 'a'"),
    ],
)
def test_what_is_no_test_is_refused(model, test, given, words):
    with pytest.raises(mlm.ArgumentError, match=words):
        mlm.powerSim(model, test, nsim=6, seed=1, progress=False, **given)


def test_intervals_of_power_have_a_level():
    with pytest.raises(mlm.ArgumentError, match="level is 95"):
        Power("x", 0.05, np.array([0.01, 0.5]), 0).interval(95)


def test_a_scenario_is_shown_in_a_line(model):
    larger = mlm.extend(model, "n_groups", 30)
    assert repr(larger).endswith(f"{len(larger.design.y)} rows, 30 levels of herd>")
    with pytest.raises(mlm.ArgumentError, match=r"takes a model .* found (<|an object)"):
        mlm.powerCurve(larger, "effect_size", [0.1], "period2")  # type: ignore[arg-type]


def test_bad_arguments_of_extend(model):
    with pytest.raises(mlm.ArgumentError, match="along is 'rows'"):
        mlm.extend(model, "rows", 3)
    with pytest.raises(mlm.ArgumentError, match="n is 0"):
        mlm.extend(model, "n_groups", 0)


def test_codes_of_failed_fits_are_negative():
    assert all((code < 0) == (code not in (0, 1, 2)) for code in Code)
