"""Which search is taken: by gradients, from a second start, or without them."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import replace

import jax
import numpy as np

from mixedlm_jax.climb import Outcome, climb, first_search, outcome_of, params_of
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.curvature import Curvature
from mixedlm_jax.errors import Code, DataError
from mixedlm_jax.fewer import fewer_groups
from mixedlm_jax.modes import JointModes
from mixedlm_jax.objective import Objective
from mixedlm_jax.optimize import Search, begin
from mixedlm_jax.problem import Params, Problem, zero_effects
from mixedlm_jax.progress import Watch, unwatched
from mixedlm_jax.rescue import without_derivatives, without_gradients
from mixedlm_jax.start import SCORING_ROUNDS, first_params
from mixedlm_jax.verdict import MAX_GAIN

# Where the response is bounded, a random effect that moves eta by more than this (one sd) says
# that almost every group is all one value: a reason to start again.
ODD_SD = 8.0


def search_optimum(
    objective: Objective,
    problem: Problem,
    first: Callable[[], Params],
    control: GlmerControl,
    watch: Watch = unwatched,
    *,
    given: Set[str] = frozenset(),
) -> Outcome:
    """The optimum from rough parameters, by gradients, or without them where those fail.

    first: gives these, and is asked where they are needed. given: which of them, "theta", "beta"
    and "phi", are somebody's: the search begins there.
    """
    def from_rough() -> Search:
        rounds = 0 if "theta" in given else SCORING_ROUNDS
        return first_search(objective, problem, first(), rounds)

    search, source = None, "fewer groups"
    if not given and control.optimizer == "bfgs":
        search = from_fewer_groups(objective, problem, control)
    if search is None:
        search, source = from_rough(), "pirls"
    if control.optimizer == "bobyqa":
        begun = outcome_of(objective, problem, search)
        return replace(without_gradients(objective, begun, control, watch), reason="asked for")
    outcome = climb(objective, problem, search, control, control.maxfun, watch, source=source)
    if outcome.stopped == "not finite" and source == "fewer groups":
        # rows that are not among the few may lie outside the link's domain there
        outcome = climb(objective, problem, from_rough(), control, control.maxfun, watch)
    if outcome.stopped != "limit" and looks_odd(outcome):
        outcome = second_start(objective, outcome, first(), control, watch)
    if outcome.stopped == "limit" or _acceptable(outcome):
        return outcome
    reason = f"the gradient path failed ({outcome.stopped})"
    if outcome.finite:
        return replace(without_gradients(objective, outcome, control, watch), reason=reason)
    return replace(without_derivatives(objective, outcome, first(), control, watch), reason=reason)


def from_fewer_groups(
    objective: Objective, problem: Problem, control: GlmerControl
) -> Search | None:
    """A search that begins at the optimum of `fewer_groups`, None where there is no such thing.

    The search of the few is part of finding a start: it is not watched, nor counted.
    """
    if problem.plan.kept:
        return None
    whole = jax.device_get(problem)
    few = fewer_groups(whole)
    if few is None:
        return None
    try:
        first = first_params(few, None)
    except DataError:
        return None
    few = jax.device_put(few)
    search = first_search(objective, few, first, SCORING_ROUNDS)
    outcome = climb(objective, few, search, control, control.maxfun)
    if not outcome.finite or not outcome.verdict().ok or looks_odd(outcome):
        return None
    if np.any(outcome.boundary | outcome.limit):
        return None  # theta = 0 is stationary, for the whole too
    params, _ = params_of(objective, outcome)
    modes = JointModes(zero_effects(whole), params.beta)
    share = np.count_nonzero(few.weights) / np.count_nonzero(whole.weights)
    metric = share * Curvature.of(outcome.hessian).metric()
    return begin(objective.x_of(params), objective.aux_of(modes), metric)


def _acceptable(outcome: Outcome) -> bool:
    """Whether the gradient path ended somewhere that a derivative-free search cannot improve."""
    if not outcome.finite:
        return False
    verdict = outcome.verdict()
    return verdict.ok or verdict.code == Code.ILL_CONDITIONED


def looks_odd(outcome: Outcome) -> bool:
    """Whether an optimum gives reason to look for another one."""
    problem = outcome.problem
    if not outcome.finite:
        return False
    if Curvature.of(outcome.hessian).indefinite:
        return True
    bounds = problem.family.bounds(np.asarray(problem.trials))
    if not any(np.any(np.isfinite(bound)) for bound in bounds):
        return False
    blocks = outcome.scaled_factors
    return any(bool(np.any(np.sum(block**2, axis=1) > ODD_SD**2)) for block in blocks)


def second_start(
    objective: Objective,
    outcome: Outcome,
    first: Params,
    control: GlmerControl,
    watch: Watch = unwatched,
) -> Outcome:
    """The better of an outcome and that of a search from small random effects.

    Nested binary data with tiny clusters have several optima, one of them at an absurd sd.
    """
    budget = control.maxfun - outcome.evaluations
    if budget < 1:
        return outcome
    problem = outcome.problem
    search = first_search(objective, problem, first._replace(theta=0.2 * first.theta))
    other = climb(objective, problem, search, control, budget, watch)
    better = other.finite and other.search.value < outcome.search.value - MAX_GAIN
    chosen = other if better else outcome
    return replace(
        chosen,
        evaluations=outcome.evaluations + other.evaluations,
        path=(*chosen.path, "second start"),
    )
