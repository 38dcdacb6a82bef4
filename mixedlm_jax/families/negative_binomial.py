"""Counts more spread than Poisson's, with a quadratic or a linear variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.families.base import (
    LIMIT,
    Family,
    Parameter,
    bounded_below,
    named,
    require_counts,
    xlogy,
)
from mixedlm_jax.families.draws import log_of_gamma, poisson
from mixedlm_jax.families.loggamma import log_rising
from mixedlm_jax.links import softplus


@dataclass(frozen=True)
class NegativeBinomial(Family):
    """Negative binomial family with mean mu: variance mu + mu^2 / theta (Hilbe's NB2).

    log f = y log mu - (y + theta) log(1 + mu / theta) + D - log y! with D = log Gamma(y + theta)
    - log Gamma(theta) - y log theta, which tends to 0 with the Poisson limit theta -> inf (Hilbe
    2011, Negative Binomial Regression, equation 8.8). Links: log (default), sqrt, identity.
    theta is estimated unless it is given.
    """

    link: Any = "log"
    theta: float | None = None

    name = "nbinom2"
    zeros = "inflated"
    counts_zeros = True
    links = ("log", "sqrt", "identity")
    log_concave_links = ("log",)
    mean_range = (0.0, np.inf)
    parameters = named(theta=Parameter(usual=(0.0, LIMIT), limit="the Poisson limit"))
    has_expected_information = True

    def log_density(self, y, eta, phi, trials, precision):
        (log_theta,) = self.coordinates(phi)
        log_mu = self.link.log_inverse(eta)
        log_theta = jnp.asarray(log_theta, log_mu.dtype)
        spread = (y + jnp.exp(log_theta)) * softplus(log_mu - log_theta)
        return y * log_mu - spread + log_rising(y, log_theta)

    def log_base_measure(self, y, trials):
        return -jax.lax.lgamma(y + 1.0)

    def sample(self, key, eta, phi, trials, precision):
        # a Poisson count whose mean is a Gamma variable of shape theta
        (log_theta,) = self.coordinates(phi)
        of_rate, of_count = jax.random.split(key)
        theta = jnp.broadcast_to(jnp.exp(log_theta), jnp.shape(eta))
        log_unit = log_of_gamma(of_rate, theta) - log_theta
        return poisson(of_count, jnp.exp(self.link.log_inverse(eta) + log_unit))

    def expected_information(self, eta, phi, trials, precision):
        # (dmu/deta)^2 / (mu + mu^2 / theta)
        (log_theta,) = self.coordinates(phi)
        dlog_mu = jax.jvp(self.link.log_inverse, (eta,), (jnp.ones_like(eta),))[1]
        excess = jax.nn.sigmoid(log_theta - self.link.log_inverse(eta))
        return self.link.derivative(eta) * dlog_mu * excess

    def variance(self, mu, dispersion):
        return mu + mu**2 / self.shapes(dispersion)[0]

    def unit_deviance(self, y, mu, trials, dispersion):
        (theta,) = self.shapes(dispersion)
        # y log(y / mu) - (y + theta) log((y + theta) / (mu + theta))
        away = xlogy(y, y) - xlogy(y, mu) - (y + theta) * np.log1p((y - mu) / (mu + theta))
        return np.maximum(2.0 * away, 0.0)

    def check_response(self, y, trials):
        require_counts(y, self.name)

    def bounds(self, trials):
        return bounded_below(self, 0.0, trials)

    def one_row_per_level(self, trials):
        return "warn" if self.dispersion_names else "ok"

    def start_mean(self, y, trials):
        return y + 0.1

    def moments(self, y, mu, trials, weights):
        return {"theta": moment_theta(y, mu, weights)}


@dataclass(frozen=True)
class NegativeBinomial1(Family):
    """Negative binomial family with mean mu and a linear variance: mu (1 + phi) (Hilbe's NB1).

    log f = log Gamma(y + r) - log Gamma(r) - r log(1 + phi) + y log(phi / (1 + phi)) - log y! with
    r = mu / phi, which tends to the Poisson density with phi -> 0 (Hilbe 2011, section 10.1).
    Links: log (default), sqrt, identity. phi is estimated unless it is given.
    """

    link: Any = "log"
    phi: float | None = None

    name = "nbinom1"
    zeros = "inflated"
    counts_zeros = True
    links = ("log", "sqrt", "identity")
    log_concave_links = ("identity",)
    mean_range = (0.0, np.inf)
    parameters = named(phi=Parameter(usual=(1.0 / LIMIT, np.inf), limit="the Poisson limit"))

    def log_density(self, y, eta, phi, trials, precision):
        (log_phi,) = self.coordinates(phi)
        log_mu = self.link.log_inverse(eta)
        log_phi = jnp.asarray(log_phi, log_mu.dtype)
        excess = softplus(log_phi)  # log(1 + phi)
        spread = y * excess + self.link.inverse(eta) * jnp.exp(-log_phi) * excess
        return y * log_mu - spread + log_rising(y, log_mu - log_phi)

    def log_base_measure(self, y, trials):
        return -jax.lax.lgamma(y + 1.0)

    def sample(self, key, eta, phi, trials, precision):
        # a Poisson count whose mean is a Gamma variable of shape mu / phi
        (log_phi,) = self.coordinates(phi)
        of_rate, of_count = jax.random.split(key)
        shape = jnp.exp(self.link.log_inverse(eta) - log_phi)
        return poisson(of_count, jnp.exp(log_of_gamma(of_rate, shape) + log_phi))

    def variance(self, mu, dispersion):
        return mu * (1.0 + self.shapes(dispersion)[0])

    def check_response(self, y, trials):
        require_counts(y, self.name)

    def bounds(self, trials):
        return bounded_below(self, 0.0, trials)

    def one_row_per_level(self, trials):
        return "warn" if self.dispersion_names else "ok"

    def start_mean(self, y, trials):
        return y + 0.1

    def moments(self, y, mu, trials, weights):
        ratio = np.average((y - mu) ** 2 / mu, weights=weights)
        return {"phi": np.clip(ratio - 1.0, 0.05, 20.0)}


def moment_theta(y: np.ndarray, mu: np.ndarray, weights: np.ndarray) -> float:
    """theta of the negative binomial whose variance is that of y around mu, within reason."""
    excess = np.average((y - mu) ** 2 - mu, weights=weights)
    squares = np.average(mu**2, weights=weights)
    return float(np.clip(squares / max(excess, 1e-2 * squares), 0.2, 50.0))
