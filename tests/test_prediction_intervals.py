"""Standard errors and intervals of predictions, and population averages."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import fitted
import numpy as np
import pandas as pd
import pytest
import records

import mixedlm_jax as mlm
from mixedlm_jax import plan, uncertainty
from mixedlm_jax.inference import row_uncertainty
from mixedlm_jax.plan import Crossing

REFERENCE = {
    model["id"]: model
    for model in json.loads((records.FOLDER / "predictions.json").read_text("utf-8"))["models"]
}


@pytest.fixture(scope="module", params=list(REFERENCE))
def case(request):
    name = request.param
    return REFERENCE[name], fitted.recorded(name), records.frame(records.MODELS[name])


def agrees(found: pd.DataFrame, reference: dict) -> None:
    """glmmTMB differences its gradient for the Hessian: its errors are good to about 1e-3."""
    np.testing.assert_allclose(found["fit"], reference["fit"], rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(found["se.fit"], reference["se"], rtol=5e-4)


def sds(model: mlm.GlmerResult) -> np.ndarray:
    return np.concatenate(
        [np.sqrt(np.diagonal(part.covariance)) for part in model.VarCorr().components]
    )


def test_standard_errors_are_those_of_glmmTMB(case):
    reference, model, data = case
    rows = data.iloc[:12]
    for newdata in (None, rows):
        own = model.predict(newdata, type="link", se_fit=True).iloc[:12]
        agrees(own, reference["link"])
        agrees(model.predict(newdata, se_fit=True).iloc[:12], reference["response"])
    typical = model.predict(rows, type="link", re_form="~0", se_fit=True)
    agrees(typical, reference["typical"])


def test_new_levels_have_their_prior_variance(case):
    reference, model, data = case
    unseen = data.iloc[:12].assign(**{reference["group"]: "unseen"})
    found = model.predict(unseen, type="link", allow_new_levels=True, se_fit=True)
    agrees(found, reference["unseen"])


def test_levels_that_never_met():
    reference = REFERENCE["grouseticks_three"]
    data = records.frame(records.MODELS["grouseticks_three"])
    name = reference["exchanged"]
    mixed = data.iloc[:12].assign(**{name: data[name].to_numpy()[::-1][:12]})
    found = fitted.recorded("grouseticks_three").predict(mixed, type="link", se_fit=True)
    agrees(found, reference["mixed"])


def test_a_corner_that_is_not_formed_is_solved_for(monkeypatch):
    model = fitted.recorded("grouseticks_three")
    data = records.frame(records.MODELS["grouseticks_three"])
    mixed = data.iloc[:12].assign(LOCATION=data["LOCATION"].to_numpy()[::-1][:12])
    expected = model.predict(mixed, type="link", se_fit=True)
    unformed = []

    def observed(params, problem, *arguments):
        unformed.append(problem.plan.unformed is not None)
        return row_uncertainty(params, problem, *arguments)

    monkeypatch.setattr(uncertainty, "row_uncertainty", observed)
    monkeypatch.setattr(plan, "_DENSE_WORK", 1e12)  # else it is formed, as that is less work
    other = replace(model, fit=replace(model.fit, crossing=Crossing(max_columns=0)))
    found = other.predict(mixed, type="link", se_fit=True)
    assert unformed == [True]
    pd.testing.assert_frame_equal(found, expected, rtol=1e-6)


def test_part_of_the_random_effects_has_its_own_uncertainty():
    model = fitted.recorded("grouseticks_three")
    data = records.frame(records.MODELS["grouseticks_three"]).iloc[:20]
    own = model.predict(type="link", re_form="~(1 | BROOD)", se_fit=True).iloc[:20]
    new = model.predict(data, type="link", re_form="~(1 | BROOD)", se_fit=True)
    pd.testing.assert_frame_equal(own, new, rtol=1e-8)
    whole = model.predict(type="link", se_fit=True).iloc[:20]
    assert np.all(np.abs(own["se.fit"] - whole["se.fit"]) > 1e-3)


def test_confidence_intervals_are_transformed():
    model = fitted.recorded("cbpp_logit")
    link = model.predict(type="link", se_fit=True, interval="confidence", level=0.9)
    half = 1.6448536269514722 * link["se.fit"]
    np.testing.assert_allclose(link["lower"], link["fit"] - half)
    np.testing.assert_allclose(link["upper"], link["fit"] + half)
    found = model.predict(interval="confidence", level=0.9)
    assert list(found.columns) == ["fit", "lower", "upper"]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-link[["fit", "lower", "upper"]])))


def test_missing_values_and_the_index():
    model = fitted.recorded("cbpp_logit")
    new = fitted.cbpp().head(3).set_axis(["a", "b", "c"])
    new.loc["b", "period"] = np.nan
    found = model.predict(new, se_fit=True)
    assert list(found.index) == ["a", "b", "c"]
    assert found.isna().all(axis=1).tolist() == [False, True, False]
    nothing = model.predict(new.iloc[[1]], se_fit=True, interval="prediction")
    assert nothing.isna().all(axis=None)


def test_prediction_intervals_of_a_linear_model_are_normal():
    model = fitted.recorded("sleepstudy_slope")
    found = model.predict(type="response", se_fit=True, interval="prediction", seed=1)
    sd = np.sqrt(found["se.fit"] ** 2 + model.sigma**2)
    width = (found["upper"] - found["lower"]) / (2 * 1.959963984540054 * sd)
    # 4000 draws: a limit has an error of about 4 %
    assert np.all(np.abs(width - 1) < 0.1)
    assert abs(width.mean() - 1) < 0.01
    again = model.predict(se_fit=True, interval="prediction", seed=1)
    pd.testing.assert_frame_equal(found, again)


def test_prediction_intervals_of_new_levels_cover():
    model = fitted.recorded("cbpp_logit")
    new = pd.DataFrame({"period": ["1"], "herd": ["unseen"], "size": [20]})
    found = model.predict(new, interval="prediction", allow_new_levels=True, level=0.8, seed=3)
    mean = model.predict(new, type="link", re_form="~0", se_fit=True).iloc[0]
    rng = np.random.default_rng(5)
    sd = np.sqrt(mean["se.fit"] ** 2 + sds(model)[0] ** 2)
    p = 1 / (1 + np.exp(-rng.normal(mean["fit"], sd, 200_000)))
    y = rng.binomial(20, p)
    np.testing.assert_allclose(
        found[["lower", "upper"]].iloc[0] * 20,
        np.quantile(y, [0.1, 0.9], method="inverted_cdf"),
        atol=1.0,
    )
    with pytest.raises(mlm.ArgumentError, match="trials"):
        model.predict(new.drop(columns="size"), interval="prediction", allow_new_levels=True)


def test_population_averages():
    model = fitted.recorded("grouseticks_three")
    variance = np.sum(sds(model) ** 2)
    typical = model.predict(type="link", re_form="~0")
    expected = np.exp(typical + variance / 2)
    np.testing.assert_allclose(model.predict(re_form="marginal"), expected, rtol=1e-9)
    np.testing.assert_allclose(
        model.predict(type="link", re_form="marginal"), typical + variance / 2, rtol=1e-9
    )


def test_population_averages_with_slopes_and_without_groups():
    model = fitted.recorded("contraception_slope")
    data = records.frame(records.MODELS["contraception_slope"]).iloc[:30]
    no_groups = data.drop(columns="district")
    found = model.predict(no_groups, re_form="marginal")
    rng = np.random.default_rng(2)
    lower = model.fit.factors[0]
    b = lower @ rng.normal(size=(2, 200_000))
    urban = (data["urban"] == "Y").to_numpy(float)
    typical = model.predict(data, type="link", re_form="~0")
    for i in (0, 5, 29):
        eta = typical[i] + b[0] + urban[i] * b[1]
        assert abs(np.mean(1 / (1 + np.exp(-eta))) - found[i]) < 2e-3


def test_the_average_of_toenail_at_the_start():
    formula = "y ~ treatment * time + (1 | patientID)"
    model = mlm.glmer(formula, mlm.load_toenail(), "binomial", nAGQ=25)
    new = pd.DataFrame({"time": [0.0], "treatment": ["itraconazole"]})
    average = model.predict(new, re_form="marginal")[0]
    sd = sds(model)[0]
    eta = model.predict(new, type="link", re_form="~0")[0]
    x = np.linspace(-9, 9, 20_001)
    density = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    expected = np.sum(density / (1 + np.exp(-eta - sd * x))) * (x[1] - x[0])
    np.testing.assert_allclose(average, expected, rtol=1e-7)
    assert round(average, 3) == 0.356


def test_bad_arguments():
    model = fitted.recorded("cbpp_logit")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"interval": "credible"}, "interval is 'credible'"),
        ({"se_fit": True, "level": 95}, "level is 95"),
        ({"se_fit": True, "type": "zprob"}, "no structural zeros"),
        ({"interval": "prediction", "type": "link"}, "type='response'"),
    ]
    for arguments, match in cases:
        with pytest.raises(mlm.ArgumentError, match=match):
            model.predict(**arguments)
