"""From a problem to a fit: arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mixedlm_jax.climb import Outcome, params_of
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.covariance import STRUCTURES, column_signs
from mixedlm_jax.elimination import Effects
from mixedlm_jax.errors import FitError
from mixedlm_jax.objective import OBJECTIVES, Objective
from mixedlm_jax.problem import Params, Problem
from mixedlm_jax.programs import State, state_at
from mixedlm_jax.progress import Watch, unwatched
from mixedlm_jax.search import search_optimum
from mixedlm_jax.start import first_params
from mixedlm_jax.verdict import Curvature, Verdict, separated_columns

# An effect of this size on eta, or a Hessian this badly conditioned, may be separation.
_SUSPECT_EFFECT = 12.0
_SUSPECT_CONDITION = 1e6


@dataclass(frozen=True)
class Fit:
    """A fitted model as arrays (NumPy, float64).

    theta: covariance parameters, relative to sigma for the Gaussian. beta (p,). phi: dispersion
    parameters on their natural scale, named by phi_names. u, b: conditional modes per grouping
    factor (k, levels), spherical and on the scale of eta. eta: linear predictor at the modes (n,),
    offset included. factors: Lambda per grouping factor on the scale of eta (k, k). scale: what
    theta is relative to, sigma for the Gaussian, else 1. log_likelihood: with every constant.
    vcov: covariance of (theta, beta, phi), nan for parameters of a term on its boundary; at
    nAGQ = 0 beta's part is conditional on theta, as lme4's.
    """

    theta: np.ndarray
    beta: np.ndarray
    phi: np.ndarray
    phi_names: tuple[str, ...]
    u: tuple[np.ndarray, ...]
    b: tuple[np.ndarray, ...]
    eta: np.ndarray
    factors: tuple[np.ndarray, ...]
    scale: float
    log_likelihood: float
    vcov: np.ndarray
    verdict: Verdict
    nAGQ: int
    information: str
    optinfo: dict[str, Any]


def fit_problem(
    problem: Problem,
    *,
    nAGQ: int = 1,
    control: GlmerControl | None = None,
    start: dict | None = None,
    watch: Watch = unwatched,
) -> Fit:
    """Maximise the likelihood. Call it with JAX in float64.

    start: values to begin at, {"theta", "beta", "phi"} (phi on its natural scale), each optional.
    watch: is told of every evaluation of the search.
    Raises `FitError` when no optimiser finds a finite likelihood.
    """
    control = control or GlmerControl()
    objective = OBJECTIVES[nAGQ]
    first = first_params(problem, start)
    outcome = search_optimum(objective, jax.device_put(problem), first, control, watch)
    if not np.isfinite(outcome.search.value):
        raise FitError(
            "the likelihood is not finite at any point that was tried, by either optimiser; check "
            "the response and the scale of the predictors, or give other start values with start="
        )
    problem = outcome.problem
    params, u = params_of(objective, outcome)
    state = jax.device_get(state_at(objective, problem, params, u))
    verdict = outcome.verdict()
    if control.check_separation and _may_be_separated(problem, params, outcome, verdict):
        verdict = outcome.verdict(separated_columns(problem))

    theta_signs, u, factors = _reported_signs(problem, outcome.factors, u)
    factors = tuple(state.scale * factor for factor in factors)
    return Fit(
        theta=params.theta * theta_signs,
        beta=params.beta,
        phi=state.phi,
        phi_names=problem.family.dispersion_names,
        u=u,
        b=tuple(factor @ part for factor, part in zip(factors, u, strict=True)),
        eta=state.eta,
        factors=factors,
        scale=float(state.scale),
        log_likelihood=float(state.log_base - outcome.search.value),
        vcov=_covariance(objective, outcome, theta_signs, state),
        verdict=verdict,
        nAGQ=nAGQ,
        information=problem.information,
        optinfo={
            "optimizer": outcome.optimizer,
            "reason": outcome.reason,
            "path": outcome.path,
            "stopped": outcome.stopped,
            "evaluations": outcome.evaluations,
            "differentiation": problem.differentiation,
        },
    )


def _covariance(
    objective: Objective, outcome: Outcome, theta_signs: np.ndarray, state: State
) -> np.ndarray:
    """Covariance of (theta, beta, phi), nan for the theta of a term on its boundary."""
    d, q = len(outcome.search.x), len(theta_signs)
    searched = np.full((d, d), np.nan)
    if np.all(np.isfinite(outcome.hessian)):
        searched = Curvature.of(outcome.hessian).inverse()
    signs = np.ones(d)
    signs[:q] = theta_signs
    covariance = objective.covariance(
        searched * np.outer(signs, signs), state.beta_information, state.phi_slope
    )
    unknown = np.flatnonzero(outcome.boundary[:q])
    covariance[unknown, :] = covariance[:, unknown] = np.nan
    return covariance


def _reported_signs(
    problem: Problem, factors: tuple[np.ndarray, ...], u: Effects
) -> tuple[np.ndarray, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """The signs theta is reported with, and spherical effects and factors that go with them."""
    theta_signs = np.ones(problem.n_theta)
    flips = [np.ones(len(factor)) for factor in factors]
    for term, where in zip(problem.terms, problem.theta_slices, strict=True):
        structure, columns = STRUCTURES[term.structure], list(term.columns)
        signs = column_signs(factors[term.factor][np.ix_(columns, columns)])
        theta_signs[where] = signs[structure.columns(len(columns))]
        flips[term.factor][columns] = signs
    flipped = tuple(part * flip[:, None] for part, flip in zip(u, flips, strict=True))
    return theta_signs, flipped, tuple(f * flip for f, flip in zip(factors, flips, strict=True))


def _may_be_separated(problem: Problem, params: Params, outcome: Outcome, verdict: Verdict) -> bool:
    """Whether the linear program that looks for separation is worth its time."""
    if not np.any(np.isfinite(problem.family.bounds(np.asarray(problem.trials)))):
        return False
    effect = np.abs(params.beta) * np.sqrt(np.mean(np.asarray(problem.X) ** 2, axis=0))
    condition = Curvature.of(outcome.hessian).condition if outcome.finite else np.inf
    large = bool(np.any(effect > _SUSPECT_EFFECT))
    return not verdict.ok or large or condition > _SUSPECT_CONDITION
