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

`make_plan` runs once on the host (NumPy) and yields index arrays; all else is JAX on arrays whose
last axis runs over levels, entries or rows. Row quantities of a factor are (k, n), its coefficients
(k, levels), and column j * levels + l of its part of S belongs to effect j of level l.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Rows = tuple[jax.Array, ...]  # per factor (k, n)
Effects = tuple[jax.Array, ...]  # per factor (k, levels)

# A scattered product of two entries costs about this many multiply-adds of a dense matrix product.
_SCATTER_COST = 80

_static = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pairs:
    """All pairs of border entries that share a level: where their products land in S."""

    first: jax.Array
    second: jax.Array
    target: jax.Array  # row * columns + column in the lower triangle of S


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Border:
    """Coupling of one chain factor to the columns of S, as a list of scalar columns per level.

    Entry `base[s] + j * n_pairs[s] + pair` couples the level to effect j of kept factor s.
    """

    level: jax.Array  # (entries,)
    column: jax.Array  # (entries,)
    row_pair: tuple[jax.Array, ...]  # per kept factor: the pair each row belongs to, (n,)
    lift: tuple[jax.Array, ...]  # per later chain factor: the entry of the parent level, (entries,)
    pairs: Pairs | None  # None: the product is formed densely
    base: tuple[int, ...] = field(metadata=_static)
    n_pairs: tuple[int, ...] = field(metadata=_static)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stage:
    """One step of the chain."""

    parents: tuple[jax.Array, ...]  # per later chain factor: the parent of each level
    border: Border | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """Index arrays of an elimination; `chain` and `kept` number the factors of the design."""

    levels: tuple[jax.Array, ...]  # per factor: the level of each row, (n,)
    stages: tuple[Stage, ...]
    n_effects: tuple[int, ...] = field(metadata=_static)
    n_levels: tuple[int, ...] = field(metadata=_static)
    chain: tuple[int, ...] = field(metadata=_static)
    kept: tuple[int, ...] = field(metadata=_static)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First column of each kept factor in S, and the number of columns."""
        sizes = [self.n_effects[s] * self.n_levels[s] for s in self.kept]
        return tuple(int(total) for total in np.cumsum([0, *sizes]))

    @property
    def n_columns(self) -> int:
        """Number of columns of S."""
        return self.offsets[-1]


class Blocks(NamedTuple):
    """A symmetric matrix on the pattern of H (H itself, or the selected part of its inverse)."""

    diagonal: tuple[jax.Array, ...]  # per chain factor (k, k, levels)
    coupling: tuple[tuple[jax.Array, ...], ...]  # per chain factor c and later d (k_c, k_d, levels)
    border: tuple[jax.Array | None, ...]  # per chain factor (k, entries)
    corner: jax.Array | None  # (columns, columns)


class Factorization(NamedTuple):
    """Block Cholesky factor of H; `schur` is S after elimination, `corner` its Cholesky factor."""

    diagonal: tuple[jax.Array, ...]
    coupling: tuple[tuple[jax.Array, ...], ...]
    border: tuple[jax.Array | None, ...]
    schur: jax.Array | None
    corner: jax.Array | None


# Planning, on the host


def elimination_order(
    levels: Sequence[np.ndarray], n_levels: Sequence[int], n_effects: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which factors are eliminated, in order, and which are kept for the corner."""
    size = [k * m for k, m in zip(n_effects, n_levels, strict=True)]
    chain: list[int] = []
    kept: list[int] = []
    for candidate in sorted(range(len(levels)), key=lambda f: -size[f]):
        nested = all(
            _parents(levels[f], levels[candidate], n_levels[f]) is not None for f in chain
        )
        (chain if nested else kept).append(candidate)
    return tuple(chain), tuple(kept)


