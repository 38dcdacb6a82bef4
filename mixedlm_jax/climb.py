"""The gradient search: quasi-Newton steps from rough parameters, then Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

from mixedlm_jax.control import GlmerControl
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.curvature import Curvature
from mixedlm_jax.dispersion import at_limit
from mixedlm_jax.elimination import Effects
from mixedlm_jax.objective import Objective
from mixedlm_jax.optimize import Search, begin, bfgs
from mixedlm_jax.problem import Params, Problem, zero_effects
from mixedlm_jax.programs import evaluated, hessian_at, stepped, unit_factors
from mixedlm_jax.progress import Watch, unwatched
from mixedlm_jax.start import inverse_metric, prepare
from mixedlm_jax.verdict import (
    MAX_GAIN,
    SINGULAR,
    Verdict,
    judge,
    scaled_factors,
)

# A point this near (log-likelihood units) leaves standard errors right to about six digits.
_EXACT = 1e-11
_MAX_POLISH = 8
# Two points whose log-likelihoods differ by no more are equally good.
_SAME = 1e-9


@dataclass(frozen=True)
class Outcome:
    """Where a search ended and how it got there.

    hessian: of -log L there, nan where it is not known. factors: Lambda per grouping factor in
    units of the family's `effect_unit`. stopped: how the last optimiser ended. path: the stages
    passed.
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

    @cached_property
    def finite(self) -> bool:
        """Whether value, gradient and Hessian are all finite."""
        parts = (self.search.value, self.search.gradient, self.hessian)
        return all(bool(np.all(np.isfinite(part))) for part in parts)

    @cached_property
    def boundary(self) -> np.ndarray:
        """Which searched parameters belong to a random-effects term on its boundary (d,)."""
        boundary = np.zeros(len(self.search.x), bool)
        for where, block in zip(self.problem.theta_slices, self.scaled_factors, strict=True):
            # random effects that have no variance of their own given the ones before
            boundary[where] = np.any(np.abs(np.diagonal(block)) < SINGULAR)
        return boundary

    @cached_property
    def scaled_factors(self) -> list[np.ndarray]:
        """`verdict.scaled_factors` there."""
        return scaled_factors(self.problem, self.factors)

    @cached_property
    def limit(self) -> np.ndarray:
        """Which searched parameters are dispersion parameters at their limit (d,)."""
        limit = np.zeros(len(self.search.x), bool)
        count = self.problem.n_phi
        if count and self.finite:
            problem, phi = self.problem, np.asarray(self.search.x)[-count:]
            limit[-count:] = at_limit(problem.family, problem.phi_matrices, phi)
        return limit

    def verdict(self, separated: tuple[int, ...] = ()) -> Verdict:
        """`judge` on this point."""
        return judge(
            np.asarray(self.search.gradient),
            self.hessian,
            boundary=self.boundary,
            limit=self.limit,
            separated=separated,
            stopped=self.stopped,
        )


def outcome_of(
    objective: Objective,
    problem: Problem,
    search: Search,
    *,
    hessian: np.ndarray | None = None,
    stopped: str = "start",
    evaluations: int = 0,
    path: tuple[str, ...] = (),
) -> Outcome:
    """The outcome of a search that is at this point; no Hessian: it is not known."""
    if hessian is None:
        hessian = np.full((len(search.x),) * 2, np.nan)
    params, _ = _params_at(objective, problem, search)
    factors = jax.device_get(unit_factors(problem, params))
    return Outcome(problem, search, hessian, factors, stopped, evaluations, path)


def _params_at(objective: Objective, problem: Problem, search: Search) -> tuple[Params, Effects]:
    x, aux = jax.device_get((search.x, search.aux))
    return objective.params_of(problem, x, aux), objective.modes_of(aux)


def params_of(objective: Objective, outcome: Outcome) -> tuple[Params, Effects]:
    """Parameters and spherical modes of an outcome (NumPy)."""
    return _params_at(objective, outcome.problem, outcome.search)


