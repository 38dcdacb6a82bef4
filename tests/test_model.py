"""The fitted object: what its methods return, and that they agree with lme4 and with each other.

Estimates against the recorded fits are in test_reference.py.
"""

from __future__ import annotations

import pickle

import fitted
import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
import records
from fitted import CBPP

import mixedlm_jax as mlm
from mixedlm_jax import diagnostics, inference
from mixedlm_jax.families import Binomial, Poisson
from mixedlm_jax.threads import _controller, single_blas_thread

# First six residuals of three models by lme4 1.1-31 in R 4.2.2: glmer with tolPwrss=1e-13, bobyqa
# with rhoend=1e-9, restarted three times at its optimum; lmer(REML=FALSE) with rhoend=1e-11.
LME4_RESIDUALS = {
    "cbpp_logit": {
        "deviance": [-1.43803195, 0.98874319, 2.35699793, -0.93685802, -0.24318465, -0.14242276],
        "pearson": [-1.33986170, 1.07512592, 2.87961577, -0.67726404, -0.23908414, -0.13952914],
        "response": [-0.16535051, 0.10825175, 0.31848693, -0.08402874, -0.01843767, -0.00802463],
        "working": [-0.77550816, 0.88982069, 2.89291031, -1.09173732, -0.14092002, -0.13478218],
    },
    "salamanders_weights": {
        "deviance": [-1.30820171, -2.17255189, -0.81388578, -1.17169061, -0.95868678, -0.95868678],
        "pearson": [-0.92503830, -1.53622617, -0.57550416, -0.82851037, -0.67789392, -0.67789392],
        "response": [-0.21392396, -0.78666362, -0.08280126, -0.17160736, -0.11488504, -0.11488504],
        "working": [-1.0, -1.0, -1.0, -1.0, -1.0, -1.0],
    },
    "sleepstudy_weights": {  # Reaction ~ Days + (1 | Subject), weights 1 + Days %% 3
        "deviance": [-41.964276, -61.513970, -107.522967, -2.116582, 31.986893, 120.860739],
        "pearson": [-41.964276, -61.513970, -107.522967, -2.116582, 31.986893, 120.860739],
        "response": [-41.964276, -43.496945, -62.078414, -2.116582, 22.618149, 69.778980],
        "working": [-41.964276, -43.496945, -62.078414, -2.116582, 22.618149, 69.778980],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def cbpp():
    return fitted.recorded("cbpp_logit")


@pytest.fixture(scope="module")
def sleepstudy():
    return fitted.recorded("sleepstudy_slope")


@pytest.fixture(scope="module")
def weighted_sleepstudy():
    data = records.frame(records.MODELS["sleepstudy_slope"])
    data["w"] = 1.0 + data["Days"] % 3
    return mlm.glmer("Reaction ~ Days + (1 | Subject)", data, "gaussian", weights="w")


class TestEstimates:
    def test_fixef_is_a_dict_of_floats(self, cbpp):
        assert list(cbpp.fixef()) == ["(Intercept)", "period2", "period3", "period4"]
        assert all(type(value) is float for value in cbpp.fixef().values())
        np.testing.assert_array_equal(cbpp.beta, list(cbpp.fixef().values()))

    def test_ranef_is_a_frame_of_levels_by_coefficients(self, sleepstudy):
        modes = sleepstudy.ranef()["Subject"]
        assert list(modes.columns) == ["(Intercept)", "Days"]
        assert len(modes) == sleepstudy.ngrps()["Subject"] == 18
        for level, theirs in records.MODELS["sleepstudy_slope"]["ranef"]["Subject"].items():
            np.testing.assert_allclose(modes.loc[level], list(theirs.values()), rtol=1e-4)

    def test_variances_and_correlations_as_lme4_lists_them(self, sleepstudy):
        table = sleepstudy.VarCorr().to_dataframe()
        record = records.MODELS["sleepstudy_slope"]
        block = record["varcorr"]["Subject"]
        assert table[["grp", "var1", "var2"]].to_numpy().tolist() == [
            ["Subject", "(Intercept)", None],
            ["Subject", "Days", None],
            ["Subject", "(Intercept)", "Days"],
            ["Residual", None, None],
        ]
        sd, corr = list(block["sd"].values()), block["corr"][0][1]
        np.testing.assert_allclose(table["sdcor"], [*sd, corr, record["sigma"]], rtol=1e-4)
        covariance = corr * sd[0] * sd[1]
        np.testing.assert_allclose(
            table["vcov"], [sd[0] ** 2, sd[1] ** 2, covariance, record["sigma"] ** 2], rtol=2e-4
        )
        assert sleepstudy.sigma == pytest.approx(record["sigma"], rel=1e-5)

    def test_terms_of_one_factor_are_numbered(self):
        table = fitted.recorded("sleepstudy_uncorrelated").VarCorr().to_dataframe()
        assert list(table["grp"]) == ["Subject", "Subject.1", "Residual"]

    def test_sigma_is_one_without_a_residual_variance(self, cbpp):
        assert cbpp.sigma == 1.0
        assert list(cbpp.VarCorr().to_dataframe()["grp"]) == ["herd"]

    def test_changing_what_was_handed_out_changes_no_model(self, cbpp):
        handed_out = [cbpp.theta, cbpp.beta, cbpp.ranef()["herd"], cbpp.vcov(), cbpp.fitted()]
        for values in handed_out:
            values[:] = 0.0
        again = [cbpp.theta, cbpp.beta, cbpp.ranef()["herd"], cbpp.vcov(), cbpp.fitted()]
        for values in again:
            assert np.all(values != 0)


class TestUncertainty:
    def test_full_covariance_holds_the_fixed_effects(self, sleepstudy):
        full, fixed = sleepstudy.vcov(full=True), sleepstudy.vcov()
        assert list(full.columns) == [  # names as lme4's getME(model, "theta") has them
            "Subject.(Intercept)",
            "Subject.Days.(Intercept)",
            "Subject.Days",
            "(Intercept)",
            "Days",
            "sigma",
        ]
        pd.testing.assert_frame_equal(full.loc[fixed.index, fixed.columns], fixed)
        np.testing.assert_allclose(full, full.T, rtol=1e-8)
        assert np.all(np.linalg.eigvalsh(full) > 0)

    def test_sigma_has_the_standard_error_of_a_variance(self, sleepstudy):
        # nearly sigma / sqrt(2 df): the residuals have about n - 2 levels degrees of freedom
        se = np.sqrt(sleepstudy.vcov(full=True).loc["sigma", "sigma"])
        assert se == pytest.approx(sleepstudy.sigma / np.sqrt(2 * (180 - 36)), rel=0.01)

    def test_wald_intervals(self, cbpp):
        ci = cbpp.confint()
        record = records.MODELS["cbpp_logit"]
        assert list(ci.columns) == ["2.5 %", "97.5 %"]
        assert list(ci.index) == ["sd_(Intercept)|herd", *cbpp.fixef()]
        for name, estimate in record["fixef"].items():
            half = 1.959963984540054 * record["se"][name]
            np.testing.assert_allclose(ci.loc[name], [estimate - half, estimate + half], rtol=1e-5)

    def test_wald_intervals_of_some_at_another_level(self, cbpp):
        ci = cbpp.confint(["period3"], level=0.9)
        assert list(ci.columns) == ["5 %", "95 %"]
        assert list(ci.index) == ["period3"]
        width = ci.loc["period3", "95 %"] - ci.loc["period3", "5 %"]
        se = records.MODELS["cbpp_logit"]["se"]["period3"]
        assert width == pytest.approx(2 * 1.6448536269514722 * se, rel=1e-5)
        pd.testing.assert_frame_equal(cbpp.confint("period3", level=0.9), ci)
        assert list(cbpp.confint(level=0.99).columns) == ["0.5 %", "99.5 %"]

    def test_wald_tests_of_unknown_precision_are_nan(self):
        z, p = inference.wald_tests(np.array([1.96, 1.0, 1.0]), np.array([1.0, np.nan, 0.0]))
        np.testing.assert_allclose(z, [1.96, np.nan, np.nan])
        np.testing.assert_allclose(p, [0.04999579, np.nan, np.nan], rtol=1e-6)

    def test_correlation_of_a_constant_is_nan(self):
        corr = inference.correlation(np.array([[4.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
        np.testing.assert_allclose(corr[:2, :2], [[1.0, 0.5], [0.5, 1.0]])
        assert np.isnan(corr[0, 2])


class TestFitStatistics:
    def test_log_likelihood_knows_its_degrees_of_freedom(self, sleepstudy):
        value = sleepstudy.logLik()
        assert issubclass(type(value), float)
        assert (value.df, value.nobs) == (6, 180)
        assert repr(value) == "'log Lik.' -875.9697 (df=6)"
        assert f"{value:.2f}" == "-875.97"
        again = pickle.loads(pickle.dumps(value))
        assert (again, again.df, again.nobs) == (value, 6, 180)

    def test_criteria(self, cbpp):
        record = records.MODELS["cbpp_logit"]
        assert cbpp.AIC() == pytest.approx(record["AIC"], abs=1e-5)
        assert cbpp.BIC() == pytest.approx(record["deviance"] + 5 * np.log(56), abs=1e-5)
        assert cbpp.df_residual() == 51  # lme4's df.residual
        assert cbpp.deviance() == pytest.approx(73.4717, abs=1e-4)

    def test_deviance_is_the_sum_of_squared_deviance_residuals(self, weighted_sleepstudy):
        squares = (weighted_sleepstudy.residuals() ** 2).sum()
        assert weighted_sleepstudy.deviance() == pytest.approx(squares)

    @pytest.mark.parametrize("type", ["deviance", "pearson", "response", "working"])
    @pytest.mark.parametrize("name", LME4_RESIDUALS)
    def test_residuals_are_those_of_lme4(self, name, type, weighted_sleepstudy):
        weighted = name == "sleepstudy_weights"
        model = weighted_sleepstudy if weighted else fitted.recorded(name)
        ours = model.residuals(type)
        np.testing.assert_allclose(ours[:6], LME4_RESIDUALS[name][type], rtol=1e-4, atol=2e-5)

    def test_rows_without_trials_have_no_residual_deviance(self):
        y, trials, ones = np.array([0.0, 1.0]), np.array([0.0, 2.0]), np.ones(2)
        for type in ("deviance", "pearson"):
            found = diagnostics.residuals(Binomial(), y, trials, ones, np.zeros(2), ones[:0], type)
            np.testing.assert_allclose(found, 0.0)

    def test_weight_zero_gives_residual_zero(self):
        weights = np.array([0.0, 1.0])
        rows = np.array([1.0, 5.0]), np.ones(2), weights, np.zeros(2), np.zeros(0)
        assert diagnostics.residuals(Poisson(), *rows, "deviance")[0] == 0.0
        assert diagnostics.deviance(Poisson(), *rows) == pytest.approx(2 * (5 * np.log(5) - 4))


class TestRows:
    @pytest.fixture
    def gappy(self):
        data = fitted.cbpp()
        data.index = pd.Index([f"row{i}" for i in range(56)])
        data["size"] = data["size"].astype(float)
        data.loc["row3", "size"] = np.nan
        data.loc["row7", "period"] = np.nan
        return data

    def test_dropped_rows_are_left_out(self, gappy):
        model = mlm.glmer(CBPP, gappy, "binomial")
        kept = gappy.index.drop(["row3", "row7"])
        for rows in (model.fitted(), model.residuals()):
            assert list(rows.index) == list(kept)
            assert rows.notna().all()
        assert model.nobs == 54
        probabilities = model.predict()
        assert probabilities.shape == (56,)
        assert list(np.flatnonzero(np.isnan(probabilities))) == [3, 7]
        np.testing.assert_allclose(probabilities[gappy.index.isin(kept)], model.fitted())
        assert "2 of 56 rows dropped" in str(model.summary())

    def test_dropped_rows_come_back_as_nan_where_asked(self, gappy):
        model = mlm.glmer(CBPP, gappy, "binomial", na_action="exclude")
        for rows in (model.fitted(), model.residuals()):
            assert list(rows.index) == list(gappy.index)
            assert list(rows.index[rows.isna()]) == ["row3", "row7"]
        assert "nan" not in str(model.summary()).lower()

    def test_rows_of_weight_zero_count_for_nothing(self, cbpp):
        data = fitted.cbpp()
        data["w"] = 1.0
        extra = data.iloc[:2].assign(w=0.0, incidence=0)
        model = mlm.glmer(CBPP, pd.concat([data, extra]), "binomial", weights="w")
        assert model.nobs == 56
        assert model.logLik() == pytest.approx(cbpp.logLik(), abs=1e-8)
        assert len(model.fitted()) == 58
        ours, without = model.summary().scaled_residuals, cbpp.summary().scaled_residuals
        np.testing.assert_allclose(ours, without, atol=1e-5)

    def test_a_polars_frame_gives_the_same_model(self, cbpp):
        data = fitted.cbpp().astype({"herd": str, "period": str})
        model = mlm.glmer(CBPP, pl.DataFrame(data.to_dict("list")), "binomial")
        assert model.logLik() == pytest.approx(cbpp.logLik(), abs=1e-9)
        np.testing.assert_allclose(model.fitted(), cbpp.fitted(), rtol=1e-5)
        new = pl.DataFrame({"period": ["2"], "herd": ["1"]})
        assert model.predict(new) == pytest.approx([cbpp.predict()[1]], rel=1e-5)


class TestHandedOut:
    def test_nothing_is_a_jax_array(self, sleepstudy):
        found = [
            sleepstudy.theta,
            sleepstudy.beta,
            sleepstudy.sigma,
            sleepstudy.logLik(),
            sleepstudy.AIC(),
            sleepstudy.BIC(),
            sleepstudy.deviance(),
            sleepstudy.predict(),
            sleepstudy.fitted().to_numpy(),
            sleepstudy.residuals("working").to_numpy(),
            *sleepstudy.optinfo.values(),
        ]
        assert not [value for value in found if isinstance(value, jax.Array)]
        assert sleepstudy.predict().dtype == sleepstudy.beta.dtype == np.float64
        assert type(sleepstudy.converged) is bool
        assert type(sleepstudy.isSingular()) is bool
        assert type(sleepstudy.nobs) is type(sleepstudy.df_residual()) is int

    def test_a_model_can_be_pickled(self, cbpp):
        again = pickle.loads(pickle.dumps(cbpp))
        assert again.logLik() == cbpp.logLik()
        np.testing.assert_array_equal(again.predict(fitted.cbpp()), cbpp.predict(fitted.cbpp()))

    def test_families_by_instance_class_and_name(self, cbpp):
        for family in (mlm.families.Binomial, "binomial", "Binomial"):
            assert mlm.glmer(CBPP, fitted.cbpp(), family).logLik() == cbpp.logLik()

    def test_attributes(self, cbpp):
        assert cbpp.formula == CBPP
        assert (cbpp.family.name, cbpp.family.link.name) == ("binomial", "logit")
        assert cbpp.optinfo["optimizer"] == "bfgs"
        assert cbpp.converged


class TestStart:
    @pytest.mark.parametrize("name", ["beta", "fixef"])
    def test_start_at_the_optimum(self, cbpp, name):
        start = {"theta": cbpp.theta, name: cbpp.beta}
        model = mlm.glmer(CBPP, fitted.cbpp(), "binomial", start=start)
        assert model.logLik() == pytest.approx(cbpp.logLik(), abs=1e-9)
        assert model.optinfo["evaluations"] <= cbpp.optinfo["evaluations"]

    def test_start_of_sigma(self, sleepstudy):
        data = records.frame(records.MODELS["sleepstudy_slope"])
        start = {"theta": sleepstudy.theta, "phi": [np.log(sleepstudy.sigma)]}
        model = mlm.glmer(sleepstudy.formula, data, "gaussian", start=start)
        assert model.logLik() == pytest.approx(sleepstudy.logLik(), abs=1e-8)


class TestVerdict:
    def test_a_clean_fit(self, cbpp):
        check = mlm.checkConv(cbpp)
        assert check.ok
        assert not check.singular
        assert check.separated == check.messages == ()
        assert 0 <= check.decrement < 1e-6
        assert str(check).startswith("converged: ")
        assert "log-likelihood units from the optimum" in str(check)

    def test_a_fit_cut_short_warns(self):
        with pytest.warns(mlm.ConvergenceWarning, match=r"not converged: .*checkConv") as caught:
            model = mlm.glmer(CBPP, fitted.cbpp(), "binomial", control=mlm.GlmerControl(maxfun=3))
        assert caught[0].filename == __file__
        assert not mlm.checkConv(model).ok
        assert not model.converged
        assert "promises" in str(mlm.checkConv(model))
        assert "not converged: " in str(model.summary())
        assert "not converged: " in str(model)

    def test_separation_is_named(self):
        data = fitted.cbpp()
        data.loc[data["period"] == "4", "incidence"] = 0
        with pytest.warns(mlm.ConvergenceWarning, match="period4"):
            model = mlm.glmer(CBPP, data, "binomial")
        check = mlm.checkConv(model)
        assert not check.ok
        assert check.separated == ("period4",)
        assert "period4" in check.messages[0]
        assert str(check) == f"not converged: {check.messages[0]}"

    def test_a_singular_fit_is_ok_and_says_so(self):
        # every group has the same counts: there is nothing for the groups to explain
        data = pd.DataFrame({"y": [1, 2, 3, 4] * 10, "g": np.repeat(np.arange(10), 4)})
        with pytest.warns(mlm.SingularFitWarning, match="boundary") as caught:
            model = mlm.glmer("y ~ 1 + (1 | g)", data, "poisson")
        assert caught[0].filename == __file__
        check = mlm.checkConv(model)
        assert check.ok
        assert check.singular
        assert model.isSingular()
        assert "log-likelihood units from the optimum; on the boundary: " in str(check)
        assert model.VarCorr().to_dataframe()["sdcor"].item() == pytest.approx(0, abs=1e-4)
        assert model.fixef()["(Intercept)"] == pytest.approx(np.log(2.5), rel=1e-6)
        assert model.vcov(full=True).loc["g.(Intercept)"].isna().all()
        # a Poisson mean's standard error on the log scale: 1 / sqrt(total count)
        np.testing.assert_allclose(model.vcov(), [[1 / 100]], rtol=1e-5)
        assert "no standard errors" in str(model.summary())


def test_blas_threads_are_limited_only_inside():
    before = [library["num_threads"] for library in _controller().info()]
    with single_blas_thread():
        blas = [lib for lib in _controller().info() if lib["user_api"] == "blas"]
        assert blas
        assert all(library["num_threads"] == 1 for library in blas)
    assert [library["num_threads"] for library in _controller().info()] == before


def test_the_package_names_what_it_offers():
    assert mlm.__version__ == "0.1.0"
    for name in mlm.__all__:
        assert hasattr(mlm, name), name
    assert issubclass(mlm.SingularFitWarning, mlm.MixedlmWarning)
