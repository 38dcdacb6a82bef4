"""Block elimination of H = Lambda' Z' W Z Lambda + I.

The grouping factors are ordered by levels x effects, largest first. A factor in whose levels every
factor before it on the chain is nested keeps a block-diagonal block when those are eliminated, so
it joins the chain and is eliminated in its turn, k x k per level. A factor that crosses the chain
is filled and kept back for the corner, one dense Schur complement:

        | D_0  C_01  G_0 |      D_c   (k, k, levels)         block diagonal
    H = |      D_1   G_1 |      C_cd  (k_c, k_d, levels_c)   one parent in d for each level of c
        |            S   |      G_c   (k_c, entries_c)       list of (level of c, column of S)

A single factor and any depth of nesting have no corner: their cost is linear in the rows. Crossing
costs a dense S the size of the smaller factors. Nothing off this pattern is ever formed, and the
same layout holds the entries of H^-1 on it (the selected inverse).

The index arrays come from a `Plan`. The last axis of every array runs over levels, entries or
rows: row quantities of a factor are (k, n), its coefficients (k, levels), and column j * levels + l
of its part of S belongs to effect j of level l.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.plan import INDEX, Border, Plan, Stage

Rows = tuple[Array, ...]  # per factor (k, n)
Effects = tuple[Array, ...]  # per factor (k, levels)


class Blocks(NamedTuple):
    """A symmetric matrix on the pattern of H (H itself, or the selected part of its inverse).

    Border and corner are None where nothing crosses.
    """

    diagonal: tuple[Array, ...]  # per chain factor (k, k, levels)
    coupling: tuple[tuple[Array, ...], ...]  # per chain factor c and later d (k_c, k_d, levels)
    border: tuple[Array, ...]  # per chain factor (k, entries)
    corner: Array  # (columns, columns)


class Factorization(NamedTuple):
    """Block Cholesky factor of H; `schur` is S after elimination, `corner` its Cholesky factor."""

    diagonal: tuple[Array, ...]
    coupling: tuple[tuple[Array, ...], ...]
    border: tuple[Array, ...]
    schur: Array
    corner: Array


# Sums over rows, levels and entries


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


def predictor(plan: Plan, z: Rows, u: Effects) -> Array:
    """Z Lambda u (n,), with z the rows of Z Lambda."""
    parts = [
        jnp.sum(rows * effects[:, level], axis=0)
        for rows, effects, level in zip(z, u, plan.levels, strict=True)
    ]
    return sum(parts[1:], parts[0]) if parts else jnp.zeros(())


def adjoint(plan: Plan, z: Rows, r: Array) -> Effects:
    """(Z Lambda)' r for r (n,)."""
    return tuple(
        sum_by(rows * r[None, :], level, size)
        for rows, level, size in zip(z, plan.levels, plan.n_levels, strict=True)
    )


# Numbers


def assemble(plan: Plan, z: Rows, w: Array) -> Blocks:
    """H on its pattern; z the rows of Z Lambda (per factor (k, n)), w the weights (n,)."""
    diagonal, coupling, border = [], [], []
    for c, f, stage in plan.steps:
        weighted = z[f] * w[None, :]
        size, level = plan.n_levels[f], plan.levels[f]
        diagonal.append(_plus_identity(_gram(z[f], weighted, level, size)))
        later = plan.chain[c + 1 :]
        coupling.append(tuple(sum_by(cross(weighted, z[g]), level, size) for g in later))
        border.append(_assemble_border(plan, stage.border, weighted, z) if plan.kept else None)
    corner = _assemble_corner(plan, z, w) if plan.kept else None
    return Blocks(tuple(diagonal), tuple(coupling), tuple(border), corner)


def _assemble_border(plan: Plan, border: Any, weighted: Array, z: Rows) -> Array:
    """The entries that couple a chain factor, whose weighted rows are given, to the corner."""
    parts = [
        sum_by(cross(weighted, z[s]), pair, m).reshape((weighted.shape[0], -1))
        for s, pair, m in zip(plan.kept, border.row_pair, border.n_pairs, strict=True)
    ]
    return jnp.concatenate(parts, axis=1)


