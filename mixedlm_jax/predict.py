"""Predictions as functions of arrays: the linear predictor of rows, fitted or new."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixedlm_jax.errors import ArgumentError

SCALES = ("response", "link", "conditional", "zprob")


def check_scale(type: str) -> None:
    """Raise `ArgumentError` unless `type` names a scale of predictions."""
    if type not in SCALES:
        raise ArgumentError(f"predictions have no type {type!r}; choose one of {', '.join(SCALES)}")


def linear_predictor(
    X: np.ndarray,
    beta: np.ndarray,
    offset: np.ndarray,
    Z: Sequence[np.ndarray],
    levels: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
) -> np.ndarray:
    """eta = X beta + Z b + offset of m rows (m,).

    X (m, p). Per grouping factor: Z (k, m), levels (m,) with -1 for a level that has no effects
    (b = 0 there), b (k, n_levels) on the scale of eta.
    """
    eta = X @ beta + offset
    for covariates, level, effects in zip(Z, levels, b, strict=True):
        known = level >= 0
        rows = np.sum(covariates * effects[:, np.where(known, level, 0)], axis=0)
        eta = eta + np.where(known, rows, 0.0)
    return eta


def spread(values: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """The values of complete rows put back among all rows, nan elsewhere.

    values (m,), complete (n,) bool with m rows True; the result is (n,).
    """
    whole = np.full(len(complete), np.nan)
    whole[complete] = values
    return whole
