"""The Laplace approximation of the negative marginal log-likelihood, and its gradient.

    -log L = g(u_hat) + log|H| / 2

`laplace` is composed of two differentiable primitives (the modes and the log-determinant), so that
any derivative of it follows. `laplace_gradient` is the same gradient written out: one adjoint solve
with the factor at hand. Both leave out the base measure, `log_likelihood` has every constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array
from mixedlm_jax.elimination import (
    Effects,
    Rows,
    adjoint,
    assemble,
    determinant,
    factorize,
    leverages,
    log_determinant,
    predictor,
    row_products,
)
from mixedlm_jax.modes import (
    JointModes,
    conditional_modes,
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
    """What the gradient needs at the modes; held fixed while `_surrogate` is differentiated."""

    u: Effects
    h: Array  # leverages (n,)
    pull: Effects  # lambda = H^-1 (Z Lambda)' c, with c_i = h_i w'_i / 2
    row_pull: Array  # z_i . lambda (n,)
    weight: Array  # the determinant's weights (n,)
    score: Array
    v: Rows


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
    value, fixed = _adjoints(params, problem, u0)
    gradient = jax.grad(lambda point: jnp.sum(_surrogate(point, problem, fixed)))(params)
    return Evaluation(value, gradient, fixed.u)


def laplace_pieces(params: Params, problem: Problem, u0: Effects) -> Callable[[Params], Array]:
    """A function to (n,) numbers whose gradients at `params` add up to that of `laplace`.

    Those of rows that share no level with others add up to the gradient of these rows' own part.
    """
    _, fixed = _adjoints(params, problem, u0)
    return lambda point: _surrogate(point, problem, fixed)


def _adjoints(params: Params, problem: Problem, u0: Effects) -> tuple[Array, Adjoints]:
    """The value of `laplace`, and what its gradient needs."""
    plan = problem.plan
    u = conditional_modes(params, problem, u0)
    z, eta = rows_at(problem, params, u)
    rows = row_terms(problem, eta, params.phi)
    observed = factorize(plan, assemble(plan, z, rows.weight))

    def determinant_weight(point):
        return determinant_weights(problem, point, params.phi)

    weight, slope = jax.jvp(determinant_weight, (eta,), (jnp.ones_like(eta),))
    factor = observed
    if problem.information == "expected":
        factor = factorize(plan, assemble(plan, z, weight))
    log_det, inverse = determinant(plan, factor)
    v = row_products(plan, inverse, z)
    h = leverages(z, v)
    # the modes move with the observed H, whatever weights the determinant has
    pull = implicit_solve(plan, observed, z, rows.weight, adjoint(plan, z, 0.5 * h * slope))
    fixed = Adjoints(u, h, pull, predictor(plan, z, pull), weight, rows.score, v)
    return penalised(rows, u) + 0.5 * log_det, fixed


def _surrogate(params: Params, problem: Problem, fixed: Adjoints) -> Array:
    """Numbers (n,) the gradient of whose sum at the point of `fixed` is the approximation's."""
    z, eta = rows_at(problem, params, fixed.u)
    terms = row_terms(problem, eta, params.phi)
    weight = determinant_weights(problem, eta, params.phi)
    pieces = -row_log_density(problem, eta, params.phi)
    pieces += 0.5 * fixed.h * weight + fixed.row_pull * terms.score
    pieces += fixed.score * predictor(problem.plan, z, fixed.pull)
    for own, part in zip(fixed.v, z, strict=True):
        pieces += jnp.sum(fixed.weight[None, :] * own * part, axis=0)
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