def _gram(a: Array, b: Array, index: Array, size: int) -> Array:
    """sum_by of cross(a, b) where that is symmetric: each off-diagonal sum is made once."""
    k = a.shape[0]
    rows, columns = np.tril_indices(k)
    lower = sum_by(a[rows] * b[columns], index, size)
    position = np.zeros((k, k), int)
    position[rows, columns] = position[columns, rows] = np.arange(len(rows))
    return lower[position]


def _plus_identity(blocks: Array) -> Array:
    return blocks + jnp.eye(blocks.shape[0], dtype=blocks.dtype)[:, :, None]


def _assemble_corner(plan: Plan, z: Rows, w: Array) -> Array:
    q = plan.n_columns
    flat = jnp.zeros(q * q, w.dtype)
    for s, at_s in zip(plan.kept, plan.offsets, strict=False):
        size = plan.n_levels[s]
        own = _gram(z[s], z[s] * w[None, :], plan.levels[s], size)
        columns = at_s + jnp.arange(own.shape[0] * size).reshape((-1, size))
        flat = flat.at[columns[:, None, :] * q + columns[None, :, :]].add(own)
        for t, at_t in zip(plan.kept, plan.offsets, strict=False):
            if s != t:
                here = _columns(plan, s, at_s)
                there = _columns(plan, t, at_t)
                products = cross(z[s] * w[None, :], z[t])
                flat = flat.at[here[:, None, :] * q + there[None, :, :]].add(products)
    return flat.reshape((q, q)) + jnp.eye(q, dtype=w.dtype)


def _columns(plan: Plan, s: int, offset: int) -> Array:
    """The columns of S that each row touches through kept factor s, (k, n)."""
    start = offset + np.arange(plan.n_effects[s]) * plan.n_levels[s]
    return start.astype(INDEX)[:, None] + plan.levels[s][None, :]


def factorize(plan: Plan, matrix: Blocks) -> Factorization:
    """Block Cholesky factor; entries are nan where the matrix is not positive definite."""
    diagonal, border = list(matrix.diagonal), list(matrix.border)
    coupling = [list(blocks) for blocks in matrix.coupling]
    schur = matrix.corner
    for c, f, stage in plan.steps:
        root = diagonal[c] = small_cholesky(diagonal[c])
        scaled = coupling[c] = [solve_lower(root, block) for block in coupling[c]]
        later = range(c + 1, len(plan.chain))
        for i, d in enumerate(later):
            parent, size = stage.parents[i], plan.n_levels[plan.chain[d]]
            diagonal[d] -= sum_by(_contract(scaled[i], scaled[i]), parent, size)
            for j in range(i + 1, len(scaled)):
                products = _contract(scaled[i], scaled[j])
                coupling[d][j - i - 1] -= sum_by(products, parent, size)
        if stage.border is None:
            continue
        level = stage.border.level
        edge = border[c] = solve_lower(root[:, :, level], border[c][:, None, :])[:, 0, :]
        for i, d in enumerate(later):
            products = _contract(scaled[i][:, :, level], edge[:, None, :])[:, 0, :]
            border[d] -= sum_by(products, stage.border.lift[i], border[d].shape[1])
        schur -= _border_gram(stage.border, edge, plan.n_levels[f], plan.n_columns)
    # Derivatives of the corner go through the rules of `inverse` and `_corner_log_determinant`,
    # those of solutions through H itself: none is taken through this factor.
    corner = jnp.linalg.cholesky(jax.lax.stop_gradient(schur)) if plan.kept else None
    return Factorization(
        tuple(diagonal), tuple(tuple(blocks) for blocks in coupling), tuple(border), schur, corner
    )


