"""Inverse Gaussian responses: positive, more skewed than Gamma's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.families.base import (
    Family,
    Parameter,
    exp_less_one,
    named,
    positive_number,
    relative_unit,
    require_positive,
)
from mixedlm_jax.families.draws import positive_uniform
from mixedlm_jax.families.loggamma import HALF_LOG_2PI


@dataclass(frozen=True)
class InverseGaussian(Family):
    """Inverse Gaussian family with mean mu: variance phi mu^3, V(mu) = mu^3.

    log f = -(y / mu - 1)^2 / (2 phi y) - log(2 pi phi y^3) / 2; a prior weight w makes it phi / w
    (McCullagh and Nelder 1989, table 2.1). Links: log (default), 1/mu^2, inverse, identity. phi is
    estimated unless it is given.
    """

    link: Any = "log"
    phi: float | None = None

    name = "inverse_gaussian"
    links = ("log", "1/mu^2", "inverse", "identity")
    log_concave_links = ("1/mu^2", "inverse")
    mean_range = (0.0, np.inf)
    parameters = named(phi=Parameter())
    weights_are_precisions = True
    has_expected_information = True

    def log_density(self, y, eta, phi, trials, precision):
        (log_phi,) = self.coordinates(phi)
        log_phi = log_phi - jnp.log(precision)
        away = exp_less_one(jnp.log(y) - self.link.log_inverse(eta))
        return -0.5 * (away**2 * jnp.exp(-log_phi) / y + log_phi)

    def log_base_measure(self, y, trials):
        return -HALF_LOG_2PI - 1.5 * jnp.log(y)

    def sample(self, key, eta, phi, trials, precision):
        # Michael, Schucany and Haas (1976, The American Statistician 30): a chi-squared variable
        # has two roots y / mu, one the other's inverse, here in a form that does not cancel
        (log_phi,) = self.coordinates(phi)
        of_chi, of_choice = jax.random.split(key)
        log_mu = self.link.log_inverse(eta)
        chi = jax.random.normal(of_chi, jnp.shape(eta), eta.dtype) ** 2
        half = 0.5 * chi * jnp.exp(log_mu + log_phi - jnp.log(precision))
        log_root = jnp.log1p(half + jnp.sqrt(half) * jnp.sqrt(half + 2.0))
        smaller = positive_uniform(of_choice, eta) <= jax.nn.sigmoid(log_root)
        return positive_number(log_mu + jnp.where(smaller, -log_root, log_root))

    def expected_information(self, eta, phi, trials, precision):
        (log_phi,) = self.coordinates(phi)
        dlog_mu = jax.jvp(self.link.log_inverse, (eta,), (jnp.ones_like(eta),))[1]
        return precision * dlog_mu**2 * jnp.exp(-log_phi - self.link.log_inverse(eta))

    def effect_unit(self, phi, y, weights):
        return relative_unit(self, y, weights)

    def variance(self, mu, dispersion):
        return mu**3

    def residual_scale(self, dispersion):
        return self.shapes(dispersion)[0] ** 0.5

    def unit_deviance(self, y, mu, trials, dispersion):
        return (y / mu - 1.0) ** 2 / y

    def check_response(self, y, trials):
        require_positive(y, self.name)

    def start_mean(self, y, trials):
        return y

    def moments(self, y, mu, trials, weights):
        relative = np.clip(np.mean(weights * (y / mu - 1.0) ** 2), 1e-6, 10.0)
        return {"phi": relative / np.mean(y)}
