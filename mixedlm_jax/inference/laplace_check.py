"""How good is Laplace's approximation? Its second-order correction, and what quadrature changes.

With K = Z Lambda H^-1 Lambda' Z', h its diagonal and l3, l4 the third and fourth derivatives of the
rows' log-densities in eta at the modes, the next terms of the expansion of log L are

    (1/8) sum_i l4_i h_i^2 + (1/8) (l3 h)' K (l3 h) + (1/12) sum_ij l3_i l3_j K_ij^3

(Shun and McCullagh 1995). With H = L L' and a_i = L^-1 z_i, K_ij is a_i . a_j, and the last sum is
the squared length of sum_i l3_i a_i (x) a_i (x) a_i. On the elimination's chain a_i has entries for
the row's own levels only: the cost is linear in the rows. Where factors cross, a_i also has one
entry for each column of the corner, and the pairs of different rows are summed, a block at a time.
"""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.compiled import program
from mixedlm_jax.curvature import Curvature
from mixedlm_jax.elimination import (
    Effects,
    Rows,
    adjoint,
    assemble,
    factorize,
    leverages,
    log_determinant,
    row_products,
    selected_inverse,
    solve,
    whitened_rows,
)
from mixedlm_jax.errors import ArgumentError, FitError
from mixedlm_jax.families.base import elementwise_derivatives
from mixedlm_jax.inference.covariance import standard_errors
from mixedlm_jax.inference.point import Point
from mixedlm_jax.modes import dot, penalised
from mixedlm_jax.objective import QuadratureObjective
from mixedlm_jax.optimize import begin
from mixedlm_jax.plan import Plan
from mixedlm_jax.priors import log_prior
from mixedlm_jax.problem import Params, Problem, row_terms, rows_at
from mixedlm_jax.programs import evaluated, hessian_at, objective_value
from mixedlm_jax.quadrature import MAX_NODES, quadrature_obstacle
from mixedlm_jax.small import sum_by

# Numbers in one block of pairs, and multiply-adds that the pairs of a crossed design may cost.
_BLOCK = 2**22
_MAX_WORK = 1e12

DEFAULT_NODES = {1: 25, 2: 11, 3: 5}
"""Nodes per dimension of the check, by the number of random effects of a level."""


class Correction(NamedTuple):
    """The Laplace log-likelihood with every constant, and the three terms of its correction."""

    log_likelihood: float
    terms: tuple[float, float, float]


class QuadratureCheck(NamedTuple):
    """What quadrature makes of a Laplace fit's estimates.

    nodes, log_likelihoods: per dimension, k and 2k + 1, and what they give. shifts: what a Newton
    step with the quadrature's Hessian adds to theta, beta and the unconstrained phi, in standard
    errors (d,); nan for parameters on their boundary, inf where that Hessian has no minimum.
    """

    nodes: tuple[int, int]
    log_likelihoods: tuple[float, float]
    shifts: np.ndarray


def second_order_correction(point: Point) -> Correction:
    """The correction at a fit's estimates.

    Raises `ArgumentError` for a crossed design with too many pairs of rows, `FitError` where the
    derivatives of the log-density are not finite.
    """
    problem = point.problem.replace(information="observed")
    first, row_of = _distinct_rows(problem)
    if problem.plan.unformed is not None:
        raise ArgumentError(
            f"the correction of a crossed design needs its Schur complement of "
            f"{problem.plan.n_columns} columns, which this fit did not form; refit with "
            f"control=GlmerControl(max_corner={problem.plan.n_columns}), or check a model of fewer "
            "levels"
        )
    if problem.plan.kept:
        work = float(len(first)) ** 2 * (problem.plan.n_columns + 10)
        if work > _MAX_WORK:
            raise ArgumentError(
                f"the correction of a crossed design sums over all pairs of its {len(first)} "
                f"different rows, which would take {work:.0e} multiply-adds, more than "
                f"{_MAX_WORK:.0e}; check a model of fewer rows"
            )
    value, terms = jax.device_get(
        _correction(point.params, jax.device_put(problem), point.u, first, row_of)
    )
    if not (np.isfinite(value) and np.all(np.isfinite(terms))):
        raise FitError(
            "the third and fourth derivatives of the log-density are not finite at the estimates, "
            "and the correction needs them"
        )
    fourth, square, cube = map(float, terms)
    return Correction(float(value), (fourth, square, cube))


