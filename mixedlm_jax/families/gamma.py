"""Gamma responses: positive, with a constant coefficient of variation."""

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
from mixedlm_jax.families.draws import log_of_gamma
from mixedlm_jax.families.loggamma import HALF_LOG_2PI, binet


@dataclass(frozen=True)
class Gamma(Family):
    """Gamma family with mean mu and shape alpha: variance mu^2 / alpha, V(mu) = mu^2.

    log f = alpha (log(alpha y / mu) - y / mu) - log y - log Gamma(alpha); a prior weight w makes
    the shape w alpha (McCullagh and Nelder 1989, section 8.2). Links: log (default), inverse,
    identity. The shape is estimated unless it is given. R's Gamma has the inverse link by default.
    """

    link: Any = "log"
    shape: float | None = None

    name = "gamma"
    links = ("log", "inverse", "identity")
    log_concave_links = ("log", "inverse")
    mean_range = (0.0, np.inf)
    parameters = named(shape=Parameter())
    weights_are_precisions = True
    has_expected_information = True

    def log_density(self, y, eta, phi, trials, precision):
        (log_shape,) = self.coordinates(phi)
        log_shape = log_shape + jnp.log(precision)
        shape = jnp.exp(log_shape)
        relative = jnp.log(y) - self.link.log_inverse(eta)
        # alpha log alpha - log Gamma(alpha) = alpha + log(alpha) / 2 - log(2 pi) / 2 - R(alpha)
        constant = 0.5 * log_shape - HALF_LOG_2PI - binet(shape, log_shape)
        return constant - shape * (exp_less_one(relative) - relative)

    def log_base_measure(self, y, trials):
        return -jnp.log(y)

    def sample(self, key, eta, phi, trials, precision):
        (log_shape,) = self.coordinates(phi)
        shape = jnp.exp(log_shape) * precision
        log_unit = log_of_gamma(key, shape) - jnp.log(shape)
        return positive_number(self.link.log_inverse(eta) + log_unit)

    def expected_information(self, eta, phi, trials, precision):
        (log_shape,) = self.coordinates(phi)
        dlog_mu = jax.jvp(self.link.log_inverse, (eta,), (jnp.ones_like(eta),))[1]
        return precision * jnp.exp(log_shape) * dlog_mu**2

    def effect_unit(self, phi, y, weights):
        return relative_unit(self, y, weights)

    def variance(self, mu, dispersion):
        return mu**2

    def residual_scale(self, dispersion):
        return self.shapes(dispersion)[0] ** -0.5

    def unit_deviance(self, y, mu, trials, dispersion):
        return np.maximum(2.0 * ((y - mu) / mu - np.log(y / mu)), 0.0)

    def check_response(self, y, trials):
        require_positive(y, self.name)

    def start_mean(self, y, trials):
        return y

    def moments(self, y, mu, trials, weights):
        return {"shape": 1.0 / np.clip(np.mean(weights * (y / mu - 1.0) ** 2), 1e-6, 10.0)}
