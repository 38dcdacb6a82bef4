"""Residuals and deviance given the conditional modes, with R's definitions and signs.

With trials m the response is the proportion y / m and the weight of a row is w m, as in R's glm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import Family
from mixedlm_jax.families.base import Shapes
from mixedlm_jax.means import link_mean, mean, mean_slope

SMALL_CLUSTER = 10  # rows of a level


def residuals(
    family: Family,
    y: np.ndarray,
    trials: np.ndarray,
    weights: np.ndarray,
    eta: np.ndarray,
    dispersion: Shapes,
    type: str = "deviance",
) -> np.ndarray:
    """Residuals of n rows (n,); y, trials, weights and eta are (n,).

    dispersion: the estimated dispersion parameters on their natural scale. With mu the mean:
    "deviance": sign(y/m - mu) sqrt(w d) with d the unit deviance; "pearson": sqrt(w m) (y/m - mu)
    / sqrt(V(mu)); "response": y/m - mu; "working": (y/m - mu) / (dmu/deta). The family's
    `residual_scale` is not divided out. Raises `ArgumentError` for another type.
    """
    if not isinstance(type, str) or type not in RESIDUALS:
        raise ArgumentError(
            f"there are no residuals of type {type!r}; choose one of {', '.join(RESIDUALS)}"
        )
    return RESIDUALS[type](family, y, trials, weights, eta, dispersion)


def deviance(
    family: Family,
    y: np.ndarray,
    trials: np.ndarray,
    weights: np.ndarray,
    eta: np.ndarray,
    dispersion: Shapes,
) -> float:
    """Sum of the squared deviance residuals."""
    units = family.unit_deviance(y, link_mean(family, eta), trials, dispersion)
    return float(np.sum(weights * units))


def binary_in_small_clusters(
    family: Family,
    y: np.ndarray,
    trials: np.ndarray,
    weights: np.ndarray,
    levels: Sequence[np.ndarray],
) -> bool:
    """Whether Laplace's approximation is most in doubt.

    It is where every response lies at an end of its range and half the levels of some grouping
    factor have fewer than `SMALL_CLUSTER` rows: a binary row holds little information (at most 1/4
    under the logit link), and with less than 2.5 or so of it a level's integrand is not normal.
    """
    used = (weights > 0) & (trials > 0)
    low, high = family.bounds(trials)
    if not np.all(((y == low) | (y == high))[used]):
        return False
    sizes = [np.bincount(level[used]) for level in levels]
    return any(np.median(size[size > 0]) < SMALL_CLUSTER for size in sizes)


def _response(family, y, trials, weights, eta, dispersion):
    # no trials, no successes: the proportion counts as 0, as in R
    return y / np.where(trials > 0, trials, 1.0) - mean(family, eta, dispersion)


def _deviance(family, y, trials, weights, eta, dispersion):
    units = family.unit_deviance(y, link_mean(family, eta), trials, dispersion)
    # of the mean that the size is measured from: structural zeros are left out of both
    fitted = family.conditional_mean(link_mean(family, eta), dispersion)
    sign = np.sign(y / np.where(trials > 0, trials, 1.0) - fitted)
    return sign * np.sqrt(weights * units)


def _pearson(family, y, trials, weights, eta, dispersion):
    variance = family.variance(link_mean(family, eta), dispersion)
    away = _response(family, y, trials, weights, eta, dispersion)
    # a mean at the end of its range leaves no variance, and what is there no residual
    return away * np.sqrt(weights * trials / np.where(variance > 0, variance, np.inf))


def _working(family, y, trials, weights, eta, dispersion):
    return _response(family, y, trials, weights, eta, dispersion) / mean_slope(family, eta)


RESIDUALS: dict[str, Callable[..., np.ndarray]] = {
    "deviance": _deviance,
    "pearson": _pearson,
    "response": _response,
    "working": _working,
}
"""How each type of residual is computed."""
