"""Many fits at once against the path of a single fit: same optimum, errors and verdict."""

from __future__ import annotations

import warnings
from functools import cache
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pandas as pd
import polars as pl
import pytest
from fitted import CBPP, cbpp

import mixedlm_jax as mlm
from mixedlm_jax import families, lane_fits, lanes, many
from mixedlm_jax.buckets import lane_slots
from mixedlm_jax.call import Call
from mixedlm_jax.errors import Code, FitError
from mixedlm_jax.families import Gamma
from mixedlm_jax.fits import MESSAGES
from mixedlm_jax.formula import parse
from mixedlm_jax.inference import standard_errors
from mixedlm_jax.likelihood import laplace_gradient
from mixedlm_jax.plan import with_rounds
from mixedlm_jax.problem import Params, make_problem, zero_effects

GROUPS, SIZE = 8, 6


@cache
def frame() -> pd.DataFrame:
    """48 rows in 8 groups, crossed with 6 items."""
    rng = np.random.default_rng(1)
    n = GROUPS * SIZE
    return pd.DataFrame(
        {
            "x": rng.normal(size=n).round(2),
            "g": np.repeat(np.arange(GROUPS), SIZE),
            "item": np.tile(np.arange(SIZE), GROUPS),
            "exposure": rng.uniform(0.5, 2.0, size=n).round(2),
            "w": rng.integers(1, 4, size=n).astype(float),
        }
    )


def single(formula: str, data: pd.DataFrame, family, **arguments) -> mlm.GlmerResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlm.MixedlmWarning)
        return mlm.glmer(formula, data, family, **arguments)


