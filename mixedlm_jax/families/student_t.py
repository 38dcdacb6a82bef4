"""Measurements with outliers."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.families.base import LIMIT, Family, Parameter, named
from mixedlm_jax.families.draws import log_of_gamma
from mixedlm_jax.families.loggamma import HALF_LOG_2PI, log_rising

# Beyond this power of the largest number 1 + z^2 is z^2, whose powers in derivatives may overflow.
_FAR = 0.13


@dataclass(frozen=True)
class StudentT(Family):
    """Student's t: (y - mu) / sigma has df degrees of freedom; variance sigma^2 df / (df - 2).

    sigma is the scale, not the standard deviation (Lange, Little and Taylor 1989). The density is
    not log-concave. Links: identity (default), log. sigma and df are estimated unless they are
    given; with df -> inf it is the Gaussian.
    """

    link: Any = "identity"
    sigma: float | None = None
    df: float | None = None

    name = "student_t"
    links = ("identity", "log")
    parameters = named(
        sigma=Parameter(),
        df=Parameter(usual=(0.0, LIMIT), limit="the Gaussian limit"),
    )
    has_expected_information = True

    def log_density(self, y, eta, phi, trials, precision):
        log_sigma, log_df = self.coordinates(phi)
        log_scale = log_sigma + 0.5 * log_df
        z = (y - self.link.inverse(eta)) * jnp.exp(-log_scale)
        far = jnp.abs(z) > float(jnp.finfo(z.dtype).max) ** _FAR
        close = jnp.where(far, self.link.interior, eta)
        near = jnp.log1p(((y - self.link.inverse(close)) * jnp.exp(-log_scale)) ** 2)
        away = self._log_distance(y, jnp.where(far, eta, self.link.interior))
        tail = jnp.where(far, 2.0 * (away - log_scale), near)
        # lgamma((df + 1) / 2) - lgamma(df / 2) - log(df / 2) / 2 -> 0 with df -> inf
        half = jnp.full_like(eta, 0.5)
        constant = log_rising(half, log_df - log(2.0)) - log_sigma - HALF_LOG_2PI
        return constant - 0.5 * (jnp.exp(log_df) + 1.0) * tail

    def _log_distance(self, y: Array, eta: Array) -> Array:
        """log |y - mu|, for distances that are enormous."""
        if self.link.range[0] < 0.0:
            return jnp.log(jnp.abs(y - self.link.inverse(eta)))
        # mu^2 may overflow, its logarithm does not
        log_mu = self.link.log_inverse(eta)
        return log_mu + jnp.log(jnp.abs(1.0 - y * jnp.exp(-log_mu)))

    def sample(self, key, eta, phi, trials, precision):
        # a normal variable over the root of a Gamma variable of mean 1 and shape df / 2
        log_sigma, log_df = self.coordinates(phi)
        of_z, of_scale = jax.random.split(key)
        half = jnp.broadcast_to(0.5 * jnp.exp(log_df), jnp.shape(eta))
        log_scale = log_sigma - 0.5 * (log_of_gamma(of_scale, half) - jnp.log(half))
        z = jax.random.normal(of_z, jnp.shape(eta), eta.dtype)
        limit = jnp.finfo(eta.dtype).max
        return jnp.clip(self.link.inverse(eta) + jnp.exp(log_scale) * z, -limit, limit)

    def expected_information(self, eta, phi, trials, precision):
        log_sigma, log_df = self.coordinates(phi)
        df = jnp.exp(log_df)
        return self.link.derivative(eta) ** 2 * jnp.exp(-2.0 * log_sigma) * (df + 1.0) / (df + 3.0)

    def effect_unit(self, phi, y, weights):
        # under the identity link eta has the unit of y, and so has sigma
        return jnp.exp(self.coordinates(phi)[0]) if self.link.name == "identity" else 1.0

    def variance(self, mu, dispersion):
        return np.ones_like(mu)

    def residual_scale(self, dispersion):
        # with 2 degrees of freedom or fewer there is no variance: the scale stands in
        sigma, df = self.shapes(dispersion)
        finite = df > 2.0
        return sigma * np.sqrt(np.where(finite, df / np.where(finite, df - 2.0, 1.0), 1.0))

    def unit_deviance(self, y, mu, trials, dispersion):
        sigma, df = self.shapes(dispersion)
        return (df + 1.0) * np.log1p(((y - mu) / sigma) ** 2 / df)

    def start_mean(self, y, trials):
        return np.maximum(y, 0.1 * np.std(y)) if self.link.name == "log" else y

    def moments(self, y, mu, trials, weights):
        # a normal sample's median absolute deviation is .6745 sigma
        scale = np.median(np.abs(y - mu)) / 0.6745
        return {"sigma": scale if scale > 0 else np.std(y - mu), "df": 5.0}
