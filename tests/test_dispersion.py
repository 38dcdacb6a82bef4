"""Dispersion and shape parameters as a user meets them: given, estimated, at their limit."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import records
from fitted import recorded

import mixedlm_jax as mlm
from mixedlm_jax.design import Design, Factor, Term
from mixedlm_jax.elimination import assemble, factorize
from mixedlm_jax.modes import find_modes
from mixedlm_jax.problem import Params, make_problem, row_terms, rows_at


@cache
def poisson_counts() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(20), 10), rng.normal(size=200)
    mean = np.exp(0.5 + 0.3 * x + 0.5 * rng.normal(size=20)[g])
    return pd.DataFrame({"g": g, "x": x, "y": rng.poisson(mean)})


def test_theta_beyond_any_data_is_the_poisson_limit():
    data = poisson_counts()
    plain = mlm.glmer("y ~ x + (1 | g)", data, "poisson")
    model = mlm.glmer_nb("y ~ x + (1 | g)", data)
    assert model.converged
    assert model.dispersion["theta"] > 1e5
    assert float(model.logLik()) == pytest.approx(float(plain.logLik()), abs=1e-6)
    np.testing.assert_allclose(model.vcov(), plain.vcov(), rtol=1e-5)
    assert np.isnan(model.vcov(full=True).to_numpy()[-1, -1])
    text = str(model.summary())
    assert "at the Poisson limit" in text
    assert "dispersion parameter is at its limit" in text


def test_glmer_nb_is_the_family_and_shows_the_error_of_theta():
    model = recorded("epil_nbinom2")
    again = mlm.glmer_nb(model.formula, records.frame(records.MODELS["epil_nbinom2"]))
    assert again.family == mlm.families.NegativeBinomial()
    assert float(again.logLik()) == float(model.logLik())
    theta = again.dispersion["theta"]
    error = np.sqrt(again.vcov(full=True).to_numpy()[-1, -1])
    line = f"Dispersion parameter for nbinom2: theta = {theta:.4g} (Std. Error {error:.4g})"
    assert line in str(again.summary())
    assert line in again.summary()._repr_html_()


def test_modes_between_two_are_left():
    """The point between two modes of a t posterior is stationary, and no mode."""
    y = np.array([-6.0, 6.2])
    design = Design(
        y=y,
        trials=np.ones(2),
        weights=np.ones(2),
        offset=np.zeros(2),
        X=np.ones((2, 1)),
        factors=(Factor(np.zeros(2, np.int32), 1, np.ones((1, 2))),),
        terms=(Term(0, (0,), "us"),),
        weights_type="prior",
    )
    with jax.enable_x64(True):
        problem = make_problem(design, mlm.families.StudentT(sigma=0.3, df=1.0))
        params = Params(jnp.array([20.0]), jnp.zeros(1), jnp.zeros(0))

        def slope(u):
            rows = row_terms(problem, 20.0 * u * jnp.ones(2), params.phi)
            return float(u - 20.0 * jnp.sum(rows.score))

        low, high = -0.1, 0.1
        for _ in range(80):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if slope(middle) > 0 else (low, middle)
        u, gain, _ = find_modes(params, problem, (jnp.full((1, 1), 0.5 * (low + high)),))
        z, eta = rows_at(problem, params, u)
        weight = row_terms(problem, eta, params.phi).weight
        factor = factorize(problem.plan, assemble(problem.plan, z, weight))
        assert gain < 1e-12
        assert all(bool(jnp.all(jnp.isfinite(part))) for part in jax.tree.leaves(factor.diagonal))
