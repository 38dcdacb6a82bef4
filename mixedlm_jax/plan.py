"""The plan of a block elimination: which factor goes when, and the index arrays that say where to.

Made once on the host from the grouping factors; `elimination` says what it is used for. All
index arrays are data (pytree leaves), so two data sets of one shape share one compiled program.
Lists whose length depends on which levels meet are filled up to a bucket with spare entries: no row
belongs to them, so they are 0 in H and in its factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from mixedlm_jax.arrays import Array, aligned_empty
from mixedlm_jax.buckets import bucket
from mixedlm_jax.pattern import (
    INDEX,
    Entries,
    Meetings,
    Pairs,
    count_products,
    level_pairs,
    plan_unformed,
)

# A scattered product of two entries costs about this many multiply-adds of a dense matrix product.
_SCATTER_COST = 80
# What a formed S costs an evaluation: its Cholesky factor and its inverse, in multiply-adds a q^3.
_DENSE_WORK = 1.3
# What one that is not formed costs a probe: products with S, as many as Lanczos' process has steps
# and its derivative terms.
_PRODUCTS_PER_PROBE = 16

# Rows of a block are at most so many, whose arrays stay in the cache, or the number of levels where
# that is more: sums by level are added up block by block, all of them but those of a window.
_BLOCK_ROWS = 2**18
# A window pays where it holds at most this share of the levels.
_NARROW = 0.5

_static = {"static": True}


@dataclass(frozen=True)
class Crossing:
    """When S is formed, and the number of probes where it is not.

    max_columns: S of no more columns is always formed. Of more it is where that takes less work.
    """

    max_columns: int = 3000
    n_probes: int = 8


DEFAULT_CROSSING = Crossing()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Border:
    """Coupling of one chain factor to the columns of S, as a list of scalar columns per level.

    Entry `base[s] + j * n_pairs[s] + pair` couples the level to effect j of kept factor s.
    """

    level: Array  # (entries,)
    column: Array  # (entries,)
    row_pair: tuple[Array, ...]  # per kept factor: the pair each row belongs to, (n,)
    lift: tuple[Array, ...]  # per later chain factor: the entry of the parent level, (entries,)
    pairs: Pairs | None  # None: the product is formed densely, or not at all
    base: tuple[int, ...] = field(metadata=_static)
    n_pairs: tuple[int, ...] = field(metadata=_static)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stage:
    """One step of the chain."""

    parents: tuple[Array, ...]  # per later chain factor: the parent of each level
    border: Border | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Window:
    """The levels of the first factor on the chain that a block's rows may have: a range of them."""

    first: Array  # (); of all blocks (blocks,)
    width: int = field(metadata=_static)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """Index arrays of an elimination; `chain` and `kept` number the factors of the design."""

    levels: tuple[Array, ...]  # per factor: the level of each row, (n,)
    stages: tuple[Stage, ...]
    n_effects: tuple[int, ...] = field(metadata=_static)
    n_levels: tuple[int, ...] = field(metadata=_static)
    chain: tuple[int, ...] = field(metadata=_static)
    kept: tuple[int, ...] = field(metadata=_static)
    unformed: Any = None  # an `Unformed`; None: S is formed, or there is none
    # In how many rounds of all levels of the only factor the rows stand, in order; 0: they do not.
    rounds: int = field(default=0, metadata=_static)
    # In how many blocks of one size sums over the rows are made (`blocks`), in the problem that a
    # fit is searched in; 0: all rows at once.
    blocks: int = field(default=0, metadata=_static)
    block_windows: Window | None = None  # where rows stand in the order of their levels
    # That of the block whose plan this is: the levels of its rows are counted from its first.
    window: Window | None = None

    @property
    def steps(self) -> list[tuple[int, int, Stage]]:
        """Position on the chain, number of the factor, and stage of each elimination."""
        return [(c, f, self.stages[c]) for c, f in enumerate(self.chain)]

    @property
    def borders(self) -> list[tuple[int, Border]]:
        """Number and border of each chain factor; empty where nothing crosses."""
        borders = [(f, stage.border) for _, f, stage in self.steps]
        return [(f, border) for f, border in borders if border is not None]

    @property
    def offsets(self) -> tuple[int, ...]:
        """First column of each kept factor in S, and the number of columns."""
        sizes = [self.n_effects[s] * self.n_levels[s] for s in self.kept]
        return tuple(int(total) for total in np.cumsum([0, *sizes]))

    @property
    def n_columns(self) -> int:
        """Number of columns of S."""
        return self.offsets[-1]


