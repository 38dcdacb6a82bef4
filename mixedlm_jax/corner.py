"""The corner of H where its Schur complement S is formed: q^2 numbers for q columns.

H's part in the factors that the elimination keeps back, S and its Cholesky factor, S^-1: exact, and
of the order of q^3 operations. `unformed` has the same methods for an S that is too large, but for
those that only the exact Hessian needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.pattern import INDEX
from mixedlm_jax.plan import Border, Plan
from mixedlm_jax.small import apply, cross, gram, sum_by

# A triangular matrix of no more rows is not divided.
_UNDIVIDED = 256


def columns_of(plan: Plan, s: int, offset: int) -> Array:
    """The columns of S that each row touches through kept factor s, (k, n)."""
    start = offset + np.arange(plan.n_effects[s]) * plan.n_levels[s]
    return start.astype(INDEX)[:, None] + plan.levels[s][None, :]


class DenseCorner(NamedTuple):
    """The corner as a matrix (columns, columns): of H, or of its inverse."""

    matrix: Array

    @classmethod
    def of_rows(cls, plan: Plan, z: tuple[Array, ...], w: Array) -> DenseCorner:
        """What the rows add to the corner of H; z those of Z Lambda, w their weights."""
        q = plan.n_columns
        flat = jnp.zeros(q * q, w.dtype)
        for s, at_s in zip(plan.kept, plan.offsets, strict=False):
            size = plan.n_levels[s]
            total = partial(sum_by, index=plan.levels[s], size=size)
            own = gram(z[s], z[s] * w[None, :], total)
            columns = at_s + jnp.arange(own.shape[0] * size).reshape((-1, size))
            flat = flat.at[columns[:, None, :] * q + columns[None, :, :]].add(own)
            for t, at_t in zip(plan.kept, plan.offsets, strict=False):
                if s != t:
                    here = columns_of(plan, s, at_s)
                    there = columns_of(plan, t, at_t)
                    products = cross(z[s] * w[None, :], z[t])
                    flat = flat.at[here[:, None, :] * q + there[None, :, :]].add(products)
        return cls(flat.reshape((q, q)))

    def plus_identity(self) -> DenseCorner:
        """The corner with the identity added."""
        return DenseCorner(self.matrix + jnp.eye(len(self.matrix), dtype=self.matrix.dtype))

    def congruence(self, plan: Plan, factors: Sequence[Array]) -> DenseCorner:
        """Lambda' times the corner times Lambda; factors: per grouping factor (k, k)."""
        rows = []
        for s in plan.kept:
            row = []
            for t in plan.kept:
                block = self._block(plan, s, t)
                block = jnp.einsum("ab,amcn,cd->bmdn", factors[s], block, factors[t])
                row.append(block.reshape((block.shape[0] * block.shape[1], -1)))
            rows.append(row)
        return DenseCorner(jnp.block(rows))

    def trace_terms(self, plan: Plan, other: DenseCorner) -> dict[tuple[int, int], Array]:
        """The corner's part of `traces.trace_terms`."""
        terms = {}
        for s in plan.kept:
            for t in plan.kept:
                blocks = self._block(plan, s, t), other._block(plan, s, t)
                terms[s, t] = jnp.einsum("bmdn,amcn->abcd", *blocks)
        return terms

    def _block(self, plan: Plan, s: int, t: int) -> Array:
        """The part of two kept factors (k_s, levels_s, k_t, levels_t)."""
        i, j = plan.kept.index(s), plan.kept.index(t)
        rows = slice(plan.offsets[i], plan.offsets[i + 1])
        columns = slice(plan.offsets[j], plan.offsets[j + 1])
        shape = (plan.n_effects[s], plan.n_levels[s], plan.n_effects[t], plan.n_levels[t])
        return self.matrix[rows, columns].reshape(shape)

    def eliminated(self, plan: Plan, edges: tuple[Array, ...]) -> DenseFactor:
        """S, factored; nan where it is not positive definite. edges: E_c per chain factor."""
        schur = self.matrix
        for edge, (f, border) in zip(edges, plan.borders, strict=True):
            schur = schur - _border_gram(border, edge, plan.n_levels[f], plan.n_columns)
        # Derivatives of the corner go through the rules of `inverse` and `_log_determinant`, those
        # of solutions through H itself: none is taken through this factor.
        return DenseFactor(schur, jnp.linalg.cholesky(jax.lax.stop_gradient(schur)))

    def level_blocks(self, plan: Plan) -> list[Array]:
        """The block of each level, per kept factor (k, k, levels)."""
        blocks = []
        for s, start, stop in zip(plan.kept, plan.offsets, plan.offsets[1:], strict=False):
            k, levels = plan.n_effects[s], plan.n_levels[s]
            own = self.matrix[start:stop, start:stop].reshape((k, levels, k, levels))
            blocks.append(jnp.diagonal(own, axis1=1, axis2=3))
        return blocks

    def row_products(self, plan: Plan, z: tuple[Array, ...]) -> list[Array]:
        """The corner times each row's part in it, on the row's own levels, per kept factor."""
        flat, q = self.matrix.ravel(), plan.n_columns
        products = []
        for s, at_s in zip(plan.kept, plan.offsets, strict=False):
            total = jnp.zeros_like(z[s])
            for t, at_t in zip(plan.kept, plan.offsets, strict=False):
                here, there = columns_of(plan, s, at_s), columns_of(plan, t, at_t)
                total += apply(flat[here[:, None, :] * q + there[None, :, :]], z[t])
            products.append(total)
        return products


