"""From a problem to a fit: arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from mixedlm_jax.climb import Outcome, params_of
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.covariance import STRUCTURES, column_signs
from mixedlm_jax.curvature import Curvature
from mixedlm_jax.design import Design
from mixedlm_jax.elimination import Effects
from mixedlm_jax.errors import FitError
from mixedlm_jax.objective import Objective, objective_for
from mixedlm_jax.problem import Problem
from mixedlm_jax.programs import State, state_at
from mixedlm_jax.progress import Watch, unwatched
from mixedlm_jax.search import search_optimum
from mixedlm_jax.start import first_params
from mixedlm_jax.verdict import Verdict, separated_columns

# A mean this near the end of its range, or a Hessian this badly conditioned, may be separation.
_ALL_BUT = 1e-4
_SUSPECT_CONDITION = 1e6
# Condition of X'X, columns scaled, from which X is exchanged for an orthogonal basis.
_COLLINEAR = 1e4


@dataclass(frozen=True)
class Fit:
    """A fitted model as arrays (NumPy, float64).

    theta: covariance parameters, relative to sigma for the Gaussian. beta (p,). phi: dispersion
    parameters on their natural scale, or coefficients of their linear predictors. u, b: conditional
    modes per grouping factor (k, levels), spherical and on the scale of eta. eta: linear predictor
    at the modes (n,),
    offset included. factors: Lambda per grouping factor on the scale of eta (k, k). scale: what
    theta is relative to, sigma for the Gaussian, else 1. log_likelihood: with every constant.
    vcov: covariance of (theta, beta, phi), nan for parameters of a term on its boundary and for
    dispersion parameters at their limit; at nAGQ = 0 beta's part is conditional on theta, as
    lme4's. dispersion: what multiplies the variance of a quasi family, 1 for all others; the
    log_likelihood of a quasi family is its quasi-likelihood at dispersion 1.
    """

    theta: np.ndarray
    beta: np.ndarray
    phi: np.ndarray
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
    dispersion: float = 1.0


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
    Raises `FitError` when no optimiser finds a finite likelihood, `ArgumentError` for an nAGQ that
    the problem does not allow.
    """
    control = control or GlmerControl()
    objective = objective_for(nAGQ)
    objective.check(problem)
    first = first_params(problem, start)
    given, (problem, back) = problem, conditioned(problem)
    first = first._replace(beta=np.linalg.solve(back, first.beta))
    outcome = search_optimum(
        objective,
        jax.device_put(problem),
        first,
        control,
        watch,
        first_is_given="theta" in (start or {}),
    )
    if not np.isfinite(outcome.search.value):
        raise FitError(
            "the likelihood is not finite at any point that was tried, by either optimiser; check "
            "the response and the scale of the predictors, or give other start values with start="
        )
    problem = outcome.problem
    params, u = params_of(objective, outcome)
    state = jax.device_get(state_at(objective, problem, params, u))
    verdict = outcome.verdict()
    fixed_mean = state.fixed_mean
    if control.check_separation and _may_be_separated(problem, fixed_mean, outcome, verdict):
        verdict = outcome.verdict(separated_columns(given))

    theta_signs, u, factors = _reported_signs(problem, outcome.factors, u)
    factors = tuple(state.unit * factor for factor in factors)
    return Fit(
        theta=params.theta * theta_signs,
        beta=back @ params.beta,
        phi=state.phi,
        u=u,
        b=tuple(factor @ part for factor, part in zip(factors, u, strict=True)),
        eta=state.eta,
        factors=factors,
        scale=float(state.scale),
        log_likelihood=float(state.log_base - outcome.search.value),
        vcov=_covariance(objective, outcome, theta_signs, state, back),
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


def trimmed(fit: Fit, design: Design) -> Fit:
    """The fit of a `padded` design without what was added to the design."""
    sizes = [factor.n_levels for factor in design.factors]
    return replace(
        fit,
        eta=fit.eta[: len(design.y)],
        u=tuple(part[:, :size] for part, size in zip(fit.u, sizes, strict=True)),
        b=tuple(part[:, :size] for part, size in zip(fit.b, sizes, strict=True)),
    )


def conditioned(problem: Problem) -> tuple[Problem, np.ndarray]:
    """The problem with columns of X that can be told apart, and what takes its beta back (p, p).

    Nearly collinear columns (a year and its square) are exchanged for an orthogonal basis of the
    same space: the fit is the same, its Hessian keeps its digits.
    """
    X = np.asarray(problem.X)
    p = X.shape[1]
    scale = np.sqrt(np.einsum("ij,ij->j", X, X) / len(X))
    gram = (X.T @ X) / len(X) / np.outer(scale, scale)
    if p == 0 or np.linalg.cond(gram) < _COLLINEAR:
        return problem, np.eye(p)
    basis, triangle = np.linalg.qr(X / scale)
    size = np.sqrt(len(X))
    back = np.linalg.inv(triangle) * size / scale[:, None]
    return problem.replace(X=basis * size), back


def _covariance(
    objective: Objective,
    outcome: Outcome,
    theta_signs: np.ndarray,
    state: State,
    back: np.ndarray,
) -> np.ndarray:
    """Covariance of (theta, beta, phi), nan for a theta on its boundary and a phi at its limit.

    back: takes the beta that was searched over to the one that is reported.
    """
    q, p = len(theta_signs), len(back)
    covariance = objective.covariance(
        _searched_covariance(outcome), state.beta_information, state.phi_slope
    )
    jacobian = np.eye(len(covariance))
    jacobian[:q, :q] = np.diag(theta_signs)
    jacobian[q : q + p, q : q + p] = back
    covariance = jacobian @ covariance @ jacobian.T
    unknown = np.flatnonzero(outcome.boundary[:q])
    if len(state.phi):
        limited = np.flatnonzero(outcome.limit[-len(state.phi) :])
        unknown = np.append(unknown, len(covariance) - len(state.phi) + limited)
    covariance[unknown, :] = covariance[:, unknown] = np.nan
    return covariance


def _searched_covariance(outcome: Outcome) -> np.ndarray:
    """Inverse Hessian in the searched parameters.

    Flat directions among the parameters on the boundary are left out of what the others lose to
    them; the rest of the boundary's rows and columns is 0, for the caller to declare unknown.
    """
    hessian, limit = outcome.hessian, outcome.limit
    edge = outcome.boundary & ~limit
    if not np.all(np.isfinite(hessian)):
        return np.full(hessian.shape, np.nan)
    inside = ~edge & ~limit  # a dispersion at its limit counts as known
    across = hessian[np.ix_(inside, edge)]
    lost = across @ Curvature.of(hessian[np.ix_(edge, edge)]).pseudo_inverse() @ across.T
    covariance = np.zeros(hessian.shape)
    covariance[np.ix_(inside, inside)] = Curvature.of(
        hessian[np.ix_(inside, inside)] - lost
    ).inverse()
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
        # the sign appended is that of parameters that belong to no column
        theta_signs[where] = np.append(signs, 1.0)[structure.columns(len(columns))]
        flips[term.factor][columns] = signs
    flipped = tuple(part * flip[:, None] for part, flip in zip(u, flips, strict=True))
    return theta_signs, flipped, tuple(f * flip for f, flip in zip(factors, flips, strict=True))


def _may_be_separated(
    problem: Problem, fixed_mean: np.ndarray, outcome: Outcome, verdict: Verdict
) -> bool:
    """Whether the linear program that looks for separation is worth its time.

    fixed_mean: the mean of one trial at X beta + offset (n,). It is, if the fixed effects alone put
    a response at an end of its range all but there, whatever the link.
    """
    y, trials = np.asarray(problem.y), np.asarray(problem.trials)
    low, high = problem.family.bounds(trials)
    if not (np.any(np.isfinite(low)) or np.any(np.isfinite(high))):
        return False
    mean = trials * fixed_mean
    reached = ((y <= low) & (mean - low < _ALL_BUT)) | ((y >= high) & (high - mean < _ALL_BUT))
    used = (np.asarray(problem.weights) > 0) & (trials > 0)
    condition = Curvature.of(outcome.hessian).condition if outcome.finite else np.inf
    return not verdict.ok or bool(np.any(reached & used)) or condition > _SUSPECT_CONDITION
