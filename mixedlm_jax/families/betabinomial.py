"""Numbers of successes more spread than the binomial's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.families.base import LIMIT, Family, Parameter, named, require_successes
from mixedlm_jax.families.beta import beta_log_odds
from mixedlm_jax.families.draws import binomial
from mixedlm_jax.families.loggamma import log_choose, log_rising


@dataclass(frozen=True)
class BetaBinomial(Family):
    """Beta-binomial family: m trials whose probability is Beta(a, b), a = mu phi, b = (1 - mu) phi.

    Variance of y: m mu (1 - mu) (phi + m) / (phi + 1) (Griffiths 1973, Biometrics 29). It tends to
    the binomial with phi = a + b -> inf. Links: logit (default), probit, cloglog, cauchit. phi is
    estimated unless it is given.
    """

    link: Any = "logit"
    phi: float | None = None

    name = "betabinomial"
    zeros = "inflated"
    links = ("logit", "probit", "cloglog", "cauchit")
    mean_range = (0.0, 1.0)
    parameters = named(phi=Parameter(usual=(0.0, LIMIT), limit="the binomial limit"))
    takes_trials = True

    def log_density(self, y, eta, phi, trials, precision):
        # lgamma(y + a) - lgamma(a) = y log a + log_rising(y, log a), and so with b and phi: what
        # is left of the logarithms is the binomial density
        (log_phi,) = self.coordinates(phi)
        log_mu, log_rest = self.link.log_inverse(eta), self.link.log_complement(eta)
        log_phi = jnp.asarray(log_phi, log_mu.dtype)
        return (
            self.link.bernoulli(y, trials, eta)
            + log_rising(y, log_phi + log_mu)
            + log_rising(trials - y, log_phi + log_rest)
            - log_rising(trials, log_phi)
        )

    def log_base_measure(self, y, trials):
        return log_choose(trials, y)

    def sample(self, key, eta, phi, trials, precision):
        (log_phi,) = self.coordinates(phi)
        of_chance, of_count = jax.random.split(key)
        log_odds = beta_log_odds(of_chance, self.link, eta, log_phi)
        return binomial(of_count, trials, jax.nn.sigmoid(log_odds), jax.nn.sigmoid(-log_odds))

    def variance(self, mu, dispersion):
        # of a success in one trial; more trials are not independent, which V leaves out as R's does
        return mu * (1.0 - mu)

    def variance_per_trial(self, mu, trials, dispersion):
        (phi,) = self.shapes(dispersion)
        return mu * (1.0 - mu) * (phi + trials) / (phi + 1.0)

    def check_response(self, y, trials):
        require_successes(y, trials, self.name)

    def bounds(self, trials):
        return np.zeros_like(trials), trials

    def one_row_per_level(self, trials):
        return "refuse" if np.all(trials <= 1.0) else "warn"

    def start_mean(self, y, trials):
        return (y + 0.5) / (trials + 1.0)

    def moments(self, y, mu, trials, weights):
        # Var(y) = m mu (1 - mu) (1 + (m - 1) rho), rho = 1 / (1 + phi)
        ratio = (y - trials * mu) ** 2 / (np.maximum(trials, 1.0) * mu * (1.0 - mu))
        excess = np.average(ratio, weights=weights) - 1.0
        more = np.average(trials - 1.0, weights=weights)
        rho = np.clip(excess / max(more, 1.0), 0.02, 0.8)
        return {"phi": 1.0 / rho - 1.0}