class DenseFactor(NamedTuple):
    """S and its lower Cholesky factor."""

    schur: Array
    root: Array

    def solve(self, rhs: Array, *, rough: bool = False) -> Array:
        """S^-1 rhs (columns,); never rough."""
        return jax.scipy.linalg.cho_solve((self.root, True), rhs)

    def log_determinant(self) -> Array:
        """log|S|."""
        return _log_determinant(self.schur, self.root)

    def inverse(self) -> DenseCorner:
        """S^-1."""
        return DenseCorner(inverse(self.schur, self.root))

    def definite(self) -> Array:
        """Whether S is positive definite."""
        return jnp.all(jnp.isfinite(self.root))


def _border_gram(border: Border, edge: Array, n_levels: int, q: int) -> Array:
    """What eliminating a chain factor takes from S."""
    if border.pairs is None:
        dense = spread(border, edge, n_levels, q)
        return dense @ dense.T
    pairs = border.pairs
    products = jnp.sum(edge[:, pairs.first] * edge[:, pairs.second], axis=0)
    lower = jnp.zeros(q * q, edge.dtype).at[pairs.target].add(products).reshape((q, q))
    return lower + jnp.tril(lower, -1).T


def spread(border: Border, edge: Array, n_levels: int, q: int) -> Array:
    """Border entries as a dense (columns, k * levels) matrix."""
    k = edge.shape[0]
    flat = jnp.zeros((q, k, n_levels), edge.dtype)
    # added, not set: spare entries are 0 and may name the place of another
    return flat.at[border.column, :, border.level].add(edge.T).reshape((q, k * n_levels))


def border_times(border: Border, edge: Array, corner: DenseCorner, n_levels: int) -> Array:
    """The border, a matrix of levels by columns, times the corner, on the border's entries."""
    matrix = corner.matrix
    q = matrix.shape[0]
    if border.pairs is None:
        k = edge.shape[0]
        product = matrix @ spread(border, edge, n_levels, q)
        return product.reshape((q, k, n_levels))[border.column, :, border.level].T
    pairs, size = border.pairs, edge.shape[1]
    value = matrix.ravel()[pairs.target]
    distinct = pairs.first != pairs.second
    towards = sum_by(edge[:, pairs.second] * value[None, :], pairs.first, size)
    back = sum_by(edge[:, pairs.first] * (value * distinct)[None, :], pairs.second, size)
    return towards + back


@jax.custom_jvp
def _log_determinant(matrix: Array, root: Array) -> Array:
    """log|S| from its Cholesky factor."""
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(root)))


@_log_determinant.defjvp
def _log_determinant_jvp(primals, tangents):
    value = _log_determinant(*primals)
    return value, jnp.sum(inverse(*primals) * tangents[0])


@jax.custom_jvp
def inverse(matrix: Array, root: Array) -> Array:
    """Inverse of a symmetric positive definite matrix from its Cholesky factor."""
    return _product_with_transpose(_inverse_of_lower(root))


@inverse.defjvp
def _inverse_jvp(primals, tangents):
    value = inverse(*primals)
    return value, -(value @ tangents[0] @ value)


# An inverse by halves: two thirds of the work of solving for the columns of an identity, most of it
# in products of matrices, which use every core.


def _inverse_of_lower(root: Array) -> Array:
    """L^-1 of a lower triangular matrix."""
    n = len(root)
    if n <= _UNDIVIDED:
        identity = jnp.eye(n, dtype=root.dtype)
        return jax.scipy.linalg.solve_triangular(root, identity, lower=True)
    half = n // 2
    first = _inverse_of_lower(root[:half, :half])
    second = _inverse_of_lower(root[half:, half:])
    between = -(second @ (root[half:, :half] @ first))
    return jnp.block([[first, jnp.zeros_like(between.T)], [between, second]])


def _product_with_transpose(lower: Array) -> Array:
    """M'M of a lower triangular matrix M."""
    n = len(lower)
    if n <= _UNDIVIDED:
        return lower.T @ lower
    half = n // 2
    between, second = lower[half:, :half], lower[half:, half:]
    first = _product_with_transpose(lower[:half, :half]) + between.T @ between
    across = second.T @ between
    return jnp.block([[first, across.T], [across, _product_with_transpose(second)]])
