"""Sizes rounded up, so that data sets of nearly one size share their compiled programs.

Rows of weight 0 and levels without rows change no likelihood: log|H| gains nothing from a level
that no row belongs to, and its conditional mode is 0.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mixedlm_jax.design import Design, Factor

# Up to these sizes a bucket is a power of two: there a fit's time is not in its arithmetic.
_SMALL_ROWS = 8192
_SMALL_LEVELS = 64


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


def filled_rows(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """A copy of values, n > 0 along the axis, filled up to a bucket with copies of the first ones.

    A bucket of n holds less than 2 n.
    """
    n = values.shape[axis]
    first = (slice(None),) * (axis % values.ndim) + (slice(row_bucket(n) - n),)
    return np.concatenate([values, values[first]], axis=axis)


def padded(design: Design) -> Design:
    """The design filled up to buckets, with copies of its first rows that have weight 0."""
    weights = filled_rows(design.weights)
    weights[len(design.y) :] = 0.0
    return replace(
        design,
        y=filled_rows(design.y),
        trials=filled_rows(design.trials),
        weights=weights,
        offset=filled_rows(design.offset),
        X=filled_rows(design.X, axis=0),
        factors=tuple(
            Factor(
                levels=filled_rows(factor.levels),
                n_levels=bucket(factor.n_levels),
                Z=filled_rows(factor.Z),
            )
            for factor in design.factors
        ),
        parts={name: filled_rows(part, axis=0) for name, part in design.parts.items()},
    )
