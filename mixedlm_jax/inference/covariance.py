"""What a covariance matrix says about single parameters and pairs of them."""

from __future__ import annotations

import numpy as np


def standard_errors(covariance: np.ndarray) -> np.ndarray:
    """Square roots of the diagonal (d,)."""
    return np.sqrt(np.diagonal(covariance))


def correlation(covariance: np.ndarray) -> np.ndarray:
    """Correlation matrix (d, d); nan in rows and columns of a variable without variance."""
    sd = standard_errors(covariance)
    sd = np.where(sd > 0, sd, np.nan)
    found = covariance / np.outer(sd, sd)
    np.fill_diagonal(found, 1.0)
    return found
