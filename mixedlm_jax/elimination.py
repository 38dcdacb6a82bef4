"""Block elimination of H = Lambda' Z' W Z Lambda + I.

The grouping factors are ordered by levels x effects, largest first. A factor in whose levels every
factor before it on the chain is nested keeps a block-diagonal block when those are eliminated, so
it joins the chain and is eliminated in its turn, k x k per level. A factor that crosses the chain
is filled and kept back for the corner, one Schur complement:

        | D_0  C_01  G_0 |      D_c   (k, k, levels)         block diagonal
    H = |      D_1   G_1 |      C_cd  (k_c, k_d, levels_c)   one parent in d for each level of c
        |            S   |      G_c   (k_c, entries_c)       list of (level of c, column of S)

A single factor and any depth of nesting have no corner: their cost is linear in the rows. Crossing
costs a dense S the size of the smaller factors, or the products of one that is too large to be
formed (`corner`, `unformed`). Nothing off this pattern is ever formed, and the same layout holds
the entries of H^-1 on it (the selected inverse).

The index arrays come from a `Plan`. The last axis of every array runs over levels, entries or
rows: row quantities of a factor are (k, n), its coefficients (k, levels), and column j * levels + l
of its part of S belongs to effect j of level l.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array
from mixedlm_jax.corner import DenseCorner, DenseFactor, border_times, columns_of, spread
from mixedlm_jax.plan import Plan, Stage, Window
from mixedlm_jax.small import (
    apply,
    contract,
    cross,
    gram,
    inverse_from_root,
    plus_identity,
    small_cholesky,
    solve_lower,
    solve_upper,
    sum_by,
)
from mixedlm_jax.unformed import SparseCorner, SparseFactor

Rows = tuple[Array, ...]  # per factor (k, n)
Effects = tuple[Array, ...]  # per factor (k, levels)


class Blocks(NamedTuple):
    """A symmetric matrix on the pattern of H: H, what rows add to it, its inverse's selected part.

    Border and corner are None where nothing crosses.
    """

    diagonal: tuple[Array, ...]  # per chain factor (k, k, levels)
    coupling: tuple[tuple[Array, ...], ...]  # per chain factor c and later d (k_c, k_d, levels)
    border: tuple[Array, ...]  # per chain factor (k, entries)
    corner: DenseCorner | SparseCorner | None


class Factorization(NamedTuple):
    """Block Cholesky factor of H, and what S is after elimination.

    matrix: H itself where S is not formed, else None.
    """

    diagonal: tuple[Array, ...]
    coupling: tuple[tuple[Array, ...], ...]
    border: tuple[Array, ...]
    corner: DenseFactor | SparseFactor | None
    matrix: Blocks | None


def of_rows(plan: Plan, f: int, values: Array) -> Array:
    """What each row has of the values of a factor's levels: (..., levels) -> (..., n).

    Rows in rounds of all levels (`Plan.rounds`) make it a copy along an axis. The rows of a block
    with a window look no further than that.
    """
    if plan.rounds:
        lead = values.shape[:-1]
        tiled = jnp.broadcast_to(values[..., None, :], (*lead, plan.rounds, values.shape[-1]))
        return tiled.reshape((*lead, -1))
    window = _window(plan, f)
    if window is not None:
        values = jax.lax.dynamic_slice_in_dim(values, window.first, window.width, -1)
    return values[..., plan.levels[f]]


def of_levels(plan: Plan, f: int, values: Array) -> Array:
    """Sums over the rows of each level of a factor: (..., n) -> (..., levels).

    Rows in rounds of all levels make it a sum along an axis. In a block with a window the sums are
    those of its levels (..., width).
    """
    window = _window(plan, f)
    size = plan.n_levels[f] if window is None else window.width
    if plan.rounds:
        return jnp.sum(values.reshape((*values.shape[:-1], plan.rounds, size)), axis=-2)
    return sum_by(values, plan.levels[f], size)


def _window(plan: Plan, f: int) -> Window | None:
    """The window of a factor's levels, None where the plan is no block's with one for this factor.

    That is the first of the chain, which without grouping factors is empty.
    """
    return plan.window if f in plan.chain[:1] else None


def predictor(plan: Plan, z: Rows, u: Effects) -> Array:
    """Z Lambda u (n,), with z the rows of Z Lambda."""
    return row_dot(z, effects_of_rows(plan, u))


def effects_of_rows(plan: Plan, u: Effects) -> Rows:
    """The effects of each row's own levels, per factor: (..., k, levels) -> (..., k, n)."""
    return tuple(of_rows(plan, f, effects) for f, effects in enumerate(u))


