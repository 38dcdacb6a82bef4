"""Bad arguments get one sentence: what was found, what was expected, what to try."""

from __future__ import annotations

import re

import fitted
import numpy as np
import pytest
from fitted import CBPP

import mixedlm_jax as mlm


@pytest.fixture(scope="module")
def model():
    return fitted.recorded("cbpp_logit")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"family": "binomail"}, "ArgumentError", "'binomail' is not a family.*Binomial.*poisson"),
        ({"family": 3}, "ArgumentError", "3 is not a family"),
        ({"family": None}, "ArgumentError", "None is not a family"),
        ({"nAGQ": 102}, "ArgumentError", "nAGQ is 102; with 1 random effect .* at most 101"),
        ({"nAGQ": -1}, "ArgumentError", "nAGQ is -1; give 1 for the Laplace approximation, 0 "),
        ({"nAGQ": 0.5}, "ArgumentError", "nAGQ is 0.5"),
        ({"nAGQ": True}, "ArgumentError", "nAGQ is True"),
        ({"nAGQ": "Laplace"}, "ArgumentError", "nAGQ is 'Laplace'"),
        ({"nAGQ": [1]}, "ArgumentError", r"nAGQ is \[1\]"),
        ({"control": {"maxfun": 3}}, "ArgumentError", "control is a dict; give a GlmerControl"),
        ({"start": [0.5]}, "ArgumentError", "start is a list; give a dict"),
        ({"start": {"sd": 1}}, "ArgumentError", "no part 'sd'.*theta, beta and phi"),
        ({"start": {"theta": [1, 2]}}, "ArgumentError", r"\(2,\); the model has 1 such"),
        ({"start": {"theta": [np.nan]}}, "ArgumentError", "give finite numbers"),
        (
            {"start": {"beta": [0] * 4, "fixef": [0] * 4}},
            "ArgumentError",
            "both 'beta' and 'fixef'",
        ),
        ({"na_action": "pass"}, "ArgumentError", "na_action is 'pass'; expected one of omit"),
        ({"weights_type": "case"}, "ArgumentError", "weights_type is 'case'.*prior, frequency"),
        ({"formula": 3}, "FormulaError", "a formula is a string.*found int"),
        ({"data": 3}, "DataError", "DataFrame.*found int"),
    ],
)
def test_arguments_of_glmer(arguments, error, message):
    given = {"formula": CBPP, "data": fitted.cbpp(), "family": "binomial", "weights": None}
    with pytest.raises(getattr(mlm, error), match=message) as caught:
        mlm.glmer(**(given | arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "link"), [("Binomial", "logot"), ("Poisson", "logit"), ("Gaussian", 3)]
)
def test_links(family, link):
    with pytest.raises(mlm.ArgumentError, match=f"has no link {link!r}; choose one of"):
        getattr(mlm.families, family)(link=link)


def test_whole_floats_count_as_whole():
    assert mlm.GlmerControl(maxfun=1e4).maxfun == 10_000  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"optimizer": "sgd"}, "there is no optimizer 'sgd'; choose one of bfgs, bobyqa"),
        ({"maxfun": 0}, "maxfun is 0; give a whole number from 1"),
        ({"maxfun": 10.5}, "maxfun is 10.5; give a whole number from 1"),
        ({"maxfun": "3"}, "maxfun is '3'; give a whole number from 1"),
        ({"tol": None}, "tol is None; give a number between 0 and 1"),
        ({"tol": 2.0}, "tol is 2.0; give a number between 0 and 1"),
        ({"information": "fisher"}, "no information 'fisher'; choose one of observed, expected"),
    ],
)
def test_settings_of_a_fit(setting, message):
    with pytest.raises(mlm.ArgumentError, match=message):
        mlm.GlmerControl(**setting)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.residuals("raw"), "no residuals of type 'raw'; choose one of deviance, pear"),
        (lambda m: m.predict(type="mean"), "no type 'mean'; choose one of response, link"),
        (lambda m: m.predict(re_form="~(1 | cow)"), "'cow', which is none of the model's: herd"),
        (lambda m: m.predict(re_form="~(size | herd)"), "effect 'size' by 'herd'"),
        (lambda m: m.predict(re_form="none"), "re_form must be None, '~0', 'NA' or .*'none'"),
        (lambda m: m.predict(re_form=0), "re_form must be None, '~0', 'NA' or .*found 0"),
        (lambda m: m.confint("period9"), "'period9', which is no parameter.*period2"),
        (lambda m: m.confint(level=95), "level is 95; it must lie between 0 and 1"),
        (lambda m: m.confint(method="score"), "no method 'score'.*Wald"),
    ],
)
def test_arguments_of_methods(model, call, message):
    with pytest.raises(mlm.ArgumentError, match=message) as caught:
        call(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.drop(columns="period"), "'period' is not in the newdata"),
        (lambda data: data.drop(columns="herd"), "'herd' is not in the newdata"),
        (lambda data: data.assign(period="9"), "'period' has the level '9' in newdata.*1, 2, 3, 4"),
        (lambda data: data.assign(herd="99"), "level '99' in newdata.*allow_new_levels=True"),
        (lambda data: data["period"], "newdata must be a .*DataFrame"),
        (lambda data: {"period": ["1"]}, "newdata must be a .*DataFrame.*found dict"),
    ],
)
def test_newdata(model, change, message):
    with pytest.raises(mlm.DataError, match=message) as caught:
        model.predict(change(fitted.cbpp()))
    assert "\n" not in str(caught.value)


def test_an_offset_that_was_an_array_cannot_be_predicted_from():
    data = fitted.cbpp()
    model = mlm.glmer(CBPP, data, "binomial", offset=np.full(56, 0.1))
    assert model.predict().shape == (56,)
    with pytest.raises(mlm.ArgumentError, match=re.escape("offset= was an array")):
        model.predict(data)


def test_what_is_of_the_wrong_kind_is_said_to_be(model):
    with pytest.raises(mlm.ArgumentError, match=r"checkConv takes a model .*, found 3"):
        mlm.checkConv(3)  # type: ignore[arg-type]
    with pytest.raises(mlm.ArgumentError, match="parm names 0"):
        model.confint(parm=0)
    with pytest.raises(mlm.ArgumentError, match=r"level is '0\.9'"):
        model.confint(level="0.9")
    with pytest.raises(mlm.ArgumentError, match=r"no residuals of type \['pearson'\]"):
        model.residuals(["pearson"])
    with pytest.raises(mlm.ArgumentError, match="contrasts are 'sum'; give a dict"):
        mlm.glmer(CBPP, fitted.cbpp(), "binomial", contrasts="sum")  # type: ignore[arg-type]
