"""The exact Hessian of the Laplace approximation, written out.

With L = g + log|H| / 2 - lambda' grad_u g in (psi, u), lambda as in `likelihood.Adjoints`, the
Hessian is the second derivative of L along the columns of (I, U), U = du_hat / dpsi: L_u = 0, so
how the modes bend does not matter. And

    d2 log|H| = tr(H^-1 d2H) - tr(H^-1 dH H^-1 dH),

whose second part comes from the tangents of H on its pattern (`log_determinant_curvature`).

Rows know theta only through b = Lambda u. They are gone through twice: for how Z's changes, which U
is solved from, and for how these sums, Z'WZ and L's own rows change along (I, U). What Lambda does
to the sums is worked out by level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array
from mixedlm_jax.blocks import sum_over_blocks
from mixedlm_jax.elimination import (
    Blocks,
    Effects,
    adjoint,
    effects_of_rows,
    leverages,
    products_of_rows,
    row_dot,
    row_products,
)
from mixedlm_jax.likelihood import adjoints
from mixedlm_jax.modes import implicit_solve
from mixedlm_jax.problem import (
    Params,
    Problem,
    covariance_factors,
    determinant_weights,
    fixed_predictor,
    row_log_density,
    row_terms,
)
from mixedlm_jax.small import moved_along
from mixedlm_jax.traces import congruence, log_determinant_curvature, trace_terms


def laplace_hessian(params: Params, problem: Problem, u0: Effects) -> Array:
    """Hessian of `likelihood.laplace` in the flat parameters (d, d). S must be formed.

    What varies along the parameters has them on a first axis, (d, ...).
    """
    plan, flat, d = problem.plan, params.flat, len(params.flat)
    _, fixed, hessians = adjoints(params, problem, u0)

    def factors_at(step: Array) -> tuple[Array, ...]:
        return covariance_factors(problem, problem.split(flat + step))

    def along(function: Callable[[Array], Any]) -> Any:
        """The tangents of a function of a displacement (d,) along each parameter."""

        def tangent(step: Array) -> Any:
            return jax.jvp(function, (jnp.zeros_like(flat),), (step,))[1]

        return jax.vmap(tangent)(jnp.eye(d, dtype=flat.dtype))

    factors = covariance_factors(problem, params)
    b = _times(factors, fixed.u)
    b_along = along(lambda step: _times(factors_at(step), fixed.u))
    pulls = _pulls(params, problem, b, b_along)

    def pull(step: Array) -> Effects:
        """Lambda' Z's where the modes stay."""
        moved = moved_along(pulls.at, step, pulls.along)
        return _times([factor.T for factor in factors_at(step)], moved)

    def solved(rhs: Effects) -> Effects:
        return implicit_solve(problem, params, fixed.u, hessians.observed, rhs)

    u_along = jax.vmap(solved, axis_size=d)(along(pull))
    b_along = along(lambda step: _times(factors_at(step), moved_along(fixed.u, step, u_along)))
    held = _Held(
        _times(factors, fixed.multiplier),
        congruence(plan, [factor.T for factor in factors], fixed.inverse),
    )
    rows = _rows(params, problem, b, b_along, held)
    if not plan.n_effects:
        return rows.second

    def linear(u: Effects, pull: Effects) -> list[Array]:
        """slope u' + (Z's) lambda', per factor (k, k)."""
        both = zip(rows.slope, u, pull, fixed.multiplier, strict=True)
        return [slope @ own.T + part @ other.T for slope, own, part, other in both]

    def quadratic(products: Blocks) -> dict[tuple[int, int], Array]:
        return trace_terms(plan, fixed.inverse, products)

    terms = linear(fixed.u, pulls.at), quadratic(rows.products)
    terms_along = (
        jax.vmap(linear)(u_along, rows.pulls_along),
        jax.vmap(quadratic)(rows.products_along),
    )

    def of_factors(step: Array) -> Array:
        return _of_factors(factors_at(step), *moved_along(terms, step, terms_along))

    def matrix(step: Array) -> Blocks:
        """H, but for the identity."""
        products = moved_along(rows.products, step, rows.products_along)
        return congruence(plan, factors_at(step), products)

    second = rows.second + jax.hessian(of_factors)(jnp.zeros_like(flat))
    second += sum(jnp.einsum("akl,bkl->ab", change, change) for change in u_along)  # of u'u / 2
    return second + 0.5 * log_determinant_curvature(
        plan, hessians.determinant, fixed.inverse.corner, along(matrix)
    )


def _times(factors: Sequence[Array], effects: Effects) -> Effects:
    """A matrix of each grouping factor (k, k) times the effects of its levels (k, levels)."""
    return tuple(factor @ own for factor, own in zip(factors, effects, strict=True))


