"""One model of several data sets, fitted together: lanes whose predictors differ too.

They are those of multiply imputed data. Each data set has its own design, coded as a fit of its own
would code it; `lanes.OwnRows` carries the rows of one grouping factor.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mixedlm_jax.buckets import lane_bucket
from mixedlm_jax.design import Design, Factor, Labels
from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.fits import Fits
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.lane_responses import CheckedResponses
from mixedlm_jax.many import fits_of
from mixedlm_jax.resampling import lanes_of_rows


def are_frames(given: Any) -> bool:
    """Whether this is a list of frames, of whatever library."""
    return isinstance(given, (list, tuple)) and any(hasattr(item, "columns") for item in given)


def refit_frames(
    model: Fitted,
    frames: Sequence[Any],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Fits:
    """A model fitted to each of several frames, all together; see `GlmerResult.refit_many`."""
    lanes = _lanes_of_frames(model, frames)
    return fits_of(model, lanes, checkpoint=checkpoint, progress=progress)


def _lanes_of_frames(model: Fitted, frames: Sequence[Any]) -> CheckedResponses:
    count = len(model.design.factors)
    if count != 1:
        raise ArgumentError(
            "data sets are fitted together by models with one grouping factor, and this one has "
            f"{count or 'none'}: fit them one by one, for pool takes a list of models too"
        )
    designs = [_design_of(model, number, frame) for number, frame in enumerate(frames)]
    sizes = [len(design.y) for design in designs]
    ends, size = np.cumsum(sizes), lane_bucket(max(sizes))
    own = [np.resize(np.arange(n), size) for n in sizes]
    row = np.stack([end - n + rows for rows, n, end in zip(own, sizes, ends, strict=True)])
    level = np.stack([np.resize(design.factors[0].levels, size) for design in designs])
    real = np.arange(size) < np.array(sizes)[:, None]
    return lanes_of_rows(_stacked(designs), model.family, row, level, real)


def _design_of(model: Fitted, number: int, frame: Any) -> Design:
    """The design of one data set, if it has the model's parameters."""
    try:
        design, labels = model.call.revised(None, frame, {}).build()
    except DataError as error:
        raise DataError(f"data set {number}: {error}") from error
    expected, found = _columns(model.labels), _columns(labels)
    if found != expected:
        raise DataError(
            f"data set {number} has the coefficients {', '.join(found)} where the model has "
            f"{', '.join(expected)}: give factors the same levels in all data sets"
        )
    levels, most = design.factors[0].n_levels, model.design.factors[0].n_levels
    if levels > most:
        raise DataError(
            f"data set {number} has {levels} levels of {labels.factors[0]} and the model {most}: "
            "refit from the model of the data set that has the most"
        )
    return design


def _columns(labels: Labels) -> tuple[str, ...]:
    """Names of all coefficients, those of the random effects among them."""
    parts = [f"{part}.{name}" for part, names in labels.parts.items() for name in names]
    effects = [
        f"{name} | {factor}"
        for factor, names in zip(labels.factors, labels.columns, strict=True)
        for name in names
    ]
    return (*labels.fixed, *parts, *effects)


def _stacked(designs: Sequence[Design]) -> Design:
    """The rows of all designs one after the other, their levels as in each."""

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(design, name) for design in designs])

    factors = [design.factors[0] for design in designs]
    return replace(
        designs[0],
        y=joined("y"),
        trials=joined("trials"),
        weights=joined("weights"),
        offset=joined("offset"),
        X=joined("X"),
        factors=(
            Factor(
                levels=np.concatenate([factor.levels for factor in factors]),
                n_levels=max(factor.n_levels for factor in factors),
                Z=np.concatenate([factor.Z for factor in factors], axis=1),
            ),
        ),
        parts={
            name: np.concatenate([design.parts[name] for design in designs])
            for name in designs[0].parts
        },
    )
