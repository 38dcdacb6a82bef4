"""Likelihood-ratio tables, dropped terms, Wald tests of terms and of linear hypotheses."""

from __future__ import annotations

from dataclasses import replace

import fitted
import numpy as np
import pandas as pd
import pytest
from fitted import CBPP, cbpp
from inference_records import INFERENCE, other, rows_of, table

import mixedlm_jax as mlm
from mixedlm_jax.comparison import _Block, _covers, _obstacle, droppable_terms
from mixedlm_jax.families import Binomial, NegativeBinomial
from mixedlm_jax.formula import parse

# One shape of data more is seconds of compiling: all of a design's models at once are for the full
# run.
FIRST, *REST = INFERENCE
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in REST]
NAMES = [FIRST, *SLOW]
TESTED = [FIRST, REST[0], *SLOW[1:]]


# ----------------------------------------------------------------------------------------------
# Likelihood ratios


@pytest.mark.parametrize("name", NAMES)
def test_likelihood_ratios_are_rs(name):
    small, large = other(name, "smaller"), fitted.recorded(name)
    ours = mlm.anova(large, small)
    assert list(ours.index) == ["model2", "model1"]
    assert list(ours.columns) == [
        "npar", "AIC", "BIC", "logLik", "-2*log(L)", "Chisq", "Df", "Pr(>Chisq)",
    ]  # fmt: skip
    np.testing.assert_allclose(ours, table(INFERENCE[name]["anova"]), rtol=1e-4)
    assert any(large.formula in note for note in ours.notes)


@pytest.mark.parametrize("name", NAMES)
def test_dropped_terms_are_rs(name):
    model = fitted.recorded(name)
    ours = model.drop1(model.call.data.copy() if name == "cbpp_logit" else None)
    assert list(ours.index) == rows_of(INFERENCE[name], "drop1")
    assert list(ours.columns) == ["npar", "AIC", "LRT", "Pr(Chi)"]
    theirs = table(INFERENCE[name]["drop1"])
    np.testing.assert_allclose(ours, theirs[:, [0, 1, 2, 3]], rtol=1e-4)


def test_only_terms_that_no_other_contains_are_dropped():
    fixed = parse("y ~ a + b * c + log(d):b + (1 | g)").fixed
    dropped = [":".join(map(str, term)) for term in droppable_terms(fixed)]
    assert dropped == ["a", "b:c", "b:log(d)"]


def test_a_model_without_random_effects_is_the_null():
    model = fitted.recorded("cbpp_logit")
    null = mlm.glm("incidence / size ~ period", cbpp(), Binomial)
    rows = mlm.anova(model, null)
    # R: logLik(glm(cbind(incidence, size - incidence) ~ period, binomial, cbpp)) = -99.0292
    np.testing.assert_allclose(rows["logLik"], [-99.02919949, -92.02628186], atol=1e-6)
    # R: pchisq(14.005835, 1, lower.tail = FALSE)
    np.testing.assert_allclose(rows["Pr(>Chisq)"].iloc[1], 1.822e-4, rtol=1e-3)
    assert "test_random" in str(rows)


def test_without_random_effects_the_fit_is_rs_glm():
    # R: summary(glm(Reaction ~ Days, data = sleepstudy)); sigma of maximum likelihood
    data = mlm.load_sleepstudy()
    null = mlm.glm("Reaction ~ Days", data)
    slope, intercept = np.polyfit(data["Days"], data["Reaction"], 1)
    np.testing.assert_allclose(null.beta, [intercept, slope], rtol=1e-8)
    rest = data["Reaction"] - intercept - slope * data["Days"]
    np.testing.assert_allclose(null.sigma, np.sqrt(np.mean(rest**2)), rtol=1e-7)
    assert null.ranef() == {} == null.ngrps()
    assert "Generalized linear model fit" in str(null.summary())
    assert len(null.tidy("all")) == 3
    assert null.augment()[".hat"].sum() == pytest.approx(2.0)
    assert null.getME("Z").shape == (180, 0)


def test_glm_refuses_what_is_not_its_own():
    with pytest.raises(mlm.FormulaError, match=r"mlm\.glmer"):
        mlm.glm(CBPP, cbpp(), "binomial")
    null = mlm.glm("incidence / size ~ period", cbpp(), "binomial")
    with pytest.raises(mlm.ArgumentError, match="no random effects"):
        mlm.check_laplace(null)


