"""Poisson counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.families.base import Family, require, xlogy


@dataclass(frozen=True)
class Poisson(Family):
    """Poisson family: log f = y log mu - mu - log y!, V(mu) = mu.

    Links: log (default), sqrt, identity.
    """

    link: Any = "log"

    name = "poisson"
    links = ("log", "sqrt", "identity")
    log_concave_links = ("log", "sqrt", "identity")
    has_expected_information = True

    def log_density(self, y, eta, phi, trials, precision):
        return y * self.link.log_inverse(eta) - self.link.inverse(eta)

    def log_base_measure(self, y, trials):
        return -jax.lax.lgamma(y + 1.0)

    def in_domain(self, eta):
        return eta > 0.0 if self.link.name == "identity" else self.link.in_domain(eta)

    def expected_information(self, eta, phi, trials, precision):
        # (dmu/deta)^2 / mu as a product of derivatives of mu and log mu: its square may overflow
        dlog_mu = jax.jvp(self.link.log_inverse, (eta,), (jnp.ones_like(eta),))[1]
        return self.link.derivative(eta) * dlog_mu

    def variance(self, mu):
        return mu

    def unit_deviance(self, y, mu, trials):
        return np.maximum(2.0 * (xlogy(y, y) - xlogy(y, mu) - (y - mu)), 0.0)

    def check_response(self, y, trials):
        require(y >= 0, y, self.name, "counts that are not negative", "check the response")
        whole = np.abs(y - np.round(y)) <= 1e-6 * np.maximum(y, 1.0)
        require(
            whole,
            y,
            self.name,
            "whole counts",
            "model a rate as a count with `offset=` the log of the exposure",
        )

    def bounds(self, trials):
        # only under the log link does a mean of 0 lie at an eta that is not finite
        lowest = 0.0 if self.link.name == "log" else -np.inf
        return np.full_like(trials, lowest), np.full_like(trials, np.inf)

    def one_row_per_level(self, trials):
        return "ok"

    def start_mean(self, y, trials):
        return y + 0.1
