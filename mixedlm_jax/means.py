"""A family's mean and link at the rows of host arrays: NumPy in, NumPy out."""

from __future__ import annotations

import jax
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.buckets import filled_rows, row_bucket
from mixedlm_jax.compiled import Program, program
from mixedlm_jax.families import Family
from mixedlm_jax.families.base import Shapes


@program("family")
def _mean(family: Family, eta: Array) -> Array:
    return family.link.inverse(eta)


@program("family")
def _mean_slope(family: Family, eta: Array) -> Array:
    return family.link.derivative(eta)


@program("family")
def _link(family: Family, mu: Array) -> Array:
    return family.link.link(mu)


@program("family")
def _in_domain(family: Family, eta: Array) -> Array:
    return family.in_domain(eta)


def _at_rows(function: Program, family: Family, values: np.ndarray) -> np.ndarray:
    """An elementwise program at any number of rows; those of one bucket share its compilation."""
    values = np.asarray(values, float)
    if not len(values):
        return values
    with jax.enable_x64(True):
        filled = filled_rows(values, row_bucket(len(values)))
        return np.array(function(family, filled))[: len(values)]


def mean(family: Family, eta: np.ndarray, dispersion: Shapes) -> np.ndarray:
    """E(y) at eta (m,), of one trial where the family takes trials.

    dispersion: the estimated dispersion parameters on their natural scale.
    """
    return family.mean(link_mean(family, eta), dispersion)


def on_scale(family: Family, eta: np.ndarray, dispersion: Shapes, type: str) -> np.ndarray:
    """Predictions at eta (m,) on a scale of `predict.SCALES`."""
    if type == "link":
        return eta
    if type == "zprob":
        return np.broadcast_to(family.zero_probability(dispersion), eta.shape)
    if type == "conditional":
        return family.conditional_mean(link_mean(family, eta), dispersion)
    return mean(family, eta, dispersion)


def link_mean(family: Family, eta: np.ndarray) -> np.ndarray:
    """mu at eta (m,), the link's inverse: E(y) unless the family says otherwise."""
    return _at_rows(_mean, family, eta)


def mean_slope(family: Family, eta: np.ndarray) -> np.ndarray:
    """d mu / d eta (m,)."""
    return _at_rows(_mean_slope, family, eta)


def link(family: Family, mu: np.ndarray) -> np.ndarray:
    """eta at mu (m,)."""
    return _at_rows(_link, family, mu)


def in_domain(family: Family, eta: np.ndarray) -> np.ndarray:
    """Where eta (m,) gives a valid distribution (bool)."""
    return _at_rows(_in_domain, family, eta)
