"""What single precision costs, against our fits of the recorded models in double precision.

Errors are in the units that matter: a log-likelihood's relative to its size, a gradient's and an
estimate's in standard errors. A gradient g away from 0 moves estimates by sqrt(g' V g) of them.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import fitted
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import records
from layouts import compiled

from mixedlm_jax import functional as mf
from mixedlm_jax.dispersion import coordinates
from mixedlm_jax.families import FAMILIES
from mixedlm_jax.inference import with_known_boundary

# The worst of all recorded fits, as `mixedlm_jax.functional` and the README state them.
VALUE, GRADIENT, ESTIMATE = 2e-6, 1e-4, 2e-3
ALL = [name for name, record in records.MODELS.items() if record["nAGQ"] > 0]
BY_DEFAULT = ["pastes_nested"]
CASES = [
    pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.slow) for name in ALL
]


class Case(NamedTuple):
    """A recorded model: its problem in single precision, and our fit in double precision."""

    problem: mf.Problem
    params: mf.Params  # in double precision (NumPy)
    covariance: np.ndarray  # of all parameters, phi unconstrained; 0 for those on their boundary
    log_likelihood: float


@cache
def case(name: str) -> Case:
    record, model = records.MODELS[name], fitted.recorded(name)
    problem = mf.make_problem(
        record["formula"],
        records.frame(record),
        FAMILIES[record["family"]](link=record["link"]),
        record["nAGQ"],
        weights=record["weights"],
        offset=record["offset"],
        ziformula=record["ziformula"],
        dispformula=record["dispformula"],
    )
    phi = coordinates(problem.family, problem.phi_matrices, model.fit.phi)
    params = mf.Params(model.theta, model.beta, phi)
    covariance = with_known_boundary(model.vcov(full=True).to_numpy())
    if len(phi):
        back = np.eye(len(covariance))
        slope = np.asarray(jax.jacfwd(problem.reported_phi)(jnp.asarray(phi)))
        back[-len(phi) :, -len(phi) :] = np.linalg.inv(slope)
        covariance = back @ covariance @ back.T
    return Case(problem, params, covariance, float(model.logLik()))


def single(params: mf.Params) -> mf.Params:
    return jax.tree.map(lambda part: np.asarray(part, np.float32), params)


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name):
    """At the optimum of double precision, where the gradient is 0."""
    known = case(name)
    value, slope = compiled(jax.value_and_grad(mf.log_likelihood))(
        single(known.params), known.problem
    )
    assert value.dtype == np.float32
    assert abs(float(value) / known.log_likelihood - 1.0) < VALUE
    slope = np.asarray(slope.flat, float)
    assert np.sqrt(slope @ known.covariance @ slope) < GRADIENT


@pytest.mark.parametrize("name", CASES)
def test_estimates(name):
    known = case(name)
    found: Any = compiled(mf.solve)(known.problem, mf.init(known.problem))
    assert found.params.beta.dtype == np.float32
    assert found.code >= 0
    errors = np.sqrt(np.diagonal(known.covariance))
    inside = errors > 0
    apart = np.abs(np.asarray(found.params.flat, float) - np.concatenate(known.params))
    assert np.max(apart[inside] / errors[inside]) < ESTIMATE
