"""Lists of what lands where in S: for an S that is formed, and for one that is not.

S is the Schur complement of the factors that the elimination keeps back (`plan`). Its columns are
the effects of their levels; a level of an eliminated factor joins all columns that it meets.
Lists whose length depends on which levels meet are filled up to a bucket with spare members: no
row belongs to those, so they are 0 in H and in its factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import NamedTuple

import jax
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.buckets import bucket

# Unsigned: JAX need not ask of every index whether it counts from the end.
INDEX = np.uint32

# More products than these (half a second to list, 100 MB) are not listed: the log-determinant then
# has no exact second-order term, and a larger Monte Carlo error.
MAX_PRODUCTS = 8_000_000
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
    """Pairs of border entries that share a level: where their products land."""

    first: Array
    second: Array
    target: Array  # row * columns + column in the lower triangle of S, or a block of a `Pattern`


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
    """Which blocks of S, of two kept factors s <= t, can be other than 0.

    One block joins level a of s to level b of t; with s = t each is listed once, a > b.
    """

    a: Array  # (blocks,)
    b: Array
    cells: Array | None  # the block of each cell of the two factors, None with s = t
    products: tuple[Pairs, ...]  # per chain factor, of its borders' pairs with s and with t


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Unformed:
    """What stands in for an S that is never formed.

    A trace is the sum of x' f(S) x over the `exact` vectors, which are orthonormal, and its mean
    over the `probes`, random signs less what they share with those. Without `patterns` the
    second-order term of the log-determinant is estimated like the rest.
    """

    exact: Array  # (vectors, columns)
    probes: Array  # (probes, columns)
    cells: tuple[Cells, ...]  # per two kept factors, as `combinations` has them
    patterns: tuple[Pattern, ...] | None  # as `combinations_with_replacement`


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


def level_pairs(entries: Entries, n_levels: int, n_columns: int) -> Pairs:
    """The pairs of entries that share a level, the column of the first not below the second's."""
    place = np.flatnonzero(entries.real)
    level, column = entries.level[place], entries.column[place]
    count = np.bincount(level, minlength=n_levels)
    # within a level the entries are ranked by column; entry r meets the entries 0..r
    order = np.lexsort((column, level))
    start = np.repeat(np.cumsum(count) - count, count)
    rank = np.arange(len(order)) - start
    first = np.repeat(np.arange(len(order)), rank + 1)
    within = np.arange(len(first)) - np.repeat(np.cumsum(rank + 1) - (rank + 1), rank + 1)
    second = order[start[first] + within]
    first = order[first]
    target = column[first].astype(np.int64) * n_columns + column[second]
    spare = (0, bucket(len(first)) - len(first))
    nobody = int(np.argmin(entries.real))
    return Pairs(
        first=np.pad(place[first], spare, constant_values=nobody).astype(INDEX),
        second=np.pad(place[second], spare, constant_values=nobody).astype(INDEX),
        target=np.pad(target, spare).astype(INDEX if n_columns**2 < 2**32 else np.uint64),
    )


class Meetings(NamedTuple):
    """The distinct pairs (level of a chain factor, level of a kept one), ordered by the former."""

    level: np.ndarray
    other: np.ndarray


def plan_unformed(
    meetings: Sequence[Sequence[Meetings]],
    kept_rows: Sequence[np.ndarray],
    kept_levels: Sequence[int],
    kept_effects: Sequence[int],
    n_probes: int,
) -> Unformed:
    """Plan for an S that is not formed.

    meetings: per chain factor and kept factor. kept_rows, kept_levels, kept_effects: the level of
    each row, the number of levels and of effects of each kept factor.
    """
    n_kept = len(kept_rows)
    cells = {
        (s, t): _plan_cells(kept_rows[s], kept_rows[t], kept_levels[t])
        for s, t in combinations(range(n_kept), 2)
    }
    patterns = None
    two = list(combinations_with_replacement(range(n_kept), 2))
    total = sum(
        _count_meetings(own[s], own[t]) / (1 + (s == t)) for own in meetings for s, t in two
    )
    if total <= MAX_PRODUCTS:
        patterns = tuple(
            _plan_pattern([(own[s], own[t]) for own in meetings], cells.get((s, t)), kept_levels[t])
            for s, t in two
        )
    exact = level_means(kept_rows, kept_levels, kept_effects)
    return Unformed(
        exact=exact,
        probes=probe_vectors(n_probes, exact),
        cells=tuple(cells.values()),
        patterns=patterns,
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


def _count_meetings(first: Meetings, second: Meetings) -> int:
    """Number of pairs of meetings that share a level of the chain factor."""
    levels = 1 + max(int(first.level[-1]), int(second.level[-1]))
    counts = [np.bincount(part.level, minlength=levels) for part in (first, second)]
    return int(counts[0] @ counts[1])


def _plan_pattern(
    meetings: Sequence[tuple[Meetings, Meetings]], cells: Cells | None, n_second: int
) -> Pattern:
    """meetings: of each chain factor with s and with t. cells: of s and t, None with s = t."""
    codes = [] if cells is None else [cells.first.astype(np.int64) * n_second + cells.second]
    products = []
    for first, second in meetings:
        i, j = _sharing(first.level, second.level)
        if cells is None:
            below = first.other[i] > second.other[j]
            i, j = i[below], j[below]
        products.append((i, j))
        codes.append(first.other[i].astype(np.int64) * n_second + second.other[j])
    code, target = np.unique(np.concatenate(codes), return_inverse=True)
    a, b = np.divmod(np.pad(code, (0, bucket(len(code)) - len(code))), n_second)
    targets = np.split(target, np.cumsum([len(part) for part in codes])[:-1])
    return Pattern(
        a=a.astype(INDEX),
        b=b.astype(INDEX),
        cells=None if cells is None else targets.pop(0).astype(INDEX),
        products=tuple(
            _with_spare(i, j, own, len(first.level), len(second.level))
            for (i, j), own, (first, second) in zip(products, targets, meetings, strict=True)
        ),
    )


def _sharing(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (i, j) with first[i] == second[j], both ascending."""
    start, stop = (np.searchsorted(second, first, side) for side in ("left", "right"))
    count = stop - start
    i = np.repeat(np.arange(len(first)), count)
    j = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(start, count)
    return i, j


def _with_spare(i: np.ndarray, j: np.ndarray, target: np.ndarray, m: int, n: int) -> Pairs:
    """The lists filled up to a bucket with pairs of the borders' first spare entries, m and n."""
    spare = (0, bucket(len(i)) - len(i))
    return Pairs(
        first=np.pad(i, spare, constant_values=m).astype(INDEX),
        second=np.pad(j, spare, constant_values=n).astype(INDEX),
        target=np.pad(target, spare).astype(INDEX),
    )
