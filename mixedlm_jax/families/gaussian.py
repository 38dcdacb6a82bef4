"""Gaussian responses with sigma estimated jointly with everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.families.base import Family, Parameter, named


@dataclass(frozen=True)
class Gaussian(Family):
    """Gaussian family: y ~ N(mu, sigma^2 / w), V(mu) = 1. Links: identity (default), log.

    phi is (log sigma,). theta is relative to sigma, as in lme4: b = sigma Lambda u.
    """

    link: Any = "identity"

    name = "gaussian"
    links = ("identity", "log")
    log_concave_links = ("identity",)
    has_expected_information = True
    weights_are_precisions = True
    has_residual_sd = True
    parameters = named(sigma=Parameter())

    @property
    def is_linear(self):
        return self.link.name == "identity"

    def log_density(self, y, eta, phi, trials, precision):
        log_sd = phi[0] - 0.5 * jnp.log(precision)
        return -0.5 * ((y - self.link.inverse(eta)) * jnp.exp(-log_sd)) ** 2 - log_sd

    def log_base_measure(self, y, trials):
        return jnp.full_like(y, -0.5 * np.log(2.0 * np.pi))

    def sample(self, key, eta, phi, trials, precision):
        noise = jax.random.normal(key, jnp.shape(eta), eta.dtype)
        return self.link.inverse(eta) + jnp.exp(phi[0]) / jnp.sqrt(precision) * noise

    def expected_information(self, eta, phi, trials, precision):
        return self.link.derivative(eta) ** 2 * precision * jnp.exp(-2.0 * phi[0])

    def ranef_scale(self, phi):
        return jnp.exp(phi[0])

    def effect_unit(self, phi, y, weights):
        # under the identity link eta has the unit of y, and so has sigma
        return jnp.exp(phi[0]) if self.link.name == "identity" else 1.0

    def variance(self, mu, dispersion):
        return np.ones_like(mu)

    def residual_scale(self, dispersion):
        return dispersion[0]

    def unit_deviance(self, y, mu, trials, dispersion):
        return (y - mu) ** 2

    def start_mean(self, y, trials):
        return np.maximum(y, 0.1 * np.std(y)) if self.link.name == "log" else y

    def moments(self, y, mu, trials, weights):
        return {"sigma": np.sqrt(np.mean(weights * (y - mu) ** 2))}
