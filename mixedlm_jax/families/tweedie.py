"""Positive amounts with exact zeros: compound Poisson-Gamma responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.families.base import (
    Family,
    Parameter,
    bounded_below,
    named,
    positive_number,
    relative_unit,
    require,
)
from mixedlm_jax.families.draws import log_of_gamma, poisson
from mixedlm_jax.families.loggamma import log_gamma
from mixedlm_jax.links import softplus

# Terms of the series, and the logarithm of the smallest that counts beside the largest.
_TERMS = 96
_NEGLIGIBLE = 33.0


@dataclass(frozen=True)
class Tweedie(Family):
    """Tweedie family with power p between 1 and 2: variance phi mu^p, V(mu) = mu^p, P(y = 0) > 0.

    log f = (y mu^(1-p) / (1-p) - mu^(2-p) / (2-p)) / phi + log W(y, phi, p) - log y; a prior weight
    w makes it phi / w. log W is the series of Dunn and Smyth (2005, Statistics and Computing 15,
    equation 5), summed around its largest term to a relative error of about 1e-13 (`log_series`).
    Links: log (default), sqrt, identity. phi and power are estimated unless they are given.
    """

    link: Any = "log"
    phi: float | None = None
    power: float | None = None

    name = "tweedie"
    links = ("log", "sqrt", "identity")
    log_concave_links = ("log",)
    mean_range = (0.0, np.inf)
    parameters = named(phi=Parameter(), power=Parameter(1.0, 2.0))
    weights_are_precisions = True
    has_expected_information = True

    def log_density(self, y, eta, phi, trials, precision):
        log_phi, coordinate = self.coordinates(phi)
        log_phi = log_phi - jnp.log(precision)
        # logarithms of p - 1 and 2 - p
        low, high = -softplus(-jnp.asarray(coordinate)), -softplus(jnp.asarray(coordinate))
        log_mu = self.link.log_inverse(eta)
        own = y * jnp.exp(-jnp.exp(low) * log_mu - low - log_phi)
        rest = jnp.exp(jnp.exp(high) * log_mu - high - log_phi)
        return log_series(y, log_phi, low, high) - own - rest

    def log_base_measure(self, y, trials):
        return -jnp.log(jnp.where(y > 0, y, 1.0))

    def sample(self, key, eta, phi, trials, precision):
        # a Poisson number N of Gamma variables of shape (2 - p) / (p - 1), whose sum is one Gamma
        # variable (Dunn and Smyth 2005, equation 2)
        log_phi, coordinate = self.coordinates(phi)
        log_phi = log_phi - jnp.log(precision)
        low, high = -softplus(-jnp.asarray(coordinate)), -softplus(jnp.asarray(coordinate))
        log_mu = self.link.log_inverse(eta)
        of_number, of_sum = jax.random.split(key)
        number = poisson(of_number, positive_number(jnp.exp(high) * log_mu - high - log_phi))
        some = number != 0
        shape = positive_number(jnp.log(jnp.where(some, number, 1.0)) + high - low)
        log_unit = log_phi + low + jnp.exp(low) * log_mu
        return jnp.where(some, positive_number(log_of_gamma(of_sum, shape) + log_unit), 0.0)

    def expected_information(self, eta, phi, trials, precision):
        log_phi, coordinate = self.coordinates(phi)
        dlog_mu = jax.jvp(self.link.log_inverse, (eta,), (jnp.ones_like(eta),))[1]
        rest = jax.nn.sigmoid(-jnp.asarray(coordinate))
        return precision * dlog_mu**2 * jnp.exp(rest * self.link.log_inverse(eta) - log_phi)

    def effect_unit(self, phi, y, weights):
        return relative_unit(self, y, weights)

    def variance(self, mu, dispersion):
        return mu ** self.shapes(dispersion)[1]

    def residual_scale(self, dispersion):
        return self.shapes(dispersion)[0] ** 0.5

    def unit_deviance(self, y, mu, trials, dispersion):
        _, p = self.shapes(dispersion)
        own = y * np.where(y > 0, mu, 1.0) ** (1.0 - p)
        away = y ** (2.0 - p) / ((1.0 - p) * (2.0 - p)) - own / (1.0 - p)
        return np.maximum(2.0 * (away + mu ** (2.0 - p) / (2.0 - p)), 0.0)

    def check_response(self, y, trials):
        require(
            y >= 0, y, self.name, "amounts that are not negative", "check the response for signs"
        )

    def bounds(self, trials):
        return bounded_below(self, 0.0, trials)

    def start_mean(self, y, trials):
        return y + 0.1 * np.mean(y)

    def moments(self, y, mu, trials, weights):
        spread = np.mean(weights * (y - mu) ** 2 / mu**1.5)
        return {"phi": np.clip(spread, 1e-6, 1e6), "power": 1.5}


def log_series(y: Array, log_phi: Array, low: Array, high: Array) -> Array:
    """log W(y, phi, p), elementwise; 0 where y = 0.

    low, high: logarithms of p - 1 and 2 - p. With a = (2 - p) / (p - 1) the terms are

        log W_j = j (a log y - a log(p - 1) - (1 + a) log phi - log(2 - p)) - log j!
                  - log Gamma(j a)

    for j = 1, 2, ...; the largest is near j* = y^(2-p) / (phi (2-p)), and far from it they fall
    like (1 + a) (j log(j / j*) - j + j*). Where those that count are more than 96, a step h > 1
    takes the place of 1: a trapezoidal sum of a bell that is many steps wide. Which j are summed
    does not depend on the parameters for autodiff.
    """
    positive = y > 0
    log_y = jnp.log(jnp.where(positive, y, 1.0))
    log_a = high - low
    a = jnp.exp(log_a)
    first, step = jax.lax.stop_gradient(
        _nodes(jnp.exp(jnp.exp(high) * log_y - high - log_phi), 1.0 + a)
    )
    slope = a * (log_y - low) - (1.0 + a) * log_phi - high

    def row(values: Array) -> Array:
        return jnp.broadcast_to(values, jnp.shape(y))

    def column(values: Array) -> Array:
        return jnp.broadcast_to(row(values)[..., None], (*jnp.shape(y), _TERMS))

    count = jnp.broadcast_to(jnp.arange(_TERMS, dtype=a.dtype), (*jnp.shape(y), _TERMS))
    j = column(first) + column(step) * count
    log_j = jnp.log(j)
    terms = j * column(slope) - log_gamma(j + 1.0, jnp.log(j + 1.0))
    terms = terms - log_gamma(j * column(a), log_j + column(log_a))
    total = jax.nn.logsumexp(terms, axis=-1) + jnp.log(row(step))
    return jnp.where(positive, total, 0.0)


def _nodes(largest: Array, sharpness: Array) -> tuple[Array, Array]:
    """First j of the sum and its step: the terms above exp(-33) of the largest, at j*.

    With j = j* (1 + d), sharpness j* ((1 + d) log(1 + d) - d) = 33 has its roots between
    -sqrt(2 e) + e / 3 and sqrt(2 e) + e / 3, e = 33 / (sharpness j*).
    """
    largest = jnp.clip(largest, 1e-12, 1e12)
    e = _NEGLIGIBLE / (sharpness * largest)
    low = jnp.maximum(jnp.floor(largest * (1.0 - jnp.sqrt(2.0 * e) + e / 3.0)), 1.0)
    low = jnp.where(e < 1.0, low, 1.0)
    high = jnp.ceil(largest * (1.0 + jnp.sqrt(2.0 * e) + e / 3.0)) + 1.0
    return low, jnp.maximum((high - low) / (_TERMS - 1), 1.0)
