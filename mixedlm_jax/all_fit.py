"""One model by every optimiser there is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from mixedlm_jax.buckets import padded
from mixedlm_jax.climb import Outcome, climb, first_search, outcome_of
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.dispersion import phi_names
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.fit import Begun, Fit, begin_fit, finish_fit, trimmed
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.inference import standard_errors
from mixedlm_jax.minimisers import Target, available
from mixedlm_jax.names import theta_names
from mixedlm_jax.noted import NotedFrame
from mixedlm_jax.objective import Objective, objective_for
from mixedlm_jax.optimize import Search, begin
from mixedlm_jax.problem import make_problem
from mixedlm_jax.programs import evaluated, hessian_at, objective_value
from mixedlm_jax.report import Convergence
from mixedlm_jax.threads import single_blas_thread

OWN = "own BFGS"
_AS_HIGH = 1e-3  # log-likelihood units


def fit_by_all(model: Fitted, data: Any = None) -> NotedFrame:
    """The table of `allFit`."""
    if model.refitted and data is not None:
        raise ArgumentError("this model was refitted to another response: leave data= out")
    call, design, labels = model.call, model.design, model.labels
    if data is not None and data is not call.data:
        call = replace(call, data=data)
        design, labels = call.build()
    nAGQ, control = int(call.nAGQ), call.control or GlmerControl()
    objective = objective_for(nAGQ)
    fits: dict[str, Fit] = {}
    seconds: dict[str, float] = {}
    with single_blas_thread(), jax.enable_x64(True):
        given = make_problem(padded(design), call.family, information=control.information)
        begun = begin_fit(given)
        first = first_search(objective, begun.problem, begun.first)
        _compile(objective, begun, first)
        searches: dict[str, Callable[[], Outcome]] = {
            OWN: lambda: climb(objective, begun.problem, first, control, control.maxfun)
        }
        for name, minimise in available().items():
            searches[name] = _search(objective, begun, first, control, minimise)
        for name, search in searches.items():
            before = time.perf_counter()
            outcome = search()
            seconds[name] = time.perf_counter() - before
            if np.isfinite(outcome.search.value):
                fit = finish_fit(objective, given, begun, outcome, nAGQ=nAGQ, control=control)
                fits[name] = trimmed(fit, design)
    return _table(Fitted(call, design, labels, model.fit), fits, seconds)


def _compile(objective: Objective, begun: Begun, first: Search) -> None:
    """Have every program ready, so that no optimiser's time has the compiling in it."""
    here = evaluated(objective, begun.problem, first)
    hessian_at(objective, begun.problem, here)
    objective_value(objective, begun.problem, here.x, here.aux)


def _search(
    objective: Objective,
    begun: Begun,
    first: Search,
    control: GlmerControl,
    minimise: Callable[[Target], np.ndarray],
) -> Callable[[], Outcome]:
    """A search by a library's minimiser, from the same start and in the same metric."""
    problem, d = begun.problem, len(first.x)
    still = np.zeros((d, d))

    def at(x: np.ndarray) -> Search:
        return evaluated(objective, problem, begin(x, first.aux, still))

    def look(x: np.ndarray) -> tuple[float, np.ndarray]:
        found = at(x)
        return float(found.value), np.asarray(found.gradient)

    def run() -> Outcome:
        target = Target(
            x0=np.asarray(first.x),
            scale=np.linalg.cholesky(np.asarray(first.inverse)),
            look=look,
            bend=lambda x: hessian_at(objective, problem, at(x)),
            value=lambda x: float(objective_value(objective, problem, x, first.aux)),
            maxfun=control.maxfun,
        )
        end = at(minimise(target))
        return outcome_of(
            objective,
            problem,
            end,
            hessian=hessian_at(objective, problem, end),
            stopped="limit" if target.evaluations >= control.maxfun else "converged",
            evaluations=target.evaluations,
        )

    return run


def _table(model: Fitted, fits: dict[str, Fit], seconds: dict[str, float]) -> NotedFrame:
    if not fits:
        raise ArgumentError("no optimiser found a finite likelihood for this model")
    best = max(fits, key=lambda name: fits[name].log_likelihood)
    top = fits[best]
    errors = standard_errors(top.vcov)
    names = [
        *theta_names(model.design, model.labels),
        *model.labels.fixed,
        *phi_names(model.family, model.labels.parts),
    ]
    rows: list[dict[str, Any]] = []
    for name, fit in fits.items():
        values = _values(fit)
        apart = np.abs(values - _values(top)) / np.where(errors > 0.0, errors, np.nan)
        known = apart[np.isfinite(apart)]
        verdict = Convergence.of(fit.verdict, model.labels.fixed)
        rows.append(
            {
                "logLik": fit.log_likelihood,
                "verdict": "; ".join(
                    ["converged" if verdict.ok else "not converged", *verdict.messages]
                ),
                "seconds": seconds[name],
                "evaluations": fit.optinfo["evaluations"],
                "disagreement": float(known.max(initial=0.0)),
                **dict(zip(names, map(float, values), strict=True)),
            }
        )
    high = top.log_likelihood - _AS_HIGH
    as_high = [row["disagreement"] for row in rows if row["logLik"] >= high]
    behind = [name for name, fit in fits.items() if fit.log_likelihood < high]
    notes = [
        f"Highest log-likelihood: {best}. Those within {_AS_HIGH:g} of it disagree by at most "
        f"{max(as_high):.1e} standard errors."
    ]
    notes += [f"Stopped short or elsewhere: {', '.join(behind)}."] if behind else []
    notes += [f"Without a finite likelihood: {n}." for n in seconds if n not in fits]
    return NotedFrame.of(rows, notes, index=list(fits))


def _values(fit: Fit) -> np.ndarray:
    return np.concatenate([fit.theta, fit.beta, fit.phi])
