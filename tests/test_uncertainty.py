"""Covariances of the random effects and leverages of the rows against the dense oracle."""

from __future__ import annotations

import jax
import layouts
import numpy as np
import oracle
import pytest
from layouts import LAYOUTS, MORE_LAYOUTS, Model

from mixedlm_jax.inference import (
    component_order,
    component_slopes,
    conditional_covariance,
    delta_covariance,
    joint_leverages,
    parameter_covariance,
)
from mixedlm_jax.modes import find_modes
from mixedlm_jax.problem import zero_effects

pytestmark = pytest.mark.usefixtures("x64")

CASES = [
    ("slopes crossed with slopes", "gaussian", "identity", "observed"),
    ("nested and crossed", "binomial", "cloglog", "observed"),
    ("a pair and a single on one factor", "binomial", "probit", "expected"),
]


def quickly(program):
    """The function compiled without optimising: a test's time is compile time."""
    return jax.jit(program.__wrapped__, compiler_options={"xla_backend_optimization_level": 0})


@jax.jit
def modes(params, problem):
    return find_modes(params, problem, zero_effects(problem))[0]


def scale_of(model: Model, flat: np.ndarray) -> float:
    """Sigma of the Gaussian family at a point."""
    return float(np.exp(flat[-1])) if model.family.name == "gaussian" else 1.0


def blocks_of(model: Model, matrix: np.ndarray) -> list[np.ndarray]:
    """The diagonal block of each level of a (q, q) matrix, per factor (k, k, levels)."""
    found, at = [], 0
    for block in model.dense.blocks:
        k = block.Z.shape[0]
        starts = at + k * np.arange(block.n_levels)
        found.append(np.stack([matrix[s : s + k, s : s + k] for s in starts], axis=-1))
        at += k * block.n_levels
    return found


def dense_lambda(model: Model, flat: np.ndarray) -> np.ndarray:
    """Lambda of all levels (q, q), on the scale of eta."""
    parts = model.lambdas(flat[: model.layout.n_theta])
    blocks = [
        np.kron(np.eye(block.n_levels), part)
        for block, part in zip(model.dense.blocks, parts, strict=True)
    ]
    q = sum(len(block) for block in blocks)
    whole, at = np.zeros((q, q)), 0
    for block in blocks:
        whole[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return scale_of(model, flat) * whole


@pytest.mark.parametrize(("name", "family", "link", "information"), CASES)
def test_every_level_and_row_is_the_oracles(name, family, link, information, rng):
    layout = (LAYOUTS | MORE_LAYOUTS)[name]
    model = layouts.draw(
        family, link, layout, rng, offset=True, weights="prior", information=information
    )
    flat, params = model.flat, layouts.as_jax(model.params)
    u = modes(params, model.problem)
    dense = model.oracle(flat, information)
    Lambda = dense_lambda(model, flat)

    given = quickly(conditional_covariance)(params, model.problem, u)
    expected = blocks_of(model, Lambda @ np.linalg.inv(dense.H) @ Lambda.T)
    for ours, theirs in zip(given, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)

    root = rng.normal(size=(len(flat), len(flat)))
    V = 0.01 * root @ root.T
    J = oracle.jacobian_fd(lambda x: dense_lambda(model, x) @ model.oracle(x).u, flat)
    added = quickly(parameter_covariance)(params, model.problem, u, V)
    for ours, theirs in zip(added, blocks_of(model, J @ V @ J.T), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)

    A = model.dense.design(model.lambdas(model.params.theta), scale_of(model, flat))
    rows = np.hstack([A, model.design.X])
    penalty = np.diag(np.r_[np.ones(A.shape[1]), np.zeros(model.design.X.shape[1])])
    joint = np.linalg.inv(rows.T @ (dense.W[:, None] * rows) + penalty)
    hat = dense.W * np.sum((rows @ joint) * rows, axis=1)
    ours = quickly(joint_leverages)(params, model.problem, u)
    np.testing.assert_allclose(ours, hat, rtol=1e-8, atol=1e-10)


def test_slopes_of_standard_deviations_and_correlations(rng):
    layout = MORE_LAYOUTS["a pair and a single on one factor"]
    model = layouts.draw("gaussian", "identity", layout, rng)

    def components(flat):
        found = []
        factor = model.lambdas(flat[: layout.n_theta])[0]
        for _, columns in layout.all_terms:
            block = scale_of(model, flat) * factor[np.ix_(columns, columns)]
            covariance = block @ block.T
            sd = np.sqrt(np.diag(covariance))
            for i, j in component_order(len(columns)):
                found.append(sd[i] if i == j else covariance[i, j] / (sd[i] * sd[j]))
        return np.array(found)

    ours = component_slopes(layouts.as_jax(model.params), model.problem)
    np.testing.assert_allclose(ours, oracle.jacobian_fd(components, model.flat), atol=1e-7)


def test_order_of_components_is_the_lower_triangle_by_columns():
    assert component_order(3) == [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (2, 2)]


def test_what_is_unknown_stays_so_where_it_enters():
    covariance = np.array([[2.0, np.nan, 0.5], [np.nan, np.nan, np.nan], [0.5, np.nan, 1.0]])
    slope = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    found = delta_covariance(slope, covariance)
    np.testing.assert_allclose(found[np.ix_([0, 2], [0, 2])], [[4.0, 3.0], [3.0, 4.0]])
    assert np.isnan(found[1]).all()
    assert np.isnan(found[:, 1]).all()
