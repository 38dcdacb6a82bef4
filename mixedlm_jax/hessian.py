"""The exact Hessian of the Laplace approximation, written out.

With L = g + log|H| / 2 - lambda' grad_u g in (psi, u), lambda as in `likelihood.Adjoints`, the
Hessian is the second derivative of L along the columns of (I, U), U = du_hat / dpsi: L_u = 0, so
how the modes bend does not matter. And

    d2 log|H| = tr(H^-1 d2H) - tr(H^-1 dH H^-1 dH),

whose second part needs but the tangents of H and of H^-1 on their pattern.

Rows know theta only through b = Lambda u. They are gone through twice: for how Z's changes, which U
is solved from, and for how these sums, Z'WZ and L's own rows change along (I, U). What Lambda does
to the sums is worked out by level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array
from mixedlm_jax.blocks import over_blocks
from mixedlm_jax.elimination import (
    Blocks,
    Effects,
    adjoint,
    determinant_bend,
    effects_of_rows,
    leverages,
    products_of_rows,
    row_dot,
    row_products,
    scaled,
    solve,
    trace_terms,
)
from mixedlm_jax.likelihood import adjoints
from mixedlm_jax.problem import (
    Params,
    Problem,
    covariance_factors,
    determinant_weights,
    fixed_predictor,
    row_log_density,
    row_terms,
)


def laplace_hessian(params: Params, problem: Problem, u0: Effects) -> Array:
    """Hessian of `likelihood.laplace` in the flat parameters (d, d). S must be formed."""
    plan, flat, d = problem.plan, params.flat, len(params.flat)
    directions = jnp.eye(d, dtype=flat.dtype)
    _, fixed, hessians = adjoints(params, problem, u0)

    def factors_at(step: Array) -> tuple[Array, ...]:
        return covariance_factors(problem, problem.split(flat + step))

    def along(function: Callable[[Array], Any]) -> Any:
        """The tangents of a function of a displacement along each parameter, on a first axis."""
        still = jnp.zeros_like(flat)
        return jax.vmap(lambda step: jax.jvp(function, (still,), (step,))[1])(directions)

    factors = covariance_factors(problem, params)
    b = _times(factors, fixed.u)
    changes = along(lambda step: _times(factors_at(step), fixed.u))
    pulls = _pulls(params, problem, b, changes, directions)

    def pull(step: Array) -> Effects:
        """Lambda' Z's where the modes stay."""
        moving = _plus(pulls.at, step, pulls.along)
        return _times([factor.T for factor in factors_at(step)], moving)

    moves = jax.vmap(lambda rhs: solve(plan, hessians.observed, rhs), axis_size=d)(along(pull))
    changes = along(lambda step: _times(factors_at(step), _plus(fixed.u, step, moves)))
    back = [factor.T for factor in factors]
    held = _Held(_times(factors, fixed.pull), scaled(plan, back, fixed.inverse))
    rows = _rows(params, problem, b, changes, directions, held)

    def matrix(step: Array) -> Blocks:
        """H, but for the identity."""
        return scaled(plan, factors_at(step), _plus(rows.products, step, rows.products_along))

    def linear(u: Effects, pull: Effects) -> list[Array]:
        """slope u' + (Z's) lambda', per factor (k, k)."""
        both = zip(rows.slope, u, pull, fixed.pull, strict=True)
        return [slope @ own.T + part @ back.T for slope, own, part, back in both]

    def quadratic(products: Blocks) -> dict[tuple[int, int], Array]:
        return trace_terms(plan, fixed.inverse, products)

    at = linear(fixed.u, pulls.at), quadratic(rows.products)
    changes_at = (
        jax.vmap(linear, axis_size=d)(moves, rows.pulls_along),
        jax.vmap(quadratic, axis_size=d)(rows.products_along),
    )

    def of_factors(step: Array) -> Array:
        """What L has of Lambda: slope' Lambda u + (Z's)' Lambda lambda + tr(H^-1 H) / 2."""
        factors, (linear, quadratic) = factors_at(step), _plus(at, step, changes_at)
        value = jnp.zeros((), step.dtype)
        for factor, term in zip(factors, linear, strict=True):
            value += jnp.sum(factor * term)
        for (f, g), term in quadratic.items():
            value += 0.5 * jnp.einsum("abcd,ab,cd->", term, factors[f], factors[g])
        return value

    penalty = sum(jnp.einsum("akl,bkl->ab", move, move) for move in moves)
    by_factors = jax.hessian(of_factors)(jnp.zeros_like(flat))
    second = rows.second + by_factors + penalty
    if plan.n_effects:
        second += 0.5 * determinant_bend(
            plan, hessians.determinant, fixed.inverse, along(matrix)
        )
    return second


