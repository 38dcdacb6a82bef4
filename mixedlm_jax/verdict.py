"""Is this an optimum? Judged from gradient and exact Hessian, in log-likelihood units."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np

from mixedlm_jax.curvature import Curvature
from mixedlm_jax.errors import Code
from mixedlm_jax.families import ZERO
from mixedlm_jax.problem import Problem

MAX_GAIN = 1e-6  # log-likelihood units that an optimum may still promise
MAX_CONDITION = 1e10  # of the Hessian scaled to a unit diagonal
# A mean this near the end of its range, or a Hessian this badly conditioned, may be separation.
ALL_BUT = 1e-4
SUSPECT_CONDITION = 1e6
SINGULAR = 1e-4  # of a random effect's own standard deviation, in the family's `effect_unit`


@dataclass(frozen=True)
class Verdict:
    """How near a fit is to an optimum, and what is wrong with it if anything is.

    `decrement` is the gain in log-likelihood that a Newton step predicts. `separated` numbers the
    coefficients that grow without bound, of (beta, phi). A singular fit at its optimum is ok.
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
    whole = Curvature.of(hessian)
    decrement = float(0.5 * gradient @ whole.metric() @ gradient)
    inside = Curvature.of(hessian[np.ix_(~boundary, ~boundary)]) if singular else whole
    codes = []
    if separated:
        codes.append(Code.SEPARATED)
    if not decrement <= MAX_GAIN:
        codes.append(Code.EVALUATION_LIMIT if stopped == "limit" else Code.NOT_AT_OPTIMUM)
    if inside.indefinite or whole.indefinite:
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

    Rows at their lower bound may only move down, rows at their upper bound up, all others not at
    all; zeros of a hurdle say nothing of X.
    """
    y, trials = np.asarray(problem.y), np.asarray(problem.trials)
    low, high = problem.family.bounds(trials)
    counted = ~((y == 0.0) & (problem.family.zeros == "hurdle"))
    used = (np.asarray(problem.weights) > 0) & (trials > 0) & counted
    sign = np.where(y >= high, 1.0, np.where(y <= low, -1.0, 0.0))
    return _unbounded(sign[used], np.asarray(problem.X)[used])


def separated_zeros(problem: Problem) -> tuple[int, ...]:
    """Columns of the zero part's matrix whose coefficient has no finite estimate.

    The likelihood of a zero grows with the probability of structural zeros, all others' falls.
    """
    matrix = zero_matrix(problem)
    if matrix is None:
        return ()
    used = (np.asarray(problem.weights) > 0) & (np.asarray(problem.trials) > 0)
    sign = np.where(np.asarray(problem.y) == 0.0, 1.0, -1.0)
    return _unbounded(sign[used], matrix[used])


def zero_matrix(problem: Problem) -> np.ndarray | None:
    """The model matrix (n, columns) of the zero part, which is the last of phi."""
    if ZERO not in problem.family.dispersion_names or problem.phi_matrices[-1] is None:
        return None
    return np.asarray(problem.phi_matrices[-1])


def _unbounded(sign: np.ndarray, X: np.ndarray) -> tuple[int, ...]:
    """Columns that move in a direction in which no row's likelihood falls and some rise for ever.

    sign: where rows (n,) may move: down, up, or not at all (Albert and Anderson 1984). The linear
    program maximises the total movement.
    """
    if not np.any(sign):
        return ()
    rms = np.sqrt(np.mean(X**2, axis=0))
    X = X / np.where(rms > 0, rms, 1.0)
    rows = np.unique(np.column_stack([sign, X]), axis=0)
    sign, X = rows[:, 0], rows[:, 1:]
    moving = X[sign != 0] * sign[sign != 0, None]
    fixed = X[sign == 0]
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
