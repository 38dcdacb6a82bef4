"""Formulas for zeros and for dispersion: fits by glmmTMB, and what cannot be asked for."""

from __future__ import annotations

import json
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mixedlm_jax as mlm
from mixedlm_jax.families import (
    BetaBinomial,
    Binomial,
    NegativeBinomial,
    Poisson,
    TruncatedPoisson,
    with_zeros,
)

FOLDER = Path(__file__).parent / "reference"
RECORDS: dict[str, dict[str, Any]] = {
    record["id"]: record for record in json.loads((FOLDER / "parts.json").read_text("utf-8"))
}
# glmmTMB's dispersion of the gaussian family is the variance, ours the standard deviation
PER_OURS = {"disp_gaussian": 2.0}
# a probability of zeros that runs to 0, where glmmTMB stops at -18 with a standard error of 3461
LIMITED = ("zi_disp_nbinom2",)
INSIDE = [name for name in RECORDS if name not in LIMITED]


@cache
def frame(dataset: str) -> pd.DataFrame:
    data = pd.read_csv(FOLDER / "data" / f"{dataset}.csv")
    strings = ("site", "herd", "period", "Subject", "replicate", "recipe")
    return data.assign(**{name: data[name].astype(str) for name in strings if name in data})


@cache
def fitted(name: str) -> mlm.GlmerResult:
    record = RECORDS[name]
    return mlm.glmer(
        record["formula"],
        frame(record["dataset"]),
        record["family"].lower(),
        ziformula=record["ziformula"],
        dispformula=None if record["dispformula"] == "~1" else record["dispformula"],
    )


@pytest.mark.parametrize("name", INSIDE)
class TestAgainstGlmmTMB:
    def test_log_likelihood(self, name):
        model = fitted(name)
        assert model.converged
        gain = float(model.logLik()) - RECORDS[name]["logLik"]
        assert -1e-6 < gain < 1e-5

    def test_coefficients_of_every_part(self, name):
        model, unit = fitted(name), PER_OURS.get(name, 1.0)
        for part, table in RECORDS[name]["parts"].items():
            if not table:
                continue
            scale = unit if part == "disp" else 1.0
            theirs = np.array(list(table["estimate"].values())) / scale
            se = np.array(list(table["se"].values())) / scale
            ours = model.fixef(part)
            assert list(ours) == list(table["estimate"])
            assert np.max(np.abs(np.array(list(ours.values())) - theirs) / se) < 2e-3
            errors = np.sqrt(np.diag(model.vcov(component=part)))
            np.testing.assert_allclose(errors, se, rtol=2e-4)

    def test_predictions(self, name):
        record, model = RECORDS[name], fitted(name)
        for type in ("response", "conditional", "zprob"):
            if record[type]:
                found = model.predict(type=type)[:10]
                np.testing.assert_allclose(found, record[type], rtol=1e-3, atol=1e-6)
                again = model.predict(frame(record["dataset"]).iloc[:10], type=type)
                np.testing.assert_allclose(again, found, rtol=1e-10)

    def test_summary_has_a_section_for_each_part(self, name):
        model = fitted(name)
        text, html = str(model.summary()), model.summary()._repr_html_()
        for part, title in (("zi", "Zeros (logit):"), ("disp", "Dispersion (log of")):
            assert (title in text) == (title in html) == (part in model.labels.parts)


@pytest.mark.parametrize("name", LIMITED)
def test_no_zero_inflation_is_said(name):
    model = fitted(name)
    assert model.converged
    assert float(model.logLik()) > RECORDS[name]["logLik"] - 1e-6
    assert model.predict(type="zprob").max() < 1e-5
    assert np.all(np.isnan(model.vcov(component="zi")))
    assert "at no zero inflation" in str(model.summary())


def test_random_effects_and_residuals_know_the_parts():
    model = fitted("zi_poisson")
    assert np.all(np.isfinite(model.residuals("pearson")))
    assert np.all(np.isfinite(model.residuals("deviance")))
    variances = model.ranef(condVar="joint").condVar
    assert variances is not None
    assert np.all(variances["site"] > 0)
    assert np.all(np.isfinite(model.augment()[".cooksd"]))
    assert len(model.tidy("ran_pars")) == 1
    pi, mu = model.predict(type="zprob"), model.predict(type="conditional")
    variance = (1 - pi) * mu * (1 + pi * mu)
    expected = (model.design.y - (1 - pi) * mu) / np.sqrt(variance)
    np.testing.assert_allclose(model.residuals("pearson"), expected, rtol=1e-10)


