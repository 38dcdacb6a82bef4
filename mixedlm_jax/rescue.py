"""The search without gradients, for when they fail or are not wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mixedlm_jax.climb import Outcome, climb, first_search, outcome_of
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.objective import Objective
from mixedlm_jax.optimize import Search, begin, central_differences, derivative_free
from mixedlm_jax.problem import Params, Problem
from mixedlm_jax.programs import modes_at, objective_value
from mixedlm_jax.progress import Watch, unwatched


def without_gradients(
    objective: Objective, outcome: Outcome, control: GlmerControl, watch: Watch = unwatched
) -> Outcome:
    """A derivative-free search from an outcome, then Newton steps with what budget is left."""
    problem, search = outcome.problem, outcome.search
    found = derivative_free(
        _values(objective, problem, search, watch),
        np.asarray(search.x),
        np.linalg.cholesky(np.asarray(search.inverse)),
        maxfun=max(control.maxfun - outcome.evaluations, 1),
    )
    used = outcome.evaluations + found.evaluations
    path = (*outcome.path, found.method)
    if not np.isfinite(found.value):
        return replace(outcome, evaluations=used, path=path, optimizer=found.method)
    # one evaluation more than the limit, where it is reached: the verdict needs a gradient
    budget = max(control.maxfun - used, 1)
    begun = begin(found.x, search.aux, search.inverse)
    polished = climb(objective, problem, begun, control, budget, watch)
    return replace(
        polished,
        optimizer=found.method,
        stopped="limit" if used >= control.maxfun else polished.stopped,
        evaluations=used + polished.evaluations,
        path=(*path, "newton"),
    )


def without_derivatives(
    objective: Objective,
    failed: Outcome,
    first: Params,
    control: GlmerControl,
    watch: Watch = unwatched,
) -> Outcome:
    """A derivative-free search of a likelihood that autodiff makes not finite.

    The derivatives of the rows' log-densities in eta are taken by differences, and so are gradient
    and Hessian of the result.
    """
    problem = failed.problem.replace(differentiation="numerical")
    search = first_search(objective, problem, first)
    scale = np.linalg.cholesky(np.asarray(search.inverse))
    value = _values(objective, problem, search, watch)
    found = derivative_free(
        value,
        np.asarray(search.x),
        scale,
        maxfun=max(control.maxfun - failed.evaluations, 1),
    )
    used = failed.evaluations + found.evaluations
    path = (*failed.path, found.method)
    if not np.isfinite(found.value):
        return replace(failed, evaluations=used, path=path, optimizer=found.method)
    gradient, hessian = central_differences(value, found.x, scale)
    aux = modes_at(objective, problem, found.x, search.aux)
    ended = search._replace(x=found.x, value=found.value, gradient=gradient, aux=aux)
    outcome = outcome_of(
        objective,
        problem,
        ended,
        hessian=hessian,
        stopped="limit" if used >= control.maxfun else "converged",
        evaluations=used,
        path=path,
    )
    return replace(outcome, optimizer=found.method)


def _values(
    objective: Objective, problem: Problem, search: Search, watch: Watch
) -> Callable[[np.ndarray], float]:
    """The objective's value as a function of x alone, modes sought from those of `search`."""

    def value(x: np.ndarray) -> float:
        found = float(objective_value(objective, problem, x, search.aux))
        watch(search._replace(x=x, value=found, gain=np.nan))
        return found

    return value