def _contract(a: Array, b: Array) -> Array:
    """a' b level by level: (k, l, m), (k, r, m) -> (l, r, m)."""
    return jnp.sum(a[:, :, None, :] * b[:, None, :, :], axis=0)


def _border_gram(border: Border, edge: Array, n_levels: int, q: int) -> Array:
    """What eliminating a chain factor takes from S."""
    if border.pairs is None:
        dense = _spread(border, edge, n_levels, q)
        return dense @ dense.T
    pairs = border.pairs
    products = jnp.sum(edge[:, pairs.first] * edge[:, pairs.second], axis=0)
    lower = jnp.zeros(q * q, edge.dtype).at[pairs.target].add(products).reshape((q, q))
    return lower + jnp.tril(lower, -1).T


def _spread(border: Border, edge: Array, n_levels: int, q: int) -> Array:
    """Border entries as a dense (columns, k * levels) matrix."""
    k = edge.shape[0]
    flat = jnp.zeros((q, k, n_levels), edge.dtype)
    # added, not set: spare entries are 0 and may name the place of another
    return flat.at[border.column, :, border.level].add(edge.T).reshape((q, k * n_levels))


def log_determinant(factor: Factorization) -> Array:
    """log|H|."""
    roots = [root[i, i] for root in factor.diagonal for i in range(root.shape[0])]
    parts = [2.0 * jnp.sum(jnp.log(root)) for root in roots]
    if factor.corner is not None:
        parts.append(_corner_log_determinant(factor.schur, factor.corner))
    return sum(parts[1:], parts[0]) if parts else jnp.zeros(())


@jax.custom_jvp
def _corner_log_determinant(matrix: Array, root: Array) -> Array:
    """log|S| from its Cholesky factor."""
    return 2.0 * jnp.sum(jnp.log(jnp.diagonal(root)))


@_corner_log_determinant.defjvp
def _corner_log_determinant_jvp(primals, tangents):
    value = _corner_log_determinant(*primals)
    return value, jnp.sum(inverse(*primals) * tangents[0])


def solve(plan: Plan, factor: Factorization, rhs: Effects) -> Effects:
    """H^-1 rhs."""
    known = list(rhs)
    corner: Array = None
    if plan.kept:
        corner = jnp.concatenate([rhs[s].ravel() for s in plan.kept])
    for c, f, stage in plan.steps:
        y = solve_lower(factor.diagonal[c], known[f][:, None, :])
        known[f] = y[:, 0, :]
        for i, g in enumerate(plan.chain[c + 1 :]):
            products = _contract(factor.coupling[c][i], y)[:, 0, :]
            known[g] -= sum_by(products, stage.parents[i], plan.n_levels[g])
        if stage.border is not None:
            products = jnp.sum(factor.border[c] * known[f][:, stage.border.level], axis=0)
            corner -= sum_by(products, stage.border.column, plan.n_columns)
    if plan.kept:
        corner = jax.scipy.linalg.cho_solve((factor.corner, True), corner)
        for s, start, stop in zip(plan.kept, plan.offsets, plan.offsets[1:], strict=False):
            known[s] = corner[start:stop].reshape(known[s].shape)
    for c, f, stage in reversed(plan.steps):
        y = known[f]
        for i, g in enumerate(plan.chain[c + 1 :]):
            above = known[g][:, stage.parents[i]]
            y -= jnp.sum(factor.coupling[c][i] * above[None, :, :], axis=1)
        if stage.border is not None:
            products = factor.border[c] * corner[stage.border.column][None, :]
            y -= sum_by(products, stage.border.level, plan.n_levels[f])
        known[f] = solve_upper(factor.diagonal[c], y[:, None, :])[:, 0, :]
    return tuple(known)


