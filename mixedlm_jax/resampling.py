"""Designs of the same groups drawn again, or left out: lanes of the cluster bootstrap."""

from __future__ import annotations

import numpy as np

from mixedlm_jax.buckets import lane_bucket
from mixedlm_jax.design import Design
from mixedlm_jax.dispersion import matrices_of
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import Family
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.lane_responses import CheckedResponses, check_responses
from mixedlm_jax.lanes import OwnRows, Responses


def resample_groups(model: Fitted, count: int, seed: int) -> CheckedResponses:
    """`count` designs of as many groups, drawn with replacement, a group drawn twice being two.

    Raises `ArgumentError` for several grouping factors.
    """
    design = model.design
    if len(design.factors) != 1:
        raise ArgumentError(
            f"the cluster bootstrap draws the levels of one grouping factor, and the model has "
            f"{len(design.factors) or 'none'}; use type='parametric'"
        )
    (factor,) = design.factors
    order = np.argsort(factor.levels, kind="stable")
    sizes = np.bincount(factor.levels, minlength=factor.n_levels)
    first = np.cumsum(sizes) - sizes
    drawn = np.random.default_rng(seed).integers(factor.n_levels, size=(count, factor.n_levels))
    taken = sizes[drawn]
    size = lane_bucket(int(np.max(np.sum(taken, axis=1))))
    row, level = np.zeros((count, size), int), np.zeros((count, size), factor.levels.dtype)
    real = np.arange(size) < np.sum(taken, axis=1)[:, None]
    for lane in range(count):
        n = int(np.sum(taken[lane]))
        start = np.repeat(first[drawn[lane]] - (np.cumsum(taken[lane]) - taken[lane]), taken[lane])
        row[lane, :n] = order[start + np.arange(n)]
        level[lane, :n] = np.repeat(np.arange(factor.n_levels), taken[lane])
    return lanes_of_rows(design, model.family, row, level, real)


def lanes_of_rows(
    design: Design, family: Family, row: np.ndarray, level: np.ndarray, real: np.ndarray
) -> CheckedResponses:
    """Lanes of these rows of a design (lanes, size), of which some are `real`.

    level: of each row in its own lane, of the one grouping factor (lanes, size).
    """
    valid = real & (design.weights[row] > 0)
    # a row that does not count holds what the first that does holds
    held = np.take_along_axis(row, np.argmax(valid, axis=1)[:, None], axis=1)
    row = np.where(valid, row, held)
    y, trials = design.y[row], design.trials[row]
    low, high = family.bounds(trials)
    ends = np.where(y <= low, -1, np.where(y >= high, 1, 0)).astype(np.int8) * valid
    matrices = matrices_of(family, design.parts)
    own = OwnRows(
        X=design.X[row],
        Z=np.moveaxis(design.factors[0].Z[:, row], 0, 1),
        level=level.astype(np.uint32),
        offset=design.offset[row],
        phi_matrices=tuple(None if matrix is None else matrix[row] for matrix in matrices),
    )
    return CheckedResponses(
        Responses(
            y=y,
            trials=trials,
            weights=np.where(valid, design.weights[row], 0.0),
            ends=ends if np.any(ends) else None,
            rows=own,
        ),
        np.ptp(y / trials, axis=1) > 0.0,
        np.sum(valid, axis=1),
    )


def leave_out_groups(model: Fitted, most: int, place: int = 0) -> CheckedResponses:
    """The model's own response without each group of a factor, or each of `most` lots.

    place: of the factor in the design. Without each row, or lot of rows, where there are no groups.
    """
    design = model.design
    group, count = np.arange(len(design.y)), len(design.y)
    if design.factors:
        group, count = design.factors[place].levels, design.factors[place].n_levels
    lots = min(most, count)
    lot = np.arange(count) * lots // count
    out = lot[group] == np.arange(lots)[:, None]
    y = np.where(out, np.nan, design.y)
    return check_responses(design, model.family, y, np.arange(lots))
