"""Shares of variance and variance inflation, against their formulas written out."""

from __future__ import annotations

import fitted
import numpy as np
import pytest
import records

import mixedlm_jax as mlm


def test_binomial_with_a_slope():
    model = fitted.recorded("contraception_slope")
    data = records.frame(records.MODELS["contraception_slope"])
    urban = (data["urban"] == "Y").to_numpy(float)
    sigma = model.VarCorr().components[0].covariance
    random = sigma[0, 0] + 2 * sigma[0, 1] * urban.mean() + sigma[1, 1] * np.mean(urban**2)
    fixed = np.var(model.predict(type="link", re_form="~0"), ddof=1)
    total = fixed + random + np.pi**2 / 3
    found = mlm.r2_nakagawa(model)
    np.testing.assert_allclose(found.marginal, fixed / total, rtol=1e-10)
    np.testing.assert_allclose(found.conditional, (fixed + random) / total, rtol=1e-10)
    shares = mlm.icc(model)
    np.testing.assert_allclose(shares.adjusted, random / (random + np.pi**2 / 3), rtol=1e-10)
    np.testing.assert_allclose(shares.unadjusted, random / total, rtol=1e-10)


def test_counts_with_an_effect_of_each_row():
    model = fitted.recorded("grouseticks_three")
    variances = {part.group: part.covariance[0, 0] for part in model.VarCorr().components}
    eta = model.predict(type="link", re_form="~0")
    mean = np.mean(np.exp(eta + sum(variances.values()) / 2))
    within = variances["INDEX"] + np.log(1 + 1 / mean)
    between = variances["BROOD"] + variances["LOCATION"]
    fixed = np.var(eta, ddof=1)
    found = mlm.r2_nakagawa(model)
    total = fixed + between + within
    np.testing.assert_allclose(
        [found.marginal, found.conditional], [fixed / total, (fixed + between) / total], rtol=1e-8
    )
    shares = mlm.icc(model)
    expected = {g: variances[g] / (between + within) for g in ("BROOD", "LOCATION")}
    assert shares.by_group == pytest.approx(expected, rel=1e-8)


def test_the_linear_model_has_its_residual_variance():
    found = mlm.r2_nakagawa(fitted.recorded("sleepstudy_slope"))
    sigma = records.MODELS["sleepstudy_slope"]["sigma"]
    np.testing.assert_allclose(found.variances.residual, sigma**2, rtol=1e-4)


def test_inflation_of_terms():
    model = fitted.recorded("contraception_slope")
    names = list(model.fixef())[1:]
    covariance = model.vcov().to_numpy()[1:, 1:]
    sd = np.sqrt(np.diag(covariance))
    whole = covariance / np.outer(sd, sd)
    found = mlm.vif(model)["GVIF"].to_dict()
    # for one coefficient: the diagonal of the inverse of the correlation matrix
    inverse = np.diag(np.linalg.inv(whole))
    np.testing.assert_allclose(found["age"], inverse[names.index("age")])
    several = np.array([name.startswith("livch") for name in names])
    parts = [np.linalg.det(whole[np.ix_(part, part)]) for part in (several, ~several)]
    expected = np.prod(parts) / np.linalg.det(whole)
    np.testing.assert_allclose(found["livch"], expected)
    comparable = mlm.vif(model)["GVIF^(1/(2*Df))"].to_dict()
    np.testing.assert_allclose(comparable["livch"], expected ** (1 / 6))
    with pytest.raises(mlm.ArgumentError, match="has 1 besides"):
        mlm.vif(fitted.recorded("cbpp_logit"))


def test_what_has_no_shares():
    with pytest.raises(mlm.ArgumentError, match="glmer returned"):
        mlm.icc("a model")  # type: ignore[arg-type]