def _times(factors: Any, effects: Effects) -> Effects:
    """A matrix of each grouping factor (k, k) times the effects of its levels (k, levels)."""
    return tuple(factor @ own for factor, own in zip(factors, effects, strict=True))


def _plus(at: Any, step: Array, along: Any) -> Any:
    """A pytree moved by a displacement (d,), along: its changes on a first axis (d, ...)."""
    return jax.tree.map(lambda own, change: own + jnp.tensordot(step, change, 1), at, along)


class _Path(NamedTuple):
    """The linear predictor of rows (n,), and how it changes along each parameter (d, n)."""

    eta: Array
    along: Array

    @classmethod
    def of(
        cls, problem: Problem, params: Params, b: Effects, changes: Effects, directions: Array
    ) -> _Path:
        """b: effects (k, levels) per factor. changes: of b along each parameter (d, k, levels)."""
        d, q, p = len(directions), problem.n_theta, len(params.beta)
        eta = fixed_predictor(problem, params.beta)
        eta += row_dot(problem.Z, effects_of_rows(problem.plan, b))
        by_beta = jnp.zeros((d, len(eta)), eta.dtype).at[q : q + p].set(problem.X.T)
        by_b = jax.vmap(lambda rows: row_dot(problem.Z, rows), axis_size=d)(
            effects_of_rows(problem.plan, changes)
        )
        return cls(eta, by_beta + by_b.reshape((d, -1)))

    def tangents(self, function: Callable, phi: Array, directions: Array) -> Any:
        """Those of a function of eta and phi along each parameter, on a first axis."""

        def tangent(change: Array, step: Array) -> Any:
            return jax.jvp(function, (self.eta, phi), (change, step))[1]

        return jax.vmap(tangent)(self.along, _in_phi(directions, phi))


def _in_phi(directions: Array, phi: Array) -> Array:
    """What directions in all parameters (d, d) are in phi, which is the last of them."""
    return directions[:, directions.shape[1] - len(phi) :]


class _Pulls(NamedTuple):
    """Z's per factor (k, levels), and its changes along each parameter where u stays."""

    at: Effects
    along: Effects


def _pulls(
    params: Params, problem: Problem, b: Effects, changes: Effects, directions: Array
) -> _Pulls:
    def of_part(part, _):
        def pull(eta, phi):
            return adjoint(part.plan, part.Z, row_terms(part, eta, phi).score)

        path = _Path.of(part, params, b, changes, directions)
        return _Pulls(pull(path.eta, params.phi), path.tangents(pull, params.phi, directions)), ()

    return over_blocks(of_part, problem)[0]


class _Held(NamedTuple):
    """What stands fixed beside the rows in L, in terms of b."""

    pull: Effects  # Lambda lambda
    inverse: Blocks  # Lambda H^-1 Lambda'


class _Rows(NamedTuple):
    """Sums over the rows at the modes, and their changes along (I, U)."""

    second: Array  # of L's rows: second derivative in (eta, phi) along the parameters (d, d)
    slope: Effects  # Z' (derivative of L's rows in eta)
    pulls_along: Effects  # changes of Z's
    products: Blocks  # Z'WZ, W the determinant's
    products_along: Blocks


def _rows(
    params: Params, problem: Problem, b: Effects, changes: Effects, directions: Array, held: _Held
) -> _Rows:
    def of_part(part, _):
        plan, phi = part.plan, params.phi
        path = _Path.of(part, params, b, changes, directions)
        h = leverages(part.Z, row_products(plan, held.inverse, part.Z))
        row_pull = row_dot(part.Z, effects_of_rows(plan, held.pull))

        def lagrangian(eta, phi):
            pieces = -row_log_density(part, eta, phi)
            pieces += row_terms(part, eta, phi).score * row_pull
            return jnp.sum(pieces + 0.5 * h * determinant_weights(part, eta, phi))

        def sums(eta, phi):
            weight = determinant_weights(part, eta, phi)
            pull = adjoint(plan, part.Z, row_terms(part, eta, phi).score)
            return pull, products_of_rows(plan, part.Z, weight)

        slope = jax.grad(lagrangian, argnums=(0, 1))
        bent, bent_by_phi = path.tangents(slope, phi, directions)
        pulls_along, products_along = path.tangents(sums, phi, directions)
        return _Rows(
            second=bent @ path.along.T + bent_by_phi @ _in_phi(directions, phi).T,
            slope=adjoint(plan, part.Z, slope(path.eta, phi)[0]),
            pulls_along=pulls_along,
            products=sums(path.eta, phi)[1],
            products_along=products_along,
        ), ()

    return over_blocks(of_part, problem)[0]