def test_variance_of_rows_enters_residuals():
    model = fitted("disp_gaussian")
    of_disp, days = model.fixef("disp"), frame("sleepstudy")["Days"].to_numpy()
    sd = np.exp(of_disp["(Intercept)"] + of_disp["Days"] * days)
    away = model.residuals("response").to_numpy() / sd
    quantiles = np.quantile(away, [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(model.summary().scaled_residuals, quantiles, rtol=1e-8)
    assert "Residual" not in str(model.VarCorr())
    assert "sigma" not in model.glance()
    with pytest.raises(mlm.ArgumentError, match="differs by row"):
        _ = model.sigma
    # theta is absolute: a dispersion that differs by row is no unit
    (component,) = model.VarCorr().components
    assert model.theta[0] == pytest.approx(np.sqrt(component.covariance[0, 0]))


@pytest.mark.parametrize("name", ["zi_poisson", "disp_gaussian"])
def test_tidy_and_confint_show_every_part(name):
    """Against glmmTMB's estimates, in the rows that broom.mixed makes of them."""
    model, parts = fitted(name), {p: t for p, t in RECORDS[name]["parts"].items() if t}
    table = model.tidy("all", conf_int=True)
    assert list(table)[:5] == ["effect", "component", "group", "level", "term"]
    assert set(table.loc[table["effect"] != "fixed", "component"]) == {"cond"}
    fixed = table[table["effect"] == "fixed"]
    wanted = [(part, term) for part, each in parts.items() for term in each["estimate"]]
    assert list(zip(fixed["component"], fixed["term"], strict=True)) == wanted
    names = [term if part == "cond" else f"{part}.{term}" for part, term in wanted]
    limits = model.confint()
    assert set(names) < set(limits.index)
    limits = limits.loc[names]
    np.testing.assert_array_equal(limits, fixed[["conf.low", "conf.high"]])
    unit = np.array([PER_OURS.get(name, 1.0) if part == "disp" else 1.0 for part, _ in wanted])
    theirs = np.concatenate([list(each["estimate"].values()) for each in parts.values()]) / unit
    se = np.concatenate([list(each["se"].values()) for each in parts.values()]) / unit
    assert np.max(np.abs(fixed["estimate"] - theirs) / se) < 2e-3
    np.testing.assert_allclose(fixed["std.error"], se, rtol=2e-4)
    half = stats.norm.ppf(0.975) * se
    np.testing.assert_allclose(limits, np.column_stack([theirs - half, theirs + half]), atol=3e-3)
    one = model.confint(names[-1], level=0.5)
    assert list(one.index) == [names[-1]]
    with pytest.raises(mlm.ArgumentError, match=f"no parameter.*{re.escape(names[-1])}"):
        model.confint("zi.nothing")


def two_arms(other: list[int]) -> pd.DataFrame:
    """Forty counts with zeros in arm a and the other ones, repeated, in arm b; eight groups."""
    y = np.concatenate([np.resize([0, 3, 0, 1, 2, 5, 0, 1], 40), np.resize(other, 40)])
    return pd.DataFrame({"arm": np.repeat(["a", "b"], 40), "y": y, "g": np.arange(80) // 3 % 8})


HURDLE, ZEROS, slow = "truncated_poisson", [0], pytest.mark.slow


@pytest.mark.parametrize(
    ("family", "other", "formula", "zi", "separated"),
    [
        # a cell of zeros alone, a cell without zeros, zeros besides ones alone
        pytest.param(HURDLE, ZEROS, "y ~ 1 + (1 | g)", "~ arm", ("zi.armb",), marks=slow),
        pytest.param(HURDLE, [1, 2, 4], "y ~ arm + (1 | g)", "~ arm", ("zi.armb",), marks=slow),
        (HURDLE, [1, 0], "y ~ arm + (1 | g)", "~ arm", ("armb",)),
        ("poisson", ZEROS, "y ~ 1 + (1 | g)", "~ arm", ("zi.armb",)),
        pytest.param("poisson", ZEROS, "y ~ arm + (1 | g)", "~ 1", ("armb",), marks=slow),
        pytest.param("poisson", [0, 2, 0, 3], "y ~ arm + (1 | g)", "~ arm", (), marks=slow),
    ],
)
def test_separation_is_looked_for_in_the_zeros(family, other, formula, zi, separated):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        model = mlm.glmer(formula, two_arms(other), family, ziformula=zi)
    check = mlm.checkConv(model)
    assert check.separated == separated
    assert check.ok == model.converged == (not separated)
    said = " ".join(str(warning.message) for warning in heard)
    assert all(name in said for name in separated)


def test_parts_go_with_refit_and_update():
    model = fitted("zi_poisson")
    again = model.refit(model.design.y)
    assert float(again.logLik()) == pytest.approx(float(model.logLik()), abs=1e-7)
    plain = model.update(ziformula=None)
    assert plain.family == Poisson()
    assert list(plain.labels.parts) == []
    other = model.update(". ~ . - mined", ziformula="~ 1")
    assert list(other.fixef("zi")) == ["(Intercept)"]


def test_quadrature_of_zero_inflation():
    model = fitted("zi_nbinom2")
    finer = model.update(nAGQ=9)
    assert abs(float(finer.logLik()) - float(model.logLik())) < 0.2
    assert finer.converged
    assert list(finer.fixef("zi")) == list(model.fixef("zi"))


def test_probabilities_of_counts_sum_to_one():
    y = np.arange(100.0)
    rate, pi = 1.7, 0.3
    with jax.enable_x64(True):
        zeta = jnp.log(pi / (1 - pi))
        one = jnp.ones_like(y)
        for base, law in (
            (Poisson(), stats.poisson(rate)),
            (NegativeBinomial(theta=1.5), stats.nbinom(1.5, 1.5 / (1.5 + rate))),
            (TruncatedPoisson(), stats.poisson(rate)),
        ):
            family, hurdle = with_zeros(base, True), base.zeros == "hurdle"
            eta = jnp.full_like(y, np.log(rate))
            value = family.log_density(y, eta, (zeta,), one, one) + family.log_base_measure(y, one)
            expected = (1 - pi) * law.pmf(y)
            if hurdle:
                expected /= 1 - law.pmf(0)
                expected[0] = 0.0
            expected[0] += pi
            np.testing.assert_allclose(np.exp(value), expected, rtol=1e-10)
            assert np.sum(np.exp(value)) == pytest.approx(1.0)


@pytest.mark.parametrize("base", [Binomial(), BetaBinomial(phi=2.5)])
def test_structural_zeros_take_all_trials_of_a_row(base):
    family, mu, pi, trials = with_zeros(base, True), 0.3, 0.2, np.array([1.0, 4.0, 11.0])
    y = np.arange(12.0)
    found = family.variance_per_trial(np.full(3, mu), trials, (pi,))
    with jax.enable_x64(True):
        eta, zeta = (jnp.full(12, np.log(p / (1 - p))) for p in (mu, pi))
        for m, variance in zip(trials, found, strict=True):
            possible, out_of = np.minimum(y, m), jnp.full(12, m)
            value = family.log_density(possible, eta, (zeta,), out_of, jnp.ones(12))
            chance = np.exp(value + family.log_base_measure(jnp.asarray(possible), out_of))
            chance = np.where(y <= m, chance, 0.0)
            mean = np.sum(chance * y)
            assert mean == pytest.approx(m * (1 - pi) * mu)
            assert m * variance == pytest.approx(np.sum(chance * (y - mean) ** 2))


def test_overdispersion_is_measured_against_the_variance_of_a_row():
    model, data = fitted("zi_binomial"), frame("cbpp")
    y, m = data["incidence"].to_numpy(), data["size"].to_numpy()
    mu, pi = model.predict(type="conditional"), model.predict(type="zprob")
    # Var(y) = E(Var(y | zero or not)) + Var(E(y | zero or not))
    variance = (1 - pi) * m * mu * (1 - mu) + pi * (1 - pi) * (m * mu) ** 2
    statistic = np.sum((y - (1 - pi) * m * mu) ** 2 / variance)
    assert mlm.check_overdispersion(model).statistic == pytest.approx(statistic)


@pytest.mark.parametrize("base", [Poisson(), NegativeBinomial(), TruncatedPoisson()])
def test_sampler_has_the_zeros_and_the_moments(base):
    family, n = with_zeros(base, True), 20_000
    mu, pi, theta = (
        np.repeat(part, n) for part in ([1e-9, 1.7, 1.7], [0.2, 0.3, 0.001], [2.0] * 3)
    )
    shapes = (theta, pi) if base.dispersion_names else (pi,)
    with jax.enable_x64(True):
        phi = tuple(
            jnp.asarray(family.parameters[name].coordinate(value))
            for name, value in zip(family.dispersion_names, shapes, strict=True)
        )
        one = jnp.ones(3 * n)
        y = family.sample(jax.random.key(2), jnp.log(mu), phi, one, one)
        zero = np.exp(family.log_density(0.0 * one, jnp.log(mu), phi, one, one))[::n]
    y = np.asarray(y).reshape(3, n)
    share = np.mean(y == 0, axis=1)
    assert np.all(np.abs(share - zero) <= 5 * np.sqrt(zero * (1 - zero) / n) + 1e-9)
    mean = family.mean(mu, shapes)[::n]
    error = np.sqrt(family.variance(mu, shapes)[::n] / n)
    assert np.all(np.abs(np.mean(y, axis=1) - mean) <= 5 * error)


@pytest.mark.parametrize("eta", [-700.0, -30.0, 0.0, 30.0, 700.0])
@pytest.mark.parametrize("zeta", [-700.0, 0.0, 700.0])
def test_derivatives_are_finite_in_the_tails(eta, zeta):
    family = with_zeros(Poisson(), True)

    def density(at):
        one = jnp.ones(2)
        y = jnp.array([0.0, 3.0])
        return jnp.sum(family.log_density(y, at[0] * one, (at[1],), one, one))

    with jax.enable_x64(True):
        point = jnp.array([eta, zeta])
        assert not np.any(np.isnan(jax.grad(density)(point)))
        assert not np.any(np.isnan(jax.hessian(density)(point)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"family": "gaussian", "ziformula": "~ 1"}, "zeros of counts"),
        ({"family": "poisson", "dispformula": "~ x"}, "has none"),
        (
            {"family": NegativeBinomial(theta=2), "dispformula": "~ x"},
            "theta of the nbinom2.*given",
        ),
        ({"family": "gaussian", "dispformula": "~ 0"}, "leaves no dispersion"),
        ({"family": "poisson", "ziformula": "x"}, "one-sided formula"),
        ({"family": "poisson", "ziformula": "~ x + (1 | g)"}, "one-sided formula"),
        ({"family": "poisson", "ziformula": "~ nothing"}, "nothing"),
        ({"family": "truncated_poisson"}, "zeros need a hurdle model"),
    ],
)
def test_what_cannot_be_asked_for(arguments, said):
    data = pd.DataFrame({"y": [0, 1, 2, 3] * 5, "x": np.arange(20.0), "g": np.arange(20) // 4})
    with pytest.raises(mlm.MixedlmError, match=said):
        mlm.glmer("y ~ x + (1 | g)", data, **arguments)


def test_contrasts_are_those_of_every_part():
    data = frame("salamanders")
    coding = {"spp": "sum"}
    formula = "count ~ mined + (1 | site)"
    model = mlm.glmer(formula, data, "poisson", ziformula="~ spp", contrasts=coding)
    assert float(model.logLik()) == pytest.approx(float(fitted("zi_poisson").logLik()), abs=1e-7)
    ours = np.array(list(model.fixef("zi").values()))
    theirs = np.array(list(fitted("zi_poisson").fixef("zi").values()))
    cells = theirs[0] + np.append(0.0, theirs[1:])
    np.testing.assert_allclose(ours[0], cells.mean(), atol=1e-4)
    np.testing.assert_allclose(ours[1:], (cells - cells.mean())[:-1], atol=1e-4)


def test_impossible_responses_of_weight_zero_change_nothing():
    data = frame("salamanders").assign(w=1.0)
    row = data.iloc[[0]].assign(w=0.0, count=-5.0)
    more = pd.concat([data, row], ignore_index=True)
    model = mlm.glmer("count ~ mined + (1 | site)", more, "poisson", ziformula="~ spp", weights="w")
    assert float(model.logLik()) == pytest.approx(float(fitted("zi_poisson").logLik()), abs=1e-8)


def test_components_that_are_not_there():
    with pytest.raises(mlm.ArgumentError, match="no component 'disp'; it has cond, zi"):
        fitted("zi_poisson").fixef("disp")


def test_no_formula_is_none():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = frame("salamanders")
        model = mlm.glmer("count ~ mined + (1 | site)", data, "poisson", ziformula="~ 0")
    assert model.family == Poisson()
