"""From a problem to a fit: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
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
from mixedlm_jax.families import Family
from mixedlm_jax.objective import Objective, objective_for
from mixedlm_jax.plan import DEFAULT_CROSSING, Crossing
from mixedlm_jax.problem import Params, Problem
from mixedlm_jax.programs import state_at
from mixedlm_jax.progress import Watch, unwatched
from mixedlm_jax.search import search_optimum
from mixedlm_jax.start import first_params
from mixedlm_jax.verdict import (
    ALL_BUT,
    SUSPECT_CONDITION,
    Verdict,
    separated_columns,
    separated_zeros,
    zero_matrix,
)

# Condition of X'X, columns scaled, from which X is exchanged for an orthogonal basis.
_COLLINEAR = 1e4
# Rows that are looked at together, whose arrays stay in the cache.
_ROWS_AT_ONCE = 2**16


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
    lme4's. log_prior: log-density of the prior at the estimates, None without one; the estimates
    maximise its sum with the log-likelihood, and vcov is that of the sum's Hessian. dispersion:
    what multiplies the variance of a quasi family, 1 for all others; the log_likelihood of a quasi
    family is its quasi-likelihood at dispersion 1. log_likelihood_error: its Monte Carlo standard
    error where the Schur complement of crossed factors was not formed, else 0. crossing: when it
    would have been.
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
    log_prior: float | None = None
    log_likelihood_error: float = 0.0
    crossing: Crossing = DEFAULT_CROSSING


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
    begun = begin_fit(problem, start)
    outcome = search_optimum(
        objective, begun.problem, lambda: begun.first, control, watch, given=frozenset(start or ())
    )
    return finish_fit(objective, problem, begun, outcome, nAGQ=nAGQ, control=control)


@dataclass(frozen=True, eq=False)
class Begun:
    """Where a search begins: the problem it is made in, and `conditioned`'s way back to the
    reported beta (p, p).

    rough: gives first parameters, beta as it is reported.
    """

    problem: Problem
    back: np.ndarray
    rough: Callable[[], Params]

    @cached_property
    def first(self) -> Params:
        """Rough parameters in the search's coordinates (NumPy). Raises as `first_params` does."""
        first = self.rough()
        return first._replace(beta=np.linalg.solve(self.back, first.beta))


def begin_fit(problem: Problem, start: dict | None = None) -> Begun:
    """What a search needs; start as in `fit_problem`."""
    host = jax.device_get(problem)  # on a processor these are the same arrays
    searched, back = conditioned(problem)
    placed = jax.device_put(searched)
    if start:
        given = first_params(host, start)
        return Begun(placed, back, lambda: given)
    return Begun(placed, back, lambda: first_params(host, None))


def finish_fit(
    objective: Objective,
    given: Problem,
    begun: Begun,
    outcome: Outcome,
    *,
    nAGQ: int,
    control: GlmerControl,
) -> Fit:
    """The fit that a search's outcome is; given: the problem before it was conditioned.

    Raises `FitError` where its value is not finite.
    """
    back = begun.back
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
    if control.check_separation:
        # a prior holds what the data let go
        held = np.flatnonzero(state.prior_slope != 0.0)
        found = _separated(given, problem, fixed_mean, outcome, verdict)
        separated = tuple(j for j in found if j not in held)
        verdict = outcome.verdict(separated) if separated else verdict

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
        log_likelihood=float(state.log_base - outcome.search.value - state.log_prior),
        vcov=reported_covariance(
            objective, outcome, theta_signs, state.beta_information, state.phi_slope, back
        ),
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
        log_prior=None if problem.prior is None else float(state.log_prior),
        log_likelihood_error=0.5 * float(state.log_determinant_error),
        crossing=control.crossing,
    )


def trimmed(fit: Fit, design: Design, order: np.ndarray | None = None) -> Fit:
    """The fit of a `padded` design without what was added, rows as they stand in the design.

    order: of the rows when it was padded, as there.
    """
    sizes = [factor.n_levels for factor in design.factors]
    eta = fit.eta[: len(design.y)]
    if order is not None:
        given = np.empty_like(eta)
        given[order] = eta
        eta = given
    return replace(
        fit,
        eta=eta,
        u=tuple(part[:, :size] for part, size in zip(fit.u, sizes, strict=True)),
        b=tuple(part[:, :size] for part, size in zip(fit.b, sizes, strict=True)),
    )


