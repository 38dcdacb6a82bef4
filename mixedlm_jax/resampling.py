"""Designs of the same groups drawn again, or left out: lanes of the cluster bootstrap."""

from __future__ import annotations

import numpy as np

from mixedlm_jax.buckets import padded, row_bucket
from mixedlm_jax.dispersion import matrices_of
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.lane_responses import CheckedResponses
from mixedlm_jax.lanes import OwnRows, Responses


def resample_groups(model: Fitted, count: int, seed: int) -> CheckedResponses:
    """`count` designs of as many groups, drawn with replacement, a group drawn twice being two.

    Raises `ArgumentError` for several grouping factors.
    """
    design = model.design
    if len(design.factors) > 1:
        raise ArgumentError(
            f"the cluster bootstrap draws the levels of one grouping factor, and the model has "
            f"{len(design.factors)}; use type='parametric'"
        )
    (factor,) = design.factors
    order = np.argsort(factor.levels, kind="stable")
    sizes = np.bincount(factor.levels, minlength=factor.n_levels)
    first = np.cumsum(sizes) - sizes
    drawn = np.random.default_rng(seed).integers(factor.n_levels, size=(count, factor.n_levels))
    taken = sizes[drawn]
    size = row_bucket(int(np.max(np.sum(taken, axis=1))))
    row, level = np.zeros((count, size), int), np.zeros((count, size), factor.levels.dtype)
    real = np.arange(size) < np.sum(taken, axis=1)[:, None]
    for lane in range(count):
        n = int(np.sum(taken[lane]))
        start = np.repeat(first[drawn[lane]] - (np.cumsum(taken[lane]) - taken[lane]), taken[lane])
        row[lane, :n] = order[start + np.arange(n)]
        level[lane, :n] = np.repeat(np.arange(factor.n_levels), taken[lane])
    return _lanes(model, row, level, real)


def _lanes(model: Fitted, row: np.ndarray, level: np.ndarray, real: np.ndarray) -> CheckedResponses:
    """Lanes of these rows of the design (lanes, size), of which some are `real`."""
    design, family = model.design, model.family
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

    place: of the factor in the design.
    """
    full = padded(model.design)
    factor = model.design.factors[place]
    lot = np.arange(factor.n_levels) * min(most, factor.n_levels) // factor.n_levels
    of_row = np.pad(lot[factor.levels], (0, len(full.y) - len(factor.levels)), constant_values=-1)
    out = of_row[None, :] == np.arange(lot[-1] + 1)[:, None]
    weights = np.where(out, 0.0, full.weights)
    valid = weights > 0
    row = np.where(valid, np.arange(len(full.y)), np.argmax(valid, axis=1)[:, None])
    y, trials = full.y[row], full.trials[row]
    return CheckedResponses(
        Responses(y=y, trials=trials, weights=weights),
        np.ptp(y / trials, axis=1) > 0.0,
        np.sum(valid, axis=1),
    )