def row_dot(a: Rows, b: Rows) -> Array:
    """Inner product of two vectors in each row (n,)."""
    parts = [jnp.sum(own * part, axis=0) for own, part in zip(a, b, strict=True)]
    return sum(parts[1:], parts[0]) if parts else jnp.zeros(())


def adjoint(plan: Plan, z: Rows, r: Array) -> Effects:
    """(Z Lambda)' r for r (n,)."""
    return tuple(of_levels(plan, f, rows * r[None, :]) for f, rows in enumerate(z))


# Numbers


def assemble(plan: Plan, z: Rows, w: Array) -> Blocks:
    """H on its pattern; z the rows of Z Lambda (per factor (k, n)), w the weights (n,)."""
    return penalised_products(products_of_rows(plan, z, w))


def products_of_rows(plan: Plan, z: Rows, w: Array) -> Blocks:
    """sum_i w_i z_i z_i' on the pattern of H: what the rows add to it."""
    diagonal, coupling, border = [], [], []
    for c, f, stage in plan.steps:
        weighted = z[f] * w[None, :]
        diagonal.append(gram(z[f], weighted, partial(of_levels, plan, f)))
        later = plan.chain[c + 1 :]
        coupling.append(tuple(of_levels(plan, f, cross(weighted, z[g])) for g in later))
        border.append(_assemble_border(plan, stage.border, weighted, z) if plan.kept else None)
    kind = DenseCorner if plan.unformed is None else SparseCorner
    corner = kind.of_rows(plan, z, w) if plan.kept else None
    return Blocks(tuple(diagonal), tuple(coupling), tuple(border), corner)


def penalised_products(products: Blocks) -> Blocks:
    """H from what its rows add to it: the identity is the penalty u'u / 2."""
    return products._replace(
        diagonal=tuple(map(plus_identity, products.diagonal)),
        corner=None if products.corner is None else products.corner.plus_identity(),
    )


def border_of(plan: Plan, edge: Any, s: int, entries: Array) -> Array:
    """The entries of a border that belong to kept factor s, as blocks (k, k_s, pairs)."""
    i, k = plan.kept.index(s), plan.n_effects[s]
    base, m = edge.base[i], edge.n_pairs[i]
    return entries[:, base : base + k * m].reshape((-1, k, m))


def _assemble_border(plan: Plan, border: Any, weighted: Array, z: Rows) -> Array:
    """The entries that couple a chain factor, whose weighted rows are given, to the corner."""
    parts = [
        sum_by(cross(weighted, z[s]), pair, m).reshape((weighted.shape[0], -1))
        for s, pair, m in zip(plan.kept, border.row_pair, border.n_pairs, strict=True)
    ]
    return jnp.concatenate(parts, axis=1)


def factorize(plan: Plan, matrix: Blocks) -> Factorization:
    """Block Cholesky factor; entries are nan where the matrix is not positive definite."""
    diagonal, border = list(matrix.diagonal), list(matrix.border)
    coupling = [list(blocks) for blocks in matrix.coupling]
    for c, _, stage in plan.steps:
        root = diagonal[c] = small_cholesky(diagonal[c])
        scaled = coupling[c] = [solve_lower(root, block) for block in coupling[c]]
        later = range(c + 1, len(plan.chain))
        for i, d in enumerate(later):
            parent, size = stage.parents[i], plan.n_levels[plan.chain[d]]
            diagonal[d] -= sum_by(contract(scaled[i], scaled[i]), parent, size)
            for j in range(i + 1, len(scaled)):
                products = contract(scaled[i], scaled[j])
                coupling[d][j - i - 1] -= sum_by(products, parent, size)
        if stage.border is None:
            continue
        level = stage.border.level
        edge = border[c] = solve_lower(root[:, :, level], border[c][:, None, :])[:, 0, :]
        for i, d in enumerate(later):
            products = contract(scaled[i][:, :, level], edge[:, None, :])[:, 0, :]
            border[d] -= sum_by(products, stage.border.lift[i], border[d].shape[1])
    corner = None
    if matrix.corner is not None:
        corner = matrix.corner.eliminated(plan, tuple(border))
    return Factorization(
        tuple(diagonal),
        tuple(tuple(blocks) for blocks in coupling),
        tuple(border),
        corner,
        matrix=None if plan.unformed is None else matrix,
    )


