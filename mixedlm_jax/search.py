"""The search for an optimum: quasi-Newton from rough parameters, Newton with the exact Hessian,
and a derivative-free rescue. What is compiled for a fit is compiled here and in `start`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.elimination import Effects, predictor
from mixedlm_jax.errors import Code
from mixedlm_jax.modes import border
from mixedlm_jax.objective import Objective
from mixedlm_jax.optimize import (
    Search,
    advance,
    begin,
    bfgs,
    central_differences,
    derivative_free,
)
from mixedlm_jax.problem import (
    Params,
    Problem,
    covariance_factors,
    fixed_predictor,
    random_rows,
    row_terms,
    zero_effects,
)
from mixedlm_jax.start import inverse_metric, prepare
from mixedlm_jax.verdict import (
    MAX_GAIN,
    SINGULAR,
    Curvature,
    Verdict,
    judge,
    scaled_factor,
    singular_columns,
)

# A point this near (log-likelihood units) leaves standard errors right to about six digits.
_EXACT = 1e-11
_MAX_POLISH = 8
# Rows x directions of a Hessian that are pushed forward at once: bounds its memory.
_HESSIAN_ROWS = 1_000_000
# A random effect that moves eta by more than this many units (one sd) deserves a second start.
_ODD_SD = 8.0
# Two points whose log-likelihoods differ by no more are equally good.
_SAME = 1e-9


@partial(jax.jit, static_argnames="objective")
def take_step(objective: Objective, problem: Problem, search: Search) -> Search:
    """One compiled step of the outer search."""
    return advance(lambda x, aux: objective.evaluate(problem, x, aux), search)


@partial(jax.jit, static_argnames="objective")
def objective_value(objective: Objective, problem: Problem, x: Array, aux: Any) -> Array:
    """-log L without the base measure."""
    return objective.value(problem, x, aux)


@partial(jax.jit, static_argnames=("objective", "at_once"))
def exact_hessian(
    objective: Objective, problem: Problem, x: Array, aux: Any, at_once: int
) -> Array:
    """Hessian of -log L in x, `at_once` columns at a time."""
    _, push = jax.linearize(lambda point: objective.evaluate(problem, point, aux)[1], x)
    return jax.lax.map(push, jnp.eye(len(x), dtype=x.dtype), batch_size=at_once)


class State(NamedTuple):
    """What a point and its modes amount to."""

    eta: Array  # (n,)
    scale: Array  # what theta is relative to: sigma for the Gaussian, else 1
    phi: Array  # on its natural scale
    phi_slope: Array  # its Jacobian in the unconstrained coordinates
    log_base: Array  # what the objective leaves out of the log-likelihood
    beta_information: Array | None  # of beta, given theta (p, p), if the objective wants it


@partial(jax.jit, static_argnames="objective")
def state_at(objective: Objective, problem: Problem, params: Params, u: Effects) -> State:
    """Predictor and dispersion at a point, given the modes there."""
    z = random_rows(problem, params)
    eta = fixed_predictor(problem, params.beta) + predictor(problem.plan, z, u)
    information = None
    if objective.beta_is_conditional:
        weight = row_terms(problem, eta, params.phi).weight
        information = border(problem, z, weight).information
    return State(
        eta=eta,
        scale=jnp.asarray(problem.family.ranef_scale(params.phi), eta.dtype),
        phi=problem.family.dispersion(params.phi),
        phi_slope=jax.jacfwd(problem.family.dispersion)(params.phi),
        log_base=problem.log_base,
        beta_information=information,
    )


@jax.jit
def relative_factors(problem: Problem, params: Params) -> tuple[Array, ...]:
    """Lambda per grouping factor (k, k), relative to the Gaussian's sigma as theta is."""
    scale = problem.family.ranef_scale(params.phi)
    return tuple(factor / scale for factor in covariance_factors(problem, params))


@dataclass(frozen=True)
class Outcome:
    """Where a search ended and how it got there.

    hessian: of -log L there, nan where it is not known. factors: Lambda per grouping factor,
    relative as theta is. stopped: how the last optimiser ended. path: the stages passed.
    """

    problem: Problem
    search: Search
    hessian: np.ndarray
    factors: tuple[np.ndarray, ...]
    stopped: str
    evaluations: int
    path: tuple[str, ...]
    optimizer: str = "bfgs"
    reason: str = "the default"

    @property
    def finite(self) -> bool:
        """Whether value, gradient and Hessian are all finite."""
        parts = (self.search.value, self.search.gradient, self.hessian)
        return all(bool(np.all(np.isfinite(part))) for part in parts)

    @property
    def boundary(self) -> np.ndarray:
        """Which searched parameters belong to a random-effects term on its boundary (d,)."""
        boundary = np.zeros(len(self.search.x), bool)
        singular = singular_columns(self.problem, self.factors)
        for where, columns in zip(self.problem.theta_slices, singular, strict=True):
            boundary[where] = np.any(columns)
        return boundary

    def verdict(self, separated: tuple[int, ...] = ()) -> Verdict:
        """`judge` on this point."""
        return judge(
            np.asarray(self.search.gradient),
            self.hessian,
            boundary=self.boundary,
            separated=separated,
            stopped=self.stopped,
        )