def polars(data: pd.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({name: data[name].to_list() for name in data})


def agree(fits: mlm.Fits, lane: int, model: mlm.GlmerResult) -> None:
    """One lane and one model are the same fit."""
    fit = model.fit
    assert fits.logLik[lane] == pytest.approx(fit.log_likelihood, abs=1e-8)
    errors = standard_errors(model.fixed_covariance)
    np.testing.assert_allclose(fits.beta[lane], fit.beta, atol=1e-4 * errors.max())
    np.testing.assert_allclose(fits.se[lane], errors, rtol=1e-5)
    np.testing.assert_allclose(fits.theta[lane], fit.theta, atol=1e-4)
    np.testing.assert_allclose(fits.phi[lane], fit.phi, rtol=1e-4, atol=1e-5)
    # the errors of theta and phi too, and nan in the same places
    np.testing.assert_array_equal(np.isnan(fits.vcov[lane]), np.isnan(fit.vcov))
    ours, theirs = (np.sqrt(np.diagonal(vcov)) for vcov in (fits.vcov[lane], fit.vcov))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    apart = (fits.vcov[lane] - fit.vcov) / np.outer(theirs, theirs)
    np.testing.assert_allclose(np.nan_to_num(apart), 0.0, atol=2e-4)
    assert bool(fits.ok[lane]) == fit.verdict.ok
    assert fits.code[lane] == fit.verdict.code
    assert fits.nobs[lane] == model.nobs
    shown = dict(zip(fits.component_names, fits.components[lane], strict=True))
    for _, row in model.VarCorr().to_dataframe().iterrows():
        if row["grp"] == "Residual":
            continue
        kind = "sd" if pd.isna(row["var2"]) else "cor"
        names = [row["var1"], *([row["var2"]] if kind == "cor" else [])]
        (own,) = [
            name
            for name in shown
            if name.startswith(f"{kind}_")
            and name.endswith(f"|{row['grp']}")
            and set(name[len(kind) + 1 :].partition("|")[0].split(".")) == set(names)
        ]
        assert shown[own] == pytest.approx(row["sdcor"], rel=1e-4, abs=1e-5)


# ----------------------------------------------------------------------------------------------
# The cattle data: every kind of lane in one batch


@pytest.fixture(scope="module")
def model():
    return mlm.glmer(CBPP, cbpp(), "binomial")


@pytest.fixture(scope="module")
def batch(model):
    """40 simulated lanes, and six odd ones: missing, constant, empty, separated (2), rankless."""
    data = cbpp()
    Y = model.simulate(46, seed=3).to_numpy(copy=True)
    period, size = data["period"].to_numpy().astype(str), data["size"].to_numpy(float)
    Y[[3, 17, 44], 40] = np.nan
    Y[:, 41] = 0.0
    Y[:, 42] = np.nan
    Y[period == "4", 43] = 0.0
    Y[period == "2", 44] = size[period == "2"]
    Y[period == "3", 45] = np.nan
    names = [f"sim_{j}" for j in range(40)]
    names += ["missing", "constant", "empty", "lowest", "highest", "rankless"]
    Y = pd.DataFrame(Y, columns=names)
    return SimpleNamespace(data=data, Y=Y, fits=model.refit_many(Y, progress=False))


def test_lanes_are_single_fits(model, batch):
    fits = batch.fits
    assert np.all(fits.ok[:41]), fits
    singular = np.flatnonzero(fits.code[:40] == Code.SINGULAR)
    for lane in [0, 1, 2, *singular[:2]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", mlm.SingularFitWarning)
            agree(fits, lane, model.refit(batch.Y.iloc[:, lane].to_numpy()))


def test_a_missing_value_is_a_row_that_does_not_count(batch):
    data = batch.data.assign(incidence=batch.Y["missing"])
    lane = batch.Y.columns.get_loc("missing")
    assert batch.fits.nobs[lane] == 53
    agree(batch.fits, lane, single(CBPP, data, "binomial"))


@pytest.mark.parametrize("name", ["constant", "empty"])
def test_nothing_to_model_is_said(batch, name):
    lane = batch.Y.columns.get_loc(name)
    assert batch.fits.code[lane] == Code.CONSTANT
    assert not batch.fits.ok[lane]
    for part in (batch.fits.beta, batch.fits.theta, batch.fits.se, batch.fits.vcov):
        assert np.all(np.isnan(part[lane]))
    assert np.isnan(batch.fits.logLik[lane])


@pytest.mark.parametrize(("name", "column"), [("lowest", "period4"), ("highest", "period2")])
def test_separated_lanes_are_coded_and_their_columns_named(batch, name, column):
    lane, fits = batch.Y.columns.get_loc(name), batch.fits
    assert fits.code[lane] == Code.SEPARATED
    assert not fits.ok[lane]
    assert [
        term for term, is_so in zip(fits.fixed, fits.separated[lane], strict=True) if is_so
    ] == [column]
    assert not fits.separated[:40].any()
    data = batch.data.assign(incidence=batch.Y[name])
    with pytest.warns(mlm.ConvergenceWarning, match="separated"):
        whole = mlm.glmer(CBPP, data, "binomial")
    assert whole.fit.verdict.separated == (fits.fixed.index(column),)
    assert fits.logLik[lane] == pytest.approx(whole.fit.log_likelihood, abs=1e-3)


def test_a_lane_whose_data_do_not_tell_effects_apart_fails(batch):
    lane = batch.Y.columns.get_loc("rankless")
    assert not batch.fits.ok[lane]
    assert batch.fits.code[lane] in (Code.ILL_CONDITIONED, Code.INDEFINITE)
    assert batch.fits.rescued[lane], "what fails has been tried by the path of a single fit"


def test_the_record(batch):
    fits, Y = batch.fits, batch.Y
    frame = fits.to_dataframe()
    assert list(frame.index) == list(Y.columns)
    assert list(frame.columns) == [
        *["(Intercept)", "period2", "period3", "period4"],
        *["se.(Intercept)", "se.period2", "se.period3", "se.period4"],
        *["sd_(Intercept)|herd", "logLik", "ok", "code", "message"],
    ], list(frame.columns)
    assert frame.loc["constant", "message"] == MESSAGES[-7]
    assert frame.loc["sim_0", "message"] == "converged"
    assert fits.code.dtype == np.int8
    assert fits.ok.dtype == bool
    assert len(fits) == 46
    assert fits.se.shape == (46, 4)
    assert fits.beta_vcov.shape == (46, 4, 4)
    text = repr(fits)
    assert f"46 fits, {int(fits.ok.sum())} ok" in text
    assert "2 separated" in text


def test_every_code_has_a_message():
    assert {int(code): code.message for code in Code} == MESSAGES
    assert all(np.int8(code) == code for code in MESSAGES)


def test_lanes_do_not_depend_on_their_neighbours(model, batch):
    few = model.refit_many(batch.Y.iloc[:, 5:8], progress=False)
    np.testing.assert_allclose(few.logLik, batch.fits.logLik[5:8], atol=1e-9)
    np.testing.assert_allclose(few.se, batch.fits.se[5:8], rtol=1e-5)


def test_many_fits_from_a_formula_are_refits(batch):
    fits = mlm.fit_many(
        "~ period + (1 | herd)",
        polars(batch.data),
        polars(batch.Y),
        "binomial",
        trials="size",
        progress=False,
    )
    np.testing.assert_array_equal(fits.index, batch.Y.columns)
    np.testing.assert_array_equal(fits.code, batch.fits.code)
    ok = fits.ok
    np.testing.assert_allclose(fits.logLik[ok], batch.fits.logLik[ok], atol=1e-8)
    np.testing.assert_allclose(fits.se[ok], batch.fits.se[ok], rtol=1e-5)


def test_rows_that_the_model_left_out(model, batch):
    data = batch.data.assign(incidence=batch.data["incidence"].where(batch.data.index != 4))
    short = mlm.glmer(CBPP, data, "binomial", na_action="exclude")
    Y = batch.Y.iloc[:, :3]
    whole = short.refit_many(Y, progress=False)
    used = short.refit_many(Y.drop(index=4), progress=False)
    np.testing.assert_array_equal(whole.logLik, used.logLik)
    assert whole.nobs.tolist() == [55] * 3
    agree(whole, 1, short.refit(Y.iloc[:, 1].to_numpy()))


def test_a_proportion_with_weights_takes_proportions(batch):
    data = batch.data.assign(p=batch.data["incidence"] / batch.data["size"])
    bare = mlm.glmer("p ~ period + (1 | herd)", data, "binomial", weights="size")
    Y = batch.Y.iloc[:, :3].div(data["size"], axis=0)
    fits = bare.refit_many(Y, progress=False)
    np.testing.assert_allclose(fits.logLik, batch.fits.logLik[:3], atol=1e-9)
    drawn = bare.simulate(2, seed=1)
    assert ((drawn >= 0) & (drawn <= 1)).all().all()
    np.testing.assert_allclose(drawn.mul(data["size"], axis=0) % 1.0 % 1.0, 0.0, atol=1e-9)


# ----------------------------------------------------------------------------------------------
# What is not an optimum goes by the path of a single fit


def test_lanes_that_stop_early_are_rescued(model, batch, monkeypatch):
    monkeypatch.setattr(lanes, "_MAX_EVALUATIONS", 2)
    monkeypatch.setattr(lane_fits, "_ROUNDS", 0)
    fits = model.refit_many(batch.Y.iloc[:, :6], progress=False)
    assert fits.rescued.any()
    assert fits.ok.all()
    np.testing.assert_allclose(fits.logLik, batch.fits.logLik[:6], atol=1e-8)
    np.testing.assert_allclose(fits.se, batch.fits.se[:6], rtol=1e-5)


def test_a_lane_that_nothing_rescues_is_reported(model, batch, monkeypatch):
    def fail(*_, **__):
        raise FitError("nothing is finite")

    monkeypatch.setattr(lanes, "_MAX_EVALUATIONS", 2)
    monkeypatch.setattr(lane_fits, "_ROUNDS", 0)
    monkeypatch.setattr(lane_fits, "fit_problem", fail)
    fits = model.refit_many(batch.Y.iloc[:, :3], progress=False)
    assert not fits.ok.any()
    assert np.all(fits.code == Code.NOT_AT_OPTIMUM)
    assert fits.rescued.all()


def test_separation_is_not_looked_for_where_that_is_asked(batch):
    control = mlm.GlmerControl(check_separation=False)
    fits = mlm.fit_many(
        "~ period + (1 | herd)",
        batch.data,
        batch.Y[["sim_0", "lowest"]],
        "binomial",
        trials="size",
        control=control,
        progress=False,
    )
    assert not fits.separated.any()


# ----------------------------------------------------------------------------------------------
# Families, structures and objectives


CASES: dict[str, tuple[str, Any, dict[str, Any], dict[str, Any]]] = {
    "slope": ("x + (x | g)", "gaussian", {"weights": "w"}, {"theta": [1, 0.2, 0.5], "sigma": 0.8}),
    "nbinom": (
        "x + offset(log(exposure)) + (1 | g)",
        "nbinom2",
        {},
        {"theta": [0.5], "phi": [3.0]},
    ),
    "crossed": ("x + (1 | g) + (1 | item)", "poisson", {}, {"theta": [0.6, 0.4]}),
    "parts": (
        "x + (1 | g)",
        "nbinom2",
        {"ziformula": "~ 1", "dispformula": "~ x"},
        {"theta": [0.5], "phi": [1.5, 0.3, -1.0]},
    ),
    "inverse": ("x + (1 | g)", Gamma(link="inverse"), {}, {"theta": [0.4], "phi": [6.0]}),
    "frequency": ("x + (1 | g)", "poisson", {"weights": "w", "weights_type": "frequency"},
                  {"theta": [0.6]}),
}  # fmt: skip
SLOW = ("parts", "inverse", "frequency")
BETA = {"nbinom": [1.5, 0.4], "parts": [1.6, 0.3], "inverse": [5.0, 0.2]}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in CASES],
)
def test_a_case_agrees_with_single_fits(case):
    right, family, arguments, truth = CASES[case]
    data = frame()
    Y = mlm.simulate_formula(
        f"~ {right}", data, family, beta=BETA.get(case, [0.8, 0.5]), nsim=8, seed=5, **truth,
        **arguments,
    )  # fmt: skip
    Y.iloc[[2, 30], 1] = np.nan
    fits = mlm.fit_many(f"~ {right}", data, Y, family, progress=False, **arguments)
    assert fits.ok.sum() >= 6, fits
    wanted = [0, 1] if fits.ok[:2].all() else np.flatnonzero(fits.ok)[:2]
    for lane in wanted:
        own = data.assign(y=Y.iloc[:, lane])
        agree(fits, lane, single(f"y ~ {right}", own, family, **arguments))


