"""Poisson counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.families.base import Family, bounded_below, require_counts, xlogy
from mixedlm_jax.families.draws import poisson


@dataclass(frozen=True)
class Poisson(Family):
    """Poisson family: log f = y log mu - mu - log y!, V(mu) = mu.

    Links: log (default), sqrt, identity.
    """

    link: Any = "log"

    name = "poisson"
    zeros = "inflated"
    counts_zeros = True
    links = ("log", "sqrt", "identity")
    log_concave_links = ("log", "sqrt", "identity")
    mean_range = (0.0, np.inf)
    has_expected_information = True

    def log_density(self, y, eta, phi, trials, precision):
        return y * self.link.log_inverse(eta) - self.link.inverse(eta)

    def log_base_measure(self, y, trials):
        return -jax.lax.lgamma(y + 1.0)

    def sample(self, key, eta, phi, trials, precision):
        return poisson(key, self.link.inverse(eta))

    def expected_information(self, eta, phi, trials, precision):
        # (dmu/deta)^2 / mu as a product of derivatives of mu and log mu: its square may overflow
        dlog_mu = jax.jvp(self.link.log_inverse, (eta,), (jnp.ones_like(eta),))[1]
        return self.link.derivative(eta) * dlog_mu

    def variance(self, mu, dispersion):
        return mu

    def unit_deviance(self, y, mu, trials, dispersion):
        return np.maximum(2.0 * (xlogy(y, y) - xlogy(y, mu) - (y - mu)), 0.0)

    def check_response(self, y, trials):
        require_counts(y, self.name)

    def bounds(self, trials):
        return bounded_below(self, 0.0, trials)

    def one_row_per_level(self, trials):
        return "ok"

    def start_mean(self, y, trials):
        return y + 0.1