def small_models(**changes):
    data = cbpp()
    return mlm.glmer(**{"formula": CBPP, "data": data, "family": "binomial", **changes})


def test_other_approximations_and_models_that_are_not_nested_have_no_test():
    large, small = fitted.recorded("cbpp_logit"), other("cbpp_logit", "smaller")
    probit = replace(small.call, family=Binomial("probit"))
    unrelated = replace(small.design, X=np.sin(np.arange(56.0))[:, None])
    for changes, why in (
        ({"fit": replace(small.fit, nAGQ=5)}, "nAGQ"),
        ({"fit": replace(small.fit, information="expected")}, "information"),
        ({"call": probit}, "families or links"),
        ({"call": replace(small.call, prior=mlm.priors.Normal())}, "a prior moved"),
        ({"design": unrelated}, "special case"),
    ):
        rows = mlm.anova(large, replace(small, **changes))
        assert rows[["Chisq", "Pr(>Chisq)"]].isna().all(axis=None)
        assert rows["logLik"].notna().all()
        assert any(why in note for note in rows.notes)
    assert "equally many" in str(mlm.anova(large, large))


def test_penalised_estimates_are_at_no_maximum():
    model = fitted.recorded("cbpp_logit")
    model = replace(model, call=replace(model.call, prior=mlm.priors.Normal()))
    for refused in (
        model.drop1,
        lambda: mlm.test_random(model, "(1 | herd)"),
        lambda: model.confint(method="profile"),
        model.profile,
    ):
        with pytest.raises(mlm.ArgumentError, match="this model's prior moved its estimates"):
            refused()


@pytest.mark.parametrize(
    ("small", "large", "is_covered"),
    [
        ("us a", "us a b c", True),
        ("us a, us b", "us a b", True),
        ("us a b", "us a, us b", False),
        ("us a b, us c", "us a b c", True),
        ("us a b", "us a, us b c", False),
        ("homdiag a b", "diag a b c", True),
        ("homdiag a b", "us a, us b c", True),
        ("us a b", "cs a b", True),
        ("diag a b", "cs a b c", True),
        ("cs a b", "cs a b c", True),
        ("us a b", "cs a b c", False),
        ("us a", "homdiag a b", False),
        ("homdiag a b c", "ar1 a b c", True),
        ("diag a b c", "ar1 a b c", False),
        ("ar1 a b c", "diag a b c", False),
        ("ar1 a b c", "cs a b c", False),
        ("ar1 a b c", "ar1 a b c", True),
        ("ar1 a b c", "us a b c", True),
    ],
)
def test_which_covariance_matrices_another_can_be(small, large, is_covered):
    def blocks(text):
        words = [part.split() for part in text.split(",")]
        return [_Block("g", frozenset(effects), structure) for structure, *effects in words]

    assert all(_covers(block, blocks(small)) for block in blocks(large)) is is_covered
    assert all(_covers(block, []) for block in blocks(large))


@pytest.mark.slow
def test_a_series_is_no_special_case_of_independent_effects():
    data = mlm.load_epil().assign(time=lambda d: "t" + d["period"].astype(str))
    formula = "y ~ 1 + {}(0 + time | subject)"
    series, independent = (
        mlm.glmer(formula.format(word), data, "poisson") for word in ("ar1", "diag")
    )
    rows = mlm.anova(series, independent)
    assert list(rows["npar"]) == [3, 5]
    assert rows[["Chisq", "Pr(>Chisq)"]].isna().all(axis=None)
    assert any("special case" in note for note in rows.notes)


def test_offsets_and_held_values_are_part_of_what_nesting_means():
    large, small = fitted.recorded("cbpp_logit"), other("cbpp_logit", "smaller")
    shifted = replace(small, design=replace(small.design, offset=np.sin(np.arange(56.0))))
    rows = mlm.anova(large, shifted)
    assert np.isnan(rows["Pr(>Chisq)"].iloc[1])
    assert any("special case" in note for note in rows.notes)
    in_the_span = replace(small, design=replace(small.design, offset=large.design.X[:, 1]))
    assert np.isfinite(mlm.anova(large, in_the_span)["Pr(>Chisq)"].iloc[1])
    for held, tested in ((None, True), (2.0, True), (3.0, False)):
        models = [
            replace(model, call=replace(model.call, family=NegativeBinomial(theta=theta)))
            for model, theta in ((small, held), (large, None if held is None else 2.0))
        ]
        assert (_obstacle(models[0], models[1], 1) is None) is tested


