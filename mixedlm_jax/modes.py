"""Conditional modes of the random effects, and their derivative.

    g(u; psi) = - sum_i log f(y_i | eta_i, phi) + u'u / 2,      u_hat = argmin_u g
    H = Lambda' Z' W Z Lambda + I,  W = diag(- d2 log f / d eta2)

`conditional_modes` is found by Newton's method with step halving and differentiated by the implicit
function theorem, du_hat = - H^-1 (d/dpsi grad_u g) dpsi, to any order: the iteration itself is
never differentiated.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixedlm_jax.elimination import (
    Effects,
    Factorization,
    Plan,
    Rows,
    adjoint,
    assemble,
    factorize,
    predictor,
    solve,
)
from mixedlm_jax.problem import (
    Params,
    Problem,
    RowTerms,
    fixed_predictor,
    random_rows,
    row_terms,
)

# Newton converges quadratically: a step whose predicted gain is below this leaves an error of its size.
MODE_TOLERANCE = 1e-12
_MAX_STEPS = 100
_MAX_HALVINGS = 30
# Rounding of a sum of rows, relative to its size: an increase of g below it is no increase.
_SLACK = 1e-12


class _State(NamedTuple):
    u: Effects
    objective: jax.Array
    rows: RowTerms
    gain: jax.Array
    steps: jax.Array


def dot(a: Effects, b: Effects) -> jax.Array:
    """Inner product of two sets of effects."""
    return sum(jnp.sum(x * y) for x, y in zip(a, b, strict=True))


def penalised(rows: RowTerms, u: Effects) -> jax.Array:
    """g at u."""
    return -jnp.sum(rows.value) + 0.5 * dot(u, u)


def penalised_gradient(problem: Problem, params: Params, u: Effects) -> Effects:
    """grad_u g, per factor (k, levels)."""
    z = random_rows(problem, params)
    eta = fixed_predictor(problem, params.beta) + predictor(problem.plan, z, u)
    score = row_terms(problem, eta, params.phi).score
    return tuple(
        own - pull for own, pull in zip(u, adjoint(problem.plan, z, score), strict=True)
    )


@jax.custom_jvp
def conditional_modes(params: Params, problem: Problem, u0: Effects) -> Effects:
    """u_hat(psi), per factor (k, levels); `u0` is where the search starts.

    Where no mode was found the result is what the search ended with.
    """
    return find_modes(params, problem, u0)[0]


@conditional_modes.defjvp
def _conditional_modes_jvp(primals, tangents):
    params, problem, _ = primals
    u = conditional_modes(*primals)
    pushed = jax.jvp(
        lambda params, problem: penalised_gradient(problem, params, u),
        (params, problem),
        (tangents[0], tangents[1]),
    )[1]
    z = random_rows(problem, params)
    eta = fixed_predictor(problem, params.beta) + predictor(problem.plan, z, u)
    weight = row_terms(problem, eta, params.phi).weight
    factor = factorize(problem.plan, assemble(problem.plan, z, weight))
    step = implicit_solve(problem.plan, factor, z, weight, pushed)
    return u, tuple(-part for part in step)


def implicit_solve(
    plan: Plan, factor: Factorization, z: Rows, weight: jax.Array, rhs: Effects
) -> Effects:
    """H^-1 rhs, differentiable in z, weight and rhs through H itself, never through its factor."""

    def multiply(x):
        pulled = adjoint(plan, z, weight * predictor(plan, z, x))
        return tuple(own + part for own, part in zip(x, pulled, strict=True))

    fixed = jax.lax.stop_gradient(factor)
    return jax.lax.custom_linear_solve(
        multiply, rhs, lambda _, b: solve(plan, fixed, b), symmetric=True
    )


def find_modes(
    params: Params, problem: Problem, u0: Effects
) -> tuple[Effects, jax.Array, jax.Array]:
    """The modes, the predicted gain of the last Newton step, and the number of steps."""
    params, problem, u0 = jax.lax.stop_gradient((params, problem, u0))
    plan = problem.plan
    z = random_rows(problem, params)
    fixed = fixed_predictor(problem, params.beta)

    def evaluate(u):
        rows = row_terms(problem, fixed + predictor(plan, z, u), params.phi)
        return penalised(rows, u), rows

    def newton(state: _State) -> _State:
        pull = adjoint(plan, z, state.rows.score)
        downhill = tuple(part - own for own, part in zip(state.u, pull, strict=True))
        factor = _definite_factor(problem, z, state.rows.weight)
        step = solve(plan, factor, downhill)
        bound = state.objective + _SLACK * (1.0 + jnp.abs(state.objective))

        def moved(length):
            u = tuple(own + length * part for own, part in zip(state.u, step, strict=True))
            return (u, *evaluate(u))

        def too_far(trial):
            length, (_, objective, _) = trial
            return ~(objective <= bound) & (length > 0.5**_MAX_HALVINGS)

        def halve(trial):
            length = 0.5 * trial[0]
            return length, moved(length)

        one = jnp.ones((), fixed.dtype)
        length, (u, objective, rows) = jax.lax.while_loop(too_far, halve, (one, moved(one)))
        # a shortened step is no sign of convergence, and one that cannot be taken ends the search
        gain = jnp.where(length == 1.0, 0.5 * dot(downhill, step), jnp.inf)
        stuck = ~(objective <= bound)
        return _State(
            u, objective, rows, gain, jnp.where(stuck, _MAX_STEPS, state.steps + 1)
        )

    def unfinished(state: _State) -> jax.Array:
        return ~(state.gain < MODE_TOLERANCE) & (state.steps < _MAX_STEPS)

    start, rows = evaluate(u0)
    origin = tuple(jnp.zeros_like(part) for part in u0)
    # a start outside the family's domain is exchanged for u = 0
    usable = jnp.isfinite(start)
    u0 = tuple(jnp.where(usable, part, zero) for part, zero in zip(u0, origin, strict=True))
    start, rows = jax.lax.cond(usable, lambda: (start, rows), lambda: evaluate(u0))
    first = _State(u0, start, rows, jnp.full_like(start, jnp.inf), jnp.zeros((), int))
    last = jax.lax.while_loop(unfinished, newton, first)
    return last.u, last.gain, last.steps


def _definite_factor(problem: Problem, z: Rows, weight: jax.Array) -> Factorization:
    """A factor of H, or of H with negative weights set to 0 where H is not positive definite."""

    def factor_of(weights):
        return factorize(problem.plan, assemble(problem.plan, z, weights))

    factor = factor_of(weight)
    if problem.family.log_concave:
        return factor
    finite = jnp.array(True)
    for leaf in jax.tree.leaves((factor.diagonal, factor.corner)):
        finite &= jnp.all(jnp.isfinite(leaf))
    return jax.lax.cond(finite, lambda: factor, lambda: factor_of(jnp.maximum(weight, 0.0)))
