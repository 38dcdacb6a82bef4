"""The responses of many lanes, checked against their design and put into its slots."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mixedlm_jax.buckets import lane_slots
from mixedlm_jax.design import Design
from mixedlm_jax.errors import DataError
from mixedlm_jax.families import Family
from mixedlm_jax.lanes import Responses


class CheckedResponses(NamedTuple):
    """Responses in the `lane_slots` of their design, one row a lane.

    usable: which lanes can be fitted (lanes,). nobs: rows that count in each (lanes,).
    """

    responses: Responses
    usable: np.ndarray
    nobs: np.ndarray


def check_responses(
    design: Design, family: Family, y: np.ndarray, names: np.ndarray
) -> CheckedResponses:
    """Check the responses y (lanes, n) to the rows of a design; nan is a missing value.

    Missing values have weight 0 in their lane. A lane whose observed responses are all the same
    cannot be fitted. names (lanes,): what messages call the lanes.

    Raises
    ------
    DataError
        For a response that the family cannot have, or an infinite one.
    """
    counted, missing = design.weights > 0, np.isnan(y)
    per_lane = bool(np.any(missing[:, counted]))
    # one row of `valid` for all lanes, where they have the same
    valid = counted & ~missing if per_lane else counted[None, :]
    check_each(family, y, valid, design.trials, names)

    # a row that does not count, and one that fills up a bucket, holds what the first that does
    # holds: no derivative is lost in it
    some, slots = np.any(valid, axis=1), lane_slots(design)
    valid = valid[:, slots.row] & slots.used
    row = np.where(valid, slots.row, slots.row[np.argmax(valid, axis=1)][:, None])
    y = np.take_along_axis(y, row, axis=1) if per_lane else y[:, row[0]]
    y = np.where(some[:, None], y, 0.0)
    trials = design.trials[row]
    usable = some & (np.ptp(y / trials, axis=1) > 0.0)

    low, high = family.bounds(trials)
    ends = np.where(y <= low, -1, np.where(y >= high, 1, 0)).astype(np.int8) * valid
    weights = np.where(slots.used, design.weights[slots.row], 0.0)
    return CheckedResponses(
        Responses(
            y=y,
            trials=trials if per_lane else None,
            weights=np.where(valid, weights, 0.0) if per_lane else None,
            ends=ends if np.any(ends) else None,
        ),
        usable,
        np.broadcast_to(np.sum(valid, axis=1), len(y)).copy(),
    )


def check_each(
    family: Family, y: np.ndarray, valid: np.ndarray, trials: np.ndarray, names: np.ndarray
) -> None:
    """Raise `DataError` for a response that the family cannot have, with the name of its lane.

    y (lanes, n), of which `valid` count; trials: of the rows (n,) or of each lane (lanes, n).
    """
    if np.any(np.isinf(y)):
        lane, row = np.argwhere(np.isinf(y))[0]
        raise DataError(f"response {names[lane]} is infinite in row {row} of the rows used")
    valid, trials = np.broadcast_to(valid, y.shape), np.broadcast_to(trials, y.shape)
    try:
        family.check_response(y[valid], trials[valid])
    except DataError:
        for name, own, rows, out_of in zip(names, y, valid, trials, strict=True):
            try:
                family.check_response(own[rows], out_of[rows])
            except DataError as error:
                raise DataError(f"response {name}: {error}") from error
        raise
