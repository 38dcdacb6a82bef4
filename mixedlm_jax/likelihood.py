"""The Laplace approximation of the negative marginal log-likelihood, and its gradient.

    -log L = g(u_hat) + log|H| / 2

`laplace` is composed of two differentiable primitives (the modes and the log-determinant), so that
any derivative of it follows. `laplace_gradient` is the same gradient written out: one adjoint solve
with the factor at hand; `adjoints` are what it and `hessian.laplace_hessian` share. All leave out
the base measure, `log_likelihood` has every constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array
from mixedlm_jax.blocks import sum_over_blocks
from mixedlm_jax.elimination import (
    Blocks,
    Effects,
    Factorization,
    Rows,
    adjoint,
    assemble,
    determinant,
    factorize,
    leverages,
    log_determinant,
    penalised_products,
    predictor,
    products_of_rows,
    row_products,
)
from mixedlm_jax.modes import (
    JointModes,
    conditional_modes,
    dot,
    implicit_solve,
    joint_modes,
    penalised,
)
from mixedlm_jax.plan import Plan
from mixedlm_jax.problem import (
    Params,
    Problem,
    determinant_weights,
    row_log_density,
    row_terms,
    rows_at,
)


@jax.custom_jvp
def hessian_log_determinant(weight: Array, z: Rows, plan: Plan) -> Array:
    """log|H| for H = sum_i w_i z_i z_i' + I.

    Its tangent is sum_i h_i dw_i + 2 sum_i w_i v_i . dz_i with v_i = H^-1 z_i, h_i = z_i . v_i,
    which needs H^-1 only on the pattern of H.
    """
    return log_determinant(factorize(plan, assemble(plan, z, weight)))


@hessian_log_determinant.defjvp
def _hessian_log_determinant_jvp(primals, tangents):
    weight, z, plan = primals
    dweight, dz, _ = tangents
    factor = factorize(plan, assemble(plan, z, weight))
    value, inverse = determinant(plan, factor)
    v = row_products(plan, inverse, z)
    tangent = jnp.sum(leverages(z, v) * dweight)
    for part, change in zip(v, dz, strict=True):
        tangent = tangent + 2.0 * jnp.sum(weight[None, :] * part * change)
    return value, tangent


def laplace(params: Params, problem: Problem, u0: Effects) -> Array:
    """-log L by Laplace's approximation, without the base measure (scalar)."""
    u = conditional_modes(params, problem, u0)
    z, eta = rows_at(problem, params, u)
    value = penalised(row_terms(problem, eta, params.phi), u)
    weight = determinant_weights(problem, eta, params.phi)
    return value + 0.5 * hessian_log_determinant(weight, z, problem.plan)


def log_likelihood(params: Params, problem: Problem, u0: Effects) -> Array:
    """The Laplace log-likelihood with every normalising constant (scalar)."""
    return problem.log_base - laplace(params, problem, u0)


class Adjoints(NamedTuple):
    """What the gradient needs at the modes besides the rows, constant while it is taken."""

    u: Effects  # per factor (k, levels)
    inverse: Blocks  # the entries of H^-1 on its pattern, H with the determinant's weights
    multiplier: Effects  # lambda = H^-1 (Z Lambda)' c, with c_i = h_i w'_i / 2


class Evaluation(NamedTuple):
    """-log L (without the base measure), its gradient in Params, and the modes."""

    value: Array
    gradient: Params
    u: Effects


def laplace_gradient(params: Params, problem: Problem, u0: Effects) -> Evaluation:
    """Value and gradient of `laplace` by one adjoint solve.

    With s the score, the gradient in eta is r = -s + c - w (Z Lambda) lambda; the rows z_i(theta)
    contribute sum_i (r_i dz_i.u + w_i v_i.dz_i + s_i dz_i.lambda). All of it, phi included, is the
    plain gradient of one scalar with the adjoints held fixed.
    """
    value, fixed, _ = adjoints(params, problem, u0)

    def gradient(block, _):
        return jax.grad(lambda point: jnp.sum(_surrogate(point, params, block, fixed)))(params)

    return Evaluation(value, sum_over_blocks(gradient, problem), fixed.u)