def selected_inverse(plan: Plan, factor: Factorization) -> Blocks:
    """The entries of H^-1 on the pattern of H (Takahashi's recursion, last factor first).

    With G = H_cc^-1 H_c,later of a level and N its later neighbours,
    V_c,b = - sum_a G_a V_ab for b in N, and V_cc = H_cc^-1 - sum_b V_c,b G_b'.
    """
    n_chain = len(plan.chain)
    diagonal: list[Array] = [None] * n_chain
    coupling: list[tuple[Array, ...]] = [()] * n_chain
    border: list[Array] = [None] * n_chain
    corner = inverse(factor.schur, factor.corner) if plan.kept else None
    for c, f, stage in reversed(plan.steps):
        root, edge, size = factor.diagonal[c], stage.border, plan.n_levels[f]
        later = range(n_chain - c - 1)
        scaled = [solve_upper(root, block) for block in factor.coupling[c]]
        reduced: Array = None
        if edge is not None:
            reduced = solve_upper(root[:, :, edge.level], factor.border[c][:, None, :])[:, 0, :]
            total = _border_times(edge, reduced, corner, size)
            for i in later:
                above = border[c + 1 + i][:, edge.lift[i]]
                total += _apply(scaled[i][:, :, edge.level], above)
            border[c] = -total
        own = []
        for j in later:
            blocks = [_between(diagonal, coupling, stage, c, i, j) for i in later]
            total = jnp.zeros_like(scaled[j])
            for block, pulled in zip(blocks, scaled, strict=True):
                total += jnp.sum(pulled[:, :, None, :] * block[None, :, :, :], axis=1)
            if edge is not None:
                total += sum_by(
                    cross(reduced, border[c + 1 + j][:, edge.lift[j]]), edge.level, size
                )
            own.append(-total)
        coupling[c] = tuple(own)
        block = _inverse_from_root(root)
        for inverse_block, pulled in zip(own, scaled, strict=True):
            block -= jnp.sum(inverse_block[:, None, :, :] * pulled[None, :, :, :], axis=2)
        if edge is not None:
            block -= sum_by(cross(border[c], reduced), edge.level, size)
        diagonal[c] = block
    return Blocks(tuple(diagonal), tuple(coupling), tuple(border), corner)


def _between(
    diagonal: list[Array],
    coupling: list[tuple[Array, ...]],
    stage: Stage,
    c: int,
    i: int,
    j: int,
) -> Array:
    """The block of the inverse between parents i and j of every level of chain factor c."""
    d, e = c + 1 + i, c + 1 + j
    if d == e:
        return diagonal[d][:, :, stage.parents[i]]
    if d < e:
        return coupling[d][e - d - 1][:, :, stage.parents[i]]
    return jnp.swapaxes(coupling[e][d - e - 1][:, :, stage.parents[j]], 0, 1)


def _border_times(border: Border, edge: Array, corner: Array, n_levels: int) -> Array:
    """The border, a matrix of levels by columns, times the corner, on the border's entries."""
    q = corner.shape[0]
    if border.pairs is None:
        k = edge.shape[0]
        product = corner @ _spread(border, edge, n_levels, q)
        return product.reshape((q, k, n_levels))[border.column, :, border.level].T
    pairs, size = border.pairs, edge.shape[1]
    value = corner.ravel()[pairs.target]
    distinct = pairs.first != pairs.second
    towards = sum_by(edge[:, pairs.second] * value[None, :], pairs.first, size)
    back = sum_by(edge[:, pairs.first] * (value * distinct)[None, :], pairs.second, size)
    return towards + back


@jax.custom_jvp
def inverse(matrix: Array, root: Array) -> Array:
    """Inverse of a symmetric positive definite matrix from its Cholesky factor."""
    return jax.scipy.linalg.cho_solve((root, True), jnp.eye(matrix.shape[0], dtype=matrix.dtype))


@inverse.defjvp
def _inverse_jvp(primals, tangents):
    value = inverse(*primals)
    return value, -(value @ tangents[0] @ value)


