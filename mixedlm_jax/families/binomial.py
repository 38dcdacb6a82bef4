"""Binomial responses: y successes out of `trials`, mean mu = E(y) / trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.families.base import Family, require_successes, xlogy
from mixedlm_jax.families.draws import binomial
from mixedlm_jax.families.loggamma import log_choose


@dataclass(frozen=True)
class Binomial(Family):
    """Binomial family: log f = log C(m, y) + y log mu + (m - y) log(1 - mu), V(mu) = mu (1 - mu).

    Links: logit (default), probit, cloglog, cauchit, log.
    """

    link: Any = "logit"

    name = "binomial"
    zeros = "inflated"
    links = ("logit", "probit", "cloglog", "cauchit", "log")
    log_concave_links = ("logit", "probit", "cloglog", "log")
    mean_range = (0.0, 1.0)
    has_expected_information = True
    takes_trials = True

    def log_density(self, y, eta, phi, trials, precision):
        return self.link.bernoulli(y, trials, eta)

    def log_base_measure(self, y, trials):
        return log_choose(trials, y)

    def sample(self, key, eta, phi, trials, precision):
        failure = jnp.exp(self.link.log_complement(eta))
        return binomial(key, trials, self.link.inverse(eta), failure)

    def in_domain(self, eta):
        return eta < 0.0 if self.link.name == "log" else super().in_domain(eta)

    def expected_information(self, eta, phi, trials, precision):
        # (dmu/deta)^2 / (mu (1 - mu)) as two logarithmic derivatives: no 0/0 in the tails
        one = jnp.ones_like(eta)
        dlog_mu = jax.jvp(self.link.log_inverse, (eta,), (one,))[1]
        dlog_rest = jax.jvp(self.link.log_complement, (eta,), (one,))[1]
        return -trials * dlog_mu * dlog_rest

    def variance(self, mu, dispersion):
        return mu * (1.0 - mu)

    def unit_deviance(self, y, mu, trials, dispersion):
        fitted = trials * mu
        failures = trials - y
        # xlogy twice, not the logarithm of a quotient: 0 successes out of 0 expected is no deviance
        successes_part = xlogy(y, y) - xlogy(y, fitted)
        failures_part = xlogy(failures, failures) - xlogy(failures, trials - fitted)
        return np.maximum(2.0 * (successes_part + failures_part), 0.0)

    def check_response(self, y, trials):
        require_successes(y, trials, self.name)

    def bounds(self, trials):
        # under the log link a mean of 1 lies at eta = 0, the edge of the domain
        highest = np.full_like(trials, np.inf) if self.link.name == "log" else trials
        return np.zeros_like(trials), highest

    def one_row_per_level(self, trials):
        return "refuse" if np.all(trials <= 1.0) else "ok"

    def start_mean(self, y, trials):
        mean = (y + 0.5) / (trials + 1.0)
        return np.minimum(mean, 0.9) if self.link.name == "log" else mean