def conditioned(problem: Problem) -> tuple[Problem, np.ndarray]:
    """The problem with columns of X that can be told apart, and what takes its beta back (p, p).

    Nearly collinear columns (a year and its square) are exchanged for an orthogonal basis of the
    same space: the fit is the same, its Hessian keeps its digits. With a prior they stay: it is one
    of these coefficients.
    """
    X = np.asarray(problem.X)
    p = X.shape[1]
    if problem.prior is not None:
        return problem, np.eye(p)
    gram = (X.T @ X) / len(X)
    scale = np.sqrt(np.diagonal(gram))
    gram /= np.outer(scale, scale)
    if p == 0 or np.linalg.cond(gram) < _COLLINEAR:
        return problem, np.eye(p)
    basis, triangle = np.linalg.qr(X / scale)
    size = np.sqrt(len(X))
    back = np.linalg.inv(triangle) * size / scale[:, None]
    return problem.replace(X=basis * size), back


def reported_covariance(
    objective: Objective,
    outcome: Outcome,
    theta_signs: np.ndarray,
    beta_information: np.ndarray | None,
    phi_slope: np.ndarray,
    back: np.ndarray,
) -> np.ndarray:
    """Covariance of (theta, beta, phi), nan for a theta on its boundary and a phi at its limit.

    beta_information, phi_slope: as in `programs.State`. back: takes the beta that was searched
    over to the one that is reported.
    """
    q, p, r = len(theta_signs), len(back), len(phi_slope)
    covariance = objective.covariance(_searched_covariance(outcome), beta_information, phi_slope)
    jacobian = np.eye(len(covariance))
    jacobian[:q, :q] = np.diag(theta_signs)
    jacobian[q : q + p, q : q + p] = back
    covariance = jacobian @ covariance @ jacobian.T
    covariance = 0.5 * (covariance + covariance.T)  # rounding need not be symmetric
    unknown = np.flatnonzero(outcome.boundary[:q])
    if r:
        unknown = np.append(unknown, len(covariance) - r + np.flatnonzero(outcome.limit[-r:]))
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


def _separated(
    given: Problem, problem: Problem, fixed_mean: np.ndarray, outcome: Outcome, verdict: Verdict
) -> tuple[int, ...]:
    """Which of (beta, phi) grow without bound, looked for where that is worth its time.

    fixed_mean: the mean of one trial at X beta + offset (n,).
    """
    condition = Curvature.of(outcome.hessian).condition if outcome.finite else np.inf
    suspect = not verdict.ok or condition > SUSPECT_CONDITION
    found: tuple[int, ...] = ()
    if suspect or _at_an_end(problem, fixed_mean):
        found = separated_columns(given)
    matrix, count = zero_matrix(problem), problem.n_phi
    if matrix is not None and not outcome.limit[-1]:
        first = len(outcome.search.x) - matrix.shape[1]
        zeta = matrix @ np.asarray(outcome.search.x)[first:]
        used = np.asarray(problem.weights) > 0
        if suspect or np.max(np.abs(zeta[used])) > -np.log(ALL_BUT):
            offset = problem.X.shape[1] + count - matrix.shape[1]
            found += tuple(offset + j for j in separated_zeros(given))
    return found


def _at_an_end(problem: Problem, fixed_mean: np.ndarray) -> bool:
    """Whether the fixed effects alone put a response at an end of its range all but there."""
    rows = [np.asarray(part) for part in (problem.y, problem.trials, problem.weights, fixed_mean)]
    parts = range(0, len(fixed_mean), _ROWS_AT_ONCE)
    return any(
        _are_at_an_end(problem.family, *(own[first : first + _ROWS_AT_ONCE] for own in rows))
        for first in parts
    )


def _are_at_an_end(
    family: Family, y: np.ndarray, trials: np.ndarray, weights: np.ndarray, fixed_mean: np.ndarray
) -> bool:
    low, high = family.bounds(trials)
    mean = trials * fixed_mean
    near_low, near_high = mean - low < ALL_BUT, high - mean < ALL_BUT
    if not (np.any(near_low) or np.any(near_high)):
        return False
    reached = ((y <= low) & near_low) | ((y >= high) & near_high)
    return bool(np.any(reached & (weights > 0) & (trials > 0)))
