"""Several tests at once: adjusted p-values, and the limits that go with them.

none, bonferroni, sidak, holm, hochberg and fdr (Benjamini and Hochberg 1995) need the p-values
alone; tukey is exact for all pairwise differences of k independent means of one variance and
conservative for others (Hayter 1984, Annals of Statistics 12).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.inference import wald_tests

PAIRWISE = "tukey"
_SPACING = 0.05  # of the trapezoidal rule, exact to rounding for functions that fade this fast
_LARGEST_RANGE = 80.0


def _bonferroni(p: np.ndarray) -> np.ndarray:
    return np.minimum(1.0, len(p) * p)


def _sidak(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return -np.expm1(len(p) * np.log1p(-p))


def _holm(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p)
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    return np.minimum(1.0, stepped)[np.argsort(order)]


def _stepped_up(p: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Running minima from the largest p-value down; factors: of the p-values in order."""
    order = np.argsort(p)
    stepped = np.minimum.accumulate((factors * p[order])[::-1])[::-1]
    return np.minimum(1.0, stepped)[np.argsort(order)]


def _hochberg(p: np.ndarray) -> np.ndarray:
    return _stepped_up(p, len(p) - np.arange(len(p)))


def _fdr(p: np.ndarray) -> np.ndarray:
    return _stepped_up(p, len(p) / (1.0 + np.arange(len(p))))


_OF_P_VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda p: p,
    "bonferroni": _bonferroni,
    "sidak": _sidak,
    "holm": _holm,
    "hochberg": _hochberg,
    "fdr": _fdr,
}
METHODS = (PAIRWISE, *_OF_P_VALUES)


def check_adjustment(method: str, pairwise: bool) -> None:
    """Raise `ArgumentError` for a method that is not there, or not for these comparisons."""
    if method not in METHODS:
        raise ArgumentError(f"adjust is {method!r}; choose one of {', '.join(METHODS)}")
    if method == PAIRWISE and not pairwise:
        raise ArgumentError(
            "tukey is the distribution of all pairwise differences, which these contrasts are not: "
            "choose holm, sidak, bonferroni, hochberg, fdr or none"
        )


def adjusted_tests(
    estimate: np.ndarray, se: np.ndarray, method: str, n_means: int
) -> tuple[np.ndarray, np.ndarray]:
    """z = estimate / se and two-sided p-values, adjusted for all that are known (r,).

    n_means: how many means the differences are of, for "tukey". nan where z is not known.
    """
    z, p = wald_tests(estimate, se)
    known = np.isfinite(z)
    if method == PAIRWISE:
        p[known] = range_tail(np.sqrt(2.0) * np.abs(z[known]), n_means)
    elif np.any(known):
        p[known] = _OF_P_VALUES[method](p[known])
    return z, p


def critical_value(level: float, method: str, count: int, n_means: int) -> float:
    """How many standard errors on either side of an estimate its limits lie.

    count: how many intervals there are. The methods that go by the order of the p-values have no
    intervals of their own; Bonferroni's stand in for them.
    """
    if method == PAIRWISE:
        return range_quantile(1.0 - level, n_means) / float(np.sqrt(2.0))
    if method == "none" or count == 0:
        tail = 1.0 - level
    elif method == "sidak":
        tail = float(-np.expm1(np.log(level) / count))
    else:
        tail = (1.0 - level) / count
    return -NormalDist().inv_cdf(0.5 * tail)


def range_tail(q: np.ndarray, k: int) -> np.ndarray:
    """P(range of k standard normal variables > q), the studentized range with infinite df.

    With x the smallest of them and S the upper tail of the normal distribution,

        k int phi(x) S(x)^(k-1) (1 - (1 - S(x + q) / S(x))^(k-1)) dx

    which keeps its digits where it is small.
    """
    special = importlib.import_module("scipy.special")
    q = np.asarray(q, float)
    x = np.arange(-_LARGEST_RANGE, 12.0, _SPACING)
    density = np.exp(-0.5 * x**2) / np.sqrt(2.0 * np.pi)
    upper = special.ndtr(-x)
    beyond = special.ndtr(-(x[None, :] + q[:, None])) / upper
    with np.errstate(divide="ignore"):
        some = -np.expm1((k - 1) * np.log1p(-beyond))
    return np.minimum(1.0, k * _SPACING * np.sum(density * upper ** (k - 1) * some, axis=1))


def range_quantile(tail: float, k: int) -> float:
    """The q that `range_tail` gives this probability, by bisection."""
    low, high = 0.0, _LARGEST_RANGE
    for _ in range(60):
        middle = 0.5 * (low + high)
        if range_tail(np.array([middle]), k)[0] > tail:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
