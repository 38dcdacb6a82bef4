"""Covariance structures: every row of the table against its definition, and fits by glmmTMB."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import mixedlm_jax as mlm
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.errors import FormulaError
from mixedlm_jax.expression import STRUCTURE_WORDS

RECORDS: dict[str, dict[str, Any]] = {
    record["id"]: record
    for record in json.loads(
        (Path(__file__).parent / "reference" / "structures.json").read_text("utf-8")
    )
}


def lower_triangle(theta, k):
    factor = np.zeros((k, k))
    factor.T[np.triu_indices(k)] = theta
    return factor @ factor.T


def equal_correlations(theta, k):
    sd = np.exp(theta[:k])
    lowest = -1 / max(k - 1, 1)
    rho = lowest + (1 - lowest) / (1 + np.exp(-theta[k])) if k > 1 else 0.0
    return np.outer(sd, sd) * np.where(np.eye(k, dtype=bool), 1.0, rho)


def decaying_correlations(theta, k):
    lag = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    return theta[0] ** 2 * (theta[1] / np.sqrt(1 + theta[1] ** 2)) ** lag


COVARIANCES = {
    "us": lower_triangle,
    "diag": lambda theta, k: np.diag(theta**2),
    "homdiag": lambda theta, k: theta[0] ** 2 * np.eye(k),
    "cs": equal_correlations,
    "ar1": decaying_correlations,
}
every_structure = pytest.mark.parametrize("name", STRUCTURES)
sizes = pytest.mark.parametrize("k", [1, 2, 4])


def test_the_words_of_formulas_are_the_table():
    assert tuple(STRUCTURES) == STRUCTURE_WORDS


@pytest.mark.usefixtures("x64")
class TestFactors:
    @every_structure
    @sizes
    def test_are_roots_of_the_covariance(self, name, k, rng):
        structure = STRUCTURES[name]
        theta = rng.normal(size=structure.n_theta(k))
        factor = np.asarray(structure.factor(jnp.asarray(theta), k))
        assert np.array_equal(factor, np.tril(factor))
        np.testing.assert_allclose(factor @ factor.T, COVARIANCES[name](theta, k), atol=1e-13)

    @every_structure
    @sizes
    def test_start_with_independent_effects(self, name, k):
        scale = np.linspace(0.5, 2.0, k)
        structure = STRUCTURES[name]
        factor = np.asarray(structure.factor(jnp.asarray(structure.start(scale)), k))
        covariance = factor @ factor.T
        np.testing.assert_allclose(covariance, np.diag(np.diagonal(covariance)), atol=1e-13)
        assert np.trace(covariance) == pytest.approx(np.sum(scale**2))

    @every_structure
    @sizes
    def test_have_finite_derivatives(self, name, k):
        structure = STRUCTURES[name]
        for theta in (structure.start(np.ones(k)), np.full(structure.n_theta(k), -0.7)):
            slopes = jax.hessian(lambda t: structure.factor(t, k))(jnp.asarray(theta))
            assert np.all(np.isfinite(slopes))

    @every_structure
    @sizes
    def test_columns_change_their_sign_with_their_parameters(self, name, k, rng):
        structure = STRUCTURES[name]
        theta = rng.normal(size=structure.n_theta(k))
        columns = structure.columns(k)
        for column in set(columns[columns >= 0]):
            flipped = np.where(columns == column, -theta, theta)
            factors = [np.asarray(structure.factor(jnp.asarray(t), k)) for t in (theta, flipped)]
            own, other = (factor @ factor.T for factor in factors)
            np.testing.assert_allclose(own, other, atol=1e-13)
            assert not np.allclose(factors[0][:, column], factors[1][:, column])

    @every_structure
    @sizes
    def test_describe_each_parameter(self, name, k):
        structure = STRUCTURES[name]
        size = structure.n_theta(k)
        assert len(structure.lower(k)) == len(structure.columns(k)) == size
        assert len(structure.names([f"e{i}" for i in range(k)])) == size


@cache
def fitted(name: str) -> mlm.GlmerResult:
    record = RECORDS[name]
    if record["dataset"] == "sleepstudy":
        data = mlm.load_sleepstudy()
        data["day"] = pd.Categorical(data["Days"].astype(int).astype(str))
    else:
        data = mlm.load_epil()
        data["visit"] = pd.Categorical(data["period"].astype(int).astype(str))
    return mlm.glmer(record["formula"], data, record["family"])


@pytest.mark.parametrize("name", RECORDS)
class TestAgainstGlmmTMB:
    def test_estimates(self, name):
        record, model = RECORDS[name], fitted(name)
        assert model.converged
        assert float(model.logLik()) == pytest.approx(record["logLik"], abs=1e-5)
        assert float(model.logLik()) > record["logLik"] - 1e-6
        se = np.array(list(record["se"].values()))
        beta = np.array(list(record["fixef"].values()))
        own = np.array([model.fixef()[column] for column in record["fixef"]])
        assert np.max(np.abs(own - beta) / se) < 1e-3
        errors = np.sqrt(np.diagonal(model.vcov()))
        np.testing.assert_allclose(errors, se, rtol=1e-4)

    def test_components(self, name):
        record, model = RECORDS[name], fitted(name)
        (component,) = model.VarCorr().components
        sd = np.sqrt(np.diagonal(component.covariance))
        np.testing.assert_allclose(sd, record["sd"], rtol=1e-4)
        correlation = component.covariance / np.outer(sd, sd)
        np.testing.assert_allclose(correlation, record["correlation"], atol=1e-4)


def test_diagonal_is_lme4s_double_bar():
    model = fitted("sleep_diag")
    other = mlm.glmer("Reaction ~ Days + (Days || Subject)", mlm.load_sleepstudy())
    assert float(model.logLik()) == pytest.approx(float(other.logLik()), abs=1e-8)
    np.testing.assert_allclose(model.theta, other.theta, atol=1e-5)
    np.testing.assert_allclose(model.ranef()["Subject"], other.ranef()["Subject"], atol=1e-3)


def test_one_standard_deviation_for_all_effects():
    model = mlm.glmer("Reaction ~ Days + homdiag(Days | Subject)", mlm.load_sleepstudy())
    (component,) = model.VarCorr().components
    covariance = component.covariance
    np.testing.assert_allclose(covariance, covariance[0, 0] * np.eye(2), atol=1e-12)
    design = model.design

    def loss(logs):  # -log L of the marginal normal, beta at its generalised least squares
        sd, sigma = np.exp(logs)
        total = 0.0
        for subject in range(18):
            rows = design.factors[0].levels == subject
            Z = design.factors[0].Z[:, rows].T
            V = sd**2 * Z @ Z.T + sigma**2 * np.eye(len(Z))
            total -= stats.multivariate_normal(design.X[rows] @ model.beta, V).logpdf(
                design.y[rows]
            )
        return total

    found = optimize.minimize(loss, np.log([10.0, 30.0]), method="Nelder-Mead", tol=1e-10)
    assert -found.fun == pytest.approx(float(model.logLik()), abs=1e-7)
    sd = np.sqrt(covariance[0, 0])
    np.testing.assert_allclose(np.exp(found.x), [sd, model.sigma], rtol=1e-4)


def test_print_and_frames_leave_out_correlations_that_are_none():
    model = fitted("sleep_diag")
    assert "Corr" not in str(model.VarCorr())
    assert list(model.VarCorr().to_dataframe()["var1"]) == ["(Intercept)", "Days", None]
    rows = model.tidy("ran_pars")
    assert list(rows["term"]) == ["sd__(Intercept)", "sd__Days", "sd__Observation"]
    assert np.all(np.isfinite(rows["std.error"]))
    full = model.vcov(full=True)
    assert list(full)[:2] == ["Subject.(Intercept)", "Subject.Days"]


def test_names_of_other_parameters():
    assert list(fitted("epil_ar1").vcov(full=True))[:2] == ["subject.sd", "subject.cor"]
    names = list(fitted("sleep_cs").vcov(full=True))[:3]
    assert names == ["Subject.log sd.(Intercept)", "Subject.log sd.Days", "Subject.cor"]


def test_theta_is_found_in_lambda_where_it_stands_there():
    model = fitted("sleep_diag")
    assert list(model.getME("Lind")) == [0, 1] * 18
    np.testing.assert_allclose(model.theta[[0, 1] * 18], model.getME("Lambdat").data, rtol=1e-14)
    for name in ("sleep_cs", "epil_ar1"):
        with pytest.raises(mlm.ArgumentError, match=r"no Lind of a (cs|ar1)\(\.\.\.\) term"):
            fitted(name).getME("Lind")


def test_update_knows_structured_terms():
    model = fitted("epil_diag")
    changed = model.update(". ~ . - diag(0 + visit | subject) + (1 | subject)")
    plain = mlm.glmer("y ~ lbase * trt + lage + (1 | subject)", model.call.data, "poisson")
    assert float(changed.logLik()) == pytest.approx(float(plain.logLik()), abs=1e-9)


@pytest.mark.parametrize(
    "times", [np.tile([1.0, 2.0], 4), np.tile(["5", "10"], 4), np.tile(["1", "2", "4", "5"], 2)]
)
def test_a_series_needs_times_in_order(times):
    data = pd.DataFrame({"y": np.arange(8.0), "time": times, "g": np.repeat(["a", "b"], 4)})
    with pytest.raises(mlm.DataError, match=r"factor of at least two times|in order"):
        mlm.glmer("y ~ 1 + ar1(0 + time | g)", data)


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("y ~ x + diag(x)", "covariance structure of a random term: diag"),
        ("y ~ x + diag(x || g)", "both drop correlations"),
        ("y ~ x + ar1(time | g)", "no intercept"),
        ("y ~ x + ar1(0 + time + x | g)", "one factor of times"),
        ("y ~ x - cs(x | g)", "cannot be subtracted"),
        ("y ~ x + ar1(0 + time:x | g)", "one factor of times"),
        ("y ~ x + toep(x | g)", "not a function"),
        ("y ~ x + log(cs(x | g))", "covariance structure of a random term: cs"),
    ],
)
def test_bad_terms_are_refused(formula, said):
    data = pd.DataFrame({"y": [1.0, 2.0], "x": [1.0, 2.0], "g": ["a", "b"], "time": ["1", "2"]})
    with pytest.raises(FormulaError, match=said):
        mlm.glmer(formula, data)
