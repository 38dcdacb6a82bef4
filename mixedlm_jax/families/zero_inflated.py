"""Counts with more zeros, or zeros of another origin, than their distribution gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families.base import LIMIT, Family, Parameter
from mixedlm_jax.families.draws import positive_uniform
from mixedlm_jax.links import softplus

ZERO = "zi"
"""The probability of a structural zero: the last parameter, and the part of a formula it has."""


@dataclass(frozen=True)
class ZeroInflated(Family):
    """A response that is 0 with probability pi and else follows `base`.

    log f(0) = log(pi + (1 - pi) f0(0)) and log f(y) = log(1 - pi) + log f0(y), f0 the base's
    (Lambert 1992, Technometrics 34). Where the base has no zeros, a truncated count, this is the
    hurdle model of Mullahy (1986): pi is the probability of 0. The coordinate of pi is its logit.
    """

    base: Family

    def __post_init__(self) -> None:
        """The base has been checked when it was made."""

    # What a class says of all its members is the base's here.
    name = property(lambda self: self.base.name)
    links = property(lambda self: self.base.links)
    mean_range = property(lambda self: self.base.mean_range)
    takes_trials = property(lambda self: self.base.takes_trials)
    counts_zeros = property(lambda self: self.base.counts_zeros)
    zeros = property(lambda self: self.base.zeros)

    @property
    def parameters(self) -> Mapping[str, Parameter]:  # type: ignore[override]
        rest = Parameter(0.0, 1.0, usual=(1.0 / LIMIT, 1.0), limit="no zero inflation")
        return {**self.base.parameters, ZERO: rest}

    @property
    def dispersion_names(self) -> tuple[str, ...]:
        return (*self.base.dispersion_names, ZERO)

    @property
    def is_hurdle(self) -> bool:
        """Whether all zeros are structural."""
        return self.base.zeros == "hurdle"

    @property
    def log_concave(self) -> bool:
        # the zeros of a hurdle do not depend on eta
        return self.is_hurdle and self.base.log_concave

    def log_density(self, y, eta, phi, trials, precision):
        zero = y == 0.0
        log_pi, log_rest = -softplus(-phi[-1]), -softplus(phi[-1])
        if self.is_hurdle:
            positive = self.base.log_density(
                jnp.where(zero, 1.0, y), eta, phi[:-1], trials, precision
            )
            return jnp.where(zero, log_pi, log_rest + positive)
        own = self.base.log_density(y, eta, phi[:-1], trials, precision)
        # the base measure is inside a sum where y is 0
        whole = jnp.where(zero, own + self.base.log_base_measure(y, trials), 0.0)
        return jnp.where(zero, jnp.logaddexp(log_pi, log_rest + whole), log_rest + own)

    def log_base_measure(self, y, trials):
        zero = y == 0.0
        return jnp.where(zero, 0.0, self.base.log_base_measure(jnp.where(zero, 1.0, y), trials))

    def sample(self, key, eta, phi, trials, precision):
        of_zero, of_base = jax.random.split(key)
        y = self.base.sample(of_base, eta, phi[:-1], trials, precision)
        structural = positive_uniform(of_zero, eta) <= jax.nn.sigmoid(phi[-1])
        return jnp.where(structural, 0.0, y)

    def in_domain(self, eta):
        return self.base.in_domain(eta)

    def mean(self, mu, dispersion):
        return (1.0 - dispersion[-1]) * self.conditional_mean(mu, dispersion)

    def conditional_mean(self, mu, dispersion):
        return self.base.mean(mu, dispersion[:-1])

    def zero_probability(self, dispersion):
        return dispersion[-1]

    def variance(self, mu, dispersion):
        pi, mean = dispersion[-1], self.conditional_mean(mu, dispersion)
        return (1.0 - pi) * (self.base.variance(mu, dispersion[:-1]) + pi * mean**2)

    def variance_per_trial(self, mu, trials, dispersion):
        # a structural zero takes all trials of a row with it
        pi, mean = dispersion[-1], self.conditional_mean(mu, dispersion)
        own = self.base.variance_per_trial(mu, trials, dispersion[:-1])
        return (1.0 - pi) * (own + trials * pi * mean**2)

    def unit_deviance(self, y, mu, trials, dispersion):
        # of what is not a structural zero: a row's best mean says nothing of pi
        rest = tuple(dispersion[:-1])
        positive = np.where(y == 0.0, 1.0, y) if self.is_hurdle else y
        found = self.base.unit_deviance(positive, mu, trials, rest)
        return np.where(y == 0.0, 0.0, found) if self.is_hurdle else found

    def check_response(self, y, trials):
        self.base.check_response(np.where(y == 0.0, 1.0, y) if self.is_hurdle else y, trials)

    def bounds(self, trials):
        return self.base.bounds(trials)

    def one_row_per_level(self, trials):
        return self.base.one_row_per_level(trials)

    def start_mean(self, y, trials):
        return self.base.start_mean(np.maximum(y, 1.0) if self.is_hurdle else y, trials)

    def moments(self, y, mu, trials, weights):
        rough: dict[str, Any] = self.base.moments(y, mu, trials, weights)
        share = np.average(y == 0.0, weights=weights)
        return {**rough, ZERO: np.clip(share if self.is_hurdle else 0.5 * share, 0.02, 0.98)}


def with_zeros(family: Family, wanted: bool) -> Family:
    """The family with a probability of structural zeros of its own, or without one.

    Raises `ArgumentError` for a family whose responses cannot be 0.
    """
    base = family.base if isinstance(family, ZeroInflated) else family
    if not wanted:
        return base
    if base.zeros == "none":
        raise ArgumentError(
            f"ziformula models zeros of counts, and the {base.name} family has none; leave it out, "
            "or take a family of counts"
        )
    return ZeroInflated(base.link, base)
