"""Shares of variance: R squared of mixed models and intraclass correlations.

Nakagawa, Johnson and Schielzeth (2017), J. R. Soc. Interface 14: 20170213, on the scale of the
linear predictor:

    R2_marginal    = s2_f / (s2_f + s2_a + s2_e)
    R2_conditional = (s2_f + s2_a) / (s2_f + s2_a + s2_e)
    ICC_adjusted   = s2_a / (s2_a + s2_e)

s2_f is the variance of x'beta over the rows; s2_a that of the random effects, the mean over the
rows of z' Sigma z where there are slopes (Johnson 2014, Methods Ecol. Evol. 5: 944); s2_e the
observation-level variance. A random intercept with one row a level is additive overdispersion: it
counts in s2_e.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import ZERO
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.means import link, mean_slope
from mixedlm_jax.predictions import predict_rows

# Of the latent variable that is beyond its threshold in a success (their table 2).
_LATENT = {"logit": pi**2 / 3.0, "probit": 1.0, "cloglog": pi**2 / 6.0}


@dataclass(frozen=True)
class Variances:
    """What the linear predictor varies by: fixed, random (by grouping factor), and within a row.

    residual: the observation-level variance, with that of random intercepts of single rows.
    """

    fixed: float
    random: dict[str, float]
    residual: float

    @property
    def total(self) -> float:
        """Of all three."""
        return self.fixed + sum(self.random.values()) + self.residual


@dataclass(frozen=True)
class RSquared:
    """Shares of the variance, of fixed effects alone (marginal) and with random effects."""

    marginal: float
    conditional: float
    variances: Variances


@dataclass(frozen=True)
class IntraclassCorrelation:
    """Shares of the random effects: in what the fixed effects leave (adjusted), and in all.

    by_group: the adjusted one of each grouping factor.
    """

    adjusted: float
    unadjusted: float
    by_group: dict[str, float]
    variances: Variances


def r2_nakagawa(model: Fitted) -> RSquared:
    """Marginal and conditional R squared of Nakagawa, Johnson and Schielzeth (2017).

    Parameters
    ----------
    model
        A fitted model. Its observation-level variance is, on the scale of the linear predictor:
        sigma^2 for the Gaussian; pi^2 / 3, 1 and pi^2 / 6 for the binomial with logit, probit and
        cloglog link; log(1 + Var(y) / m^2) under the log link (their equation for log-normal
        variances), m the mean over the rows of their population averages; Var(y) at m over the
        square of d mu / d eta elsewhere (delta method).

    Raises
    ------
    ArgumentError
        For models with structural zeros, beta-binomial ones, and families without a variance.

    Examples
    --------
    >>> model = mlm.glmer("y ~ trt + (1 | ID)", mlm.load_bacteria(), family="binomial")
    >>> found = mlm.r2_nakagawa(model)
    >>> print(round(found.marginal, 3), round(found.conditional, 3))
    0.058 0.272
    """
    check_fitted(model, "r2_nakagawa")
    parts = variances_of(model)
    explained = parts.total - parts.residual
    return RSquared(parts.fixed / parts.total, explained / parts.total, parts)


def icc(model: Fitted) -> IntraclassCorrelation:
    """Intraclass correlation: how alike responses of one group are, on the predictor's scale.

    model: as in `r2_nakagawa`, with its errors; `ArgumentError` too without random effects.

    Examples
    --------
    >>> model = mlm.glmer("y ~ trt + (1 | ID)", mlm.load_bacteria(), family="binomial")
    >>> print(round(mlm.icc(model).adjusted, 3))
    0.227
    """
    check_fitted(model, "icc")
    if not model.design.factors:
        raise ArgumentError("icc is the share of random effects, and the model has none")
    parts = variances_of(model)
    random = sum(parts.random.values())
    rest = random + parts.residual
    by_group = {name: value / rest for name, value in parts.random.items()}
    return IntraclassCorrelation(random / rest, random / parts.total, by_group, parts)


def variances_of(model: Fitted) -> Variances:
    """The parts that the variance of the linear predictor has in a model."""
    design = model.design
    used = design.weights > 0
    n = int(np.sum(used))
    residual = observation_variance(model)
    random = {}
    for i, (name, factor) in enumerate(zip(model.labels.factors, design.factors, strict=True)):
        scale = np.sum((model.fit.factors[i].T @ factor.Z[:, used]) ** 2, axis=0)
        alone = len(np.unique(factor.levels[used])) == n and len(factor.Z) == 1
        if alone:
            residual += float(np.mean(scale))
        else:
            random[name] = float(np.mean(scale))
    fixed = float(np.var((design.X @ model.fit.beta)[used], ddof=1))
    return Variances(fixed, random, residual)


def observation_variance(model: Fitted) -> float:
    """Variance of a response given its predictor, on the predictor's scale; see `r2_nakagawa`."""
    family, design = model.family, model.design
    if ZERO in family.dispersion_names or not family.has_variance:
        raise ArgumentError(
            f"shares of variance need a variance on the scale of the linear predictor, which the "
            f"{family.name} family with this formula does not have: leave out the zero part, or "
            "give a custom family its variance"
        )
    if family.takes_trials:
        if family.dispersion_names or family.link.name not in _LATENT:
            raise ArgumentError(
                f"shares of variance are known for the binomial with {', '.join(_LATENT)} link; "
                f"found {family}"
            )
        return _LATENT[family.link.name]
    used = design.weights > 0
    shapes = tuple(np.broadcast_to(value, used.shape)[used] for value in model.shapes)
    m = np.mean(predict_rows(model, re_form="marginal")[model.labels.kept][used])
    mean = np.full(int(np.sum(used)), m)
    variance = family.variance(mean, shapes) * np.square(family.residual_scale(shapes))
    if family.is_quasi:
        variance = variance * model.fit.dispersion
    if family.link.name == "log":
        return float(np.mean(np.log1p(variance / mean**2)))
    return float(np.mean(variance / mean_slope(family, link(family, mean)) ** 2))