def is_definite(factor: Factorization) -> Array:
    """Whether H is positive definite."""
    definite = jnp.array(True)
    for root in factor.diagonal:
        definite &= jnp.all(jnp.isfinite(root))
    return definite if factor.corner is None else definite & factor.corner.definite()


def log_determinant(factor: Factorization) -> Array:
    """log|H|; of an S that is not formed by the plan's probes."""
    chain = chain_log_determinant(factor)
    return chain if factor.corner is None else chain + factor.corner.log_determinant()


def chain_log_determinant(factor: Factorization) -> Array:
    """log|D|: what the eliminated factors have of log|H| = log|D| + log|S|."""
    roots = [root[i, i] for root in factor.diagonal for i in range(root.shape[0])]
    parts = [2.0 * jnp.sum(jnp.log(root)) for root in roots]
    return sum(parts[1:], parts[0]) if parts else jnp.zeros(())


def log_determinant_error(factor: Factorization) -> Array:
    """Monte Carlo standard error of `log_determinant`, 0 where S is formed or there is none."""
    if isinstance(factor.corner, SparseFactor):
        return factor.corner.log_determinant_error()
    return jnp.zeros((), factor.diagonal[0].dtype)


def solve(plan: Plan, factor: Factorization, rhs: Effects, *, rough: bool = False) -> Effects:
    """H^-1 rhs; rough: six digits will do, where that is less work."""
    known = list(rhs)
    corner: Array = None
    if plan.kept:
        corner = jnp.concatenate([rhs[s].ravel() for s in plan.kept])
    for c, f, stage in plan.steps:
        y = solve_lower(factor.diagonal[c], known[f][:, None, :])
        known[f] = y[:, 0, :]
        for i, g in enumerate(plan.chain[c + 1 :]):
            products = contract(factor.coupling[c][i], y)[:, 0, :]
            known[g] -= sum_by(products, stage.parents[i], plan.n_levels[g])
        if stage.border is not None:
            products = jnp.sum(factor.border[c] * known[f][:, stage.border.level], axis=0)
            corner -= sum_by(products, stage.border.column, plan.n_columns)
    if factor.corner is not None:
        corner = factor.corner.solve(corner, rough=rough)
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
    """The entries of H^-1 on the pattern of H, the gradient of log|H|; see `determinant`."""
    return determinant(plan, factor)[1]


def determinant(plan: Plan, factor: Factorization) -> tuple[Array, Blocks]:
    """log|H| and its gradient: the entries of H^-1 on the pattern of H.

    Where S is not formed both are the probes' estimates, and the second is still the exact gradient
    of the first.
    """
    if isinstance(factor.corner, SparseFactor):
        return _estimated_determinant(plan, factor, factor.corner)
    return log_determinant(factor), _selected_inverse(plan, factor)


def _estimated_determinant(
    plan: Plan, factor: Factorization, corner: SparseFactor
) -> tuple[Array, Blocks]:
    found = corner.quadratures()

    def linearised(matrix: Blocks) -> tuple[Array, Array]:
        varied = factorize(plan, matrix)
        part, value = varied.corner.linearised(corner, found)  # type: ignore[union-attr]
        chain = chain_log_determinant(varied)
        return chain + part, chain + value

    slope, value = jax.grad(linearised, has_aux=True)(factor.matrix)

    # an entry off the diagonal stands twice in H, in small blocks too
    def halved(block: Array) -> Array:
        return 0.5 * block

    def symmetric(block: Array) -> Array:
        return 0.5 * (block + jnp.swapaxes(block, 0, 1))

    return value, Blocks(
        diagonal=jax.tree.map(symmetric, slope.diagonal),
        coupling=jax.tree.map(halved, slope.coupling),
        border=jax.tree.map(halved, slope.border),
        corner=SparseCorner(
            own=jax.tree.map(symmetric, slope.corner.own),
            cells=jax.tree.map(halved, slope.corner.cells),
        ),
    )