@pytest.mark.parametrize("nAGQ", [0, pytest.param(5, marks=pytest.mark.slow)])
def test_other_objectives(batch, nAGQ):
    fits = mlm.fit_many(
        "~ period + (1 | herd)",
        batch.data,
        batch.Y.iloc[:, [0, 1, 40, 43]],
        "binomial",
        trials="size",
        nAGQ=nAGQ,
        progress=False,
    )
    for lane, name in enumerate(["sim_0", "sim_1", "missing"]):
        own = batch.data.assign(incidence=batch.Y[name])
        agree(fits, lane, single(CBPP, own, "binomial", nAGQ=nAGQ))
    assert fits.code[3] == Code.SEPARATED


@pytest.mark.slow
def test_nearly_collinear_columns_are_searched_in_a_basis_of_their_own(model):
    data = cbpp().assign(year=lambda d: 2000.0 + np.arange(len(d)) % 7)
    whole = mlm.glmer("incidence / size ~ year + I(year^2) + (1 | herd)", data, "binomial")
    Y = whole.simulate(3, seed=2)
    fits = whole.refit_many(Y, progress=False)
    lane = int(np.argmax(fits.ok))
    other = whole.refit(Y.iloc[:, lane].to_numpy())
    assert fits.logLik[lane] == pytest.approx(other.fit.log_likelihood, abs=1e-7)
    np.testing.assert_allclose(fits.se[lane], standard_errors(other.fixed_covariance), rtol=1e-4)


