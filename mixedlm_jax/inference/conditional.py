"""Uncertainty of the random effects, and the leverages of the rows, at the conditional modes.

    Var(b | y, psi) = Lambda H^-1 Lambda'                  psi held fixed: lme4's
    Var(b | y)      = Lambda H^-1 Lambda' + J V J'         with psi's uncertainty: glmmTMB's

J = d b_hat / d psi is the total derivative (Lambda(theta) and u_hat(psi) both move), V the
covariance of psi. Only the diagonal block of each level is formed. H has the weights of the
problem's determinant: with `information="expected"` all of this is lme4's for any link.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array
from mixedlm_jax.compiled import program
from mixedlm_jax.elimination import (
    Effects,
    Factorization,
    Rows,
    assemble,
    factorize,
    level_blocks,
    leverages,
    predictor,
    row_products,
    selected_inverse,
    solve,
)
from mixedlm_jax.modes import conditional_modes, joint_hessian
from mixedlm_jax.plan import Plan
from mixedlm_jax.problem import Params, Problem, covariance_factors, determinant_weights, rows_at


@program()
def conditional_covariance(params: Params, problem: Problem, u: Effects) -> Rows:
    """Covariance of the random effects of each level given the parameters.

    params, u: the parameters and the conditional modes there. Returns per grouping factor
    (k, k, levels), on the scale of eta.
    """
    z, eta = rows_at(problem, params, u)
    weight = determinant_weights(problem, eta, params.phi)
    factor = factorize(problem.plan, assemble(problem.plan, z, weight))
    blocks = level_blocks(problem.plan, selected_inverse(problem.plan, factor))
    return tuple(
        jnp.einsum("ij,jkl,mk->iml", scale, block, scale)
        for scale, block in zip(covariance_factors(problem, params), blocks, strict=True)
    )


@program()
def parameter_covariance(params: Params, problem: Problem, u: Effects, covariance: Array) -> Rows:
    """What the uncertainty of the parameters adds to the covariance of each level, J V J'.

    covariance: of theta, beta and the unconstrained phi (d, d). Returns per grouping factor
    (k, k, levels), on the scale of eta.
    """
    slopes = _mode_slopes(params, problem, u)
    return tuple(jnp.einsum("dil,de,ejl->ijl", part, covariance, part) for part in slopes)


def _mode_slopes(params: Params, problem: Problem, u: Effects) -> tuple[Array, ...]:
    """d b_hat / d psi, the total derivative, per grouping factor (d, k, levels)."""

    def modes(flat):
        point = problem.split(flat)
        spherical = conditional_modes(point, problem, u)
        factors = covariance_factors(problem, point)
        return tuple(factor @ part for factor, part in zip(factors, spherical, strict=True))

    flat = params.flat
    _, push = jax.linearize(modes, flat)
    return jax.lax.map(push, jnp.eye(len(flat), dtype=flat.dtype))


@program()
def row_uncertainty(
    params: Params, problem: Problem, u: Effects, Z: Rows, rows: Array
) -> tuple[Array, Array]:
    """Uncertainty of the predictor of each row, its covariates by factor Z (k, n) in place of Z.

    Var(x'beta + z'b) = z' Lambda H^-1 Lambda' z + J V J',   J = d (x'beta + z'b_hat) / d psi

    What the random effects have given the parameters, and what the parameters add to it. Rows of
    weight 0 are predicted for too: their levels stand in the pattern of H^-1 like all others.
    rows: numbers of those that are wanted (r,), each solved for where S is not formed, as its
    selected inverse is an estimate. Returns the first part (r,), and J (r, d).
    """
    plan = problem.plan
    z, eta = rows_at(problem, params, u)
    factor = factorize(plan, assemble(plan, z, determinant_weights(problem, eta, params.phi)))
    factors = covariance_factors(problem, params)
    wanted = tuple(
        jnp.sum(scale[:, :, None] * part[:, None, :], axis=0)
        for scale, part in zip(factors, Z, strict=True)
    )
    if plan.unformed is None:
        own = leverages(wanted, row_products(plan, selected_inverse(plan, factor), wanted))[rows]
    else:
        own = jax.lax.map(lambda row: _solved(plan, factor, wanted, row), rows)
    q, p = params.theta.shape[0], params.beta.shape[0]
    slope = jnp.zeros((len(rows), len(params.flat)), eta.dtype)
    slope = slope.at[:, q : q + p].set(problem.X[rows])
    for covariates, level, moved in zip(
        Z, plan.levels, _mode_slopes(params, problem, u), strict=True
    ):
        slope += jnp.sum(covariates[None, :, rows] * moved[:, :, level[rows]], axis=1).T
    return own, slope


def _solved(plan: Plan, factor: Factorization, z: Rows, row: Array) -> Array:
    """z_i' H^-1 z_i of one row, by solving for it."""
    rhs = tuple(
        jnp.zeros((len(part), size), part.dtype).at[:, level[row]].set(part[:, row])
        for part, level, size in zip(z, plan.levels, plan.n_levels, strict=True)
    )
    found = solve(plan, factor, rhs)
    return sum(jnp.sum(a * b) for a, b in zip(rhs, found, strict=True))


@program()
def joint_leverages(params: Params, problem: Problem, u: Effects) -> Array:
    """Leverage of each row in the joint fit of fixed and random effects, given theta (n,).

    The diagonal of the hat matrix of the model linearised at the modes: with x~_i the row of X less
    what the random effects account for, w_i (z_i' H^-1 z_i + x~_i' I^-1 x~_i).
    """
    plan = problem.plan
    z, eta = rows_at(problem, params, u)
    weight = determinant_weights(problem, eta, params.phi)
    hessian = joint_hessian(problem, z, weight)
    own = leverages(z, row_products(plan, selected_inverse(plan, hessian.factor), z))
    rest = problem.X
    if plan.n_effects:
        rest = rest - jax.vmap(lambda part: predictor(plan, z, part))(hessian.reduced).T
    fixed = jnp.sum(rest * jnp.linalg.solve(hessian.information, rest.T).T, axis=1)
    return weight * (own + fixed)