def _of_factors(
    factors: Sequence[Array],
    linear: Sequence[Array],
    quadratic: dict[tuple[int, int], Array],
) -> Array:
    """What L has of Lambda: slope' Lambda u + (Z's)' Lambda lambda, and half tr(H^-1 H).

    factors: Lambda per grouping factor (k, k). linear: what the first two multiply each by (k, k).
    quadratic: `trace_terms` of the third.
    """
    value = sum(jnp.sum(factor * term) for factor, term in zip(factors, linear, strict=True))
    for (f, g), term in quadratic.items():
        value += 0.5 * jnp.einsum("abcd,ab,cd->", term, factors[f], factors[g])
    return value


class _Path(NamedTuple):
    """Linear predictor of rows (n,), and its changes along (theta, beta, phi) (d, n)."""

    eta: Array
    along: Array

    @classmethod
    def of(cls, problem: Problem, params: Params, b: Effects, b_along: Effects) -> _Path:
        """b: effects per factor (k, levels). b_along: their changes (d, k, levels)."""
        q, p, d = problem.n_theta, len(params.beta), len(params.flat)
        eta = fixed_predictor(problem, params.beta)
        eta += row_dot(problem.Z, effects_of_rows(problem.plan, b))
        by_beta = jnp.zeros((d, len(eta)), eta.dtype).at[q : q + p].set(problem.X.T)
        # without random effects there is nothing to map over, and no row in what comes of it
        by_b = jax.vmap(lambda rows: row_dot(problem.Z, rows), axis_size=d)(
            effects_of_rows(problem.plan, b_along)
        )
        return cls(eta, by_beta + by_b.reshape((d, -1)))

    def tangents(self, function: Callable, phi: Array) -> Any:
        """Those of a function of eta and phi along each parameter."""

        def tangent(change: Array, phi_change: Array) -> Any:
            return jax.jvp(function, (self.eta, phi), (change, phi_change))[1]

        return jax.vmap(tangent)(self.along, _in_phi(len(self.along), phi))


def _in_phi(d: int, phi: Array) -> Array:
    """What a unit of each of d parameters is in phi, the last of them (d, n_phi)."""
    return jnp.eye(d, dtype=phi.dtype)[:, d - len(phi) :]


class _Pulls(NamedTuple):
    """Z's per factor (k, levels), and its changes where u stays (d, k, levels)."""

    at: Effects
    along: Effects


def _pulls(params: Params, problem: Problem, b: Effects, b_along: Effects) -> _Pulls:
    """b_along: changes of b where u stays."""

    def of_block(block, _):
        def pull(eta, phi):
            return adjoint(block.plan, block.Z, row_terms(block, eta, phi).score)

        path = _Path.of(block, params, b, b_along)
        return _Pulls(pull(path.eta, params.phi), path.tangents(pull, params.phi))

    return sum_over_blocks(of_block, problem)


class _Held(NamedTuple):
    """What stands fixed beside the rows in L, in terms of b."""

    multiplier: Effects  # Lambda lambda
    inverse: Blocks  # Lambda H^-1 Lambda'


class _Rows(NamedTuple):
    """Sums over the rows at the modes, and their changes along (I, U)."""

    second: Array  # of L's rows: second derivative in (eta, phi) along the parameters (d, d)
    slope: Effects  # Z' (derivative of L's rows in eta)
    pulls_along: Effects  # changes of Z's
    products: Blocks  # Z'WZ, W the determinant's
    products_along: Blocks


def _rows(params: Params, problem: Problem, b: Effects, b_along: Effects, held: _Held) -> _Rows:
    """b_along: changes of b that go with the modes."""

    def of_block(block, _):
        plan, phi = block.plan, params.phi
        path = _Path.of(block, params, b, b_along)
        h = leverages(block.Z, row_products(plan, held.inverse, block.Z))
        row_multiplier = row_dot(block.Z, effects_of_rows(plan, held.multiplier))

        def lagrangian(eta, phi):
            pieces = -row_log_density(block, eta, phi)
            pieces += row_terms(block, eta, phi).score * row_multiplier
            return jnp.sum(pieces + 0.5 * h * determinant_weights(block, eta, phi))

        def sums(eta, phi):
            weight = determinant_weights(block, eta, phi)
            pull = adjoint(plan, block.Z, row_terms(block, eta, phi).score)
            return pull, products_of_rows(plan, block.Z, weight)

        slope = jax.grad(lagrangian, argnums=(0, 1))
        bent, bent_by_phi = path.tangents(slope, phi)
        pulls_along, products_along = path.tangents(sums, phi)
        return _Rows(
            second=bent @ path.along.T + bent_by_phi @ _in_phi(len(bent), phi).T,
            slope=adjoint(plan, block.Z, slope(path.eta, phi)[0]),
            pulls_along=pulls_along,
            products=sums(path.eta, phi)[1],
            products_along=products_along,
        )

    return sum_over_blocks(of_block, problem)
