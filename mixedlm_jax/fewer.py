"""Some of the groups of a problem: a fit of very many rows begins where theirs ends.

Whole groups of the coarsest grouping factor are drawn, so that the few have the parameters of the
whole. With a share s of the rows their optimum lies about 1 / sqrt(s) standard errors of the whole
from its optimum, and their Hessian is about s times its Hessian.
"""

from __future__ import annotations

import numpy as np

from mixedlm_jax.buckets import bucket, filled_rows, row_bucket
from mixedlm_jax.plan import make_plan
from mixedlm_jax.problem import Problem

# Rows to draw, at most; a fit of fewer than so many times as many is no saving.
_FEW_ROWS = 2**16
_WORTH_IT = 4
# Groups that say enough of their variance.
_LEAST_GROUPS = 50


def fewer_groups(problem: Problem) -> Problem | None:
    """The problem of some of a problem's groups (NumPy in and out), None where that saves nothing.

    Which groups is fixed: the same problem has the same few. None too where grouping factors cross
    or there are none, and where so few rows would hold too few groups.
    """
    plan = problem.plan
    counted = problem.weights > 0
    if not plan.chain or plan.kept or np.count_nonzero(counted) < _WORTH_IT * _FEW_ROWS:
        return None
    coarsest = plan.levels[plan.chain[-1]]
    n_levels = plan.n_levels[plan.chain[-1]]
    sizes = np.bincount(coarsest, minlength=n_levels)
    sizes -= np.bincount(coarsest[~counted], minlength=n_levels)
    order = np.random.default_rng(0).permutation(np.flatnonzero(sizes))
    drawn = order[np.cumsum(sizes[order]) <= _FEW_ROWS]
    if len(drawn) < _LEAST_GROUPS:
        return None
    chosen = np.zeros(len(sizes), bool)
    chosen[drawn] = True
    return _filled_up(problem, np.flatnonzero(chosen[coarsest] & counted))


def _filled_up(problem: Problem, rows: np.ndarray) -> Problem:
    """The problem of some rows and the levels they have, filled up as a `padded` design is."""
    size = row_bucket(len(rows))
    at = filled_rows(rows, size)
    levels, n_levels = [], []
    for of_row in problem.plan.levels:
        own, code = np.unique(of_row[at], return_inverse=True)
        levels.append(code)
        n_levels.append(bucket(len(own)))
    few = problem.with_rows(
        lambda values, axis: np.take(values, at, axis),
        make_plan(levels, n_levels, problem.plan.n_effects),
    )
    return few.replace(weights=np.where(np.arange(size) < len(rows), few.weights, 0.0))
