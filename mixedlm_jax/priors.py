"""Priors: log-densities of the parameters, which a penalised likelihood or a posterior adds.

A prior is a pytree whose numbers are leaves, so that it can be differentiated by them: `Ridge` and
`Normal` for fixed effects, `HalfT` and `AwayFromZero` for random effects, a tuple of priors for all
of them together, or any JAX function of the parameters that returns a log-density.

Standard deviations are those of the random effects on the scale of eta, for every family. A prior
need not be normalised: its constant changes no estimate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.problem import Params, Problem, covariance_factors


class Prior:
    """Base of all priors."""

    def log_density(self, params: Params, problem: Problem) -> Array:
        """The log-density (scalar) at parameters of a problem."""
        raise NotImplementedError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Normal(Prior):
    """Independent normal fixed effects, those of constant columns (the intercept) left out.

    Parameters
    ----------
    scale, mean
        Of every fixed effect, a number or one for each column of X (p,).
    intercept
        Standard deviation of the coefficient of a constant column about 0; None: flat.

    Cures separation: with a scale of 2.5 and predictors of about unit size it hardly moves
    coefficients that the data tell well (Gelman, Jakulin, Pittau and Su 2008).
    """

    scale: Any = 2.5
    mean: Any = 0.0
    intercept: Any = None

    def log_density(self, params, problem):
        beta, constant = params.beta, _constant_columns(problem)
        own = _log_normal((beta - self.mean) / self.scale, jnp.asarray(self.scale, beta.dtype))
        rest = jnp.zeros_like(beta)
        if self.intercept is not None:
            width = jnp.asarray(self.intercept, beta.dtype)
            rest = _log_normal(beta / width, width)
        return jnp.sum(jnp.where(constant, rest, own))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ridge(Prior):
    """The penalty strength / 2 sum_j beta_j^2, constant columns (the intercept) left out."""

    strength: Any

    def log_density(self, params, problem):
        squares = jnp.where(_constant_columns(problem), 0.0, params.beta**2)
        return -0.5 * self.strength * jnp.sum(squares)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HalfT(Prior):
    """Independent half-t standard deviations of the random effects (Gelman 2006).

    Parameters
    ----------
    scale
        A number, or one for each standard deviation in the order of theta.
    df
        Degrees of freedom, 1 for the half-Cauchy.

    Holds a large standard deviation down. Its density is largest at 0, so an estimate of 0 stays
    where it is: `AwayFromZero` moves that.
    """

    scale: Any = 1.0
    df: Any = 3.0

    def log_density(self, params, problem):
        variances = standard_variances(params, problem)
        scale, df = (jnp.asarray(part, variances.dtype) for part in (self.scale, self.df))
        half = 0.5 * (df + 1.0)
        constant = jnp.log(2.0) + jax.lax.lgamma(half) - jax.lax.lgamma(half - 0.5)
        constant -= 0.5 * jnp.log(df * jnp.pi) + jnp.log(scale)
        # a function of the variance, which is smooth where the standard deviation is 0
        return jnp.sum(constant - half * jnp.log1p(variances / (df * scale**2)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AwayFromZero(Prior):
    """The penalty -strength / 2 log|Sigma| of each term's covariance Sigma.

    With strength 1 and one effect a level it is log sd, a gamma density of shape 2 and of
    negligible rate: it moves the estimate by at most about a standard error, and never leaves it at
    0 (Chung, Rabe-Hesketh, Dorie, Gelman and Liu 2013). Correlations stay inside (-1, 1) likewise
    (Chung et al. 2015). The posterior of a sample needs no such help.
    """

    strength: Any = 1.0

    def log_density(self, params, problem):
        total = jnp.zeros((), params.theta.dtype)
        factors = covariance_factors(problem, params)
        for term in problem.terms:
            diagonal = jnp.diagonal(factors[term.factor])[np.array(term.columns)]
            total += jnp.sum(jnp.log(jnp.abs(diagonal)))
        return self.strength * total


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Independent(Prior):
    """Several priors together: the sum of their log-densities."""

    parts: tuple[Prior, ...]

    def log_density(self, params, problem):
        return sum(part.log_density(params, problem) for part in self.parts)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Written(Prior):
    """A prior that a user wrote: a JAX function of the parameters."""

    function: Callable[[Params], Array] = field(metadata={"static": True})

    def log_density(self, params, problem):
        density = self.function(params)
        if np.shape(density) != ():
            raise ArgumentError(
                f"the prior's log-density has shape {np.shape(density)}; return one number, the sum"
            )
        return density


def as_prior(prior: Any) -> Prior | None:
    """What users may give as a prior: None, a prior, a tuple of them, or a function of params.

    Raises `ArgumentError` for anything else.
    """
    if prior is None or isinstance(prior, Prior):
        return prior
    if isinstance(prior, (tuple, list)):
        return Independent(tuple(part for part in map(as_prior, prior) if part is not None))
    if callable(prior) and not isinstance(prior, type):
        return Written(prior)
    raise ArgumentError(
        f"prior is {prior!r}; give priors.Normal(2.5), priors.Ridge(1.0), priors.HalfT(1.0), "
        "priors.AwayFromZero(), a tuple of them, or a JAX function of the parameters that returns "
        "a log-density"
    )


def log_prior(params: Params, problem: Problem) -> Array:
    """The log-density of a problem's prior (scalar), 0 without one."""
    if problem.prior is None:
        return jnp.zeros((), params.theta.dtype)
    return problem.prior.log_density(params, problem)


def standard_variances(params: Params, problem: Problem) -> Array:
    """Variances of the random effects on the scale of eta, term by term in the order of theta.

    One for each effect, or for each that a structure estimates: `homdiag` and `ar1` have one.
    """
    parts, scale = [], problem.ranef_scale(params.phi)
    for term, where in zip(problem.terms, problem.theta_slices, strict=True):
        structure = STRUCTURES[term.structure]
        parts.append(structure.variances(params.theta[where], len(term.columns)))
    return jnp.concatenate(parts) * scale**2


def _constant_columns(problem: Problem) -> Array:
    """Which columns of X are the same in every row (p,)."""
    return jnp.all(problem.X[:1] == problem.X, axis=0)


def _log_normal(standardised: Array, scale: Array) -> Array:
    return -0.5 * standardised**2 - jnp.log(scale) - 0.5 * jnp.log(2.0 * jnp.pi)
