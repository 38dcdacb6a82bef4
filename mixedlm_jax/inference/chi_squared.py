"""Tails of the chi-squared distributions that test statistics are compared with."""

from __future__ import annotations

import importlib

import numpy as np


def chi_squared_tail(statistic: float, df: int) -> float:
    """P(chi-squared with df degrees of freedom >= statistic); with 0 of them it is always 0.

    A statistic that is negative by rounding counts as 0.
    """
    if np.isnan(statistic):
        return float("nan")
    statistic = max(float(statistic), 0.0)
    if df == 0:
        return float(statistic <= 0.0)
    special = importlib.import_module("scipy.special")  # slow to import, rarely needed
    return float(special.chdtrc(df, statistic))


def chi_squared_tails(statistics: np.ndarray, df: int) -> np.ndarray:
    """`chi_squared_tail` of many statistics (m,), df at least 1; nan for nan."""
    special = importlib.import_module("scipy.special")  # slow to import, rarely needed
    return np.asarray(special.chdtrc(df, np.maximum(statistics, 0.0)))


def mixture_tail(statistic: float, q: int) -> float:
    """The tail of half chi-squared with q, half with q + 1 degrees of freedom.

    The likelihood ratio of a variance that is 0 and of the q covariances that vanish with it (Self
    and Liang 1987, case 6; Stram and Lee 1994).
    """
    return 0.5 * (chi_squared_tail(statistic, q) + chi_squared_tail(statistic, q + 1))