def search_optimum(
    objective: Objective, problem: Problem, first: Params, control: GlmerControl
) -> Outcome:
    """The optimum from rough parameters, by gradients, or without them where those fail."""
    search = first_search(objective, problem, first)
    if control.optimizer == "bobyqa":
        unknown = np.full((len(search.x),) * 2, np.nan)
        begun = _outcome(objective, problem, search, unknown, "start", 0, ())
        return replace(rescue(objective, begun, first, control), reason="asked for")
    outcome = climb(objective, problem, search, control)
    outcome = _second_opinion(objective, outcome, first, control)
    if outcome.stopped == "limit" or _acceptable(outcome):
        return outcome
    saved = rescue(objective, outcome, first, control)
    return replace(saved, reason=f"the gradient path failed ({outcome.stopped})")


def first_search(objective: Objective, problem: Problem, first: Params) -> Search:
    """A search from rough parameters: beta and modes from a joint fit at the first theta."""
    ready = jax.device_get(prepare(problem, first))
    params, modes = first, ready.modes
    if all(np.all(np.isfinite(part)) for part in jax.tree.leaves(modes)):
        params = first._replace(beta=modes.beta)
    else:
        modes = modes._replace(u=zero_effects(problem), beta=first.beta)
    metric = inverse_metric(*objective.metric_blocks(ready.theta, ready.beta, ready.phi))
    return begin(objective.x_of(params), objective.aux_of(modes), metric)


def climb(objective: Objective, problem: Problem, search: Search, control: GlmerControl) -> Outcome:
    """Quasi-Newton search, then Newton's method with the exact Hessian until that settles it."""

    def step(state):
        return take_step(objective, problem, state)

    search, used, stopped = bfgs(step, search, tol=control.tol, maxfun=control.maxfun)
    hessian = hessian_at(objective, problem, search)
    rounds = 0
    while rounds < _MAX_POLISH and used < control.maxfun and np.all(np.isfinite(hessian)):
        curvature = Curvature.of(hessian)
        metric = curvature.metric()
        gain = 0.5 * search.gradient @ metric @ search.gradient
        if gain < _EXACT and not curvature.indefinite:
            break
        before = search.x
        if gain < MAX_GAIN and curvature.indefinite:
            search = _off_saddle(step, search, curvature)
            used += 1
        gain = 0.5 * search.gradient @ metric @ search.gradient
        search = search._replace(inverse=metric, gain=gain, length=np.ones(()))
        search, more, stopped = bfgs(step, search, tol=_EXACT, maxfun=control.maxfun - used)
        used += more
        rounds += 1
        if np.array_equal(before, search.x):
            break
        hessian = hessian_at(objective, problem, search)
    path = ("pirls", "bfgs") + ("newton",) * bool(rounds)
    outcome = _outcome(objective, problem, search, hessian, stopped, used, path)
    return _on_boundary(objective, outcome) if outcome.finite else outcome


def _outcome(
    objective: Objective,
    problem: Problem,
    search: Search,
    hessian: np.ndarray,
    stopped: str,
    used: int,
    path: tuple[str, ...],
    optimizer: str = "bfgs",
) -> Outcome:
    """An outcome with the covariance factors of its point."""
    x, aux = jax.device_get((search.x, search.aux))
    params = objective.params_of(problem, x, aux)
    factors = jax.device_get(relative_factors(problem, params))
    return Outcome(problem, search, hessian, factors, stopped, used, path, optimizer)


def _on_boundary(objective: Objective, outcome: Outcome) -> Outcome:
    """The same optimum with random effects that have no variance given exactly none.

    A negligible column of Lambda is set to zero, if the likelihood is as good there.
    """
    problem, search = outcome.problem, outcome.search
    params, _ = _params_of(objective, outcome)
    theta = np.array(params.theta)
    for term, where in zip(problem.terms, problem.theta_slices, strict=True):
        lengths = np.abs(scaled_factor(problem, outcome.factors, term)).max(axis=0)
        columns = STRUCTURES[term.structure].columns(len(lengths))
        theta[where] = np.where(lengths[columns] < SINGULAR, 0.0, theta[where])
    if np.array_equal(theta, params.theta):
        return outcome
    x = objective.x_of(params._replace(theta=theta))
    moved = take_step(objective, problem, begin(x, search.aux, search.inverse))
    if not moved.value <= search.value + _SAME:
        return outcome
    return _outcome(
        objective,
        problem,
        moved,
        outcome.hessian,
        outcome.stopped,
        outcome.evaluations + 1,
        outcome.path,
    )