def first_search(objective: Objective, problem: Problem, first: Params, rounds: int = 0) -> Search:
    """A search from rough parameters: beta and modes from a joint fit at the first theta.

    rounds: of Fisher scoring that theta is improved by.
    """
    ready = jax.device_get(prepare(problem, first, np.asarray(rounds)))
    params, modes = first, ready.modes
    if all(np.all(np.isfinite(part)) for part in jax.tree.leaves((ready.first, modes))):
        params = first._replace(theta=ready.first, beta=modes.beta)
    else:
        modes = modes._replace(u=zero_effects(problem), beta=first.beta)
    metric = inverse_metric(*objective.metric_blocks(ready.theta, ready.beta, ready.phi))
    return begin(objective.x_of(params), objective.aux_of(modes), metric)


def climb(
    objective: Objective,
    problem: Problem,
    search: Search,
    control: GlmerControl,
    budget: int,
    watch: Watch = unwatched,
    *,
    source: str = "pirls",
) -> Outcome:
    """Quasi-Newton search, then Newton's method with the exact Hessian until that settles it.

    budget: evaluations it may spend. watch: is told of each. source: where the search comes from,
    the first stage of the path.
    """

    def steps(state: Search, tol: float, most: int) -> tuple[Search, int]:
        reached, spent = stepped(objective, problem, state, tol, 1 if watch.every else most)
        watch(reached, spent)
        return reached, spent

    search, used, stopped = bfgs(steps, search, tol=control.tol, maxfun=budget)
    hessian = hessian_at(objective, problem, search)
    rounds = 0
    while rounds < _MAX_POLISH and used < budget and np.all(np.isfinite(hessian)):
        curvature = Curvature.of(hessian)
        metric = curvature.metric()
        gain = 0.5 * search.gradient @ metric @ search.gradient
        if gain < _EXACT and not curvature.indefinite:
            break
        before = search.x
        if gain < MAX_GAIN and curvature.indefinite:
            search = _off_saddle(steps, search, curvature)
            used += 1
        gain = 0.5 * search.gradient @ metric @ search.gradient
        search = search._replace(inverse=metric, gain=gain, length=np.ones(()))
        search, more, stopped = bfgs(steps, search, tol=_EXACT, maxfun=budget - used)
        used += more
        rounds += 1
        if np.array_equal(before, search.x):
            break
        hessian = hessian_at(objective, problem, search)
    outcome = outcome_of(
        objective,
        problem,
        search,
        hessian=hessian,
        stopped=stopped,
        evaluations=used,
        path=(source, "bfgs") + ("newton",) * bool(rounds),
    )
    return _on_boundary(objective, outcome) if outcome.finite and used < budget else outcome


def _off_saddle(steps: Callable, search: Search, curvature: Curvature) -> Search:
    """Step down the direction of most negative curvature, by about one unit of its scale."""
    length = 1.0 / np.sqrt(-curvature.values[0])
    away = curvature.scale * curvature.vectors[:, 0] * length
    moved, _ = steps(begin(search.x + away, search.aux, search.inverse), 0.0, 1)
    return moved if moved.value < search.value else search


def _on_boundary(objective: Objective, outcome: Outcome) -> Outcome:
    """The same optimum with random effects that have no variance given exactly none.

    A negligible column of Lambda is set to zero, if the likelihood is as good there.
    """
    problem, search = outcome.problem, outcome.search
    params, _ = params_of(objective, outcome)
    theta = np.array(params.theta)
    parts = zip(problem.terms, problem.theta_slices, outcome.scaled_factors, strict=True)
    for term, where, block in parts:
        lengths = np.abs(block).max(axis=0)
        columns = STRUCTURES[term.structure].columns(len(lengths))
        # parameters that belong to no column stay
        vanishing = np.append(lengths < SINGULAR, False)[columns]
        theta[where] = np.where(vanishing, 0.0, theta[where])
    if np.array_equal(theta, params.theta):
        return outcome
    x = objective.x_of(params._replace(theta=theta))
    moved = evaluated(objective, problem, begin(x, search.aux, search.inverse))
    if not moved.value <= search.value + _SAME:
        return outcome
    return outcome_of(
        objective,
        problem,
        moved,
        hessian=outcome.hessian,
        stopped=outcome.stopped,
        evaluations=outcome.evaluations + 1,
        path=outcome.path,
    )
