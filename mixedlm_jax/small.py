"""Many small matrices at once, and sums over rows, levels and entries.

The last axis of every array runs over rows, levels or entries; the matrices of k x k before it are
unrolled over k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array


def sum_by(values: Array, index: Array, size: int) -> Array:
    """Sums of values (..., m) over equal index (m,): shape (..., size)."""
    lead = values.shape[:-1]
    flat = [
        jax.ops.segment_sum(row, index, num_segments=size)
        for row in values.reshape((-1, values.shape[-1]))
    ]
    return jnp.stack(flat).reshape((*lead, size))


def cross(a: Array, b: Array) -> Array:
    """Outer products over the first axes: (k, m), (l, m) -> (k, l, m)."""
    return a[:, None, :] * b[None, :, :]


def gram(a: Array, b: Array, total: Callable[[Array], Array]) -> Array:
    """Sums of cross(a, b) where that is symmetric: each off-diagonal sum is made once.

    total: sums over some rows, (..., m) -> (..., size).
    """
    k = a.shape[0]
    rows, columns = np.tril_indices(k)
    lower = total(a[rows] * b[columns])
    position = np.zeros((k, k), int)
    position[rows, columns] = position[columns, rows] = np.arange(len(rows))
    return lower[position]


def moved_along(at: Any, step: Array, along: Any) -> Any:
    """A pytree moved by a displacement (d,); along: its changes along each, on a first axis."""
    return jax.tree.map(lambda own, change: own + jnp.tensordot(step, change, 1), at, along)


def plus_identity(blocks: Array) -> Array:
    """The identity added to each of (k, k, m)."""
    return blocks + jnp.eye(blocks.shape[0], dtype=blocks.dtype)[:, :, None]


def contract(a: Array, b: Array) -> Array:
    """a' b level by level: (k, l, m), (k, r, m) -> (l, r, m)."""
    return jnp.sum(a[:, :, None, :] * b[:, None, :, :], axis=0)


def apply(blocks: Array, rows: Array) -> Array:
    """Block times row: (k, l, n), (l, n) -> (k, n)."""
    return jnp.sum(blocks * rows[None, :, :], axis=1)


def small_cholesky(matrix: Array) -> Array:
    """Lower Cholesky factors of (k, k, m)."""
    k = matrix.shape[0]
    columns = []
    rest = matrix
    for j in range(k):
        column = rest[:, 0] / jnp.sqrt(rest[0, 0])[None, :]
        columns.append(jnp.pad(column, ((j, 0), (0, 0))))
        rest = rest[1:, 1:] - cross(column[1:], column[1:])
    return jnp.stack(columns, axis=1)


def solve_lower(root: Array, rhs: Array) -> Array:
    """L^-1 rhs for L (k, k, m), rhs (k, r, m)."""
    rows: list[Array] = []
    for i in range(root.shape[0]):
        known = sum(root[i, j][None, :] * rows[j] for j in range(i))
        rows.append((rhs[i] - known) / root[i, i][None, :])
    return jnp.stack(rows)


def solve_upper(root: Array, rhs: Array) -> Array:
    """L^-T rhs for L (k, k, m), rhs (k, r, m)."""
    k = root.shape[0]
    rows: list = [None] * k
    for i in reversed(range(k)):
        known = sum(root[j, i][None, :] * rows[j] for j in range(i + 1, k))
        rows[i] = (rhs[i] - known) / root[i, i][None, :]
    return jnp.stack(rows)


def inverse_from_root(root: Array) -> Array:
    """(L L')^-1 for L (k, k, m)."""
    identity = jnp.broadcast_to(jnp.eye(root.shape[0], dtype=root.dtype)[:, :, None], root.shape)
    return solve_upper(root, solve_lower(root, identity))