def _off_saddle(step: Callable[[Search], Search], search: Search, curvature: Curvature) -> Search:
    """Step down the direction of most negative curvature, by about one unit of its scale."""
    length = 1.0 / np.sqrt(-curvature.values[0])
    away = curvature.scale * curvature.vectors[:, 0] * length
    moved = step(begin(search.x + away, search.aux, search.inverse))
    return moved if moved.value < search.value else search


def hessian_at(objective: Objective, problem: Problem, search: Search) -> np.ndarray:
    """The exact Hessian at a search's point (nan where the value is not finite).

    Its memory is bounded by `_HESSIAN_ROWS`.
    """
    d, n = len(search.x), len(problem.y)
    if not np.isfinite(search.value):
        return np.full((d, d), np.nan)
    at_once = int(np.clip(_HESSIAN_ROWS // n, 1, d))
    hessian = np.asarray(exact_hessian(objective, problem, search.x, search.aux, at_once))
    return 0.5 * (hessian + hessian.T)


def _params_of(objective: Objective, outcome: Outcome) -> tuple[Params, Effects]:
    """Parameters and spherical modes of an outcome (NumPy)."""
    x, aux = jax.device_get((outcome.search.x, outcome.search.aux))
    return objective.params_of(outcome.problem, x, aux), objective.modes_of(aux)


def point_of(objective: Objective, outcome: Outcome) -> tuple[Params, Effects, State]:
    """Parameters, spherical modes and state of an outcome (NumPy)."""
    params, u = _params_of(objective, outcome)
    return params, u, jax.device_get(state_at(objective, outcome.problem, params, u))


def _acceptable(outcome: Outcome) -> bool:
    """Whether the gradient path ended somewhere that a derivative-free search cannot improve."""
    if not outcome.finite:
        return False
    verdict = outcome.verdict()
    return verdict.ok or verdict.code == Code.ILL_CONDITIONED


def _second_opinion(
    objective: Objective, outcome: Outcome, first: Params, control: GlmerControl
) -> Outcome:
    """A second start from small random effects where the first optimum looks odd; the better one.

    Nested binary data with tiny clusters have several optima, one of them at an absurd sd.
    """
    problem = outcome.problem
    if outcome.stopped == "limit" or not np.isfinite(outcome.search.value):
        return outcome
    odd = not outcome.finite or Curvature.of(outcome.hessian).indefinite
    for term in problem.terms:
        sd = np.sqrt(np.sum(scaled_factor(problem, outcome.factors, term) ** 2, axis=1))
        odd = odd or bool(np.any(sd > _ODD_SD))
    if not odd:
        return outcome
    search = first_search(objective, problem, first._replace(theta=0.2 * first.theta))
    other = climb(objective, problem, search, control)
    better = other.finite and (
        not outcome.finite or other.search.value < outcome.search.value - MAX_GAIN
    )
    chosen = other if better else outcome
    return replace(
        chosen,
        evaluations=outcome.evaluations + other.evaluations,
        path=(*chosen.path, "second start"),
    )


def rescue(objective: Objective, failed: Outcome, first: Params, control: GlmerControl) -> Outcome:
    """A derivative-free search from the best point known, then Newton steps where they work.

    Where the likelihood itself came out not finite, the derivatives of the rows in eta are taken
    numerically, and so are gradient and Hessian of the result.
    """
    problem, search = failed.problem, failed.search
    if failed.stopped != "start" and not failed.finite:
        problem = problem.replace(differentiation="numerical")
        search = first_search(objective, problem, first)
    scale = np.linalg.cholesky(np.asarray(search.inverse))

    def value(x):
        return objective_value(objective, problem, x, search.aux)

    found = derivative_free(
        value, np.asarray(search.x), scale, maxfun=max(control.maxfun - failed.evaluations, 1)
    )
    used = failed.evaluations + found.evaluations
    path = (*failed.path, found.method)
    spent = used >= control.maxfun
    if not np.isfinite(found.value):
        return failed
    if problem.differentiation == "numerical":
        gradient, hessian = central_differences(value, found.x, scale)
        aux = modes_at(objective, problem, found.x, search.aux)
        ended = search._replace(x=found.x, value=found.value, gradient=gradient, aux=aux)
        stopped = "limit" if spent else "converged"
        return _outcome(
            objective, problem, ended, hessian, stopped, used, path, optimizer=found.method
        )
    ended = begin(found.x, search.aux, search.inverse)
    remaining = replace(control, maxfun=max(control.maxfun - used, 1))
    polished = climb(objective, problem, ended, remaining)
    return replace(
        polished,
        optimizer=found.method,
        stopped="limit" if spent else polished.stopped,
        evaluations=used + polished.evaluations,
        path=(*path, "newton"),
    )


@partial(jax.jit, static_argnames="objective")
def modes_at(objective: Objective, problem: Problem, x: Array, aux: Any) -> Any:
    """The modes at x."""
    return objective.evaluate(problem, x, aux)[2]
