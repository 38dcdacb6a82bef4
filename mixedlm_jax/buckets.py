"""Sizes rounded up, so that data sets of nearly one size share their compiled programs.

Rows of weight 0 and levels without rows change no likelihood: log|H| gains nothing from a level
that no row belongs to, and its conditional mode is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mixedlm_jax.arrays import aligned_empty
from mixedlm_jax.design import Design, Factor

# Up to these sizes a bucket is a power of two: there a fit's time is not in its arithmetic.
_SMALL_ROWS = 8192
_SMALL_LEVELS = 64
# Many fits of one design spend their time in the arithmetic of its rows.
_SMALL_LANES = 16
# What is known of so many levels fills a cache: their rows are put in order.
_MANY_LEVELS = 2**17
# Rounds of all levels may be so many times as many slots as rows, of as many sizes an octave.
_MOST_SLOTS = 1.125
_LEVEL_SIZES = 16


def bucket(size: int, small: int = _SMALL_LEVELS) -> int:
    """The size that `size` is rounded up to, at least 1.

    Powers of two up to `small`, from there four sizes an octave, and eight from 16 `small` on.
    """
    octave = _octave(size)
    if octave <= small:
        return octave
    step = octave // (8 if octave <= 16 * small else 16)
    return -(-size // step) * step


def _octave(size: int) -> int:
    """The power of two that holds a size."""
    return 1 << max(size - 1, 0).bit_length()


def row_bucket(n: int) -> int:
    """The number of rows that n rows are filled up to."""
    return bucket(n, _SMALL_ROWS)


def lane_bucket(n: int) -> int:
    """The number of rows that n rows are filled up to where a design is fitted many times."""
    return bucket(n, _SMALL_LANES)


def filled_rows(
    values: np.ndarray, size: int, axis: int = -1, out: np.ndarray | None = None
) -> np.ndarray:
    """A copy of values, n > 0 along the axis, filled up to `size` with copies of the last ones.

    out: where to, in place of new memory.
    """
    n, lead = values.shape[axis], (slice(None),) * (axis % values.ndim)
    copies = [values[(*lead, slice(-min(n, size - at), None))] for at in range(n, size, n)]
    return np.concatenate([values, *copies], axis=axis, out=out)


def row_order(design: Design) -> np.ndarray | None:
    """The rows of a design by the level of its largest factor (n,), None where that is no gain.

    What is looked up by level, row after row, is then near to what was looked up before. That pays
    where the levels do not fit into the processor's cache. Levels that stand near to each other in
    the order of their numbers may be mixed.
    """
    if not design.factors:
        return None
    factor = max(design.factors, key=lambda factor: factor.n_levels)
    if factor.n_levels < _MANY_LEVELS:
        return None
    if np.all(factor.levels[1:] >= factor.levels[:-1]):
        return None  # they stand so already
    dropped = max(int(factor.n_levels).bit_length() - 16, 0)  # low bits of a level's number
    # numbers of 16 bits are sorted by counting
    return np.argsort((factor.levels >> dropped).astype(np.uint16), kind="stable")


def padded(design: Design, order: np.ndarray | None = None) -> Design:
    """The design filled up to buckets, with copies of its last rows that have weight 0.

    Of the last, so that rows in the order of their levels stay so.
    order: `row_order` of the design (n,): which of its rows stands where. None: as they stand.
    """
    n, size = len(design.y), row_bucket(len(design.y))
    row = None if order is None else filled_rows(order, size)

    def take(values: np.ndarray, axis: int = -1) -> np.ndarray:
        shape = list(values.shape)
        shape[axis] = size
        taken = aligned_empty(shape, values.dtype)
        if row is None:
            return filled_rows(values, size, axis, taken)
        first = np.take(values, [0], axis)
        if np.all(values == first):  # offsets, weights and intercepts often are
            taken[...] = first
            return taken
        return np.take(values, row, axis, taken, mode="clip")  # "raise" would copy once more

    levels = tuple((take(factor.levels), bucket(factor.n_levels)) for factor in design.factors)
    return _laid_out(design, take, np.arange(size) < n, levels)


class Slots(NamedTuple):
    """Where the rows of a design stand where it is fitted many times.

    row: of the design, that a slot holds (size,). used: whether it counts; the others have weight 0
    (size,). levels: each slot's of each factor (size,), and how many there are.
    """

    row: np.ndarray
    used: np.ndarray
    levels: tuple[tuple[np.ndarray, int], ...]

    def of(self, design: Design) -> Design:
        """The design in these slots."""

        def take(values: np.ndarray, axis: int = -1) -> np.ndarray:
            return np.take(values, self.row, axis)

        return _laid_out(design, take, self.used, self.levels)


def lane_slots(design: Design) -> Slots:
    """The slots of a design that is fitted many times.

    Where the groups of the only factor are of about one size, rounds of all levels in order: sums
    over the rows of a level are then sums along an axis. Else the rows as they stand, filled up.
    """
    n, factors = len(design.y), design.factors
    if len(factors) == 1 and (rounds := _in_rounds(factors[0])) is not None:
        return rounds
    slot = np.arange(lane_bucket(n))
    row = slot % n
    levels = tuple((factor.levels[row], bucket(factor.n_levels)) for factor in factors)
    return Slots(row, slot < n, levels)


def _in_rounds(factor: Factor) -> Slots | None:
    """Slots in rounds of all levels of a factor, None where groups differ too much in size."""
    n = len(factor.levels)
    sizes = np.bincount(factor.levels, minlength=factor.n_levels)
    step = max(_octave(len(sizes)) // _LEVEL_SIZES, 1)
    count, rounds = -(-len(sizes) // step) * step, int(sizes.max())
    if rounds * count > _MOST_SLOTS * n:
        return None
    order = np.argsort(factor.levels, kind="stable")
    turn = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    slot = turn * count + factor.levels[order]
    row, used = np.zeros(rounds * count, int), np.zeros(rounds * count, bool)
    row[slot], used[slot] = order, True
    levels = np.tile(np.arange(count, dtype=factor.levels.dtype), rounds)
    return Slots(row, used, ((levels, count),))


def _laid_out(
    design: Design,
    take: Callable[..., np.ndarray],
    used: np.ndarray,
    levels: tuple[tuple[np.ndarray, int], ...],
) -> Design:
    """The design with its rows as `take` takes them; those that are not used have weight 0.

    take: makes a new array each time.
    """
    y, trials, weights = take(design.y), take(design.trials), take(design.weights)
    spare = ~used
    weights[spare] = 0.0
    for values in (y, trials):  # `make_problem` would do it in further copies
        values[spare] = values[np.argmax(weights > 0)]
    return replace(
        design,
        y=y,
        trials=trials,
        weights=weights,
        offset=take(design.offset),
        X=take(design.X, axis=0),
        factors=tuple(
            Factor(levels=own, n_levels=count, Z=take(factor.Z))
            for factor, (own, count) in zip(design.factors, levels, strict=True)
        ),
        parts={name: take(part, axis=0) for name, part in design.parts.items()},
    )
