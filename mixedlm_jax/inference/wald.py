"""Wald tests and intervals: an estimate is normal with its standard error."""

from __future__ import annotations

from math import erfc, sqrt
from numbers import Real
from statistics import NormalDist

import numpy as np

from mixedlm_jax.errors import ArgumentError


def wald_tests(estimate: np.ndarray, se: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z = estimate / se and the two-sided p-value 2 Phi(-|z|), each the shape of `estimate`."""
    z = estimate / np.where(se > 0, se, np.nan)
    return z, np.array([erfc(abs(value) / sqrt(2.0)) for value in z])


def wald_statistic(
    contrasts: np.ndarray, estimate: np.ndarray, covariance: np.ndarray
) -> tuple[float, int]:
    """(L b)' (L V L')^-1 (L b) and its degrees of freedom, the rank of the rows of L (r, p).

    nan where V is not known.
    """
    if not len(contrasts):
        return 0.0, 0
    value, spread = contrasts @ estimate, contrasts @ covariance @ contrasts.T
    if not np.all(np.isfinite(spread)):
        return float("nan"), int(np.linalg.matrix_rank(contrasts))
    scale = np.sqrt(np.diagonal(spread))
    scale = np.where(scale > 0.0, scale, 1.0)
    values, vectors = np.linalg.eigh(spread / np.outer(scale, scale))
    known = values > 1e-10 * values[-1]
    along = vectors[:, known].T @ (value / scale)
    return float(np.sum(along**2 / values[known])), int(np.sum(known))


def check_level(level: float) -> None:
    """Raise `ArgumentError` for a level outside (0, 1)."""
    if not isinstance(level, Real) or not 0.0 < level < 1.0:
        raise ArgumentError(f"level is {level!r}; it must lie between 0 and 1, for example 0.95")


def wald_intervals(estimate: np.ndarray, se: np.ndarray, level: float = 0.95) -> np.ndarray:
    """Lower and upper limits (p, 2) of intervals that cover with probability `level`.

    Raises `ArgumentError` for a level outside (0, 1).
    """
    check_level(level)
    half = NormalDist().inv_cdf(0.5 + 0.5 * level) * se
    return np.stack([estimate - half, estimate + half], axis=1)
