"""Predictions: against the recorded ones, on new data, and for part of the random effects."""

from __future__ import annotations

import fitted
import numpy as np
import pandas as pd
import pytest
import records

import mixedlm_jax as mlm
from mixedlm_jax.predict import linear_predictor, spread

MODELS = [
    "cbpp_logit",
    "sleepstudy_slope",
    "contraception_slope",
    "grouseticks_nested",
    "sim_offset_poisson",
]


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    record = records.MODELS[request.param]
    return record, fitted.recorded(request.param), records.frame(record)


def test_predictions_are_the_recorded_ones(case):
    record, model, data = case
    used = np.flatnonzero(model.labels.kept)[:10]
    for newdata in (None, data):
        link = model.predict(newdata, type="link")[used]
        response = model.predict(newdata)[used]
        typical = model.predict(newdata, type="link", re_form="~0")[used]
        np.testing.assert_allclose(link, record["predict_link_first10"], atol=1e-4, rtol=1e-6)
        np.testing.assert_allclose(
            response, record["predict_response_first10"], atol=1e-4, rtol=1e-6
        )
        np.testing.assert_allclose(
            typical, record["predict_link_fixed_first10"], atol=1e-4, rtol=1e-6
        )


def test_new_rows_in_any_order(case):
    _, model, data = case
    order = np.random.default_rng(1).permutation(len(data))
    np.testing.assert_allclose(model.predict(data.iloc[order]), model.predict()[order], rtol=1e-10)


def test_the_default_is_the_fitted_mean(case):
    _, model, _ = case
    np.testing.assert_allclose(model.predict()[model.labels.kept], model.fitted(), rtol=1e-10)


def test_part_of_the_random_effects():
    model = fitted.recorded("grouseticks_nested")
    data = records.frame(records.MODELS["grouseticks_nested"])
    fixed = model.predict(type="link", re_form="NA")
    locations = model.ranef()["LOCATION"]["(Intercept)"]
    broods = model.ranef()["BROOD:LOCATION"]["(Intercept)"]
    by_location = data["LOCATION"].astype(str).map(locations).to_numpy()
    by_brood = (
        (data["BROOD"].astype(str) + ":" + data["LOCATION"].astype(str)).map(broods).to_numpy()
    )
    for re_form, effects in {
        "~(1 | LOCATION)": by_location,
        "~ (1|BROOD:LOCATION)": by_brood,
        "~(1 | LOCATION / BROOD)": by_location + by_brood,
    }.items():
        for newdata in (None, data):
            found = model.predict(newdata, type="link", re_form=re_form)
            np.testing.assert_allclose(found, fixed + effects, rtol=1e-10)
    np.testing.assert_array_equal(fixed, model.predict(type="link", re_form="~0"))


def test_part_of_one_factors_effects():
    model = fitted.recorded("sleepstudy_slope")
    data = records.frame(records.MODELS["sleepstudy_slope"])
    modes = model.ranef()["Subject"]
    days = data["Days"].to_numpy() * data["Subject"].astype(str).map(modes["Days"]).to_numpy()
    found = model.predict(re_form="~(0 + Days | Subject)")
    np.testing.assert_allclose(found, model.predict(re_form="~0") + days, rtol=1e-10)


def test_predicting_the_typical_group_needs_no_groups():
    model = fitted.recorded("cbpp_logit")
    new = pd.DataFrame({"period": ["4", "1"]})
    beta = model.fixef()
    link = model.predict(new, type="link", re_form="~0")
    np.testing.assert_allclose(
        link, [beta["(Intercept)"] + beta["period4"], beta["(Intercept)"]], rtol=1e-12
    )
    np.testing.assert_allclose(model.predict(new, re_form="~0"), 1 / (1 + np.exp(-link)))


def test_new_levels_have_no_effect_where_allowed():
    model = fitted.recorded("cbpp_logit")
    new = pd.DataFrame({"period": ["2", "2"], "herd": ["1", "elsewhere"]})
    found = model.predict(new, type="link", allow_new_levels=True)
    beta = model.fixef()["(Intercept)"] + model.fixef()["period2"]
    own = model.ranef()["herd"]["(Intercept)"].to_numpy()[0]
    np.testing.assert_allclose(found, [beta + own, beta], rtol=1e-12)
    with pytest.raises(mlm.DataError, match="'elsewhere'"):
        model.predict(new)


def test_missing_values_give_nan():
    model = fitted.recorded("cbpp_logit")
    new = fitted.cbpp().head(4)
    new.loc[1, "period"] = np.nan
    new.loc[2, "herd"] = np.nan
    assert list(np.isnan(model.predict(new))) == [False, True, True, False]
    assert list(np.isnan(model.predict(new, re_form="~0"))) == [False, True, False, False]


def test_the_offset_of_new_rows_counts():
    model = fitted.recorded("sim_offset_poisson")
    data = records.frame(records.MODELS["sim_offset_poisson"]).iloc[:5]
    later = data.assign(log_time=data["log_time"] + np.log(2))
    np.testing.assert_allclose(model.predict(later), 2 * model.predict(data), rtol=1e-10)


def test_linear_predictor_of_rows_without_a_level():
    eta = linear_predictor(
        X=np.ones((3, 1)),
        beta=np.array([10.0]),
        offset=np.array([0.0, 0.0, 0.5]),
        Z=[np.array([[1.0, 1.0, 1.0], [2.0, 3.0, 4.0]])],
        levels=[np.array([0, -1, 1])],
        b=[np.array([[1.0, 2.0], [0.1, 0.2]])],
    )
    np.testing.assert_allclose(eta, [11.2, 10.0, 13.3])


def test_spread_keeps_the_order():
    found = spread(np.array([1.0, 2.0]), np.array([True, False, True]))
    np.testing.assert_array_equal(found, [1.0, np.nan, 2.0])
