"""Lists of what lands where in S: for an S that is formed, and for one that is not.

S is the Schur complement of the factors that the elimination keeps back (`plan`). Its columns are
the effects of their levels; a level of an eliminated factor joins all columns that it meets.
Lists whose length depends on which levels meet are filled up to a bucket with spare members: no
row belongs to those, so they are 0 in H and in its factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import jax
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.buckets import bucket

# Unsigned: JAX need not ask of every index whether it counts from the end.
INDEX = np.uint32

# More products than these (1.2 GB while they are listed) are not listed: the log-determinant then
# has no exact second-order term, and a larger Monte Carlo error.
MAX_PRODUCTS = 20_000_000
_SEED = 20250509
# Rough information of a row on a random effect of unit variance.
_ROW_INFORMATION = 0.1


class Entries(NamedTuple):
    """The entries of a border on the host; spare ones are not `real`."""

    level: np.ndarray
    column: np.ndarray
    real: np.ndarray  # (entries,) bool


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pairs:
    """Pairs of border entries that share a level: where their products land in S."""

    first: Array
    second: Array
    target: Array  # row * columns + column in the lower triangle of S, or an entry of a `Pattern`


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cells:
    """The distinct pairs of levels of two kept factors that occur together in a row."""

    of_row: Array  # the cell of each row (n,)
    first: Array  # its level in the factor that is kept first (cells,)
    second: Array  # and in the other


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pattern:
    """Where the lower triangle of S can be other than 0, its diagonal left out.

    Targets number the entries.
    """

    row: Array  # (entries,)
    column: Array
    own: tuple[Array, ...]  # per kept factor: targets of effects i > j of each level, (pairs, m)
    cells: tuple[Array, ...]  # per pair of kept factors: targets (k, l, cells)
    products: tuple[Pairs, ...]  # per chain factor


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Unformed:
    """What stands in for an S that is never formed.

    A trace is the sum of x' f(S) x over the `exact` vectors, which are orthonormal, and its mean
    over the `probes`, random signs less what they share with those. Without a `pattern` the
    second-order term of the log-determinant is estimated like the rest.
    """

    exact: Array  # (vectors, columns)
    probes: Array  # (probes, columns)
    cells: tuple[Cells, ...]  # per pair of kept factors, as `combinations` has them
    pattern: Pattern | None


def level_means(
    rows: Sequence[np.ndarray], n_levels: Sequence[int], n_effects: Sequence[int]
) -> np.ndarray:
    """One direction for each effect of each kept factor (effects, columns), orthonormal.

    What all levels of an effect have in common is what the factors dispute with each other: the
    eigenvalue of S that lies far from all others. Its eigenvector is about sqrt(diag S), which
    grows with the rows of a level.
    """
    directions = []
    for row, m, k in zip(rows, n_levels, n_effects, strict=True):
        length = np.sqrt(1.0 + _ROW_INFORMATION * np.bincount(row, minlength=m))
        directions.append(np.kron(np.eye(k), length / np.linalg.norm(length)))
    at, whole = 0, np.zeros((sum(n_effects), sum(part.shape[1] for part in directions)))
    first = 0
    for part in directions:
        whole[first : first + part.shape[0], at : at + part.shape[1]] = part
        first, at = first + part.shape[0], at + part.shape[1]
    return whole


def probe_vectors(n_probes: int, exact: np.ndarray) -> np.ndarray:
    """The same random signs in every process, orthogonal to the exact vectors."""
    shape = (n_probes, exact.shape[1])
    signs = 2.0 * np.random.default_rng(_SEED).integers(0, 2, shape) - 1.0
    return signs - (signs @ exact.T) @ exact


def count_products(entries: Entries, n_levels: int) -> int:
    """Number of pairs of entries that share a level, an entry with itself included."""
    count = np.bincount(entries.level[entries.real], minlength=n_levels)
    return int(np.sum(count * (count + 1) // 2))


def level_pairs(entries: Entries, n_levels: int, n_columns: int, *, itself: bool) -> Pairs:
    """The pairs of entries that share a level, the column of the first not below the second's.

    itself: whether an entry is a pair with itself. Targets are row * columns + column, and the
    lists are not filled up yet.
    """
    place = np.flatnonzero(entries.real)
    level, column = entries.level[place], entries.column[place]
    count = np.bincount(level, minlength=n_levels)
    # within a level the entries are ranked by column; entry r meets the entries 0..r, or 0..r-1
    order = np.lexsort((column, level))
    start = np.repeat(np.cumsum(count) - count, count)
    partners = np.arange(len(order)) - start + itself
    first = np.repeat(np.arange(len(order)), partners)
    within = np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners)
    second = order[start[first] + within]
    first = order[first]
    target = column[first].astype(np.int64) * n_columns + column[second]
    return Pairs(place[first], place[second], target)


def filled(pairs: Pairs, entries: Entries, n_targets: int) -> Pairs:
    """The lists filled up to a bucket with pairs of a spare entry."""
    spare = (0, bucket(len(pairs.first)) - len(pairs.first))
    nobody = int(np.argmin(entries.real))
    return Pairs(
        first=np.pad(pairs.first, spare, constant_values=nobody).astype(INDEX),
        second=np.pad(pairs.second, spare, constant_values=nobody).astype(INDEX),
        target=np.pad(pairs.target, spare).astype(INDEX if n_targets < 2**32 else np.uint64),
    )


def plan_unformed(
    borders: Sequence[Entries],
    chain_levels: Sequence[int],
    kept_rows: Sequence[np.ndarray],
    kept_levels: Sequence[int],
    kept_effects: Sequence[int],
    n_probes: int,
) -> Unformed:
    """Plan for an S that is not formed.

    borders, chain_levels: entries and number of levels of each chain factor. kept_rows,
    kept_levels, kept_effects: the level of each row, the number of levels and of effects of each
    kept factor.
    """
    sizes = [k * m for k, m in zip(kept_effects, kept_levels, strict=True)]
    offsets = np.cumsum([0, *sizes])
    q = int(offsets[-1])
    cells = tuple(
        _plan_cells(kept_rows[s], kept_rows[t], kept_levels[t])
        for s, t in combinations(range(len(kept_rows)), 2)
    )
    total = sum(count_products(*pair) for pair in zip(borders, chain_levels, strict=True))
    pattern = None
    if total <= MAX_PRODUCTS:
        columns = [
            offset + np.arange(k * m).reshape((k, m))
            for offset, k, m in zip(offsets, kept_effects, kept_levels, strict=False)
        ]
        pattern = _plan_pattern(borders, chain_levels, columns, cells, q)
    exact = level_means(kept_rows, kept_levels, kept_effects)
    return Unformed(
        exact=exact, probes=probe_vectors(n_probes, exact), cells=cells, pattern=pattern
    )


def _plan_cells(first: np.ndarray, second: np.ndarray, n_second: int) -> Cells:
    cell, of_row = np.unique(first.astype(np.int64) * n_second + second, return_inverse=True)
    a, b = np.divmod(cell, n_second)
    spare = (0, bucket(len(cell)) - len(cell))
    return Cells(
        of_row=of_row.astype(INDEX),
        first=np.pad(a, spare).astype(INDEX),
        second=np.pad(b, spare).astype(INDEX),
    )


def _plan_pattern(
    borders: Sequence[Entries],
    chain_levels: Sequence[int],
    columns: Sequence[np.ndarray],
    cells: Sequence[Cells],
    q: int,
) -> Pattern:
    """columns: of S, for each effect and level of each kept factor (k, levels)."""
    codes = []
    for own in columns:
        i, j = np.tril_indices(len(own), -1)
        codes.append(own[i] * q + own[j])
    for (s, t), cell in zip(combinations(range(len(columns)), 2), cells, strict=True):
        below, left = columns[t][:, cell.second], columns[s][:, cell.first]
        codes.append(below[None, :, :] * q + left[:, None, :])
    products = [
        level_pairs(entries, m, q, itself=False)
        for entries, m in zip(borders, chain_levels, strict=True)
    ]
    codes += [pairs.target for pairs in products]
    code, target = np.unique(np.concatenate([c.ravel() for c in codes]), return_inverse=True)
    size = bucket(len(code) + 1)
    pieces = np.split(target, np.cumsum([c.size for c in codes])[:-1])
    targets = [piece.reshape(c.shape) for piece, c in zip(pieces, codes, strict=True)]
    n_own, n_cells = len(columns), len(cells)
    row, column = np.divmod(np.pad(code, (0, size - len(code))), q)
    return Pattern(
        row=row.astype(INDEX),
        column=column.astype(INDEX),
        own=tuple(part.astype(INDEX) for part in targets[:n_own]),
        cells=tuple(part.astype(INDEX) for part in targets[n_own : n_own + n_cells]),
        products=tuple(
            filled(Pairs(pairs.first, pairs.second, own), entries, size)
            for pairs, own, entries in zip(
                products, targets[n_own + n_cells :], borders, strict=True
            )
        ),
    )
