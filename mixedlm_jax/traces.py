"""What the exact Hessian needs of matrices on the pattern of H: congruences with Lambda, traces of
their products with it as functions of Lambda, and the second derivative of their log-determinants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array
from mixedlm_jax.elimination import Blocks, border_of, chain_log_determinant, factorize
from mixedlm_jax.plan import Plan
from mixedlm_jax.small import moved_along


def congruence(plan: Plan, factors: Sequence[Array], matrix: Blocks) -> Blocks:
    """Lambda' M Lambda on the pattern of M, with a factor (k, k) of Lambda for all levels of each.

    factors: per grouping factor. S is formed.
    """
    diagonal, coupling, border = [], [], []
    for c, f, stage in plan.steps:
        own = factors[f]
        diagonal.append(_congruent(own, matrix.diagonal[c], own))
        later = zip(matrix.coupling[c], plan.chain[c + 1 :], strict=True)
        coupling.append(tuple(_congruent(own, block, factors[g]) for block, g in later))
        edge, entries = stage.border, matrix.border[c]
        border.append(
            None if edge is None else _congruent_border(plan, edge, own, factors, entries)
        )
    corner = None
    if matrix.corner is not None:
        corner = matrix.corner.congruence(plan, factors)  # type: ignore[union-attr]
    return Blocks(tuple(diagonal), tuple(coupling), tuple(border), corner)


def _congruent(left: Array, blocks: Array, right: Array) -> Array:
    """left' B right for each of the blocks (k, l, m)."""
    half = jnp.sum(left[:, :, None, None] * blocks[:, None, :, :], axis=0)
    return jnp.sum(half[:, :, None, :] * right[None, :, :, None], axis=1)


def _congruent_border(
    plan: Plan, edge: Any, own: Array, factors: Sequence[Array], entries: Array
) -> Array:
    parts = [
        _congruent(own, border_of(plan, edge, s, entries), factors[s]) for s in plan.kept
    ]
    return jnp.concatenate([part.reshape((len(part), -1)) for part in parts], axis=1)


def log_determinant_curvature(
    plan: Plan, matrix: Blocks, corner: Any, tangents: Blocks
) -> Array:
    """-tr(M^-1 T_a M^-1 T_b) (d, d): second derivative of log|M| along tangents of M. S is formed.

    corner: that of M^-1, S^-1, None where nothing crosses. tangents: d of them, on a first axis of
    all arrays.

    The chain eliminated, log|M| = log|D| + log|S|. Of the second derivative of log|S| one part,
    tr(S^-1 d2S), comes with S^-1 held fixed, the other is -tr(S^-1 dS_a S^-1 dS_b).
    """
    d = len(jax.tree.leaves(tangents)[0])
    still = jnp.zeros(d, matrix.diagonal[0].dtype)

    def eliminated(step: Array) -> tuple[Array, Any]:
        """log|D| + tr(S^-1 S), that S^-1 fixed, and S, for M moved along its tangents."""
        factor: Any = factorize(plan, moved_along(matrix, step, tangents))
        value = chain_log_determinant(factor)
        if corner is None:
            return value, ()
        return value + jnp.sum(corner.matrix * factor.corner.schur), factor.corner.schur

    def along(direction: Array) -> Any:
        return jax.jvp(jax.grad(eliminated, has_aux=True), (still,), (direction,))[1]

    curvature, schur = jax.vmap(along)(jnp.eye(d, dtype=still.dtype))
    if corner is None:
        return curvature
    turns = corner.matrix @ schur
    return curvature - jnp.einsum("aij,bji->ab", turns, turns)


def trace_terms(plan: Plan, a: Blocks, b: Blocks) -> dict[tuple[int, int], Array]:
    """tr(A Lambda' B Lambda) as a quadratic form in Lambda: a part for two factors f and g.

    Part T (k_f, k_f, k_g, k_g) adds sum T_abcd Lambda_f,ab Lambda_g,cd. What is off the diagonal
    stands here once and counts twice, but in the corner, where both (s, t) and (t, s) stand. S must
    be formed.
    """
    terms = {}
    for c, f, stage in plan.steps:
        terms[f, f] = _over_levels(a.diagonal[c], b.diagonal[c])
        for i, g in enumerate(plan.chain[c + 1 :]):
            terms[f, g] = 2.0 * _over_levels(a.coupling[c][i], b.coupling[c][i])
        edge = stage.border
        for s in plan.kept if edge is not None else ():
            blocks = (border_of(plan, edge, s, part.border[c]) for part in (a, b))
            terms[f, s] = 2.0 * _over_levels(*blocks)
    if a.corner is not None:
        terms |= a.corner.trace_terms(plan, b.corner)  # type: ignore[union-attr,arg-type]
    return terms


def _over_levels(a: Array, b: Array) -> Array:
    """Sums of a_bd,m b_ac,m over the last axis, at a, b, c, d."""
    return jnp.einsum("bdm,acm->abcd", a, b)
