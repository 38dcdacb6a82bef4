"""Positive responses whose logarithm is normal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.families.base import (
    Family,
    Parameter,
    named,
    positive_number,
    relative_unit,
    require_positive,
)
from mixedlm_jax.families.loggamma import HALF_LOG_2PI


@dataclass(frozen=True)
class LogNormal(Family):
    """Log-normal family with mean mu: log y ~ N(log mu - sigma^2 / 2, sigma^2).

    Variance mu^2 (exp(sigma^2) - 1), V(mu) = mu^2; sigma is the standard deviation of log y
    (Johnson, Kotz and Balakrishnan 1994, chapter 14). Links: log (default), identity. sigma is
    estimated unless it is given. Under the log link it is the linear model of log y, its
    intercept sigma^2 / 2 higher.
    """

    link: Any = "log"
    sigma: float | None = None

    name = "lognormal"
    links = ("log", "identity")
    log_concave_links = ("log",)
    mean_range = (0.0, np.inf)
    parameters = named(sigma=Parameter())
    has_expected_information = True

    def log_density(self, y, eta, phi, trials, precision):
        (log_sigma,) = self.coordinates(phi)
        away = jnp.log(y) - self.link.log_inverse(eta)
        z = away * jnp.exp(-log_sigma) + 0.5 * jnp.exp(log_sigma)
        return -0.5 * z**2 - log_sigma

    def log_base_measure(self, y, trials):
        return -jnp.log(y) - HALF_LOG_2PI

    def sample(self, key, eta, phi, trials, precision):
        (log_sigma,) = self.coordinates(phi)
        sigma = jnp.exp(log_sigma)
        z = jax.random.normal(key, jnp.shape(eta), eta.dtype) - 0.5 * sigma
        return positive_number(self.link.log_inverse(eta) + sigma * z)

    def expected_information(self, eta, phi, trials, precision):
        (log_sigma,) = self.coordinates(phi)
        dlog_mu = jax.jvp(self.link.log_inverse, (eta,), (jnp.ones_like(eta),))[1]
        return (dlog_mu * jnp.exp(-log_sigma)) ** 2

    def effect_unit(self, phi, y, weights):
        return relative_unit(self, y, weights)

    def variance(self, mu, dispersion):
        return mu**2

    def residual_scale(self, dispersion):
        return np.sqrt(np.expm1(self.shapes(dispersion)[0] ** 2))

    def unit_deviance(self, y, mu, trials, dispersion):
        (sigma,) = self.shapes(dispersion)
        return (np.log(y / mu) / sigma + 0.5 * sigma) ** 2

    def check_response(self, y, trials):
        require_positive(y, self.name)

    def start_mean(self, y, trials):
        return y

    def moments(self, y, mu, trials, weights):
        return {"sigma": np.clip(np.std(np.log(y / mu)), 1e-3, 3.0)}
