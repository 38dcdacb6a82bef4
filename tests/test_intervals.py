"""Confidence intervals of all parameters, and the profiles they come from."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import fitted
import jax
import numpy as np
import pandas as pd
import pytest
import records
from inference_records import INFERENCE

import mixedlm_jax as mlm
from mixedlm_jax.inference import Curve, Quantity, Survey, point_of
from mixedlm_jax.objective import LaplaceObjective
from mixedlm_jax.programs import objective_value

DOCUMENT = json.loads((records.FOLDER / "inference.json").read_text("utf-8"))
# Parameters in glmmTMB's order: fixed effects, then its theta.
COMPONENTS = {
    "cbpp_logit": ["sd_(Intercept)|herd"],
    "contraception_slope": [
        "sd_(Intercept)|district",
        "sd_urbanY|district",
        "cor_urbanY.(Intercept)|district",
    ],
    "grouseticks_three": [
        "sd_(Intercept)|BROOD",
        "sd_(Intercept)|INDEX",
        "sd_(Intercept)|LOCATION",
    ],
}


@pytest.mark.parametrize("name", list(INFERENCE))
def test_wald_intervals_are_glmmtmbs(name):
    ours = fitted.recorded(name).confint("beta_")
    assert list(ours.columns) == ["2.5 %", "97.5 %"]
    assert list(ours.index) == list(INFERENCE[name]["fixef"])
    np.testing.assert_allclose(ours, np.array(INFERENCE[name]["wald"]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", list(INFERENCE))
def test_profile_intervals_are_glmmtmbs(name):
    model = fitted.recorded(name)
    ours = model.confint(method="profile")
    assert set(ours.index) == {*COMPONENTS[name], *model.fixef()}
    theirs = np.array(INFERENCE[name]["profile"], object)
    expected = np.array([[np.nan if v is None else v for v in row] for row in theirs], float)
    found = ours.loc[[*model.fixef(), *COMPONENTS[name]]].to_numpy()
    # glmmTMB searches log sd, and finds no limit where the interval goes down to 0
    assert np.all(found[np.isnan(expected)] == 0.0)
    known = np.isfinite(expected)
    width = np.repeat(found[:, 1:] - found[:, :1], 2, axis=1)
    # its uniroot stops within eps^(1/4) = 1.2e-4 of a parameter, whatever the parameter's unit
    apart = np.maximum(2e-4 * width, 3e-5)
    assert np.all(np.abs(found - expected)[known] < apart[known])


def test_profile_intervals_are_lme4s_with_slopes_and_sigma():
    model = fitted.recorded("sleepstudy_slope")
    ours = model.confint(method="profile")
    assert list(ours.index) == DOCUMENT["sleepstudy"]["rows"]
    np.testing.assert_allclose(ours, DOCUMENT["sleepstudy"]["limits"], rtol=1e-3)


@pytest.mark.slow
def test_profile_interval_of_a_shape_is_glmmtmbs():
    epil = mlm.load_epil()
    model = mlm.glmer_nb("y ~ lbase * trt + (1 | subject)", epil)
    ours = model.confint("theta", method="profile")
    np.testing.assert_allclose(ours.to_numpy()[0], DOCUMENT["epil_shape"], rtol=1e-3)


def test_names_and_scales_of_wald_intervals():
    model = fitted.recorded("sleepstudy_slope")
    ours = model.confint(level=0.9)
    assert list(ours.columns) == ["5 %", "95 %"]
    assert list(ours.index) == DOCUMENT["sleepstudy"]["rows"]
    tidy = model.tidy("ran_pars", conf_int=True, conf_level=0.9)
    np.testing.assert_allclose(ours[:4], tidy[["conf.low", "conf.high"]], rtol=1e-10)
    assert list(model.confint("theta_").index) == DOCUMENT["sleepstudy"]["rows"][:4]
    assert list(model.confint("beta_").index) == ["(Intercept)", "Days"]
    picked = model.confint(["Days", "sigma"])
    assert list(picked.index) == ["Days", "sigma"]
    np.testing.assert_allclose(picked.loc["Days"], model.confint().loc["Days"])


def test_a_boundary_has_no_wald_interval_and_says_so():
    model = fitted.singular()
    ours = model.confint()
    assert ours.loc["sd_(Intercept)|g"].isna().all()
    assert np.isfinite(ours.loc["(Intercept)"]).all()
    assert 'method="profile"' in str(ours)


def test_a_standard_deviation_of_zero_is_reached():
    model = fitted.singular()
    ours = model.confint(method="profile")
    assert ours.loc["sd_(Intercept)|g", "2.5 %"] == 0.0
    assert "half chi2_0" in str(ours)
    # by definition of the upper limit: the likelihood there, all else maximised, by brute force
    upper = ours.loc["sd_(Intercept)|g", "97.5 %"]
    with jax.enable_x64(True):
        point = point_of(model.design, model.family, model.fit)
        objective = LaplaceObjective()

        def value(beta, sd):
            x = np.array([sd, beta])
            return float(objective_value(objective, point.problem, x, point.u))

        grid = np.linspace(model.beta[0] - 0.05, model.beta[0] + 0.05, 401)
        best = min(value(beta, upper) for beta in grid)
        top = value(model.beta[0], 0.0)
    np.testing.assert_allclose(2.0 * (best - top), 1.959964**2, atol=1e-4)


def test_zeta_curves():
    model = fitted.recorded("cbpp_logit")
    curves = model.profile()
    assert list(curves.columns) == ["parameter", "value", "zeta", "logLik"]
    assert list(dict.fromkeys(curves["parameter"])) == list(model.confint().index)
    for _, curve in curves.groupby("parameter"):
        assert np.all(np.diff(curve["value"]) > 0.0)
        assert np.all(np.diff(curve["zeta"]) > 0.0)
        assert curve["zeta"].min() == pytest.approx(-2.5758, abs=1e-4)
        assert curve["zeta"].max() == pytest.approx(2.5758, abs=1e-4)
        assert np.max(np.diff(curve["zeta"])) < 0.7
        np.testing.assert_allclose(
            curve["logLik"], float(model.logLik()) - 0.5 * curve["zeta"] ** 2
        )
    # the curve passes through the limits of the intervals
    limits = model.confint("period2", method="profile").to_numpy()[0]
    one = curves[curves["parameter"] == "period2"]
    np.testing.assert_allclose(
        np.interp(limits, one["value"], one["zeta"]), [-1.96, 1.96], atol=5e-3
    )


def test_the_slope_of_a_profile_is_its_derivative(x64):
    model = fitted.recorded("sleepstudy_slope")
    survey = Survey(LaplaceObjective(), point_of(model.design, model.family, model.fit))
    for quantity in (Quantity("cor", 1, 0, 0), Quantity("sd", 1, -1, 0), Quantity("phi", 0)):
        ground, chart = survey.of(quantity)
        tau, w = chart.split(np.asarray(ground.here.x))
        np.testing.assert_allclose(chart.place(tau, w), ground.here.x, rtol=1e-12)
        tau, w = tau * 1.01, w + 0.1
        slopes, h = chart.slopes(tau, w), 1e-6
        for j in range(len(tau) + 1):
            step = h * np.eye(len(tau) + 1)[j]
            above = chart.place(tau + step[:-1], w + step[-1])
            below = chart.place(tau - step[:-1], w - step[-1])
            np.testing.assert_allclose(slopes[:, j], (above - below) / (2 * h), atol=1e-7)
        curve = Curve(ground, chart)
        curve.limit(1, 1.5)
        curve.limit(1, 1.501)
        near = sorted(curve.spots[1], key=lambda spot: abs(spot.zeta - 1.5))[:2]
        first, second = sorted(near, key=lambda spot: spot.zeta)
        between = (second.zeta - first.zeta) / (second.w - first.w)
        assert min(first.slope, second.slope) * 0.999 < between
        assert between < max(first.slope, second.slope) * 1.001


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"parm": "period5"}, "did you mean"),
        ({"method": "score"}, "one of Wald, profile, boot"),
        ({"level": 1.0}, "between 0 and 1"),
        ({"level": 95, "method": "profile"}, "between 0 and 1"),
    ],
)
def test_what_there_is_no_interval_for(arguments, why):
    with pytest.raises(mlm.ArgumentError, match=why):
        fitted.recorded("cbpp_logit").confint(**arguments)


def test_models_without_a_profile():
    model = fitted.recorded("cbpp_logit")
    quasi = replace(model.call, family=mlm.families.QuasiFamily("mu*(1-mu)", "logit"))
    lost = replace(model.fit.verdict, ok=False)
    for other, why in (
        (replace(model, fit=replace(model.fit, nAGQ=0)), "nAGQ=1"),
        (replace(model, call=quasi), "no likelihood"),
        (replace(model, fit=replace(model.fit, verdict=lost)), "starts at an optimum"),
    ):
        with pytest.raises(mlm.ArgumentError, match=why):
            other.profile()


def test_a_fit_short_of_its_optimum_is_found_out():
    model = fitted.recorded("cbpp_logit")
    short = replace(model.fit, beta=model.beta + np.array([0.3, -0.3, 0.0, 0.0]))
    with pytest.raises(mlm.FitError, match="above the fit's"):
        replace(model, fit=short).confint("period3", method="profile")


@pytest.mark.parametrize("structure", ["diag", "cs", "homdiag", "ar1"])
@pytest.mark.slow
def test_other_structures_profile_as_equal_models(structure):
    """On a design where the structure says no more than another one, its profiles are those."""
    data = mlm.load_sleepstudy()
    formulas = {
        "diag": ("diag(Days | Subject)", "(Days || Subject)"),
        "cs": ("cs(Days | Subject)", "(Days | Subject)"),
        "homdiag": ("homdiag(1 | Subject)", "(1 | Subject)"),
        "ar1": ("ar1(0 + half | Subject)", "cs(0 + half | Subject)"),
    }
    data["half"] = pd.Categorical(np.where(data["Days"] < 5, "0", "1"))
    ours, theirs = (f"Reaction ~ Days + {term}" for term in formulas[structure])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlm.MixedlmWarning)
        first = mlm.glmer(ours, data).confint("beta_", method="profile")
        second = mlm.glmer(theirs, data).confint("beta_", method="profile")
        if structure != "ar1":  # one sd for both times, which cs has not
            first = mlm.glmer(ours, data).confint(method="profile")
            second = mlm.glmer(theirs, data).confint(method="profile")
            np.testing.assert_allclose(first, second, rtol=1e-4)
    assert np.isfinite(first).all(axis=None)
    assert np.isfinite(second).all(axis=None)
