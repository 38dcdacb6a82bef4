"""Random effects and coefficients of each level, as frames of levels by coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mixedlm_jax.design import Labels
from mixedlm_jax.errors import ArgumentError

COND_VAR = (False, True, "joint")


class RanEf(dict[str, pd.DataFrame]):
    """Conditional modes: grouping factor -> frame of levels by coefficients.

    condVar: grouping factor -> array (levels, k, k), the covariance of each level's effects in the
    order of the frame's rows and columns; None where it was not asked for.
    """

    condVar: dict[str, np.ndarray] | None = None


def check_cond_var(condVar: bool | str) -> None:
    """Raise `ArgumentError` unless `condVar` is False, True or "joint"."""
    if not isinstance(condVar, (bool, str)) or condVar not in COND_VAR:
        raise ArgumentError(
            f"condVar is {condVar!r}; choose False, True (given the parameters) or 'joint' (with "
            "their uncertainty)"
        )


def mode_frames(
    labels: Labels, effects: Sequence[np.ndarray], variances: Sequence[np.ndarray] | None = None
) -> RanEf:
    """Modes per grouping factor (k, levels) as frames, with their covariances (levels, k, k)."""
    frames = RanEf()
    for name, b, levels, columns in zip(
        labels.factors, effects, labels.levels, labels.columns, strict=True
    ):
        index = pd.Index(levels, name=name)
        frames[name] = pd.DataFrame(b.T.copy(), index=index, columns=list(columns))
    if variances is not None:
        frames.condVar = dict(zip(labels.factors, variances, strict=True))
    return frames


def coefficients(
    fixed: Mapping[str, float], modes: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Fixed plus random effects of each level, one frame per grouping factor, as lme4's `coef`.

    An effect that is random but not fixed counts as fixed at 0, in every frame, and comes first.
    """
    random = dict.fromkeys(name for frame in modes.values() for name in frame.columns)
    start = {name: 0.0 for name in random if name not in fixed} | dict(fixed)
    found = {}
    for group, frame in modes.items():
        own = {name: frame.get(name, 0.0) for name in start}
        columns = {name: value + own[name] for name, value in start.items()}
        found[group] = pd.DataFrame(columns, index=frame.index)
    return found
