"""The plan of a block elimination: which factor goes when, and the index arrays that say where to.

Made once on the host from the grouping factors alone; `elimination` says what it is used for. All
index arrays are data (pytree leaves), so two data sets of one shape share one compiled program.
Lists whose length depends on which levels meet are filled up to a bucket with spare entries: no row
belongs to them, so they are 0 in H and in its factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.buckets import bucket

# A scattered product of two entries costs about this many multiply-adds of a dense matrix product.
_SCATTER_COST = 80

# Unsigned: JAX need not ask of every index whether it counts from the end.
INDEX = np.uint32

_static = {"static": True}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pairs:
    """All pairs of border entries that share a level: where their products land in S."""

    first: Array
    second: Array
    target: Array  # row * columns + column in the lower triangle of S


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
    pairs: Pairs | None  # None: the product is formed densely
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
class Plan:
    """Index arrays of an elimination; `chain` and `kept` number the factors of the design."""

    levels: tuple[Array, ...]  # per factor: the level of each row, (n,)
    stages: tuple[Stage, ...]
    n_effects: tuple[int, ...] = field(metadata=_static)
    n_levels: tuple[int, ...] = field(metadata=_static)
    chain: tuple[int, ...] = field(metadata=_static)
    kept: tuple[int, ...] = field(metadata=_static)

    @property
    def steps(self) -> list[tuple[int, int, Stage]]:
        """Position on the chain, number of the factor, and stage of each elimination."""
        return [(c, f, self.stages[c]) for c, f in enumerate(self.chain)]

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


class _Entries(NamedTuple):
    """The entries of a border on the host; spare ones are not `real`."""

    level: np.ndarray
    column: np.ndarray
    real: np.ndarray  # (entries,) bool


def make_plan(
    levels: Sequence[np.ndarray], n_levels: Sequence[int], n_effects: Sequence[int]
) -> Plan:
    """Plan the elimination for rows with these levels (each (n,); a level may have no row)."""
    rows = [np.asarray(level).astype(INDEX) for level in levels]
    chain, kept = elimination_order(rows, n_levels, n_effects)
    stages: list[Stage] = []
    later: list[_Entries] = []
    for position in reversed(range(len(chain))):  # a border refers to those of later stages
        f = chain[position]
        parents = tuple(_parents(rows[f], rows[g], n_levels[f]) for g in chain[position + 1 :])
        border = None
        if kept:
            border, entries = _plan_border(f, kept, rows, n_levels, n_effects, parents, later)
            later.insert(0, entries)
        stages.insert(0, Stage(parents=parents, border=border))
    return Plan(
        levels=tuple(rows),
        stages=tuple(stages),
        n_effects=tuple(int(k) for k in n_effects),
        n_levels=tuple(int(m) for m in n_levels),
        chain=chain,
        kept=kept,
    )


def _parents(child: np.ndarray, parent: np.ndarray, n_levels: int) -> np.ndarray | None:
    """The parent level of every child level, or None where a child has several."""
    of_level = np.zeros(n_levels, INDEX)
    of_level[child] = parent
    return of_level if np.array_equal(of_level[child], parent) else None


def _plan_border(
    f: int,
    kept: Sequence[int],
    rows: Sequence[np.ndarray],
    n_levels: Sequence[int],
    n_effects: Sequence[int],
    parents: Sequence[Array],
    later: Sequence[_Entries],
) -> tuple[Border, _Entries]:
    """The entries that couple chain factor f to the columns of S."""
    level_of, column_of, real_of, row_pair, base, n_pairs = [], [], [], [], [0], []
    offset = 0
    for s in kept:
        code = rows[f].astype(np.int64) * n_levels[s] + rows[s]
        pair, of_row = np.unique(code, return_inverse=True)
        level, other = np.divmod(pair, n_levels[s])
        size = bucket(len(pair) + 1)  # at least one is spare: spare pairs need it
        spare = size - len(pair)
        row_pair.append(of_row.astype(INDEX))
        n_pairs.append(size)
        base.append(base[-1] + n_effects[s] * size)
        for _ in range(n_effects[s]):
            level_of.append(np.pad(level, (0, spare)))
            column_of.append(offset + np.pad(other, (0, spare)))
            real_of.append(np.arange(size) < len(pair))
            offset += n_levels[s]
    entries = _Entries(*(np.concatenate(part) for part in (level_of, column_of, real_of)))
    border = Border(
        level=entries.level.astype(INDEX),
        column=entries.column.astype(INDEX),
        row_pair=tuple(row_pair),
        lift=tuple(
            _lift(entries, parent, there, offset)
            for parent, there in zip(parents, later, strict=True)
        ),
        pairs=_plan_pairs(entries, n_levels[f], offset),
        base=tuple(base[:-1]),
        n_pairs=tuple(n_pairs),
    )
    return border, entries


def _lift(entries: _Entries, parent: np.ndarray, border: _Entries, n_columns: int) -> np.ndarray:
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


def _plan_pairs(entries: _Entries, n_levels: int, n_columns: int) -> Pairs | None:
    """The pairs of entries that share a level, or None where the dense product is cheaper."""
    place = np.flatnonzero(entries.real)
    level, column = entries.level[place], entries.column[place]
    count = np.bincount(level, minlength=n_levels)
    n_products = int(np.sum(count * (count + 1) // 2))
    if n_products * _SCATTER_COST > n_levels * n_columns**2:
        return None
    # within a level the entries are ranked by column; entry r meets the entries 0..r
    order = np.lexsort((column, level))
    start = np.repeat(np.cumsum(count) - count, count)
    rank = np.arange(len(order)) - start
    first = np.repeat(np.arange(len(order)), rank + 1)
    within = np.arange(n_products) - np.repeat(np.cumsum(rank + 1) - (rank + 1), rank + 1)
    second = order[start[first] + within]
    first = order[first]
    target = column[first] * n_columns + column[second]
    spare = (0, bucket(n_products) - n_products)
    nobody = int(np.argmin(entries.real))
    return Pairs(
        first=np.pad(place[first], spare, constant_values=nobody).astype(INDEX),
        second=np.pad(place[second], spare, constant_values=nobody).astype(INDEX),
        target=np.pad(target, spare).astype(INDEX if n_columns**2 < 2**32 else np.uint64),
    )
