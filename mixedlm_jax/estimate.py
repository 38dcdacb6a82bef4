"""The estimates as a function of the problem: one program, and its derivative.

    psi_hat = argmin V(psi; problem)
    d psi_hat = - (d2V / dpsi2)^-1 (d/dproblem grad_psi V) dproblem

`maximise` is the gradient search of a fit (`climb`) inside one compiled program: quasi-Newton steps
by the same `advance`, then Newton steps with the exact Hessian. It has no second start, no
derivative-free rescue and no test of separation, and it leaves X as it is. `stationary` gives a
point where it ended the derivative of the optimum, by the implicit function theorem and to any
order; the search itself is never differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array, precise
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.curvature import Curvature
from mixedlm_jax.errors import Code
from mixedlm_jax.objective import Objective
from mixedlm_jax.optimize import MIN_LENGTH, Search, advance, begin
from mixedlm_jax.priors import log_prior
from mixedlm_jax.problem import Params, Problem, covariance_factors, covariate_sizes
from mixedlm_jax.programs import columns_at_once, exact_hessian
from mixedlm_jax.start import inverse_metric, prepare
from mixedlm_jax.verdict import MAX_CONDITION, MAX_GAIN, SINGULAR

MAX_EVALUATIONS = 500
# Predicted gains (log-likelihood units) below which quasi-Newton steps hand over to Newton's, and
# below which a Newton step was the last.
_NEAR, _EXACT = 1e-8, 1e-11
_MAX_NEWTON = 12


class Optimum(NamedTuple):
    """Where a search ended.

    Attributes
    ----------
    params
        `Params`, the diagonals of theta's factors not negative.
    log_likelihood
        The log-likelihood there with every constant, the prior left out (scalar).
    decrement
        The gain of the log-likelihood (with the log-prior, where there is one) that the last Newton
        step promised; it has been taken (scalar).
    code
        An `errors.Code` (int8): 0 or more at an optimum.
    """

    params: Params
    log_likelihood: Array
    decrement: Array
    code: Array


class Ended(NamedTuple):
    """A search's last state, what it knows of its optimum, and the curvature it knows it from."""

    search: Search
    decrement: Array
    hessian: Array
    limited: Array  # whether the evaluations ran out


def maximise(objective: Objective, problem: Problem, first: Params, max_evaluations: int) -> Ended:
    """Search from rough parameters. In float64 it ends where `climb` does."""
    evaluate = partial(objective.evaluate, problem)
    search = first_search(objective, problem, first)
    near = precise(_NEAR, search.value.dtype)

    def unfinished(state: tuple[Search, Array]) -> Array:
        search, used = state
        going = (search.gain >= near) & (search.length > MIN_LENGTH) & jnp.isfinite(search.value)
        return (used == 0) | (going & (used < max_evaluations))

    def step(state: tuple[Search, Array]) -> tuple[Search, Array]:
        search, used = state
        return advance(evaluate, search), used + 1

    search, used = jax.lax.while_loop(unfinished, step, (search, jnp.zeros((), int)))
    return newton(objective, problem, search, used >= max_evaluations)


def first_search(objective: Objective, problem: Problem, first: Params) -> Search:
    """As `climb.first_search`: beta and modes from a joint fit at the first theta."""
    ready = prepare(problem, first)
    sound = jnp.array(True)
    for leaf in jax.tree.leaves(ready.modes):
        sound &= jnp.all(jnp.isfinite(leaf))
    beta = jnp.where(sound, ready.modes.beta, first.beta)
    u = jax.tree.map(lambda found: jnp.where(sound, found, 0.0), ready.modes.u)
    metric = inverse_metric(*objective.metric_blocks(ready.theta, ready.beta, ready.phi))
    x = first._replace(beta=beta).flat
    return jax.tree.map(jnp.asarray, begin(x, u, metric))


def hessian_of(objective: Objective, problem: Problem, x: Array, aux: Any) -> Array:
    """The exact Hessian at x (d, d), traced into the caller's program."""
    at_once = columns_at_once(objective, problem, len(x))
    hessian = exact_hessian(objective, problem, x, aux, at_once)
    return 0.5 * (hessian + hessian.T)


class _Newton(NamedTuple):
    search: Search
    hessian: Array
    gain: Array  # what the step to the search's point was to gain
    settled: Array
    rounds: Array


def newton(objective: Objective, problem: Problem, search: Search, limited: Array) -> Ended:
    """Newton's method with the exact Hessian from where a search stands.

    limited: whether the search before it ran out of evaluations; then one step is all it takes.
    """
    evaluate = partial(objective.evaluate, problem)
    exact = precise(_EXACT, search.value.dtype)

    def round_of(state: _Newton) -> _Newton:
        search = state.search
        hessian = hessian_of(objective, problem, search.x, search.aux)
        curvature = Curvature.of(hessian)
        metric = curvature.metric()
        gain = 0.5 * search.gradient @ metric @ search.gradient
        # on a saddle go down the most negative curvature, by about one unit of its scale
        saddle = curvature.indefinite & (gain < MAX_GAIN)
        length = jnp.where(saddle, jax.lax.rsqrt(jnp.abs(curvature.values[0])), 0.0)
        away = curvature.scale * curvature.vectors[:, 0] * length
        plain = search._replace(inverse=metric, gain=gain)
        moved = begin(search.x + away, search.aux, metric)
        reached = advance(evaluate, _where(saddle, moved, plain))
        lower = ~saddle | (reached.value < search.value)
        return _Newton(
            search=_where(lower, reached, plain),
            hessian=hessian,
            gain=gain,
            settled=((gain < exact) & ~curvature.indefinite) | ~jnp.all(jnp.isfinite(hessian)),
            rounds=state.rounds + 1,
        )

    def unfinished(state: _Newton) -> Array:
        moving = (state.search.length > MIN_LENGTH) & ~(limited & (state.rounds > 0))
        return ~state.settled & moving & (state.rounds < _MAX_NEWTON)

    first = _Newton(
        search=search._replace(length=jnp.ones_like(search.value)),
        hessian=jnp.full_like(search.inverse, jnp.nan),
        gain=jnp.full_like(search.value, jnp.inf),
        settled=~jnp.isfinite(search.value),
        rounds=jnp.zeros((), int),
    )
    last = jax.lax.while_loop(unfinished, round_of, first)
    return Ended(last.search, last.gain, last.hessian, limited)


