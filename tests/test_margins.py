"""Marginal means, contrasts, average slopes and comparisons, and uncertain predictions."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import fitted
import jax
import numpy as np
import pandas as pd
import pytest
import records
from scipy.special import erfc
from scipy.stats import false_discovery_control, studentized_range

import mixedlm_jax as mlm
from mixedlm_jax.adjustment import METHODS, adjusted_tests, critical_value, range_tail
from mixedlm_jax.expectation import Parameters

REFERENCE: dict[str, Any] = json.loads((records.FOLDER / "margins.json").read_text("utf-8"))
MEANS = [
    pytest.param(group["id"], group["formula"], means, id=f"{group['id']}-{i}{j}")
    for i, group in enumerate(REFERENCE["emmeans"])
    for j, means in enumerate(group["means"])
]
# glmmTMB takes differences of its gradient for the Hessian: its errors are good to about 1e-4
SE = 5e-4


@cache
def model_of(name: str, formula: str | None) -> mlm.GlmerResult:
    return fitted.recorded(name) if formula is None else fitted.recorded(name).update(formula)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def numbers(value: Any) -> np.ndarray:
    return np.array(list(value.values()) if isinstance(value, dict) else as_list(value), float)


def agrees(found: pd.DataFrame, reference: dict[str, Any]) -> None:
    """Names differ by scale in R: what the estimate is called there comes before its SE."""
    estimate = list(reference)[list(reference).index("SE") - 1]
    own = {
        "estimate": estimate,
        "std.error": "SE",
        "statistic": "z.ratio",
        "p.value": "p.value",
        "conf.low": "asymp.LCL",
        "conf.high": "asymp.UCL",
    }
    for ours, theirs in own.items():
        if ours in found:
            expected = numbers(reference[theirs])
            if ours.startswith("conf"):  # errors of the limits are those of a few standard errors
                away = np.abs(found[ours] - expected) / found["std.error"]
                assert np.max(away) < 4 * SE, ours
                continue
            rtol = 5e-3 if ours == "p.value" else SE
            np.testing.assert_allclose(found[ours], expected, rtol=rtol, atol=2e-5, err_msg=ours)


# Estimated marginal means


@pytest.mark.parametrize(("name", "formula", "reference"), MEANS)
def test_means_and_contrasts_are_those_of_emmeans(name, formula, reference):
    model = model_of(name, formula)
    given = {"by": reference["by"], "at": reference["at"]}
    means = mlm.emmeans(model, reference["specs"], **given)
    table = means.to_dataframe()
    for variable in [*as_list(reference["specs"]), *as_list(reference["by"] or [])]:
        assert list(table[variable].astype(str)) == reference["link"][variable]
    agrees(table, reference["link"])
    for adjust, expected in reference["pairs"].items():
        found = means.pairs(adjust=adjust)
        assert list(found["contrast"]) == expected["contrast"]
        if reference["by"]:
            assert list(found[reference["by"]]) == expected[reference["by"]]
        agrees(found, expected)
    agrees(means.contrast("trt.vs.ctrl", "holm"), reference["control"])
    agrees(means.contrast("consec", "sidak"), reference["consec"])
    agrees(means.contrast("eff", "fdr"), reference["eff"])

    response = mlm.emmeans(model, reference["specs"], type="response", **given)
    agrees(response.to_dataframe(), reference["response"])
    regrid = mlm.emmeans(model, reference["specs"], regrid=True, **given)
    agrees(regrid.to_dataframe(), reference["regrid"])
    for adjust in ("tukey", "holm"):
        found = response.pairs(adjust=adjust)
        assert list(found["contrast"]) == reference["pairs_response"][adjust]["contrast"]
        agrees(found, reference["pairs_response"][adjust])
        agrees(regrid.pairs(adjust=adjust), reference["pairs_regrid"][adjust])


def test_the_table_says_what_the_means_are():
    model = fitted.recorded("contraception_slope")
    typical = repr(mlm.emmeans(model, "livch", type="response"))
    assert "typical group: random effects at 0" in typical
    assert "equal weights over the levels of urban" in typical
    age = records.frame(records.MODELS["contraception_slope"])["age"].mean()
    assert f"At age = {age:.6g}." in typical
    assert "Averages on the logit scale, transformed back" in typical
    population = mlm.emmeans(model, "livch", re_form="marginal")
    assert "random effects are integrated out" in repr(population)
    assert "for 6 contrasts of 4 means by tukey" in repr(population.pairs())
    assert "odds ratios, tested on the logit scale" in repr(
        mlm.emmeans(model, "livch", type="response").pairs()
    )


def test_population_averages_and_their_errors():
    """R integrates the random effects out row by row, and takes differences in all parameters."""
    reference, model = REFERENCE["population"], fitted.recorded("cbpp_logit")
    rows = pd.DataFrame({"period": ["1", "2", "3", "4"]})
    for type in ("response", "link"):
        found = model.predict(rows, type=type, re_form="marginal", se_fit=True)
        np.testing.assert_allclose(found["fit"], reference[type]["estimate"], rtol=1e-5)
        np.testing.assert_allclose(found["se.fit"], reference[type]["se"], rtol=SE)
    means = mlm.emmeans(model, "period", type="response", re_form="marginal")
    table = means.to_dataframe()
    np.testing.assert_allclose(table["estimate"], reference["response"]["estimate"], rtol=1e-5)
    np.testing.assert_allclose(table["std.error"], reference["response"]["se"], rtol=SE)
    odds = means.pairs().iloc[:3]
    expected = np.exp(reference["log_odds"]["estimate"])
    np.testing.assert_allclose(odds["estimate"], expected, rtol=1e-4)
    np.testing.assert_allclose(
        odds["std.error"], expected * reference["log_odds"]["se"], rtol=SE
    )


def test_intervals_of_population_averages():
    model = fitted.recorded("cbpp_logit")
    rows = pd.DataFrame({"period": ["1", "4"], "size": [20, 20]})
    link = model.predict(rows, "link", "marginal", se_fit=True, interval="confidence", level=0.9)
    half = 1.6448536269514722 * link["se.fit"]
    np.testing.assert_allclose(link["upper"], link["fit"] + half)
    found = model.predict(rows, re_form="marginal", interval="confidence", level=0.9)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-link[["fit", "lower", "upper"]])))
    new = model.predict(rows, re_form="marginal", interval="prediction", seed=2)
    unseen = model.predict(
        rows.assign(herd="unseen"), interval="prediction", allow_new_levels=True, seed=2
    )
    pd.testing.assert_frame_equal(new[["lower", "upper"]], unseen[["lower", "upper"]])


def test_means_that_cannot_be_estimated_are_said_so():
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"a": list("xxyy") * 15, "b": list("stss") * 15, "g": np.arange(60) // 6})
    data["y"] = rng.poisson(np.exp(0.3 * rng.normal(size=10)[data["g"]] + 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlm.SingularFitWarning)
        model = mlm.glmer("y ~ a * b + (1 | g)", data, "poisson")
    means = mlm.emmeans(model, ["a", "b"])
    table = means.to_dataframe()
    assert table["estimate"].isna().tolist() == [False, False, False, True]
    assert "1 means cannot be estimated (nan)" in repr(table)
    pairs = means.pairs(adjust="none")
    lost = pairs["contrast"].str.contains("y t")
    assert pairs["estimate"].isna().equals(lost)
    assert pairs["p.value"].isna().equals(lost)
    rows = data.drop_duplicates(["a", "b"]).sort_values(["b", "a"])
    fit = model.predict(rows, type="link", re_form="~0", se_fit=True)
    np.testing.assert_allclose(table["estimate"].iloc[:3], fit["fit"])
    np.testing.assert_allclose(table["std.error"].iloc[:3], fit["se.fit"])


def test_the_grid_keeps_two_values_and_numbers_in_factor():
    rng = np.random.default_rng(5)
    data = pd.DataFrame({"g": np.arange(90) // 9, "dose": np.arange(90) % 3})
    data["x"] = rng.normal(size=90)
    data["old"] = rng.integers(0, 2, 90)
    data["t"] = rng.uniform(1, 2, 90)
    data["y"] = rng.poisson(2.0 * data["t"] * np.exp(0.4 * rng.normal(size=10)[data["g"]]))
    model = mlm.glmer("y ~ factor(dose) + old + I(x^2) + offset(log(t)) + (1 | g)", data, "poisson")
    means = mlm.emmeans(model, "dose").to_dataframe()
    beta = model.fixef()
    rest = 0.5 * beta["old"] + beta["I(x^2)"] * data["x"].mean() ** 2 + np.log(data["t"].mean())
    dose = np.array([0.0, beta["factor(dose)1"], beta["factor(dose)2"]])
    assert list(means["dose"]) == ["0", "1", "2"]
    np.testing.assert_allclose(means["estimate"], beta["(Intercept)"] + dose + rest)
    both = mlm.emmeans(model, ["old", "x"], at={"x": [0, 2], "dose": 1}).to_dataframe()
    assert list(both["old"]) == [0.0, 1.0, 0.0, 1.0]
    expected = beta["(Intercept)"] + beta["factor(dose)1"] + np.log(data["t"].mean())
    expected = expected + np.array([0, 1, 0, 1]) * beta["old"]
    expected = expected + np.array([0, 0, 4, 4]) * beta["I(x^2)"]
    np.testing.assert_allclose(both["estimate"], expected)


# Adjustment


def test_the_range_of_normal_variables():
    for k in (2, 3, 6, 20):
        q = np.array([0.1, 1.0, 3.0, 4.5])
        expected = studentized_range.sf(q, k, np.inf)
        np.testing.assert_allclose(range_tail(q, k), expected, rtol=1e-7, atol=1e-12)
        quantile = critical_value(0.95, "tukey", 1, k) * np.sqrt(2.0)
        np.testing.assert_allclose(studentized_range.sf(quantile, k, np.inf), 0.05, rtol=1e-7)
    # of two it is a normal difference, also where 1 less a distribution function has no digits
    found = range_tail(np.sqrt(2.0) * np.array([10.0, 15.0]), 2)
    np.testing.assert_allclose(found, erfc(np.array([10.0, 15.0]) / np.sqrt(2.0)), rtol=1e-9)


def test_adjusted_p_values():
    z = np.array([3.0, -0.2, 2.4, 1.1, np.nan])
    found = {name: adjusted_tests(z, np.ones(5), name, 4)[1] for name in METHODS}
    p = found["none"][:4]
    np.testing.assert_allclose(found["fdr"][:4], false_discovery_control(p))
    np.testing.assert_allclose(found["bonferroni"][:4], np.minimum(1, 4 * p))
    np.testing.assert_allclose(found["sidak"][:4], 1 - (1 - p) ** 4)
    order = np.sort(p)
    np.testing.assert_allclose(
        np.sort(found["holm"][:4]), np.maximum.accumulate(order * [4, 3, 2, 1])
    )
    assert all(np.isnan(value[4]) for value in found.values())


# Average slopes and comparisons


@pytest.mark.parametrize(
    "reference", REFERENCE["averages"], ids=["typical", "population", "by livch"]
)
def test_average_slopes_and_comparisons(reference):
    model = fitted.recorded("contraception_slope")
    given = {"by": reference["by"], "re_form": "marginal" if reference["population"] else "~0"}
    found = [
        (mlm.avg_slopes(model, "age", **given), "age"),
        (mlm.avg_comparisons(model, "urban", **given), "urban"),
        (mlm.avg_comparisons(model, {"age": 5}, **given), "five"),
    ]
    for table, name in found:
        estimate, se = numbers(reference[name]["estimate"]), numbers(reference[name]["se"])
        # of estimates near 0 the error counts, not the digits
        np.testing.assert_array_less(np.abs(table["estimate"] - estimate), 3e-4 * se)
        np.testing.assert_allclose(table["std.error"], se, rtol=SE)
        np.testing.assert_allclose(table["statistic"], table["estimate"] / table["std.error"])
        word = "integrated out" if reference["population"] else "typical group"
        assert word in repr(table)
    if reference["by"]:
        assert list(found[0][0]["livch"]) == ["0", "1", "2", "3+"]
    assert set(found[1][0]["contrast"]) == {"Y - N"}
    assert set(found[2][0]["contrast"]) == {"+5"}


def test_all_predictors_and_other_rows():
    model = fitted.recorded("contraception_slope")
    table = mlm.avg_slopes(model, type="link")
    contrasts = list(zip(table["term"], table["contrast"], strict=True))
    assert contrasts[:3] == [("age", "dY/dX"), ("urban", "Y - N"), ("livch", "1 - 0")]
    beta, data = model.fixef(), records.frame(records.MODELS["contraception_slope"])
    slope = beta["age"] + 2 * beta["I(age^2)"] * data["age"].mean()
    np.testing.assert_allclose(table["estimate"][0], slope, rtol=1e-5)
    np.testing.assert_allclose(table["estimate"][1], beta["urbanY"], rtol=1e-10)
    x = np.array([1.0, 2 * data["age"].mean()])
    own = model.vcov().loc[["age", "I(age^2)"], ["age", "I(age^2)"]].to_numpy()
    np.testing.assert_allclose(table["std.error"][0], np.sqrt(x @ own @ x), rtol=1e-5)

    new = data.head(40).drop(columns="district")
    new.loc[new.index[3], "age"] = np.nan
    found = mlm.avg_comparisons(model, {"livch": ["1", "3+"], "age": [0, 10]}, newdata=new)
    used = new.dropna()
    changes: list[tuple[str, Any, Any]] = [("livch", "1", "3+"), ("age", 0, 10)]
    for row, (name, low, high) in enumerate(changes):
        ends = [model.predict(used.assign(**{name: v}), re_form="~0") for v in (low, high)]
        np.testing.assert_allclose(found["estimate"][row], np.mean(ends[1] - ends[0]))
    assert "averaged over 39 rows" in repr(found)
    for spec, gap in (("sd", data["age"].std()), ("minmax", np.ptp(data["age"]))):
        (value,) = mlm.avg_comparisons(model, {"age": spec}, type="link")["estimate"]
        assert np.isclose(value / gap, slope) == (spec == "sd")


def test_robust_errors_and_polars_frames():
    """Of a model whose averages are linear in the fixed effects the errors follow from theirs."""
    polars = pytest.importorskip("polars")
    model = fitted.recorded("contraception_slope")
    robust = model.vcov(type="robust", full=True)
    means = mlm.emmeans(model, "urban", vcov=robust, by="livch").pairs(adjust="none")
    place = list(model.fixef()).index("urbanY")
    own = np.sqrt(model.vcov(type="robust").to_numpy()[place, place])
    np.testing.assert_allclose(means["std.error"], own, rtol=1e-10)
    assert list(means["livch"]) == ["0", "1", "2", "3+"]
    data = records.frame(records.MODELS["contraception_slope"]).head(50)
    frames = [data, polars.DataFrame({name: data[name].to_list() for name in data})]
    given: dict[str, Any] = {"variables": "urban", "by": "livch", "vcov": robust}
    plain, other = (mlm.avg_comparisons(model, newdata=new, **given) for new in frames)
    pd.testing.assert_frame_equal(plain, other)
    assert plain["std.error"].gt(0).all()


def test_an_average_needs_a_covariance():
    model = fitted.recorded("cbpp_logit")
    unknown = replace(model, fit=replace(model.fit, vcov=np.full_like(model.fit.vcov, np.nan)))
    assert len(unknown.predict(re_form="marginal")) == 56
    with pytest.raises(mlm.ArgumentError, match="no covariance of its fixed effects"):
        mlm.emmeans(unknown, "period")


def test_a_variance_of_0_counts_as_known():
    model = fitted.singular()
    rows = pd.DataFrame({"y": [1.0]})
    found = model.predict(rows, re_form="marginal", se_fit=True)
    typical = model.predict(rows, re_form="~0", se_fit=True)
    pd.testing.assert_frame_equal(found, typical, rtol=1e-6)


# Predictions that depend on more than the linear predictor


@pytest.mark.parametrize("reference", REFERENCE["predictions"], ids=lambda found: found["id"])
def test_errors_with_structural_zeros_and_truncation(reference):
    name = reference["id"]
    model, data = fitted.recorded(name), records.frame(records.MODELS[name])
    rows = data.iloc[np.array(reference["rows"]) - 1]
    for re_form, part in ((None, "modes"), ("~0", "typical")):
        for type, expected in reference[part].items():
            found = model.predict(rows, type=type, re_form=re_form, se_fit=True)
            np.testing.assert_allclose(found["fit"], expected["fit"], rtol=2e-4, err_msg=type)
            np.testing.assert_allclose(found["se.fit"], expected["se"], rtol=1e-3, err_msg=type)
    ends = model.predict(rows, interval="confidence", se_fit=True)
    scale = ends["se.fit"] / ends["fit"]
    np.testing.assert_allclose(np.log(ends["upper"] / ends["fit"]), 1.959963984540054 * scale)
    zeros = model.predict(rows, type="zprob", interval="confidence")
    assert np.all((zeros["lower"] > 0) & (zeros["lower"] < zeros["fit"]))
    assert np.all((zeros["fit"] < zeros["upper"]) & (zeros["upper"] < 1))


def test_the_hurdle_over_the_population_by_differences():
    """The total derivative in theta, beta and phi, against central differences of the average."""
    model = fitted.recorded("salamanders_hurdle")
    rows = records.frame(records.MODELS["salamanders_hurdle"]).iloc[[0, 5, 200, 401]]
    found = model.predict(rows, re_form="marginal", se_fit=True)
    at = Parameters.of(model.design, model.family, model.fit)
    new = model.labels.rebuild(rows, ungrouped=True)

    def averages(flat: np.ndarray) -> np.ndarray:
        moved = at.moved(flat)
        eta = new.X @ np.asarray(moved.params.beta) + new.offset
        return moved.population_values("response", eta, new.parts, new.Z)

    point, step = at.flat, 1e-4 * np.eye(len(at.flat))
    slope = np.array([(averages(point + h) - averages(point - h)) / 2e-4 for h in step]).T
    expected = np.sqrt(np.sum((slope @ at.covariance) * slope, axis=1))
    np.testing.assert_allclose(found["fit"], averages(point), rtol=1e-12)
    np.testing.assert_allclose(found["se.fit"], expected, rtol=1e-6)
    # by another way: the sd by theta, truncation by its formula
    sd = model.fit.factors[0][0, 0]
    v = np.linspace(-9, 9, 4001)
    eta = model.predict(rows, type="link", re_form="~0")[:, None] + sd * v
    mean = np.exp(eta) / -np.expm1(-np.exp(eta))
    density = np.exp(-0.5 * v**2) / np.sqrt(2 * np.pi) * (v[1] - v[0])
    zero = model.predict(rows, type="zprob", re_form="~0")
    np.testing.assert_allclose(found["fit"], (1 - zero) * (mean @ density), rtol=1e-8)


def test_means_of_counts_with_zeros_say_which_they_are():
    model = fitted.recorded("salamanders_hurdle")
    link = mlm.emmeans(model, "mined", type="response")
    assert "before structural zeros and truncation" in repr(link)
    species = np.unique(records.frame(records.MODELS["salamanders_hurdle"])["spp"])
    grid = pd.DataFrame(list(product(("yes", "no"), species)), columns=["mined", "spp"])
    grid["fit"] = model.predict(grid, re_form="~0")
    regrid = mlm.emmeans(model, "mined", regrid=True).to_dataframe().set_index("mined")["estimate"]
    means = grid.groupby("mined")["fit"].mean()
    np.testing.assert_allclose(regrid[means.index], means)
    zeros = mlm.avg_comparisons(model, "mined", type="zprob")
    assert zeros["std.error"].notna().all()
    idle = mlm.avg_comparisons(fitted.recorded("salamanders_zip"), "spp", type="zprob")
    assert "do not depend on it" in repr(idle)


# Bad arguments


def test_bad_arguments():
    model = fitted.recorded("contraception_slope")
    means = mlm.emmeans(model, "livch")
    cases: list[tuple[Any, str]] = [
        (lambda: mlm.emmeans(model, "livhc"), "did you mean 'livch'"),
        (lambda: mlm.emmeans(model, "livch", by="livch"), "besides those of by"),
        (lambda: mlm.emmeans(model, "livch", type="prob"), "'link' or 'response'"),
        (lambda: mlm.emmeans(model, "livch", re_form=None), "'~0' for the typical group"),  # type: ignore[arg-type]
        (lambda: mlm.emmeans(model, "livch", at={"livch": "7"}), "the levels are 0, 1, 2, 3+"),
        (lambda: mlm.emmeans(model, "livch", at={"age": "old"}), "finite numbers"),
        (lambda: mlm.emmeans(model, "livch", at={"herd": 1}), "does not depend on"),
        (lambda: mlm.emmeans(model, "livch", level=95), "level is 95"),
        (lambda: mlm.emmeans(model, "livch", vcov=model.vcov()), "covariance of all 10"),
        (lambda: mlm.emmeans(model, "livch", vcov="robust"), "vcov is 'robust'; give a matrix"),
        (lambda: mlm.emmeans("model", "livch"), "emmeans takes a model"),  # type: ignore[arg-type]
        (lambda: mlm.emmeans(model, "livch", at={"livch": "1"}).pairs(), "two means or more"),
        (lambda: means.pairs(adjust="scheffe"), "choose one of tukey"),
        (lambda: means.contrast("eff", "tukey"), "all pairwise differences"),
        (lambda: means.contrast("poly"), "no method 'poly'"),
        (lambda: means.contrast({"a": [1, -1]}), "give 4 finite numbers"),
        (lambda: mlm.avg_slopes(model, "agee"), "did you mean 'age'"),
        (lambda: mlm.avg_slopes(model, {"age": 1}), "avg_comparisons"),  # type: ignore[arg-type]
        (lambda: mlm.avg_comparisons(model, {"age": "2sd"}), "sd, iqr, minmax"),
        (lambda: mlm.avg_comparisons(model, {"livch": "first"}), "reference, sequential"),
        (lambda: mlm.avg_comparisons(model, {"livch": ["0", "9"]}), "two of the levels"),
        (lambda: mlm.avg_comparisons(model, type="mean"), "no type 'mean'"),
        (lambda: mlm.avg_slopes(model, re_form="~(1 | district)"), "population averages"),
    ]
    for call, match in cases:
        with pytest.raises(mlm.ArgumentError, match=match.replace("+", r"\+").replace("(", r"\(")):
            call()
    with pytest.raises(mlm.DataError, match="nowhere"):
        mlm.avg_slopes(model, "age", by="nowhere")


def test_own_contrasts_are_not_adjusted():
    means = mlm.emmeans(fitted.recorded("cbpp_logit"), "period")
    found = means.contrast({"first - rest": [1, -1 / 3, -1 / 3, -1 / 3], "2 - 3": [0, 1, -1, 0]})
    beta = fitted.recorded("cbpp_logit").fixef()
    rest = (beta["period2"] + beta["period3"] + beta["period4"]) / 3
    np.testing.assert_allclose(found["estimate"], [-rest, beta["period2"] - beta["period3"]])
    chi = mlm.linear_hypothesis(fitted.recorded("cbpp_logit"), "period2 = period3")
    np.testing.assert_allclose(found["p.value"][1], chi["Pr(>Chisq)"].iloc[0])


# PyPI's marginaleffects


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of polars, in its next version
def test_marginaleffects_takes_the_model():
    pytest.importorskip("marginaleffects")
    polars = pytest.importorskip("polars")
    model = fitted.recorded("cbpp_logit")
    before = jax.config.read("jax_enable_x64")
    try:
        given = mlm.for_marginaleffects(model, re_form="marginal")
        assert jax.config.read("jax_enable_x64") == before
        import marginaleffects  # noqa: PLC0415 (it switches JAX to double precision)

        found = marginaleffects.avg_predictions(given, by="period")
        expected = REFERENCE["population"]["response"]
        np.testing.assert_allclose(found["estimate"], expected["estimate"], rtol=1e-5)
        np.testing.assert_allclose(found["std_error"], expected["se"], rtol=1e-3)
        if int(polars.__version__.split(".")[0]) < 2:
            odds = marginaleffects.avg_comparisons(given, comparison="lnoravg")
            log_odds = REFERENCE["population"]["log_odds"]
            np.testing.assert_allclose(-odds["estimate"], log_odds["estimate"], rtol=1e-4)
            np.testing.assert_allclose(odds["std_error"], log_odds["se"], rtol=1e-3)
    finally:
        jax.config.update("jax_enable_x64", before)


def test_without_marginaleffects_there_is_a_way(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "marginaleffects.classes.model", None)
    with pytest.raises(mlm.ArgumentError, match="pip install"):
        mlm.for_marginaleffects(fitted.recorded("cbpp_logit"))


def test_averages_over_cells_that_the_data_lack_are_not_known():
    cells = [("u", "p"), ("u", "q"), ("u", "r"), ("v", "p"), ("v", "q")] * 8
    data = pd.DataFrame(cells, columns=["a", "b"]).assign(y=np.arange(40) % 7)
    model = mlm.glm("y ~ a * b", data, "poisson")
    assert model.labels.dropped == ("av:br",)
    found = mlm.avg_comparisons(model, "a", by="b")
    means = data.groupby(["a", "b"])["y"].mean()
    expected = means["v"].reindex(["p", "q", "r"]) - means["u"]
    # searches end within 1e-4 standard errors (here .7) of an optimum
    np.testing.assert_allclose(found["estimate"], expected, atol=1e-4)
    assert found["std.error"].isna().tolist() == [False, False, True]
    assert any("1 averages cannot be estimated" in note for note in found.notes)
    assert mlm.avg_slopes(model, "a")["estimate"].isna().all()