def _selected_inverse(plan: Plan, factor: Factorization) -> Blocks:
    """Takahashi's recursion, last factor first, where S is formed.

    With G = H_cc^-1 H_c,later of a level and N its later neighbours,
    V_c,b = - sum_a G_a V_ab for b in N, and V_cc = H_cc^-1 - sum_b V_c,b G_b'.
    """
    n_chain = len(plan.chain)
    diagonal: list[Array] = [None] * n_chain
    coupling: list[tuple[Array, ...]] = [()] * n_chain
    border: list[Array] = [None] * n_chain
    corner: Any = factor.corner.inverse() if isinstance(factor.corner, DenseFactor) else None
    for c, f, stage in reversed(plan.steps):
        root, edge, size = factor.diagonal[c], stage.border, plan.n_levels[f]
        later = range(n_chain - c - 1)
        scaled = [solve_upper(root, block) for block in factor.coupling[c]]
        reduced: Array = None
        if edge is not None:
            reduced = solve_upper(root[:, :, edge.level], factor.border[c][:, None, :])[:, 0, :]
            total = border_times(edge, reduced, corner, size)
            for i in later:
                above = border[c + 1 + i][:, edge.lift[i]]
                total += apply(scaled[i][:, :, edge.level], above)
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
        block = inverse_from_root(root)
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


def row_products(plan: Plan, inv: Blocks, z: Rows) -> Rows:
    """v_i = H^-1 z_i on the pattern of row i, per factor (k, n); the leverage is z_i . v_i."""
    v = [jnp.zeros_like(rows) for rows in z]
    for c, f, stage in plan.steps:
        v[f] += apply(of_rows(plan, f, inv.diagonal[c]), z[f])
        for i, g in enumerate(plan.chain[c + 1 :]):
            block = of_rows(plan, f, inv.coupling[c][i])
            v[f] += apply(block, z[g])
            v[g] += apply(jnp.swapaxes(block, 0, 1), z[f])
        if stage.border is None:
            continue
        edge = stage.border
        for s, pair in zip(plan.kept, edge.row_pair, strict=True):
            block = border_of(plan, edge, s, inv.border[c])[:, :, pair]
            v[f] += apply(block, z[s])
            v[s] += apply(jnp.swapaxes(block, 0, 1), z[f])
    if inv.corner is not None:
        for s, product in zip(plan.kept, inv.corner.row_products(plan, z), strict=True):
            v[s] += product
    return tuple(v)


def level_blocks(plan: Plan, inv: Blocks) -> list[Array]:
    """The block of H^-1 of each level, per factor (k, k, levels)."""
    blocks: list[Array] = [None] * len(plan.n_levels)
    for c, f, _ in plan.steps:
        blocks[f] = inv.diagonal[c]
    if inv.corner is not None:
        for s, block in zip(plan.kept, inv.corner.level_blocks(plan), strict=True):
            blocks[s] = block
    return blocks


def whitened_rows(plan: Plan, factor: Factorization, z: Rows, rows: Array) -> tuple[Rows, Array]:
    """a_i = L^-1 z_i of some rows, with H = L L', so that z_i' H^-1 z_j = a_i . a_j.

    z: the rows of Z Lambda. rows: numbers of those wanted (r,). Returns the part in each chain
    factor, on the row's own level (k, r), and the part in the corner (columns, r), None without.
    S must be formed.
    """
    rest = [part[:, rows] for part in z]
    parts: list[Array] = []
    corner: Array = None
    if plan.kept:
        corner = jnp.zeros((plan.n_columns, len(rows)), rest[0].dtype)
        for s, offset in zip(plan.kept, plan.offsets, strict=False):
            columns = columns_of(plan, s, offset)[:, rows]
            corner = corner.at[columns, jnp.arange(len(rows))[None, :]].add(rest[s])
    for c, f, stage in plan.steps:
        level = plan.levels[f][rows]
        y = solve_lower(factor.diagonal[c][:, :, level], rest[f][:, None, :])
        parts.append(y[:, 0, :])
        for block, g in zip(factor.coupling[c], plan.chain[c + 1 :], strict=True):
            rest[g] -= contract(block[:, :, level], y)[:, 0, :]
        if stage.border is not None:
            size, q = plan.n_levels[f], plan.n_columns
            dense = spread(stage.border, factor.border[c], size, q).reshape((q, -1, size))
            corner -= jnp.sum(dense[:, :, level] * parts[c][None, :, :], axis=1)
    if isinstance(factor.corner, DenseFactor):
        corner = jax.scipy.linalg.solve_triangular(factor.corner.root, corner, lower=True)
    return tuple(parts), corner


def leverages(z: Rows, v: Rows) -> Array:
    """h_i = z_i . v_i (n,)."""
    return row_dot(z, v)