def _where(condition: Array, these: Any, others: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), these, others)


def code_of(problem: Problem, params: Params, ended: Ended) -> Array:
    """The verdict on a search's end as an `errors.Code` (int8), as `verdict.judge` has it.

    Separated fixed effects and dispersion parameters at their limit are not looked for.
    """
    boundary = boundary_of(problem, params)
    inside = ~boundary[:, None] & ~boundary[None, :]
    finite = jnp.all(jnp.isfinite(ended.hessian)) & jnp.isfinite(ended.search.value)
    hessian = jnp.where(finite, ended.hessian, jnp.eye(len(boundary), dtype=ended.hessian.dtype))
    # parameters on the boundary are cut out: a unit of curvature stands in their place
    kept = Curvature.of(jnp.where(inside, hessian, jnp.diag(boundary.astype(hessian.dtype))))
    short = ended.decrement > precise(MAX_GAIN, hessian.dtype)
    found = [
        (~finite, Code.NOT_FINITE),
        (short & ended.limited, Code.EVALUATION_LIMIT),
        (short, Code.NOT_AT_OPTIMUM),
        (kept.indefinite | Curvature.of(hessian).indefinite, Code.INDEFINITE),
        (kept.condition > MAX_CONDITION, Code.ILL_CONDITIONED),
        (jnp.any(boundary), Code.SINGULAR),
    ]
    code = jnp.asarray(Code.CONVERGED, jnp.int8)
    for holds, name in reversed(found):
        code = jnp.where(holds, jnp.int8(name), code)
    return code


def boundary_of(problem: Problem, params: Params) -> Array:
    """Which of (theta, beta, phi) belong to a random-effects term on its boundary (d,)."""
    factors, unit = covariance_factors(problem, params), problem.effect_unit(params.phi)
    parts = []
    for term, where in zip(problem.terms, problem.theta_slices, strict=True):
        columns = np.array(term.columns)
        diagonal = jnp.diagonal(factors[term.factor])[columns] / unit
        sizes = covariate_sizes(problem.Z[term.factor], problem.weights, term)
        singular = jnp.any(jnp.abs(diagonal) * sizes < SINGULAR)
        parts.append(jnp.broadcast_to(singular, (where.stop - where.start,)))
    rest = len(params.beta) + len(params.phi)
    return jnp.concatenate([*parts, jnp.zeros(rest, bool)])


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def stationary(
    objective: Objective, problem: Problem, x: Array, value: Array, aux: Any
) -> tuple[Array, Array]:
    """An optimum x and the objective's value there, as functions of the problem.

    aux: the modes there. x and value are passed on; the problem is what they are differentiated by.
    """
    return x, value


@stationary.defjvp
def _stationary_jvp(objective, primals, tangents):
    problem, _, _, aux = primals
    x, value = stationary(objective, *primals)
    aux = jax.lax.stop_gradient(aux)

    def slopes(problem):
        value, gradient, _ = objective.evaluate(problem, x, aux)
        return value, gradient

    dvalue, dgradient = jax.jvp(slopes, (problem,), tangents[:1])[1]
    hessian = hessian_of(objective, problem, x, aux)
    inverse = Curvature.of(jax.lax.stop_gradient(hessian)).pseudo_inverse()
    step = jax.lax.custom_linear_solve(
        lambda direction: hessian @ direction,
        dgradient,
        lambda _, rhs: inverse @ rhs,
        symmetric=True,
    )
    return (x, value), (-step, dvalue)


def optimum(
    objective: Objective,
    problem: Problem,
    first: Params,
    search: Callable[[Objective, Problem, Params], Ended],
) -> Optimum:
    """What a search ends with, with the derivative of the optimum in every array of the problem.

    A direction in which the objective is flat to ten digits counts as one that does not move.
    """
    fixed, begun = jax.lax.stop_gradient((problem, first))
    ended = search(objective, fixed, begun)
    found = ended.search
    x, value = stationary(objective, problem, found.x, found.value, found.aux)
    params = problem.split(x)
    log_likelihood = problem.log_base - value - log_prior(params, problem)
    return Optimum(
        params=_signed(problem, params),
        log_likelihood=log_likelihood,
        decrement=ended.decrement,
        code=code_of(fixed, jax.lax.stop_gradient(params), ended),
    )


def _signed(problem: Problem, params: Params) -> Params:
    """The parameters with the diagonals of Lambda not negative: the same model."""
    parts = []
    for term, where in zip(problem.terms, problem.theta_slices, strict=True):
        structure, k = STRUCTURES[term.structure], len(term.columns)
        own = params.theta[where]
        down = jnp.diagonal(structure.factor(own, k)) < 0
        # the sign appended is that of parameters that belong to no column
        signs = jnp.append(jnp.where(down, -1.0, 1.0), 1.0).astype(own.dtype)
        parts.append(own * signs[structure.columns(k)])
    return params._replace(theta=jnp.concatenate(parts))