def make_plan(
    levels: Sequence[np.ndarray], n_levels: Sequence[int], n_effects: Sequence[int]
) -> Plan:
    """Plan the elimination for rows with these levels (each (n,), every level occurring)."""
    levels = [np.asarray(level, np.int32) for level in levels]
    chain, kept = elimination_order(levels, n_levels, n_effects)
    sizes = [n_effects[s] * n_levels[s] for s in kept]
    offsets = np.cumsum([0, *sizes])

    stages: list[Stage] = []
    borders: list[Border | None] = []
    for c, f in reversed(list(enumerate(chain))):  # a border lifts into those of later factors
        parents = tuple(_parents(levels[f], levels[g], n_levels[f]) for g in chain[c + 1 :])
        border = None
        if kept:
            border = _plan_border(f, kept, levels, n_levels, n_effects, offsets, parents, borders)
        borders.insert(0, border)
        stages.insert(0, Stage(parents=parents, border=border))  # type: ignore[arg-type]
    return Plan(
        levels=tuple(levels),  # type: ignore[arg-type]
        stages=tuple(stages),
        n_effects=tuple(int(k) for k in n_effects),
        n_levels=tuple(int(m) for m in n_levels),
        chain=chain,
        kept=kept,
    )


def _parents(child: np.ndarray, parent: np.ndarray, n_levels: int) -> np.ndarray | None:
    """The parent level of every child level, or None where a child has several."""
    of_level = np.zeros(n_levels, np.int32)
    of_level[child] = parent
    return of_level if np.array_equal(of_level[child], parent) else None


def _plan_border(f, kept, levels, n_levels, n_effects, offsets, parents, later_borders) -> Border:
    level_of, column_of, row_pair, base, n_pairs = [], [], [], [], []
    keys = []
    total = 0
    for s, offset in zip(kept, offsets[:-1], strict=True):
        code = levels[f].astype(np.int64) * n_levels[s] + levels[s]
        pair, inverse = np.unique(code, return_inverse=True)
        level, other = np.divmod(pair, n_levels[s])
        row_pair.append(inverse.astype(np.int32))
        base.append(total)
        n_pairs.append(len(pair))
        for j in range(n_effects[s]):
            level_of.append(level)
            column_of.append(offset + j * n_levels[s] + other)
        total += n_effects[s] * len(pair)
        keys.append((level, other))
    level = np.concatenate(level_of)
    column = np.concatenate(column_of)
    lift = tuple(
        _lift(level, column, parent, border, int(offsets[-1]))
        for parent, border in zip(parents, later_borders, strict=True)
    )
    return Border(
        level=level.astype(np.int32),
        column=column.astype(np.int32),
        row_pair=tuple(row_pair),
        lift=lift,
        pairs=_plan_pairs(level, column, n_levels[f], int(offsets[-1])),
        base=tuple(base),
        n_pairs=tuple(n_pairs),
    )


def _lift(level, column, parent, border: Border, n_columns: int) -> np.ndarray:
    """For each border entry the entry of its parent level in the same column.

    It exists: a row that couples the level to the column couples the level's parent to it too.
    """
    there = np.asarray(border.level, np.int64) * n_columns + border.column
    order = np.argsort(there)
    wanted = parent[level].astype(np.int64) * n_columns + column
    return order[np.searchsorted(there, wanted, sorter=order)].astype(np.int32)


