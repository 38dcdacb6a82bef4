"""Responses drawn from a model or a formula: their moments, and what decides them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from fitted import CBPP, cbpp

import mixedlm_jax as mlm
from mixedlm_jax import simulate
from mixedlm_jax.families import CustomFamily, NegativeBinomial, QuasiFamily


@cache
def model() -> mlm.GlmerResult:
    return mlm.glmer(CBPP, cbpp(), "binomial")


@cache
def design() -> pd.DataFrame:
    """40 groups of 3 rows."""
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "x": np.tile([0.0, 1.0, 2.0], 40),
            "g": np.repeat(np.arange(40), 3),
            "w": rng.integers(1, 5, size=120).astype(float),
        }
    )


def draws(formula, family, nsim=2000, **arguments) -> np.ndarray:
    return mlm.simulate_formula(
        formula, design(), family, nsim=nsim, seed=8, **arguments
    ).to_numpy()


def test_a_linear_model_has_the_moments_of_its_parameters():
    # y = 1 + x/2 + b + e with sd(b) = theta sigma = 1.2 and Var(e) = sigma^2 / w
    y = draws("~ x + (1 | g)", "gaussian", beta=[1.0, 0.5], theta=[1.5], sigma=0.8, weights="w")
    data = design()
    sem = np.sqrt(1.44 + 0.64) / np.sqrt(2000)
    assert np.abs(y.mean(axis=1) - (1.0 + 0.5 * data["x"])).max() < 4.5 * sem
    spread = y.var(axis=1) / (1.44 + 0.64 / data["w"])
    assert np.abs(spread - 1.0).max() < 4.5 * np.sqrt(2.0 / 2000)
    # two rows of a group share b, rows of two groups share nothing
    centred = y - y.mean(axis=1, keepdims=True)
    within = np.mean(centred[0] * centred[1]), np.mean(centred[0] * centred[3])
    assert within[0] == pytest.approx(1.44, abs=0.2)
    assert within[1] == pytest.approx(0.0, abs=0.2)


def test_counts_have_the_moments_of_a_negative_binomial():
    # E exp(eta) = exp(m + s^2/2); Var = E mu + (1 + 1/theta) E mu^2 - (E mu)^2
    y = draws("~ 1 + (1 | g)", NegativeBinomial(), beta=[0.7], theta=[0.4], phi={"theta": 2.5})
    mean = np.exp(0.7 + 0.08)
    square = np.exp(1.4 + 4 * 0.08)
    variance = mean + (1.0 + 1.0 / 2.5) * square - mean**2
    assert y.mean() == pytest.approx(mean, rel=0.02)
    assert y.var() == pytest.approx(variance, rel=0.05)
    assert np.array_equal(y, np.round(y))


def test_zeros_and_trials():
    y = draws(
        "~ 1 + (1 | g)", "poisson", beta=[2.0], theta=[0.1], ziformula="~ 1", phi=[np.log(1 / 3)]
    )
    assert np.mean(y == 0) == pytest.approx(0.25 + 0.75 * np.exp(-np.exp(2.0)), abs=0.01)
    given = {"beta": [0.4], "theta": [0.5], "nsim": 50}
    y = draws("~ 1 + (1 | g)", "binomial", trials=np.full(120, 7), **given)
    assert y.max() <= 7
    assert y.max() > 1
    np.testing.assert_array_equal(y, draws("s / 7 ~ 1 + (1 | g)", "binomial", **given))


def test_a_seed_decides_whatever_the_number(monkeypatch):
    few, many = model().simulate(3, seed=5), model().simulate(40, seed=5)
    pd.testing.assert_frame_equal(few, many.iloc[:, :3])
    monkeypatch.setattr(simulate, "_PIECES", 2)
    monkeypatch.setattr(simulate, "_ROWS", 1024)
    pd.testing.assert_frame_equal(many, model().simulate(40, seed=5))
    assert not few.equals(model().simulate(3, seed=6))
    assert not few["sim_1"].equals(few["sim_2"])
    assert not model().simulate(1).equals(model().simulate(1))


def test_effects_are_kept_where_that_is_asked():
    trials = cbpp()["size"].to_numpy()[:, None]
    kept = (model().simulate(4000, seed=1, re_form=None) / trials).mean(axis=1)
    anew = (model().simulate(4000, seed=1) / trials).mean(axis=1)
    np.testing.assert_allclose(kept, model().predict(), atol=0.03)
    assert np.abs(anew - model().predict()).max() > 0.05
    named = model().simulate(5, seed=1, re_form="~(1 | herd)")
    pd.testing.assert_frame_equal(named, model().simulate(5, seed=1, re_form=None))


def test_other_parameters():
    far = model().simulate(50, seed=1, newparams={"beta": [-8.0, 0.0, 0.0, 0.0]})
    assert far.to_numpy().mean() < 0.05
    names = ["(Intercept)", "period2", "period3", "period4"]
    given = {"fixef": dict(zip(names, [-8.0, 0.0, 0.0, 0.0], strict=True))}
    pd.testing.assert_frame_equal(far, model().simulate(50, seed=1, newparams=given))
    own = {"beta": model().fit.beta, "theta": model().fit.theta}
    pd.testing.assert_frame_equal(
        model().simulate(2, seed=1, newparams=own), model().simulate(2, seed=1)
    )


def test_rows_and_names_are_those_of_the_frame():
    data = cbpp()
    data.index = [f"r{j}" for j in range(len(data))]
    data.loc["r7", "incidence"] = None
    short = mlm.glmer(CBPP, data, "binomial")
    drawn = short.simulate(2, seed=1)
    assert list(drawn.index) == [name for name in data.index if name != "r7"]
    assert list(drawn.columns) == ["sim_1", "sim_2"]
    assert (drawn.to_numpy() <= data["size"].drop("r7").to_numpy()[:, None]).all()


def test_a_polars_frame_is_a_design():
    given: dict[str, Any] = {"beta": [0.4], "theta": [0.5], "seed": 1}
    ours = mlm.simulate_formula("~ 1 + (1 | g)", design(), "poisson", **given)
    theirs = mlm.simulate_formula("~ 1 + (1 | g)", pl.from_pandas(design()), "poisson", **given)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nsim": 0}, "nsim is 0"),
        ({"nsim": 2.5}, "nsim is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"newparams": [1.0]}, "newparams is a list"),
        ({"newparams": {"gamma": [1.0]}}, "no parameters 'gamma'"),
        ({"newparams": {"beta": [1.0]}}, "beta is .* give 4 finite numbers"),
        ({"newparams": {"beta": {"x": 1.0}}}, "beta names x; the model has"),
        ({"newparams": {"theta": ["a"]}}, "theta is .* give numbers"),
        ({"re_form": "~(1 | nobody)"}, "nobody"),
    ],
)
def test_bad_arguments_of_simulate(given, words):
    with pytest.raises(mlm.ArgumentError, match=words):
        model().simulate(**given)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"beta": [0.4, 1.0]}, mlm.ArgumentError, "beta is .* give 1 finite"),
        ({"family": "gaussian"}, mlm.ArgumentError, "phi is missing: give 1 numbers .sigma."),
        ({"family": "gaussian", "sigma": -1.0}, mlm.ArgumentError, "phi is .* cannot have"),
        ({"sigma": 1.0, "phi": [1.0]}, mlm.ArgumentError, "sigma and phi are both given"),
        ({"family": QuasiFamily("mu")}, mlm.ArgumentError, "quasi"),
        ({"formula": "~ z + (1 | g)"}, mlm.DataError, "'z' is not in the data"),
        ({"trials": "nowhere", "family": "binomial"}, mlm.DataError, "'nowhere' is not in the"),
        ({"trials": 5}, mlm.ArgumentError, "the poisson family have none"),
    ],
)
def test_bad_arguments_of_simulate_formula(given, error, words):
    whole = {"formula": "~ 1 + (1 | g)", "data": design(), "family": "poisson", "beta": [0.4],
             "theta": [0.5]}  # fmt: skip
    with pytest.raises(error, match=words):
        mlm.simulate_formula(**(whole | given))


def test_a_family_without_a_sampler_cannot_be_drawn():
    family = CustomFamily(lambda y, eta, phi: -0.5 * (y - eta) ** 2)
    with pytest.raises(mlm.ArgumentError, match="sampler"):
        mlm.simulate_formula("~ 1 + (1 | g)", design(), family, beta=[0.0], theta=[1.0])


def test_effects_outside_the_domain_of_a_link_are_said():
    with pytest.raises(mlm.DataError, match="domain of the identity link"):
        mlm.simulate_formula(
            "~ 1 + (1 | g)",
            design(),
            mlm.families.Poisson(link="identity"),
            beta=[0.5],
            theta=[2.0],
            nsim=5,
            seed=1,
        )
