"""Proportions that are measured: strictly between 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.families.base import Family, Parameter, named, require
from mixedlm_jax.families.draws import log_of_gamma
from mixedlm_jax.families.loggamma import HALF_LOG_2PI, binet


@dataclass(frozen=True)
class Beta(Family):
    """Beta family with mean mu and precision phi = a + b: variance mu (1 - mu) / (1 + phi).

    y ~ Beta(a, b), a = mu phi, b = (1 - mu) phi (Ferrari and Cribari-Neto 2004, equation 4). Links:
    logit (default), probit, cloglog, cauchit. phi is estimated unless it is given.
    """

    link: Any = "logit"
    phi: float | None = None

    name = "beta"
    links = ("logit", "probit", "cloglog", "cauchit")
    mean_range = (0.0, 1.0)
    parameters = named(phi=Parameter())

    def log_density(self, y, eta, phi, trials, precision):
        (log_phi,) = self.coordinates(phi)
        log_mu, log_rest = self.link.log_inverse(eta), self.link.log_complement(eta)
        log_phi = jnp.asarray(log_phi, log_mu.dtype)
        log_a, log_b = log_phi + log_mu, log_phi + log_rest
        # Stirling's formula in each log Gamma; what is of order phi log phi cancels
        distance = jnp.exp(log_mu) * (jnp.log(y) - log_mu)
        distance = distance + jnp.exp(log_rest) * (jnp.log1p(-y) - log_rest)
        remainders = binet(jnp.exp(log_phi), log_phi) - binet(jnp.exp(log_a), log_a)
        remainders = remainders - binet(jnp.exp(log_b), log_b)
        return jnp.exp(log_phi) * distance + 0.5 * (log_phi + log_mu + log_rest) + remainders

    def log_base_measure(self, y, trials):
        return -jnp.log(y) - jnp.log1p(-y) - HALF_LOG_2PI

    def sample(self, key, eta, phi, trials, precision):
        (log_phi,) = self.coordinates(phi)
        log_odds = beta_log_odds(key, self.link, eta, log_phi)
        half = 0.5 * jnp.finfo(eta.dtype).eps
        return jnp.clip(jax.nn.sigmoid(log_odds), jnp.finfo(eta.dtype).tiny, 1.0 - half)

    def variance(self, mu, dispersion):
        return mu * (1.0 - mu) / (1.0 + self.shapes(dispersion)[0])

    def check_response(self, y, trials):
        require(
            (y > 0) & (y < 1),
            y,
            self.name,
            "proportions strictly between 0 and 1",
            "proportions out of a count belong to the binomial family; move 0 and 1 inwards only "
            "if they are roundings",
        )

    def start_mean(self, y, trials):
        return np.clip(y, 1e-3, 1.0 - 1e-3)

    def moments(self, y, mu, trials, weights):
        inside = np.average(mu * (1.0 - mu), weights=weights)
        spread = np.average((y - mu) ** 2, weights=weights)
        return {"phi": np.clip(inside / max(spread, 1e-12) - 1.0, 0.5, 1e4)}


def beta_log_odds(key: Array, link: Any, eta: Array, log_phi: Array) -> Array:
    """log(y / (1 - y)) for draws y of Beta(mu phi, (1 - mu) phi): of two Gamma variables' ratio."""
    of_a, of_b = jax.random.split(key)
    log_a, log_b = log_phi + link.log_inverse(eta), log_phi + link.log_complement(eta)
    return log_of_gamma(of_a, jnp.exp(log_a)) - log_of_gamma(of_b, jnp.exp(log_b))