def row_products(plan: Plan, inv: Blocks, z: Rows) -> Rows:
    """v_i = H^-1 z_i on the pattern of row i, per factor (k, n); the leverage is z_i . v_i."""
    v = [jnp.zeros_like(rows) for rows in z]
    for c, f, stage in plan.steps:
        level = plan.levels[f]
        v[f] += _apply(inv.diagonal[c][:, :, level], z[f])
        for i, g in enumerate(plan.chain[c + 1 :]):
            block = inv.coupling[c][i][:, :, level]
            v[f] += _apply(block, z[g])
            v[g] += _apply(jnp.swapaxes(block, 0, 1), z[f])
        if stage.border is None:
            continue
        edge = stage.border
        for s, pair, base, m in zip(plan.kept, edge.row_pair, edge.base, edge.n_pairs, strict=True):
            k = plan.n_effects[s]
            block = inv.border[c][:, base : base + k * m].reshape((-1, k, m))[:, :, pair]
            v[f] += _apply(block, z[s])
            v[s] += _apply(jnp.swapaxes(block, 0, 1), z[f])
    if plan.kept:
        flat, q = inv.corner.ravel(), plan.n_columns
        for s, at_s in zip(plan.kept, plan.offsets, strict=False):
            for t, at_t in zip(plan.kept, plan.offsets, strict=False):
                here, there = _columns(plan, s, at_s), _columns(plan, t, at_t)
                v[s] += _apply(flat[here[:, None, :] * q + there[None, :, :]], z[t])
    return tuple(v)


def whitened_rows(plan: Plan, factor: Factorization, z: Rows, rows: Array) -> tuple[Rows, Array]:
    """a_i = L^-1 z_i of some rows, with H = L L', so that z_i' H^-1 z_j = a_i . a_j.

    z: the rows of Z Lambda. rows: numbers of those wanted (r,). Returns the part in each chain
    factor, on the row's own level (k, r), and the part in the corner (columns, r), None without.
    """
    rest = [part[:, rows] for part in z]
    parts: list[Array] = []
    corner: Array = None
    if plan.kept:
        corner = jnp.zeros((plan.n_columns, len(rows)), rest[0].dtype)
        for s, offset in zip(plan.kept, plan.offsets, strict=False):
            columns = _columns(plan, s, offset)[:, rows]
            corner = corner.at[columns, jnp.arange(len(rows))[None, :]].add(rest[s])
    for c, f, stage in plan.steps:
        level = plan.levels[f][rows]
        y = solve_lower(factor.diagonal[c][:, :, level], rest[f][:, None, :])
        parts.append(y[:, 0, :])
        for block, g in zip(factor.coupling[c], plan.chain[c + 1 :], strict=True):
            rest[g] -= _contract(block[:, :, level], y)[:, 0, :]
        if stage.border is not None:
            size, q = plan.n_levels[f], plan.n_columns
            dense = _spread(stage.border, factor.border[c], size, q).reshape((q, -1, size))
            corner -= jnp.sum(dense[:, :, level] * parts[c][None, :, :], axis=1)
    if plan.kept:
        corner = jax.scipy.linalg.solve_triangular(factor.corner, corner, lower=True)
    return tuple(parts), corner


def _apply(blocks: Array, rows: Array) -> Array:
    """Block times row: (k, l, n), (l, n) -> (k, n)."""
    return jnp.sum(blocks * rows[None, :, :], axis=1)


def leverages(z: Rows, v: Rows) -> Array:
    """h_i = z_i . v_i (n,)."""
    parts = [jnp.sum(a * b, axis=0) for a, b in zip(z, v, strict=True)]
    return sum(parts[1:], parts[0]) if parts else jnp.zeros(())


# Small matrices: k x k for each of the entries of the last axis, unrolled over k


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


def _inverse_from_root(root: Array) -> Array:
    """(L L')^-1 for L (k, k, m)."""
    identity = jnp.broadcast_to(jnp.eye(root.shape[0], dtype=root.dtype)[:, :, None], root.shape)
    return solve_upper(root, solve_lower(root, identity))
