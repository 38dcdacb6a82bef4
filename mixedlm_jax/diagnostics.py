"""Residuals and deviance given the conditional modes, with R's definitions and signs.

With trials m the response is the proportion y / m and the weight of a row is w m, as in R's glm.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import Family
from mixedlm_jax.predict import link_mean, mean, mean_slope


def residuals(
    family: Family,
    y: np.ndarray,
    trials: np.ndarray,
    weights: np.ndarray,
    eta: np.ndarray,
    dispersion: np.ndarray,
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
    dispersion: np.ndarray,
) -> float:
    """Sum of the squared deviance residuals."""
    units = family.unit_deviance(y, link_mean(family, eta), trials, dispersion)
    return float(np.sum(weights * units))


def _response(family, y, trials, weights, eta, dispersion):
    # no trials, no successes: the proportion counts as 0, as in R
    return y / np.where(trials > 0, trials, 1.0) - mean(family, eta, dispersion)


def _deviance(family, y, trials, weights, eta, dispersion):
    units = family.unit_deviance(y, link_mean(family, eta), trials, dispersion)
    sign = np.sign(_response(family, y, trials, weights, eta, dispersion))
    return sign * np.sqrt(weights * units)


def _pearson(family, y, trials, weights, eta, dispersion):
    variance = family.variance(link_mean(family, eta), dispersion)
    away = _response(family, y, trials, weights, eta, dispersion)
    return away * np.sqrt(weights * trials / variance)


def _working(family, y, trials, weights, eta, dispersion):
    return _response(family, y, trials, weights, eta, dispersion) / mean_slope(family, eta)


RESIDUALS: dict[str, Callable[..., np.ndarray]] = {
    "deviance": _deviance,
    "pearson": _pearson,
    "response": _response,
    "working": _working,
}
"""How each type of residual is computed."""
