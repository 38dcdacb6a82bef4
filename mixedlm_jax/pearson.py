"""Pearson's statistic of a fit: what is left of the variance that its family claims."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mixedlm_jax.design import Design
from mixedlm_jax.diagnostics import residuals
from mixedlm_jax.dispersion import natural_at_rows
from mixedlm_jax.families import Family
from mixedlm_jax.fit import Fit
from mixedlm_jax.means import link_mean
from mixedlm_jax.uncertainty import leverages


class Pearson(NamedTuple):
    """Pearson's statistic with its degrees of freedom."""

    statistic: float
    df: float

    @property
    def ratio(self) -> float:
        """About 1 where the variance is what the family says."""
        return self.statistic / self.df


def pearson(design: Design, family: Family, fit: Fit) -> Pearson:
    """sum w (y - E(y))^2 / Var(y) at the modes, over n less the trace of the joint hat matrix.

    The trace is the sum of the leverages in the joint fit of beta and u given theta: the rows that
    the model uses up, between p and p + q. n less p alone would take the random effects for free,
    and make the ratio too small. n counts the rows of positive weight, those of frequency weights
    as often as they stand for.
    """
    used = design.weights > 0
    shapes = natural_at_rows(family, design.parts, fit.phi)
    rows = (design.y, design.trials, design.weights, fit.eta, shapes)
    away = residuals(family, *rows, type="response")
    variance = family.variance_per_trial(link_mean(family, fit.eta), design.trials, shapes)
    # a mean at the end of its range leaves no variance, and what is there no residual
    variance = np.where(variance > 0, variance * family.residual_scale(shapes) ** 2, np.inf)
    squares = design.weights * design.trials * away**2 / variance
    n = np.sum(design.weights) if design.weights_type == "frequency" else np.sum(used)
    taken = np.sum(leverages(design, family, fit)[used])
    return Pearson(float(np.sum(squares[used])), float(n - taken))


def with_dispersion(design: Design, family: Family, fit: Fit) -> Fit:
    """The fit of a quasi family with its dispersion, and standard errors that go with it.

    The covariance of the fixed effects is multiplied by the dispersion phi, their covariance with
    theta by its square root; theta and its variance are those at phi = 1.
    """
    phi = pearson(design, family, fit).ratio
    q = len(fit.theta)
    stretch = np.concatenate([np.ones(q), np.full(len(fit.vcov) - q, np.sqrt(phi))])
    return replace(fit, dispersion=phi, vcov=fit.vcov * np.outer(stretch, stretch))
