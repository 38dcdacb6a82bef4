"""Sizes rounded up, so that data sets of nearly one size share their compiled programs.

Rows of weight 0 and levels without rows change no likelihood: log|H| gains nothing from a level
that no row belongs to, and its conditional mode is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mixedlm_jax.design import Design, Factor

# Up to these sizes a bucket is a power of two: there a fit's time is not in its arithmetic.
_SMALL_ROWS = 8192
_SMALL_LEVELS = 64
# Many fits of one design spend their time in the arithmetic of its rows.
_SMALL_LANES = 16


def bucket(size: int, small: int = _SMALL_LEVELS) -> int:
    """The size that `size` is rounded up to, at least 1.

    Powers of two up to `small`, from there four sizes an octave, and eight from 16 `small` on.
    """
    octave = 1 << max(size - 1, 0).bit_length()  # the power of two that holds it
    if octave <= small:
        return octave
    step = octave // (8 if octave <= 16 * small else 16)
    return -(-size // step) * step


def row_bucket(n: int) -> int:
    """The number of rows that n rows are filled up to."""
    return bucket(n, _SMALL_ROWS)


def lane_bucket(n: int) -> int:
    """The number of rows that n rows are filled up to where a design is fitted many times."""
    return bucket(n, _SMALL_LANES)


def filled_rows(values: np.ndarray, size: int, axis: int = -1) -> np.ndarray:
    """A copy of values, n > 0 along the axis, filled up to `size` with copies of the first ones."""
    n, lead = values.shape[axis], (slice(None),) * (axis % values.ndim)
    copies = [values[(*lead, slice(min(n, size - at)))] for at in range(n, size, n)]
    return np.concatenate([values, *copies], axis=axis)


def padded(design: Design, rows: Callable[[int], int] = row_bucket) -> Design:
    """The design filled up to buckets, with copies of its first rows that have weight 0.

    rows: how many rows a number of rows is filled up to.
    """
    size = rows(len(design.y))

    def filled(values: np.ndarray, axis: int = -1) -> np.ndarray:
        return filled_rows(values, size, axis)

    weights = filled(design.weights)
    weights[len(design.y) :] = 0.0
    return replace(
        design,
        y=filled(design.y),
        trials=filled(design.trials),
        weights=weights,
        offset=filled(design.offset),
        X=filled(design.X, axis=0),
        factors=tuple(
            Factor(
                levels=filled(factor.levels),
                n_levels=bucket(factor.n_levels),
                Z=filled(factor.Z),
            )
            for factor in design.factors
        ),
        parts={name: filled(part, axis=0) for name, part in design.parts.items()},
    )
