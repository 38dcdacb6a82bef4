"""Is this an optimum? Judged from gradient and exact Hessian, in log-likelihood units."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np

from mixedlm_jax.curvature import Curvature
from mixedlm_jax.errors import Code
from mixedlm_jax.problem import Problem

MAX_GAIN = 1e-6  # log-likelihood units that an optimum may still promise
MAX_CONDITION = 1e10  # of the Hessian scaled to a unit diagonal
SINGULAR = 1e-4  # of a random effect's own standard deviation, in the family's `effect_unit`


@dataclass(frozen=True)
class Verdict:
    """How near a fit is to an optimum, and what is wrong with it if anything is.

    `decrement` is the gain in log-likelihood that a Newton step predicts. `separated` numbers the
    columns of X whose coefficient grows without bound. A singular fit at its optimum is ok.
    """

    ok: bool
    singular: bool
    separated: tuple[int, ...]
    decrement: float
    code: Code
    messages: tuple[str, ...]


def scaled_factors(problem: Problem, factors: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """Per term its Lambda with each row times the root mean square of its covariate.

    factors: Lambda per grouping factor in units of the family's `effect_unit`; so is the result.
    """
    blocks = []
    for term in problem.terms:
        columns = list(term.columns)
        own = factors[term.factor][np.ix_(columns, columns)]
        blocks.append(own * problem.effect_sizes(term)[:, None])
    return blocks


def judge(
    gradient: np.ndarray,
    hessian: np.ndarray,
    *,
    boundary: np.ndarray,
    limit: np.ndarray | None = None,
    separated: tuple[int, ...] = (),
    stopped: str = "converged",
) -> Verdict:
    """The verdict on a point from the gradient and Hessian of -log L there.

    boundary: (d,) bool, parameters of a random-effects term on its boundary, where a flat or
    vanishing curvature is no fault. limit: (d,) bool, dispersion parameters at their limit, which
    count as known. stopped: how the optimiser ended.
    """
    singular, limited = bool(np.any(boundary)), limit is not None and bool(np.any(limit))
    if limit is not None:
        gradient, hessian = gradient[~limit], hessian[np.ix_(~limit, ~limit)]
        boundary = boundary[~limit]
    if not (np.all(np.isfinite(hessian)) and np.all(np.isfinite(gradient))):
        code = Code.NOT_FINITE
        return Verdict(False, singular, separated, float("inf"), code, (code.message,))
    decrement = float(0.5 * gradient @ Curvature.of(hessian).metric() @ gradient)
    inside = Curvature.of(hessian[np.ix_(~boundary, ~boundary)])
    codes = []
    if separated:
        codes.append(Code.SEPARATED)
    if not decrement <= MAX_GAIN:
        codes.append(Code.EVALUATION_LIMIT if stopped == "limit" else Code.NOT_AT_OPTIMUM)
    if inside.indefinite or Curvature.of(hessian).indefinite:
        codes.append(Code.INDEFINITE)
    elif not separated and inside.condition > MAX_CONDITION:
        codes.append(Code.ILL_CONDITIONED)
    ok = not codes
    if singular:
        codes.append(Code.SINGULAR)
    if limited:
        codes.append(Code.LIMIT)
    code = codes[0] if codes else Code.CONVERGED
    messages = tuple(c.message for c in codes)
    return Verdict(ok, singular, separated, decrement, code, messages)


def separated_columns(problem: Problem) -> tuple[int, ...]:
    """Columns of X whose coefficient has no finite maximum-likelihood estimate.

    There is a direction along which no row's likelihood falls and some row's rises for ever: rows
    at their lower bound may only move down, rows at their upper bound up, all others not at all
    (Albert and Anderson 1984). The linear program maximises the total movement.
    """
    y, trials, X = (np.asarray(a) for a in (problem.y, problem.trials, problem.X))
    low, high = problem.family.bounds(trials)
    used = (np.asarray(problem.weights) > 0) & (trials > 0)
    sign = np.where(y >= high, 1.0, np.where(y <= low, -1.0, 0.0))
    rms = np.sqrt(np.mean(X[used] ** 2, axis=0))
    rows = np.unique(np.column_stack([sign, X / rms])[used], axis=0)
    sign, X = rows[:, 0], rows[:, 1:]
    moving = X[sign != 0] * sign[sign != 0, None]
    fixed = X[sign == 0]
    if not len(moving):
        return ()
    optimize = importlib.import_module("scipy.optimize")  # slow to import, rarely needed
    result = optimize.linprog(
        -moving.sum(axis=0),
        A_ub=-moving,
        b_ub=np.zeros(len(moving)),
        A_eq=fixed if len(fixed) else None,
        b_eq=np.zeros(len(fixed)) if len(fixed) else None,
        bounds=(-1.0, 1.0),
        method="highs",
    )
    if result.status != 0 or -result.fun < 1e-6:
        return ()
    return tuple(int(j) for j in np.flatnonzero(np.abs(result.x) > 1e-6))