def laplace_pieces(params: Params, problem: Problem, u0: Effects) -> Callable[[Params], Array]:
    """A function to (n,) numbers whose gradients at `params` add up to that of `laplace`.

    Those of rows that share no level with others add up to the gradient of these rows' own part.
    """
    _, fixed, _ = adjoints(params, problem, u0)
    return lambda point: _surrogate(point, params, problem, fixed)


class ModeHessians(NamedTuple):
    """H at the modes: the one they move with, factored, and the one in the determinant."""

    observed: Factorization
    determinant: Blocks


def adjoints(
    params: Params, problem: Problem, u0: Effects
) -> tuple[Array, Adjoints, ModeHessians]:
    """The value of `laplace`, and what its gradient and its Hessian need."""
    plan, expected = problem.plan, problem.information == "expected"
    u = conditional_modes(params, problem, u0)

    def sums(block, _):
        z, eta = rows_at(block, params, u)
        rows = row_terms(block, eta, params.phi)
        weights = [rows.weight]
        if expected:
            weights.append(determinant_weights(block, eta, params.phi))
        return jnp.sum(rows.value), [products_of_rows(block.plan, z, w) for w in weights]

    log_density, products = sum_over_blocks(sums, problem)
    matrices = [penalised_products(part) for part in products]
    factors = [factorize(plan, matrix) for matrix in matrices]
    # the modes move with the observed H, the first, whatever weights the determinant has
    log_det, inverse = determinant(plan, factors[-1])

    def centre(block, _):
        z, eta = rows_at(block, params, u)
        slope = jax.jvp(
            lambda at: determinant_weights(block, at, params.phi), (eta,), (jnp.ones_like(eta),)
        )[1]
        h = leverages(z, row_products(block.plan, inverse, z))
        return adjoint(block.plan, z, 0.5 * h * slope)

    multiplier = implicit_solve(problem, params, u, factors[0], sum_over_blocks(centre, problem))
    value = 0.5 * dot(u, u) - log_density + 0.5 * log_det
    return value, Adjoints(u, inverse, multiplier), ModeHessians(factors[0], matrices[-1])


def _surrogate(point: Params, params: Params, problem: Problem, fixed: Adjoints) -> Array:
    """Numbers (n,) the gradient of whose sum in `point`, at `params`, is the approximation's."""
    plan = problem.plan
    z, eta = rows_at(problem, params, fixed.u)
    score = row_terms(problem, eta, params.phi).score
    weight = determinant_weights(problem, eta, params.phi)
    v = row_products(plan, fixed.inverse, z)
    h, row_multiplier = leverages(z, v), predictor(plan, z, fixed.multiplier)

    z, eta = rows_at(problem, point, fixed.u)
    pieces = -row_log_density(problem, eta, point.phi)
    pieces += 0.5 * h * determinant_weights(problem, eta, point.phi)
    pieces += row_multiplier * row_terms(problem, eta, point.phi).score
    pieces += score * predictor(plan, z, fixed.multiplier)
    for own, part in zip(v, z, strict=True):
        pieces += jnp.sum(weight[None, :] * own * part, axis=0)
    return pieces


def joint_laplace(
    theta: Array, phi: Array, problem: Problem, start: JointModes
) -> tuple[Array, JointModes]:
    """-log L with beta at its joint mode with u (nAGQ = 0), without the base measure; the modes."""
    point = joint_modes(theta, phi, problem, start)
    z, eta = rows_at(problem, Params(theta, point.beta, phi), point.u)
    value = penalised(row_terms(problem, eta, phi), point.u)
    weight = determinant_weights(problem, eta, phi)
    return value + 0.5 * hessian_log_determinant(weight, z, problem.plan), point