# ----------------------------------------------------------------------------------------------
# How they are cut and shown


def test_blocks_and_threads_change_nothing(model, batch, monkeypatch):
    monkeypatch.setattr(many, "_WIDTHS", 1)
    monkeypatch.setattr(lanes, "_MOST_LANES", 8)
    monkeypatch.setattr(many, "_workers", lambda mesh: 3)
    fits = model.refit_many(batch.Y, progress=False)
    np.testing.assert_array_equal(fits.code, batch.fits.code)
    np.testing.assert_allclose(fits.logLik[fits.ok], batch.fits.logLik[fits.ok], atol=1e-9)
    np.testing.assert_allclose(fits.se[fits.ok], batch.fits.se[fits.ok], rtol=1e-5)


def test_the_bar_tells_rate_and_failures(model, batch, capsys):
    model.refit_many(batch.Y.iloc[:, 40:], progress=True)
    shown = capsys.readouterr().err
    assert "fits/s" in shown
    assert "3 not ok" in shown or "not ok" in shown
    assert "4/4" in shown, shown
    model.refit_many(batch.Y.iloc[:, :3], progress=False)
    assert capsys.readouterr().err == ""


def test_an_error_ends_the_run(model, batch, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(many, "fit_lanes", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.refit_many(batch.Y, progress=False)


def test_callers_settings_stay(model, batch):
    before = jax.config.values.copy()
    model.refit_many(batch.Y.iloc[:, :3], progress=False)
    assert jax.config.values == before


# ----------------------------------------------------------------------------------------------
# Bad input


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"formula": "y ~ x + (1 | g)"}, mlm.FormulaError, "one-sided formula"),
        ({"formula": 3}, mlm.FormulaError, "one-sided formula"),
        ({"data": [frame(), frame()]}, mlm.ArgumentError, "takes one frame of predictors"),
        ({"responses": np.ones(48)}, mlm.ArgumentError, "a column for each fit"),
        ({"responses": np.ones((48, 0))}, mlm.ArgumentError, "a column for each fit"),
        ({"responses": np.ones((47, 2))}, mlm.ArgumentError, "47 rows and the data 48"),
        ({"responses": [["a"]] * 48}, mlm.ArgumentError, "no numbers"),
        ({"responses": np.eye(48, 2) - 1.0}, mlm.DataError, "response 0: .*not negative"),
        ({"responses": np.where(np.eye(48, 2) > 0, np.inf, 1.0)}, mlm.DataError, "0 is infinite"),
        ({"trials": np.full(48, 9.0)}, mlm.ArgumentError, "the poisson family have none"),
        ({"checkpoint": 3}, mlm.ArgumentError, "checkpoint is 3; give the path"),
        ({"responses": -np.ones((48, 1))}, mlm.DataError, "response 0: .*not negative"),
        ({"family": mlm.families.QuasiFamily("mu")}, mlm.ArgumentError, "quasi family"),
        ({"nAGQ": -1}, mlm.ArgumentError, "nAGQ is -1"),
    ],
)
def test_bad_input_is_one_sentence(change, error, words):
    Y = np.random.default_rng(1).poisson(2.0, size=(48, 2)).astype(float)
    given = {"formula": "~ x + (1 | g)", "data": frame(), "responses": Y, "family": "poisson"}
    with pytest.raises(error, match=words):
        mlm.fit_many(**(given | change), progress=False)


