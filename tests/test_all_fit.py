"""One model by every optimiser: they agree, and one that stops short is told from the others."""

from __future__ import annotations

from dataclasses import replace

import fitted
import numpy as np
import pytest
from fitted import cbpp

import mixedlm_jax as mlm
from mixedlm_jax.minimisers import MINIMISERS, Target, available
from mixedlm_jax.optimize import has_nlopt


def rosenbrock(x):
    value = 100.0 * (x[1] - x[0] ** 2) ** 2 + (1.0 - x[0]) ** 2
    inner = x[1] - x[0] ** 2
    return value, np.array([-400.0 * x[0] * inner - 2.0 * (1.0 - x[0]), 200.0 * inner])


def bend(x):
    corner = 1200.0 * x[0] ** 2 - 400.0 * x[1] + 2.0
    return np.array([[corner, -400.0 * x[0]], [-400.0 * x[0], 200.0]])


def test_all_minimisers_are_there_but_for_nlopt():
    assert set(MINIMISERS) - set(available()) == (set() if has_nlopt() else {"NLopt BOBYQA"})


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", available())
def test_minimisers_find_a_minimum(name):
    target = Target(
        x0=np.array([-1.2, 1.0]),
        scale=np.diag([0.5, 0.5]),
        look=rosenbrock,
        bend=bend,
        value=lambda x: rosenbrock(x)[0],
        maxfun=5000,
    )
    np.testing.assert_allclose(MINIMISERS[name](target), 1.0, atol=1e-4)
    assert 0 < target.evaluations < 5000


def test_all_optimisers_agree_on_cbpp():
    model = fitted.recorded("cbpp_logit")
    ours = model.allFit(cbpp())
    assert list(ours.index) == ["own BFGS", *available()]
    fixed = ["logLik", "verdict", "seconds", "evaluations", "disagreement"]
    assert list(ours.columns) == [*fixed, "herd.(Intercept)", *model.fixef()]
    np.testing.assert_allclose(ours["logLik"], float(model.logLik()), atol=1e-6)
    assert np.all(ours["disagreement"] < 1e-3)
    assert set(ours["verdict"]) == {"converged"}
    assert np.all(ours["seconds"] > 0.0)
    assert "disagree by at most" in str(ours)
    np.testing.assert_allclose(ours.iloc[0, -4:].astype(float), model.beta, rtol=1e-5)


def test_one_that_stops_short_is_told():
    model = fitted.recorded("cbpp_logit")
    call = replace(model.call, control=mlm.GlmerControl(maxfun=40))
    ours = replace(model, call=call).allFit()
    short = ours.loc["SciPy Nelder-Mead"]
    assert short["verdict"].startswith("not converged")
    assert short["logLik"] < ours["logLik"].max() - 1e-3
    assert short["disagreement"] > 0.01
    assert "Stopped short or elsewhere: SciPy Nelder-Mead" in str(ours)