def elimination_order(
    levels: Sequence[np.ndarray], n_levels: Sequence[int], n_effects: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which factors are eliminated, in order, and which are kept for the corner."""
    size = [k * m for k, m in zip(n_effects, n_levels, strict=True)]
    chain: list[int] = []
    kept: list[int] = []
    for candidate in sorted(range(len(levels)), key=lambda f: -size[f]):
        nested = all(_parents(levels[f], levels[candidate], n_levels[f]) is not None for f in chain)
        (chain if nested else kept).append(candidate)
    return tuple(chain), tuple(kept)


def make_plan(
    levels: Sequence[np.ndarray],
    n_levels: Sequence[int],
    n_effects: Sequence[int],
    crossing: Crossing = DEFAULT_CROSSING,
) -> Plan:
    """Plan the elimination for rows with these levels (each (n,); a level may have no row)."""
    rows = [_index(level) for level in levels]
    chain, kept = elimination_order(rows, n_levels, n_effects)
    borders = [_list_border(f, kept, rows, n_levels, n_effects) for f in chain] if kept else []
    columns = sum(n_effects[s] * n_levels[s] for s in kept)
    formed = not kept or _is_formed(borders, [n_effects[f] for f in chain], columns, crossing)
    stages = []
    for position, f in enumerate(chain):
        later = chain[position + 1 :]
        parents = tuple(_parents(rows[f], rows[g], n_levels[f]) for g in later)
        border = None
        if kept:
            own, *others = borders[position:]
            border = _plan_border(own, others, parents, n_levels[f], columns, formed=formed)
        stages.append(Stage(parents=parents, border=border))
    unformed = None
    if not formed:
        unformed = plan_unformed(
            [border.meetings for border in borders],
            [rows[s] for s in kept],
            [n_levels[s] for s in kept],
            [n_effects[s] for s in kept],
            crossing.n_probes,
        )
    return Plan(
        levels=tuple(rows),
        stages=tuple(stages),
        n_effects=tuple(int(k) for k in n_effects),
        n_levels=tuple(int(m) for m in n_levels),
        chain=chain,
        kept=kept,
        unformed=unformed,
    )


def _index(levels: np.ndarray) -> np.ndarray:
    index = aligned_empty(np.shape(levels), INDEX)
    index[...] = levels
    return index


def with_rounds(plan: Plan) -> Plan:
    """The plan of one factor that knows of the rounds its rows stand in, if they do (NumPy)."""
    if len(plan.levels) != 1:
        return plan
    levels, size = np.asarray(plan.levels[0]), plan.n_levels[0]
    rounds, rest = divmod(len(levels), size)
    if rest or not np.array_equal(levels, np.tile(np.arange(size), rounds)):
        return plan
    return replace(plan, rounds=rounds)


def in_blocks(plan: Plan) -> Plan:
    """The plan whose rows are summed in blocks, if they are many and no factors cross (NumPy).

    In the fewest of one size that are small enough; in none if the number of rows has no such
    divisor, which that of a `padded` design has. With windows where rows stand in the order of the
    levels of the chain's first factor, roughly at least.
    """
    if not plan.chain or plan.kept:
        return plan
    largest, *others = (plan.n_levels[f] for f in plan.chain)
    blocks = _count_blocks(plan, max([_BLOCK_ROWS, *others]))
    if not blocks:
        return plan
    windows = _windows(np.asarray(plan.levels[plan.chain[0]]), blocks, largest)
    if windows.width <= _NARROW * largest:
        return replace(plan, blocks=blocks, block_windows=windows)
    return replace(plan, blocks=_count_blocks(plan, max(_BLOCK_ROWS, largest)))


def _count_blocks(plan: Plan, most: int) -> int:
    """The fewest blocks of one size with at most so many rows, 0 for one or if no size divides."""
    n = len(plan.levels[0])
    if n <= most:
        return 0
    fewest = -(-n // most)
    return next((b for b in range(fewest, 4 * fewest) if n % b == 0), 0)


def _windows(levels: np.ndarray, blocks: int, n_levels: int) -> Window:
    """The range of levels of each block of rows, all as wide as the widest, filled up to a bucket.

    levels: of the rows (n,).
    """
    of_block = levels.reshape((blocks, -1))
    first, last = of_block.min(axis=1), of_block.max(axis=1)
    width = min(bucket(int(np.max(last - first)) + 1), n_levels)
    return Window(np.minimum(first, n_levels - width).astype(INDEX), width)


def in_smaller_blocks(plan: Plan, most: int) -> Plan:
    """The plan with its blocks halved until they hold at most so many rows, or an odd number."""
    while plan.blocks and (size := len(plan.levels[0]) // plan.blocks) > most and size % 2 == 0:
        windows = plan.block_windows
        if windows is not None:
            windows = replace(windows, first=windows.first.repeat(2))
        plan = replace(plan, blocks=2 * plan.blocks, block_windows=windows)
    return plan


def _is_formed(
    borders: Sequence[_List], chain_effects: Sequence[int], columns: int, crossing: Crossing
) -> bool:
    """Whether S is formed: it is small enough, or its products would take more work."""
    if columns <= crossing.max_columns:
        return True
    entries = sum(
        k * len(border.entries.level) for border, k in zip(borders, chain_effects, strict=True)
    )
    products = crossing.n_probes * _PRODUCTS_PER_PROBE * 2 * entries * _SCATTER_COST
    return _DENSE_WORK * float(columns) ** 3 < products


def _parents(child: np.ndarray, parent: np.ndarray, n_levels: int) -> np.ndarray | None:
    """The parent level of every child level, or None where a child has several."""
    of_level = np.zeros(n_levels, INDEX)
    of_level[child] = parent
    return of_level if np.array_equal(of_level[child], parent) else None


class _List(NamedTuple):
    """The entries of a border, and where those of each kept factor stand."""

    entries: Entries
    meetings: tuple[Meetings, ...]
    row_pair: tuple[np.ndarray, ...]
    base: tuple[int, ...]
    n_pairs: tuple[int, ...]


def _list_border(
    f: int,
    kept: Sequence[int],
    rows: Sequence[np.ndarray],
    n_levels: Sequence[int],
    n_effects: Sequence[int],
) -> _List:
    """The entries that couple chain factor f to the columns of S."""
    level_of, column_of, real_of = [], [], []
    meetings, row_pair, base, n_pairs = [], [], [0], []
    offset = 0
    for s in kept:
        code = rows[f].astype(np.int64) * n_levels[s] + rows[s]
        pair, of_row = np.unique(code, return_inverse=True)
        level, other = np.divmod(pair, n_levels[s])
        size = bucket(len(pair) + 1)  # at least one is spare: spare pairs need it
        spare = size - len(pair)
        meetings.append(Meetings(level, other))
        row_pair.append(of_row.astype(INDEX))
        n_pairs.append(size)
        base.append(base[-1] + n_effects[s] * size)
        for _ in range(n_effects[s]):
            level_of.append(np.pad(level, (0, spare)))
            column_of.append(offset + np.pad(other, (0, spare)))
            real_of.append(np.arange(size) < len(pair))
            offset += n_levels[s]
    entries = Entries(*(np.concatenate(part) for part in (level_of, column_of, real_of)))
    return _List(entries, tuple(meetings), tuple(row_pair), tuple(base[:-1]), tuple(n_pairs))


def _plan_border(
    own: _List,
    later: Sequence[_List],
    parents: Sequence[Array],
    n_levels: int,
    n_columns: int,
    *,
    formed: bool,
) -> Border:
    """The border of a chain factor; later: those of the factors after it."""
    entries = own.entries
    return Border(
        level=entries.level.astype(INDEX),
        column=entries.column.astype(INDEX),
        row_pair=own.row_pair,
        lift=tuple(
            _lift(entries, parent, there.entries, n_columns)
            for parent, there in zip(parents, later, strict=True)
        ),
        pairs=_plan_pairs(entries, n_levels, n_columns) if formed else None,
        base=own.base,
        n_pairs=own.n_pairs,
    )


def _lift(entries: Entries, parent: np.ndarray, border: Entries, n_columns: int) -> np.ndarray:
    """For each border entry the entry of its parent level in the same column.

    It exists: a row that couples the level to the column couples the level's parent to it too.
    """
    place = np.flatnonzero(border.real)
    there = border.level[place] * n_columns + border.column[place]
    order = np.argsort(there)
    wanted = parent[entries.level].astype(np.int64) * n_columns + entries.column
    found = np.searchsorted(there, wanted, sorter=order)
    # a spare entry adds 0 to whichever it is lifted to
    return np.where(entries.real, place[order[np.where(entries.real, found, 0)]], 0).astype(INDEX)


def _plan_pairs(entries: Entries, n_levels: int, n_columns: int) -> Pairs | None:
    """The pairs of entries that share a level, or None where the dense product is cheaper."""
    if count_products(entries, n_levels) * _SCATTER_COST > n_levels * n_columns**2:
        return None
    return level_pairs(entries, n_levels, n_columns)