def _distinct_rows(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """One row of each kind that has the same row in K, and every row's kind."""
    parts = [np.asarray(level, float)[None, :] for level in problem.plan.levels]
    parts += [np.asarray(z) for z in problem.Z]
    _, first, row_of = np.unique(
        np.concatenate(parts), axis=1, return_index=True, return_inverse=True
    )
    return first, row_of.reshape(-1)


@program()
def _correction(
    params: Params, problem: Problem, u: Effects, first: Array, row_of: Array
) -> tuple[Array, Array]:
    """The Laplace log-likelihood with every constant, and the terms (3,)."""
    plan = problem.plan
    z, eta = rows_at(problem, params, u)
    rows = row_terms(problem, eta, params.phi)
    _, slope, bend = elementwise_derivatives(
        lambda at: row_terms(problem, at, params.phi).weight, eta
    )
    l3, l4 = -slope, -bend
    factor = factorize(plan, assemble(plan, z, rows.weight))
    h = leverages(z, row_products(plan, selected_inverse(plan, factor), z))
    pull = adjoint(plan, z, l3 * h)
    a, corner = whitened_rows(plan, factor, z, first)
    merged = jax.ops.segment_sum(l3, row_of, num_segments=len(first))
    levels = [plan.levels[f][first] for f in plan.chain]
    cubes = _chain_cubes if corner is None else _pair_cubes
    terms = (
        jnp.sum(l4 * h**2) / 8.0,
        dot(pull, solve(plan, factor, pull)) / 8.0,
        cubes(plan, levels, merged, a, corner) / 12.0,
    )
    value = penalised(rows, u) + 0.5 * log_determinant(factor)
    return problem.log_base - value, jnp.stack(terms)


def _chain_cubes(plan: Plan, levels: list[Array], l3: Array, a: Rows, corner: None) -> Array:
    """sum_ij l3_i l3_j K_ij^3 of a chain: a sum of squares over the levels of its factors."""
    positions = [p for p, part in enumerate(a) for _ in range(part.shape[0])]
    entries = [entry for part in a for entry in part]
    total = jnp.zeros((), l3.dtype)
    for triple, times in _triples(len(entries)).items():
        # levels of the finest factor say which rows share the levels of all three
        finest = min(positions[e] for e in triple)
        products = l3 * entries[triple[0]] * entries[triple[1]] * entries[triple[2]]
        size = plan.n_levels[plan.chain[finest]]
        sums = sum_by(products[None, :], levels[finest], size)
        total += times * jnp.sum(sums**2)
    return total


def _triples(size: int) -> Counter[tuple[int, ...]]:
    """Sorted triples of the numbers below `size`, and how many ordered ones each stands for."""
    return Counter(tuple(sorted(triple)) for triple in product(range(size), repeat=3))


def _pair_cubes(plan: Plan, levels: list[Array], l3: Array, a: Rows, corner: Array) -> Array:
    """sum_ij l3_i l3_j K_ij^3 over all pairs of rows, in blocks of rows."""
    n = len(l3)
    size = max(1, min(n, _BLOCK // n))
    blocks = -(-n // size)
    rows = jnp.arange(blocks * size).reshape((blocks, size))

    def of_block(own: Array) -> Array:
        at = jnp.minimum(own, n - 1)
        products = corner[:, at].T @ corner
        for level, part in zip(levels, a, strict=True):
            same = level[at][:, None] == level[None, :]
            products += jnp.where(same, part[:, at].T @ part, 0.0)
        return jnp.where(own < n, l3[at], 0.0) @ (products**3 @ l3)

    return jnp.sum(jax.lax.map(of_block, rows))


def can_be_checked(problem: Problem) -> bool:
    """Whether there is quadrature to check the problem's Laplace approximation with."""
    return quadrature_obstacle(problem, 2) is None


def quadrature_check(point: Point, n_nodes: int | None = None) -> QuadratureCheck:
    """Log-likelihoods and Newton step of quadrature at a fit's estimates; one grouping factor.

    Raises `ArgumentError` where quadrature with 2 n_nodes + 1 nodes cannot be done.
    """
    problem, k = point.problem, point.problem.plan.n_effects[0]
    if n_nodes is None:
        n_nodes = DEFAULT_NODES[k]
    QuadratureObjective(n_nodes).check(problem)
    finer = 2 * n_nodes + 1
    if finer > MAX_NODES[k]:
        raise ArgumentError(
            f"nAGQ is {n_nodes}, and the check also needs quadrature with 2 nAGQ + 1 nodes; with "
            f"{k} random effect{'s' * (k > 1)} a level give at most nAGQ={(MAX_NODES[k] - 1) // 2}"
        )
    objective, fine = QuadratureObjective(n_nodes), QuadratureObjective(finer)
    problem = jax.device_put(problem)
    x = np.concatenate(point.params)
    # what the objectives leave out of -log L, and the prior that they add to it
    log_base = float(problem.log_base) - float(log_prior(jax.device_put(point.params), problem))
    here = evaluated(objective, problem, begin(x, point.u, np.eye(len(x))))
    return QuadratureCheck(
        nodes=(n_nodes, finer),
        log_likelihoods=(
            log_base - float(here.value),
            log_base - float(objective_value(fine, problem, x, point.u)),
        ),
        shifts=_newton_shifts(
            np.asarray(here.gradient),
            hessian_at(objective, problem, here),
            standard_errors(point.covariance),
        ),
    )


def _newton_shifts(gradient: np.ndarray, hessian: np.ndarray, se: np.ndarray) -> np.ndarray:
    """-H^-1 gradient in standard errors (d,), parameters without one held fixed."""
    free = np.isfinite(se)
    shifts = np.where(free, np.inf, np.nan)
    inner = hessian[np.ix_(free, free)]
    if np.all(np.isfinite(inner)) and np.all(np.isfinite(gradient)):
        curvature = Curvature.of(inner)
        if np.isfinite(curvature.condition):
            shifts[free] = -(curvature.inverse() @ gradient[free]) / se[free]
    return shifts