def _plan_pairs(level, column, n_levels: int, n_columns: int) -> Pairs | None:
    count = np.bincount(level, minlength=n_levels).astype(np.int64)
    n_products = int(np.sum(count * (count + 1) // 2))
    if n_products * _SCATTER_COST > n_levels * n_columns**2:
        return None
    # within a level the entries are ranked by column; entry r meets the entries 0..r
    order = np.lexsort((column, level))
    start = np.repeat(np.cumsum(count) - count, count)
    rank = np.arange(len(order)) - start
    first = np.repeat(np.arange(len(order)), rank + 1)
    within = np.arange(n_products) - np.repeat(np.cumsum(rank + 1) - (rank + 1), rank + 1)
    second = start[first] + within
    first, second = order[first], order[second]
    target = column[first] * np.int64(n_columns) + column[second]
    index = np.int32 if n_columns**2 < 2**31 else np.int64
    return Pairs(
        first=first.astype(np.int32), second=second.astype(np.int32), target=target.astype(index)
    )


# Sums over rows, levels and entries


def sum_by(values: jax.Array, index: jax.Array, size: int) -> jax.Array:
    """Sums of values (..., m) over equal index (m,): shape (..., size)."""
    lead = values.shape[:-1]
    flat = [
        jax.ops.segment_sum(row, index, num_segments=size)
        for row in values.reshape((-1, values.shape[-1]))
    ]
    return jnp.stack(flat).reshape((*lead, size))


def cross(a: jax.Array, b: jax.Array) -> jax.Array:
    """Outer products over the first axes: (k, m), (l, m) -> (k, l, m)."""
    return a[:, None, :] * b[None, :, :]


def predictor(plan: Plan, z: Rows, u: Effects) -> jax.Array:
    """Z Lambda u (n,), with z the rows of Z Lambda."""
    return sum(
        jnp.sum(rows * effects[:, level], axis=0)
        for rows, effects, level in zip(z, u, plan.levels, strict=True)
    )


def adjoint(plan: Plan, z: Rows, r: jax.Array) -> Effects:
    """(Z Lambda)' r for r (n,)."""
    return tuple(
        sum_by(rows * r[None, :], level, size)
        for rows, level, size in zip(z, plan.levels, plan.n_levels, strict=True)
    )


# Numbers


def assemble(plan: Plan, z: Rows, w: jax.Array) -> Blocks:
    """H on its pattern; z the rows of Z Lambda (per factor (k, n)), w the weights (n,)."""
    diagonal, coupling, border = [], [], []
    for c, (f, stage) in enumerate(zip(plan.chain, plan.stages, strict=True)):
        weighted = z[f] * w[None, :]
        size, level = plan.n_levels[f], plan.levels[f]
        diagonal.append(_plus_identity(_gram(z[f], weighted, level, size)))
        coupling.append(
            tuple(sum_by(cross(weighted, z[g]), level, size) for g in plan.chain[c + 1 :])
        )
        if stage.border is None:
            border.append(None)
            continue
        parts = [
            sum_by(cross(weighted, z[s]), pair, m).reshape((weighted.shape[0], -1))
            for s, pair, m in zip(
                plan.kept, stage.border.row_pair, stage.border.n_pairs, strict=True
            )
        ]
        border.append(jnp.concatenate(parts, axis=1))
    corner = _assemble_corner(plan, z, w) if plan.kept else None
    return Blocks(tuple(diagonal), tuple(coupling), tuple(border), corner)


def _gram(a: jax.Array, b: jax.Array, index: jax.Array, size: int) -> jax.Array:
    """sum_by of cross(a, b) where that is symmetric: each off-diagonal sum is made once."""
    k = a.shape[0]
    rows, columns = np.tril_indices(k)
    lower = sum_by(a[rows] * b[columns], index, size)
    position = np.zeros((k, k), int)
    position[rows, columns] = position[columns, rows] = np.arange(len(rows))
    return lower[position]


def _plus_identity(blocks: jax.Array) -> jax.Array:
    return blocks + jnp.eye(blocks.shape[0], dtype=blocks.dtype)[:, :, None]


def _assemble_corner(plan: Plan, z: Rows, w: jax.Array) -> jax.Array:
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


def _columns(plan: Plan, s: int, offset: int) -> jax.Array:
    """The columns of S that each row touches through kept factor s, (k, n)."""
    start = offset + np.arange(plan.n_effects[s], dtype=np.int32) * plan.n_levels[s]
    return start[:, None] + plan.levels[s][None, :]


def factorize(plan: Plan, matrix: Blocks) -> Factorization:
    """Block Cholesky factor; entries are nan where the matrix is not positive definite."""
    diagonal, coupling, border = (list(part) for part in matrix[:3])
    coupling = [list(row) for row in coupling]
    schur = matrix.corner
    for c, (f, stage) in enumerate(zip(plan.chain, plan.stages, strict=True)):
        root = small_cholesky(diagonal[c])
        diagonal[c] = root
        scaled = [solve_lower(root, block) for block in coupling[c]]
        coupling[c] = scaled
        later = range(c + 1, len(plan.chain))
        for i, d in enumerate(later):
            parent, size = stage.parents[i], plan.n_levels[plan.chain[d]]
            products = _contract(scaled[i], scaled[i])
            diagonal[d] = diagonal[d] - sum_by(products, parent, size)
            for j in range(i + 1, len(scaled)):
                products = _contract(scaled[i], scaled[j])
                coupling[d][j - i - 1] -= sum_by(products, parent, size)
        if stage.border is None:
            continue
        level = stage.border.level
        edge = solve_lower(root[:, :, level], border[c][:, None, :])[:, 0, :]
        border[c] = edge
        for i, d in enumerate(later):
            products = _contract(scaled[i][:, :, level], edge[:, None, :])[:, 0, :]
            border[d] = border[d] - sum_by(products, stage.border.lift[i], border[d].shape[1])
        schur = schur - _border_gram(stage.border, edge, plan.n_levels[f], plan.n_columns)
    # Every derivative of the corner goes through the rules of `inverse` and the likelihood's
    # primitives; none is taken through this factor.
    corner = None if schur is None else jnp.linalg.cholesky(jax.lax.stop_gradient(schur))
    return Factorization(
        tuple(diagonal), tuple(tuple(row) for row in coupling), tuple(border), schur, corner
    )


def _contract(a: jax.Array, b: jax.Array) -> jax.Array:
    """a' b level by level: (k, l, m), (k, r, m) -> (l, r, m)."""
    return jnp.sum(a[:, :, None, :] * b[:, None, :, :], axis=0)


def _border_gram(border: Border, edge: jax.Array, n_levels: int, q: int) -> jax.Array:
    """What eliminating a chain factor takes from S."""
    if border.pairs is None:
        dense = _spread(border, edge, n_levels, q)
        return dense @ dense.T
    pairs = border.pairs
    products = jnp.sum(edge[:, pairs.first] * edge[:, pairs.second], axis=0)
    lower = jnp.zeros(q * q, edge.dtype).at[pairs.target].add(products).reshape((q, q))
    return lower + jnp.tril(lower, -1).T


def _spread(border: Border, edge: jax.Array, n_levels: int, q: int) -> jax.Array:
    """Border entries as a dense (columns, k * levels) matrix."""
    k = edge.shape[0]
    flat = jnp.zeros((q, k, n_levels), edge.dtype)
    return flat.at[border.column, :, border.level].set(edge.T).reshape((q, k * n_levels))


def log_determinant(factor: Factorization) -> jax.Array:
    """log|H|."""
    total = sum(
        jnp.sum(jnp.log(root[i, i])) for root in factor.diagonal for i in range(root.shape[0])
    )
    if factor.corner is not None:
        total = total + jnp.sum(jnp.log(jnp.diagonal(factor.corner)))
    return 2.0 * total


def solve(plan: Plan, factor: Factorization, rhs: Effects) -> Effects:
    """H^-1 rhs."""
    rhs = list(rhs)
    corner = jnp.concatenate([rhs[s].ravel() for s in plan.kept]) if plan.kept else None
    forward = []
    for c, (f, stage) in enumerate(zip(plan.chain, plan.stages, strict=True)):
        y = solve_lower(factor.diagonal[c], rhs[f][:, None, :])
        forward.append(y)
        for i, g in enumerate(plan.chain[c + 1 :]):
            products = _contract(factor.coupling[c][i], y)[:, 0, :]
            rhs[g] = rhs[g] - sum_by(products, stage.parents[i], plan.n_levels[g])
        if corner is not None:
            edge = factor.border[c]
            products = jnp.sum(edge * y[:, 0, stage.border.level], axis=0)
            corner = corner - sum_by(products, stage.border.column, plan.n_columns)
    solution: list = [None] * len(rhs)
    if corner is not None:
        corner = jax.scipy.linalg.cho_solve((factor.corner, True), corner)
        for s, start, stop in zip(plan.kept, plan.offsets, plan.offsets[1:], strict=False):
            solution[s] = corner[start:stop].reshape(rhs[s].shape)
    for c, (f, stage) in reversed(
        list(enumerate(zip(plan.chain, plan.stages, strict=True)))
    ):
        y = forward[c]
        for i, g in enumerate(plan.chain[c + 1 :]):
            above = solution[g][:, stage.parents[i]]
            y = y - jnp.sum(factor.coupling[c][i] * above[None, :, :], axis=1)[:, None, :]
        if corner is not None:
            products = factor.border[c] * corner[stage.border.column][None, :]
            y = y - sum_by(products, stage.border.level, plan.n_levels[f])[:, None, :]
        solution[f] = solve_upper(factor.diagonal[c], y)[:, 0, :]
    return tuple(solution)


def selected_inverse(plan: Plan, factor: Factorization) -> Blocks:
    """The entries of H^-1 on the pattern of H (Takahashi's recursion, last factor first).

    With G = H_cc^-1 H_c,later of a level and N its later neighbours,
    V_c,b = - sum_a G_a V_ab for b in N, and V_cc = H_cc^-1 - sum_b V_c,b G_b'.
    """
    n_chain = len(plan.chain)
    diagonal: list = [None] * n_chain
    coupling: list = [()] * n_chain
    border: list = [None] * n_chain
    corner = None if factor.schur is None else inverse(factor.schur, factor.corner)
    for c, (f, stage) in reversed(
        list(enumerate(zip(plan.chain, plan.stages, strict=True)))
    ):
        root, edge, lines = factor.diagonal[c], stage.border, range(n_chain - c - 1)
        scaled = [solve_upper(root, block) for block in factor.coupling[c]]
        reduced = None
        if edge is not None:
            reduced = solve_upper(root[:, :, edge.level], factor.border[c][:, None, :])[:, 0, :]
            products = [
                jnp.sum(scaled[i][:, :, edge.level] * border[c + 1 + i][None, :, edge.lift[i]], 1)
                for i in lines
            ]
            border[c] = -sum(products, _border_times(edge, reduced, corner, plan.n_levels[f]))
        own = []
        for j in lines:
            total = 0.0
            for i in lines:
                block = _between(diagonal, coupling, stage, c, i, j)
                total = total + jnp.sum(scaled[i][:, :, None, :] * block[None, :, :, :], axis=1)
            if edge is not None:
                there = border[c + 1 + j][:, edge.lift[j]]
                total = total + sum_by(cross(reduced, there), edge.level, plan.n_levels[f])
            own.append(-total)
        coupling[c] = tuple(own)
        block = _inverse_from_root(root)
        for i in lines:
            block = block - jnp.sum(own[i][:, None, :, :] * scaled[i][None, :, :, :], axis=2)
        if edge is not None:
            block = block - sum_by(cross(border[c], reduced), edge.level, plan.n_levels[f])
        diagonal[c] = block
    return Blocks(tuple(diagonal), tuple(coupling), tuple(border), corner)


def _between(diagonal, coupling, stage: Stage, c: int, i: int, j: int) -> jax.Array:
    """The block of the inverse between parents i and j of every level of chain factor c."""
    d, e = c + 1 + i, c + 1 + j
    if d == e:
        return diagonal[d][:, :, stage.parents[i]]
    if d < e:
        return coupling[d][e - d - 1][:, :, stage.parents[i]]
    return jnp.swapaxes(coupling[e][d - e - 1][:, :, stage.parents[j]], 0, 1)


def _border_times(border: Border, edge: jax.Array, corner: jax.Array, n_levels: int) -> jax.Array:
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
def inverse(matrix: jax.Array, root: jax.Array) -> jax.Array:
    """Inverse of a symmetric positive definite matrix from its Cholesky factor."""
    return jax.scipy.linalg.cho_solve((root, True), jnp.eye(matrix.shape[0], dtype=matrix.dtype))


@inverse.defjvp
def _inverse_jvp(primals, tangents):
    value = inverse(*primals)
    return value, -(value @ tangents[0] @ value)


def row_products(plan: Plan, inv: Blocks, z: Rows) -> Rows:
    """v_i = H^-1 z_i on the pattern of row i, per factor (k, n); the leverage is z_i . v_i."""
    v: list = [0.0] * len(z)
    for c, (f, stage) in enumerate(zip(plan.chain, plan.stages, strict=True)):
        level = plan.levels[f]
        v[f] = v[f] + _apply(inv.diagonal[c][:, :, level], z[f])
        for i, g in enumerate(plan.chain[c + 1 :]):
            block = inv.coupling[c][i][:, :, level]
            v[f] = v[f] + _apply(block, z[g])
            v[g] = v[g] + _apply(jnp.swapaxes(block, 0, 1), z[f])
        if stage.border is None:
            continue
        edge = stage.border
        for s, pair, base, m in zip(
            plan.kept, edge.row_pair, edge.base, edge.n_pairs, strict=True
        ):
            k = plan.n_effects[s]
            block = inv.border[c][:, base : base + k * m].reshape((-1, k, m))[:, :, pair]
            v[f] = v[f] + _apply(block, z[s])
            v[s] = v[s] + _apply(jnp.swapaxes(block, 0, 1), z[f])
    if plan.kept:
        flat, q = inv.corner.ravel(), plan.n_columns
        for s, at_s in zip(plan.kept, plan.offsets, strict=False):
            for t, at_t in zip(plan.kept, plan.offsets, strict=False):
                here, there = _columns(plan, s, at_s), _columns(plan, t, at_t)
                v[s] = v[s] + _apply(flat[here[:, None, :] * q + there[None, :, :]], z[t])
    return tuple(v)


def _apply(blocks: jax.Array, rows: jax.Array) -> jax.Array:
    """Block times row: (k, l, n), (l, n) -> (k, n)."""
    return jnp.sum(blocks * rows[None, :, :], axis=1)


def leverages(z: Rows, v: Rows) -> jax.Array:
    """h_i = z_i . v_i (n,)."""
    return sum(jnp.sum(a * b, axis=0) for a, b in zip(z, v, strict=True))


# Small matrices: k x k for each of the entries of the last axis, unrolled over k


def small_cholesky(matrix: jax.Array) -> jax.Array:
    """Lower Cholesky factors of (k, k, m)."""
    k = matrix.shape[0]
    columns = []
    rest = matrix
    for j in range(k):
        column = rest[:, 0] / jnp.sqrt(rest[0, 0])[None, :]
        columns.append(jnp.pad(column, ((j, 0), (0, 0))))
        rest = rest[1:, 1:] - cross(column[1:], column[1:])
    return jnp.stack(columns, axis=1)


def solve_lower(root: jax.Array, rhs: jax.Array) -> jax.Array:
    """L^-1 rhs for L (k, k, m), rhs (k, r, m)."""
    rows: list[jax.Array] = []
    for i in range(root.shape[0]):
        known = sum(root[i, j][None, :] * rows[j] for j in range(i))
        rows.append((rhs[i] - known) / root[i, i][None, :])
    return jnp.stack(rows)


def solve_upper(root: jax.Array, rhs: jax.Array) -> jax.Array:
    """L^-T rhs for L (k, k, m), rhs (k, r, m)."""
    k = root.shape[0]
    rows: list = [None] * k
    for i in reversed(range(k)):
        known = sum(root[j, i][None, :] * rows[j] for j in range(i + 1, k))
        rows[i] = (rhs[i] - known) / root[i, i][None, :]
    return jnp.stack(rows)


def _inverse_from_root(root: jax.Array) -> jax.Array:
    """(L L')^-1 for L (k, k, m)."""
    identity = jnp.broadcast_to(
        jnp.eye(root.shape[0], dtype=root.dtype)[:, :, None], root.shape
    )
    return solve_upper(root, solve_lower(root, identity))