@pytest.mark.parametrize("value", [3.0, 0.0, np.nan])
def test_lanes_that_are_all_constant_are_coded(value):
    fits = mlm.fit_many("~ x + (1 | g)", frame(), np.full((48, 2), value), "poisson")
    assert fits.code.tolist() == [Code.CONSTANT] * 2
    assert not np.any(fits.ok)
    assert np.all(np.isnan(fits.beta))
    assert np.all(fits.nobs == (0 if np.isnan(value) else 48))
    assert fits.fixed == ("(Intercept)", "x")


def test_a_lane_whose_share_is_constant_is_coded(batch):
    """All animals of every herd: successes that vary, of trials that vary alike."""
    size = batch.data["size"].to_numpy(float)
    missed = batch.data["incidence"].to_numpy(float).copy()
    missed[3] = np.nan
    Y = np.column_stack([size, missed])
    fits = mlm.fit_many("~ period + (1 | herd)", batch.data, Y, "binomial", trials="size")
    assert fits.code.tolist() == [Code.CONSTANT, Code.CONVERGED]


def test_impossible_responses_are_named(model, batch):
    Y = batch.Y.iloc[:, :3].copy()
    Y.iloc[3, 1] = -1.0
    with pytest.raises(mlm.DataError, match="response sim_1: "):
        model.refit_many(Y)
    Y.iloc[3, 1] = np.inf
    with pytest.raises(mlm.DataError, match="response sim_1 is infinite in row 3"):
        model.refit_many(Y)
    with pytest.raises(mlm.ArgumentError, match=r"each of the 56 rows of the data$"):
        model.refit_many(Y.iloc[1:])