def test_what_cannot_be_compared_is_refused():
    model = fitted.recorded("cbpp_logit")
    holes = cbpp()
    holes.loc[0, "period"] = np.nan
    swapped = cbpp().assign(incidence=lambda d: d["size"] - d["incidence"])
    for changes, why in (
        ({"data": holes}, "different rows"),
        ({"data": swapped}, "code one response"),
        ({"weights": np.full(56, 2.0)}, "different weights"),
    ):
        with pytest.raises(mlm.ArgumentError, match=why):
            mlm.anova(model, small_models(**changes))
    quasi = replace(model.call, family=mlm.families.QuasiFamily("mu*(1-mu)", "logit"))
    with pytest.raises(mlm.ArgumentError, match="no likelihood"):
        mlm.anova(replace(model, call=quasi), model)
    with pytest.raises(mlm.ArgumentError, match="a model that glmer returned"):
        mlm.anova(model, "model")  # type: ignore[arg-type]
    with pytest.raises(mlm.ArgumentError, match="type"):
        mlm.anova(model, model, type="II")
    with pytest.raises(mlm.ArgumentError, match="one of II, III"):
        mlm.anova(model, type="I")


def test_missing_values_of_a_term_do_not_change_the_rows_in_silence():
    holes = cbpp().assign(x=np.sin(np.arange(56.0)))
    holes.loc[3, "x"] = np.nan
    model = small_models(formula="incidence / size ~ x + I(x^2) + I(x^3) + (1 | herd)", data=holes)
    holes["y"] = holes["x"]
    model = replace(model, call=model.call.revised(". ~ y + (1 | herd)", None, {}))
    with pytest.raises(mlm.ArgumentError, match="56 rows instead of 55"):
        model.drop1()


# ----------------------------------------------------------------------------------------------
# Wald tests


@pytest.mark.parametrize("name", TESTED)
@pytest.mark.parametrize(("type", "key"), [("II", "type_two"), ("III", "type_three")])
def test_terms_are_tested_as_by_car(name, type, key):
    ours = mlm.anova(other(name, "terms"), type=type)
    assert list(ours.index) == rows_of(INFERENCE[name], key)
    theirs = table(INFERENCE[name][key])
    np.testing.assert_allclose(ours["Chisq"], theirs[:, 0], rtol=1e-4)
    np.testing.assert_array_equal(ours["Df"], theirs[:, 1])
    np.testing.assert_allclose(ours["Pr(>Chisq)"], theirs[:, 2], rtol=5e-3)


@pytest.mark.parametrize("type", ["II", "III"])
def test_terms_do_not_depend_on_the_coding(type):
    model = other("contraception_slope", "terms")
    recoded = model.update(contrasts={"urban": "helmert", "livch": "poly"})
    np.testing.assert_allclose(
        mlm.anova(recoded, type=type), mlm.anova(model, type=type), rtol=1e-5, atol=1e-30
    )


def test_type_three_needs_every_column():
    data = cbpp().assign(same=lambda d: d["period"])
    model = small_models(formula="incidence / size ~ period + same + (1 | herd)", data=data)
    with pytest.raises(mlm.ArgumentError, match='type="II"'):
        mlm.anova(model, type="III")
    assert len(mlm.anova(model).notes) == 2


def test_linear_hypotheses_are_quadratic_forms():
    model = fitted.recorded("cbpp_logit")
    beta, V = model.beta, model.vcov().to_numpy()
    L = np.array([[0.0, 1.0, -1.0, 0.0], [0.5, 0.0, 2.0, 0.0]])
    r = np.array([0.0, -1.5])
    gap = L @ beta - r
    expected = gap @ np.linalg.solve(L @ V @ L.T, gap)
    texts = ["period2 = period3", "0.5 * (Intercept) + 2period3 - -1.5 = 0"]
    ours = mlm.linear_hypothesis(model, texts)
    assert list(ours.columns) == ["Df", "Chisq", "Pr(>Chisq)"]
    np.testing.assert_allclose(ours.iloc[0, :2], [2.0, expected], rtol=1e-10)
    alone = mlm.linear_hypothesis(model, "(Intercept) / 2 + 2 * period3 = -1.5")
    np.testing.assert_allclose(alone["Chisq"], gap[1] ** 2 / (L[1] @ V @ L[1]), rtol=1e-10)
    doubled = mlm.linear_hypothesis(model, L[:1], vcov=4.0 * model.vcov())
    np.testing.assert_allclose(
        doubled["Chisq"], mlm.linear_hypothesis(model, texts[:1])["Chisq"] / 4.0, rtol=1e-10
    )


