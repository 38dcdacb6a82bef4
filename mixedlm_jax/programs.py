"""The compiled programs of a fit, pure functions of arrays (`start.prepare` is one more)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.compiled import program
from mixedlm_jax.elimination import Effects, Rows, assemble, factorize, log_determinant_error
from mixedlm_jax.modes import joint_hessian
from mixedlm_jax.objective import Objective
from mixedlm_jax.optimize import Search, advance_while, begin
from mixedlm_jax.priors import log_prior
from mixedlm_jax.problem import (
    Params,
    Problem,
    covariance_factors,
    determinant_weights,
    fixed_predictor,
    row_terms,
    rows_at,
)
from mixedlm_jax.quadrature import ROW_NODES

# Rows x columns made together of a Hessian that is made by columns: bounds its memory. With
# quadrature a row counts once for each node that is evaluated with it, and may count so often more.
_HESSIAN_ROWS = 1_000_000
_HESSIAN_ROW_NODES = ROW_NODES
# Step of a difference in standard errors as the search's metric has them.
_DIFFERENCE = 2e-3
# Rows x evaluations, and evaluations, that the outer search spends between two looks at it from the
# host: each call of a program pays for touching its memory anew.
_ROWS_AT_ONCE = 4_000_000
_STEPS_AT_ONCE = 20


@program("objective")
def take_steps(
    objective: Objective, problem: Problem, search: Search, tol: Array, most: Array
) -> tuple[Search, Array]:
    """Steps of the outer search, one evaluation of value and gradient each, and their number."""
    return advance_while(lambda x, aux: objective.evaluate(problem, x, aux), search, tol, most)


def stepped(
    objective: Objective, problem: Problem, search: Search, tol: float, most: int
) -> tuple[Search, int]:
    """`take_steps`, with all but the modes in NumPy: what is decided on the host is small.

    It returns after about `_ROWS_AT_ONCE` rows, so that a long search can be watched and stopped.
    """
    most = int(np.clip(_ROWS_AT_ONCE // len(problem.y), 1, min(most, _STEPS_AT_ONCE)))
    reached, spent = take_steps(objective, problem, search, np.asarray(tol), np.asarray(most))
    small, spent = jax.device_get((reached._replace(aux=()), spent))
    return Search(*small)._replace(aux=reached.aux), int(spent)


def evaluated(objective: Objective, problem: Problem, search: Search) -> Search:
    """One evaluation: a single one of the steps of `stepped`."""
    return stepped(objective, problem, search, 0.0, 1)[0]


@program("objective")
def objective_value(objective: Objective, problem: Problem, x: Array, aux: Any) -> Array:
    """-log L without the base measure."""
    return objective.value(problem, x, aux)


@program("objective")
def modes_at(objective: Objective, problem: Problem, x: Array, aux: Any) -> Any:
    """The modes at x."""
    return objective.evaluate(problem, x, aux)[2]


@program("objective", "at_once")
def exact_hessian(
    objective: Objective, problem: Problem, x: Array, aux: Any, at_once: int
) -> Array:
    """Hessian of -log L in x (d, d); at_once as in `Objective.hessian`."""
    return objective.hessian(problem, x, aux, at_once)


def hessian_at(objective: Objective, problem: Problem, search: Search) -> np.ndarray:
    """The exact Hessian at a search's point, nan where the value there is not finite.

    Where a plan's S is not formed it is taken by differences of the gradient, good to about six
    digits.
    """
    d = len(search.x)
    if not np.isfinite(search.value):
        return np.full((d, d), np.nan)
    if problem.plan.unformed is not None:
        return _differenced_hessian(objective, problem, search)
    at_once = columns_at_once(objective, problem, d)
    hessian = np.asarray(exact_hessian(objective, problem, search.x, search.aux, at_once))
    return 0.5 * (hessian + hessian.T)


def columns_at_once(objective: Objective, problem: Problem, d: int) -> int:
    """How many columns of a Hessian (d, d) are made together, where it is made by columns."""
    width = objective.width(problem)
    most = _HESSIAN_ROWS if width == 1 else _HESSIAN_ROW_NODES
    return int(np.clip(most // (len(problem.y) * width), 1, d))


def _differenced_hessian(objective: Objective, problem: Problem, search: Search) -> np.ndarray:
    """Central differences of the gradient, a fraction of its standard error along each parameter.

    Their error is of second order in the step; the gradient's is that of conjugate gradients.
    """
    x, columns = np.asarray(search.x), []
    for j, variance in enumerate(np.diagonal(search.inverse)):
        step = np.zeros(len(x))
        step[j] = _DIFFERENCE * np.sqrt(variance)
        ends = [
            evaluated(objective, problem, begin(x + move, search.aux, search.inverse)).gradient
            for move in (step, -step)
        ]
        columns.append((ends[0] - ends[1]) / (2.0 * step[j]))
    hessian = np.array(columns)
    return 0.5 * (hessian + hessian.T)


class State(NamedTuple):
    """What a point and its modes amount to."""

    eta: Array  # (n,)
    fixed_mean: Array  # the mean at X beta + offset (n,)
    scale: Array  # what theta is relative to: sigma for the Gaussian, else 1
    unit: Array  # the family's `effect_unit`
    phi: Array  # on its natural scale
    phi_slope: Array  # its Jacobian in the unconstrained coordinates
    log_base: Array  # what the objective leaves out of the log-likelihood
    beta_information: Array | None  # of beta, given theta (p, p), if the objective wants it
    log_prior: Array  # the prior's log-density
    prior_slope: Array  # its gradient in beta (p,)
    log_determinant_error: Array  # Monte Carlo standard error of log|H|


@program("objective")
def state_at(objective: Objective, problem: Problem, params: Params, u: Effects) -> State:
    """Predictor and dispersion at a point, given the modes there."""
    z, eta = rows_at(problem, params, u)
    information = None
    prior, prior_slope = jax.value_and_grad(
        lambda beta: log_prior(params._replace(beta=beta), problem)
    )(params.beta)
    if objective.beta_is_conditional:
        weight = row_terms(problem, eta, params.phi).weight
        information = joint_hessian(problem, z, weight).information
    return State(
        eta=eta,
        fixed_mean=problem.family.link.inverse(fixed_predictor(problem, params.beta)),
        scale=jnp.asarray(problem.ranef_scale(params.phi), eta.dtype),
        unit=jnp.asarray(problem.effect_unit(params.phi), eta.dtype),
        phi=problem.reported_phi(params.phi),
        phi_slope=jax.jacfwd(problem.reported_phi)(params.phi),
        log_base=problem.log_base,
        beta_information=information,
        log_prior=prior,
        prior_slope=prior_slope,
        log_determinant_error=_log_determinant_error(problem, params, z, eta),
    )


def _log_determinant_error(problem: Problem, params: Params, z: Rows, eta: Array) -> Array:
    if problem.plan.unformed is None:
        return jnp.zeros((), eta.dtype)
    weight = determinant_weights(problem, eta, params.phi)
    return log_determinant_error(factorize(problem.plan, assemble(problem.plan, z, weight)))


@program()
def unit_factors(problem: Problem, params: Params) -> tuple[Array, ...]:
    """Lambda per grouping factor (k, k), in units of the family's `effect_unit`."""
    unit = problem.effect_unit(params.phi)
    return tuple(factor / unit for factor in covariance_factors(problem, params))