def test_rows_in_another_order_are_refused(model, batch):
    Y = batch.Y.iloc[:, :2]
    with pytest.raises(mlm.ArgumentError, match=r"index differs.*\.to_numpy"):
        model.refit_many(Y.iloc[::-1])
    with pytest.raises(mlm.ArgumentError, match=r"index differs.*\.to_numpy"):
        mlm.fit_many("~ period + (1 | herd)", batch.data, Y.iloc[::-1], "binomial", trials="size")


@pytest.mark.parametrize("slope", [False, True])
def test_rows_in_rounds_of_all_levels_have_the_same_likelihood(slope):
    """Groups of 4, 4, 3 and 4 rows, one of weight 0, in any order: 16 slots."""
    rng = np.random.default_rng(3)
    g = rng.permutation(np.repeat(np.arange(4), [4, 4, 3, 4]))
    data = pd.DataFrame({"y": rng.poisson(3.0, 15), "x": rng.normal(size=15), "g": g})
    weights = np.where(np.arange(15) == 5, 0.0, 1.0)
    formula = "y ~ x + (1 + x | g)" if slope else "y ~ x + (1 | g)"
    call = Call(parse(formula), data, families.Poisson(), weights=weights)
    design = call.build()[0]
    slots = lane_slots(design)
    assert len(slots.row) == 16
    assert np.array_equal(np.sort(slots.row[slots.used]), np.arange(15))

    with jax.enable_x64(True):
        problem = make_problem(design, call.family)
        laid = make_problem(slots.of(design), call.family)
        rounds = laid.replace(plan=with_rounds(laid.plan))
        assert rounds.plan.rounds == 4
        assert with_rounds(problem.plan).rounds == 0
        theta = np.array([0.7, 0.2, 0.4])[: problem.n_theta]
        params = Params(theta, np.array([1.0, 0.1]), np.zeros(0))
        known = laplace_gradient(params, problem, zero_effects(problem))
        found = laplace_gradient(params, rounds, zero_effects(rounds))
    np.testing.assert_allclose(found.value, known.value, rtol=1e-12)
    np.testing.assert_allclose(found.gradient.flat, known.gradient.flat, rtol=1e-9)
    np.testing.assert_allclose(found.u[0], known.u[0], rtol=1e-9)


def test_rows_of_unequal_groups_stand_as_they_are():
    data = pd.DataFrame({"y": np.arange(12.0), "g": np.repeat([0, 1, 2], [8, 2, 2])})
    design = Call(parse("y ~ 1 + (1 | g)"), data, families.Gaussian()).build()[0]
    slots = lane_slots(design)
    assert np.array_equal(slots.row[slots.used], np.arange(12))
    assert len(slots.row) == 16