def test_names_with_operators_in_them_are_names():
    model = fitted.recorded("contraception_slope")
    ours = mlm.linear_hypothesis(model, "100 * I(age^2) - age = 0")
    assert ours["Df"].iloc[0] == 1
    z = model.beta[2] / np.sqrt(model.vcov().to_numpy()[2, 2])
    np.testing.assert_allclose(mlm.linear_hypothesis(model, "I(age^2)")["Chisq"], z**2)
    assert mlm.linear_hypothesis(model, "livch3+ = livch2").index[0] == "livch3+ = livch2"


@pytest.mark.parametrize(
    ("hypothesis", "why"),
    [
        ("period5 = 0", "did you mean"),
        ("period2 * period3", "not linear"),
        ("period2 = 1 = 2", "several"),
        ("period2 - period2", "says nothing"),
        ("period2 + ", "a term is missing"),
        (["period2", "period2 = 1"], "repeat or contradict"),
        (np.ones((1, 3)), "a column for each"),
        ([], "empty"),
        (3, "column for each"),
    ],
)
def test_hypotheses_that_are_none(hypothesis, why):
    with pytest.raises(mlm.ArgumentError, match=why):
        mlm.linear_hypothesis(fitted.recorded("cbpp_logit"), hypothesis)


def test_notes_stay_with_a_table():
    rows = mlm.anova(fitted.recorded("cbpp_logit"))
    assert isinstance(rows, pd.DataFrame)
    assert rows.notes
    assert rows.round(2).notes == rows.notes == rows[["Chisq"]].notes
    assert rows.notes[0] in str(rows)
    assert rows.notes[0] in rows._repr_html_()
    assert "..." not in str(mlm.anova(*[fitted.recorded("cbpp_logit")] * 2))


# ----------------------------------------------------------------------------------------------
# Variances


@pytest.mark.slow
def test_a_slope_has_a_variance():
    # R: anova of lmer(Reaction ~ Days + (1 | Subject), sleepstudy, REML = FALSE) and the model with
    # (Days | Subject) has Chisq 42.139; the p-value is the mean of pchisq with 1 and with 2 df
    model = fitted.recorded("sleepstudy_slope")
    row = mlm.test_random(model, "(0 + Days | Subject)", method="mixture").iloc[0]
    np.testing.assert_allclose(row["LRT"], 42.1393, atol=1e-4)
    np.testing.assert_allclose(row["Pr(>LRT)"], 3.9612e-10, rtol=1e-3)


def test_the_only_effect_leaves_a_model_without():
    model = fitted.recorded("cbpp_logit")
    for term in ("(1 | herd)", "herd"):
        row = mlm.test_random(model, term, method="mixture").iloc[0]
        null = mlm.glm("incidence / size ~ period", cbpp(), "binomial")
        np.testing.assert_allclose(row["logLik null"], float(null.logLik()), rtol=1e-9)
        np.testing.assert_allclose(row["Pr(>LRT)"], 0.5 * 1.8222e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("term", "method", "why"),
    [
        ("(1 | herd)", "score", "one of bootstrap, mixture"),
        ("(1 | farm)", "mixture", "no random effect"),
        ("(period | herd)", "mixture", "no random effect"),
        ("period", "mixture", "re_form|term is"),
        (None, "mixture", "term is None"),
    ],
)
def test_variances_that_cannot_be_tested(term, method, why):
    with pytest.raises(mlm.ArgumentError, match=why):
        mlm.test_random(fitted.recorded("cbpp_logit"), term, method)


def test_several_variances_are_not_a_mixture_of_two():
    model = fitted.recorded("sleepstudy_slope")
    with pytest.raises(mlm.ArgumentError, match="2 random effects"):
        mlm.test_random(model, "Subject", method="mixture")
