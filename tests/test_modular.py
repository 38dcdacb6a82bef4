"""lme4's modular steps, and the deviance function."""

from __future__ import annotations

from typing import Any

import fitted
import jax
import numpy as np
import pytest
import records
from scipy import optimize

import mixedlm_jax as mlm
from mixedlm_jax.errors import ArgumentError

make_posterior = records.script("make_posterior")


def test_the_deviance_is_minus_twice_the_log_likelihood():
    devfun: Any = mlm.glmer(fitted.CBPP, fitted.cbpp(), "binomial", devFunOnly=True)
    x = np.array([0.5, -1.2, -0.8, -1.0, -1.5])

    def dense(x):
        return -2 * make_posterior.log_likelihood(x[None, 1:], x[:1], False)[0]

    assert type(devfun(x)) is float
    assert devfun(x) == pytest.approx(dense(x), abs=1e-8)
    np.testing.assert_allclose(
        devfun.gradient(x), optimize.approx_fprime(x, dense, 1e-6), rtol=1e-4, atol=1e-3
    )
    assert devfun.names == ("herd.(Intercept)", "(Intercept)", "period2", "period3", "period4")
    np.testing.assert_array_equal(devfun.lower, [0.0, *[-np.inf] * 4])
    assert devfun(x * [-1, 1, 1, 1, 1]) == pytest.approx(devfun(x), abs=1e-10)
    assert devfun(np.full(5, 1e300)) == np.inf
    assert jax.numpy.ones(1).dtype == np.float32  # outside as it was
    with pytest.raises(ArgumentError, match=r"shape \(2,\); the deviance is a function of 5"):
        devfun([0.5, 1.0])


def test_the_steps_make_what_glmer_makes():
    whole = fitted.recorded("cbpp_logit")
    devfun = mlm.mkGlmerDevfun(mlm.glFormula(fitted.CBPP, fitted.cbpp(), "binomial"))
    fit = mlm.optimizeGlmer(devfun)
    model = mlm.mkGlmerMod(devfun, fit)
    assert str(model) == str(whole)
    found = optimize.minimize(devfun, devfun.start, jac=devfun.gradient)
    assert found.fun == pytest.approx(-2 * fit.log_likelihood, abs=1e-6)
    again = mlm.optimizeGlmer(devfun, found.x)
    assert again.optinfo["evaluations"] <= fit.optinfo["evaluations"]
    np.testing.assert_allclose(again.beta, fit.beta, atol=1e-6)
    bobyqa = mlm.optimizeGlmer(devfun, optimizer="bobyqa")
    assert "BOBYQA" in bobyqa.optinfo["optimizer"] or "COBYQA" in bobyqa.optinfo["optimizer"]


def test_flat_parameters_are_start_values():
    """phi is unconstrained in the one and natural in the other."""
    parsed = mlm.glFormula("Reaction ~ Days + (1 | Subject)", mlm.load_sleepstudy())
    devfun = mlm.mkGlmerDevfun(parsed)
    assert devfun.names == ("Subject.(Intercept)", "(Intercept)", "Days", "sigma")
    start = devfun.start_of([0.8, 250.0, 10.0, np.log(30.0)])
    np.testing.assert_allclose(start["phi"], [30.0])
    np.testing.assert_allclose(start["theta"], [0.8])
    np.testing.assert_allclose(start["beta"], [250.0, 10.0])


def test_without_beta_at_nAGQ_0():
    record = fitted.recorded("cbpp_logit_agq0")
    devfun: Any = mlm.glmer(fitted.CBPP, fitted.cbpp(), "binomial", nAGQ=0, devFunOnly=True)
    assert devfun.names == ("herd.(Intercept)",)
    assert devfun(record.theta) == pytest.approx(-2 * float(record.logLik()), abs=1e-8)


def test_what_the_model_does_not_allow_is_refused():
    formula = "y ~ Anger + (1 | id) + (1 | item)"
    parsed = mlm.glFormula(formula, mlm.load_verbagg(), "binomial", nAGQ=5)
    with pytest.raises(ArgumentError, match="2 grouping factors, and quadrature is for one"):
        mlm.mkGlmerDevfun(parsed)
