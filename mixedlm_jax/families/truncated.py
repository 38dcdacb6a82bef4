"""Counts without zeros: the positive part of a count distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.families.base import (
    LIMIT,
    Family,
    Parameter,
    bounded_below,
    named,
    positive_number,
    require,
    require_counts,
)
from mixedlm_jax.families.draws import log_of_gamma, poisson, positive_uniform
from mixedlm_jax.families.loggamma import log_rising
from mixedlm_jax.families.negative_binomial import moment_theta
from mixedlm_jax.links import LINKS, softplus


def log_positive(log_rate: Array) -> Array:
    """log(1 - exp(-T)) from log T: the chance of a count that is not 0."""
    return LINKS["cloglog"]().log_inverse(log_rate)


def _first_event(key: Array, end: Array) -> Array:
    """When a unit Poisson process has its first event, given one before `end`, as a share of it."""
    u = positive_uniform(key, end)
    soon = end < 1e-20  # then it may be at any time
    some = jnp.where(soon, 1.0, end)
    return jnp.where(soon, u, jnp.minimum(-jnp.log1p(u * jnp.expm1(-some)) / some, 1.0))


def _logarithmic(key: Array, rate: Array) -> Array:
    """Counts from 1 upwards with P(k) proportional to (1 - exp(-rate))^k / k.

    Geometric with a random parameter q = 1 - exp(-rate U) (Kemp 1981, Applied Statistics 30,
    algorithm LK).
    """
    of_q, of_count = jax.random.split(key)
    x = rate * positive_uniform(of_q, rate)
    log_q = jnp.where(x < 1.0, jnp.log(-jnp.expm1(-x)), jnp.log1p(-jnp.exp(-x)))
    # beyond 30, log q = -exp(-x) to the last digit, and may underflow
    log_fall = jnp.where(x < 30.0, jnp.log(-log_q), -x)
    log_v = jnp.log(positive_uniform(of_count, rate))
    return 1.0 + jnp.floor(positive_number(jnp.log(-log_v) - log_fall))


def _log_softplus(x: Array) -> Array:
    """log log(1 + exp(x)); below -30 it is x - exp(x) / 2 to the last digit."""
    low = x < -30.0
    tail = jnp.where(low, x, -30.0)
    return jnp.where(low, tail - 0.5 * jnp.exp(tail), jnp.log(softplus(jnp.where(low, 0.0, x))))


def _require_positive_counts(y: np.ndarray, family: str) -> None:
    require_counts(y, family)
    hint = "zeros need a hurdle model, whose zero part has a formula of its own"
    require(y > 0, y, family, "counts from 1 upwards", hint)


@dataclass(frozen=True)
class TruncatedPoisson(Family):
    """Poisson counts given that they are not 0; mu is the mean before truncation.

    log f = y log mu - mu - log(1 - exp(-mu)) - log y!, E(y) = mu / (1 - exp(-mu)) (Cameron and
    Trivedi 2013, section 4.3). Links: log (default), sqrt, identity.
    """

    link: Any = "log"

    name = "truncated_poisson"
    zeros = "hurdle"
    links = ("log", "sqrt", "identity")
    log_concave_links = ("log", "sqrt", "identity")
    mean_range = (0.0, np.inf)
    has_expected_information = True

    def log_density(self, y, eta, phi, trials, precision):
        log_mu = self.link.log_inverse(eta)
        return y * log_mu - self.link.inverse(eta) - log_positive(log_mu)

    def log_base_measure(self, y, trials):
        return -jax.lax.lgamma(y + 1.0)

    def sample(self, key, eta, phi, trials, precision):
        # the first event of a Poisson process before mu, and as many more as come after it
        of_first, of_rest = jax.random.split(key)
        mean = self.link.inverse(eta)
        return 1.0 + poisson(of_rest, mean * (1.0 - _first_event(of_first, mean)))

    def expected_information(self, eta, phi, trials, precision):
        # the score is dlog(mu)/deta (y - E(y))
        dlog_mu = jax.jvp(self.link.log_inverse, (eta,), (jnp.ones_like(eta),))[1]
        mu = self.link.inverse(eta)
        positive = jnp.exp(log_positive(self.link.log_inverse(eta)))
        mean = mu / positive
        return dlog_mu**2 * mean * (1.0 + mu - mean)

    def mean(self, mu, dispersion):
        return mu / -mu.__array_namespace__().expm1(-mu)

    def variance(self, mu, dispersion):
        mean = self.mean(mu, dispersion)
        return mean * (1.0 + mu - mean)

    def check_response(self, y, trials):
        _require_positive_counts(y, self.name)

    def bounds(self, trials):
        return bounded_below(self, 1.0, trials)

    def one_row_per_level(self, trials):
        return "ok"

    def start_mean(self, y, trials):
        return np.maximum(y - 0.5, 0.2)


@dataclass(frozen=True)
class TruncatedNegativeBinomial(Family):
    """Negative binomial counts given that they are not 0; mu is the mean before truncation.

    Before truncation the variance is mu + mu^2 / theta; log f is the negative binomial's less
    log(1 - P0), P0 = (1 + mu / theta)^-theta, and E(y) = mu / (1 - P0) (Cameron and Trivedi 2013,
    section 4.3). Links: log (default), sqrt, identity. theta is estimated unless it is given.
    """

    link: Any = "log"
    theta: float | None = None

    name = "truncated_nbinom2"
    zeros = "hurdle"
    links = ("log", "sqrt", "identity")
    mean_range = (0.0, np.inf)
    parameters = named(theta=Parameter(usual=(0.0, LIMIT), limit="the truncated Poisson limit"))
    has_expected_information = True

    def log_density(self, y, eta, phi, trials, precision):
        (log_theta,) = self.coordinates(phi)
        log_mu = self.link.log_inverse(eta)
        log_theta = jnp.asarray(log_theta, log_mu.dtype)
        ratio = log_mu - log_theta
        spread = (y + jnp.exp(log_theta)) * softplus(ratio)
        truncated = log_positive(log_theta + _log_softplus(ratio))
        return y * log_mu - spread + log_rising(y, log_theta) - truncated

    def log_base_measure(self, y, trials):
        return -jax.lax.lgamma(y + 1.0)

    def sample(self, key, eta, phi, trials, precision):
        # events at rate r = log(1 + mu / theta) up to time theta, each of a logarithmic size of
        # parameter mu / (mu + theta); what comes after the first is negative binomial with the
        # shape theta less its time
        (log_theta,) = self.coordinates(phi)
        of_first, of_size, of_rate, of_count = jax.random.split(key, 4)
        log_theta = jnp.broadcast_to(log_theta, jnp.shape(eta))
        ratio = self.link.log_inverse(eta) - log_theta
        log_rate, theta = _log_softplus(ratio), jnp.exp(log_theta)
        left = 1.0 - _first_event(of_first, positive_number(log_theta + log_rate))
        size = _logarithmic(of_size, jnp.exp(log_rate))
        log_rest = log_of_gamma(of_rate, theta * left) + ratio
        rest = poisson(of_count, positive_number(log_rest))
        return jnp.minimum(size + rest, jnp.finfo(eta.dtype).max)

    def expected_information(self, eta, phi, trials, precision):
        # the score is dlog(mu)/deta (y - E(y)) / (1 + mu / theta); with a = mu / (1 + mu / theta)
        # its variance is a / (1 - P0) (1 - a P0 / (1 - P0)) (dlog(mu)/deta)^2
        (log_theta,) = self.coordinates(phi)
        log_mu = self.link.log_inverse(eta)
        dlog_mu = jax.jvp(self.link.log_inverse, (eta,), (jnp.ones_like(eta),))[1]
        log_rate = log_theta + _log_softplus(log_mu - log_theta)
        log_a = log_mu - softplus(log_mu - log_theta)
        own = jnp.exp(log_a - log_positive(log_rate))
        return dlog_mu**2 * own * (1.0 - own * jnp.exp(-jnp.exp(log_rate)))

    def mean(self, mu, dispersion):
        (theta,) = self.shapes(dispersion)
        functions = mu.__array_namespace__()
        return mu / -functions.expm1(-theta * functions.log1p(mu / theta))

    def variance(self, mu, dispersion):
        mean = self.mean(mu, dispersion)
        return mean * (1.0 + mu + mu / self.shapes(dispersion)[0] - mean)

    def check_response(self, y, trials):
        _require_positive_counts(y, self.name)

    def bounds(self, trials):
        return bounded_below(self, 1.0, trials)

    def one_row_per_level(self, trials):
        return "warn" if self.dispersion_names else "ok"

    def start_mean(self, y, trials):
        return np.maximum(y - 0.5, 0.2)

    def moments(self, y, mu, trials, weights):
        return {"theta": moment_theta(y, mu, weights)}
