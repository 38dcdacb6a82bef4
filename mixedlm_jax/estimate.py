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
from mixedlm_jax.problem import (
    Params,
    Problem,
    covariance_factors,
    covariate_sizes,
    zero_effects,
)
from mixedlm_jax.programs import columns_at_once, exact_hessian
from mixedlm_jax.start import inverse_metric, prepare
from mixedlm_jax.verdict import MAX_CONDITION, MAX_GAIN, SINGULAR

MAX_EVALUATIONS = 500
# Predicted gains (log-likelihood units) below which the first quasi-Newton search hands over to the
# exact Hessian, and below which that lets it rest.
_NEAR, _EXACT = 1e-8, 1e-11
# Two values whose difference, relative to their size, is no larger are equally good.
_SAME = 1e-11
_MAX_ROUNDS = 12


class Optimum(NamedTuple):
    """Where a search ended.

    Attributes
    ----------
    params
        `Params`, the diagonals of theta's factors not negative.
    log_likelihood
        The log-likelihood there with every constant, the prior left out (scalar).
    decrement
        What a Newton step from there promises to gain in log-likelihood (with the log-prior, where
        there is one) (scalar).
    code
        An `errors.Code` (int8): 0 or more at an optimum.
    """

    params: Params
    log_likelihood: Array
    decrement: Array
    code: Array


class Ended(NamedTuple):
    """Where a search stands, and the exact curvature there."""

    search: Search
    hessian: Array
    decrement: Array
    limited: Array  # whether the evaluations ran out


class _Rounds(NamedTuple):
    start: Search  # of the next round
    reached: Ended
    settled: Array
    used: Array
    rounds: Array


def maximise(
    objective: Objective, problem: Problem, first: Params, max_evaluations: int
) -> Ended:
    """Search from rough parameters. In float64 it ends where `climb` does.

    A round is a quasi-Newton search and the exact Hessian where it ends, which is the metric of the
    next: two or three rounds are Newton's method.
    """
    start = first_search(objective, problem, first)
    exact, near, same = (precise(part, start.value.dtype) for part in (_EXACT, _NEAR, _SAME))
    size = jnp.abs(problem.log_base)  # what the rows sum to is about its negative

    def round_of(state: _Rounds) -> _Rounds:
        tolerance = jnp.where(state.rounds == 0, near, exact)
        search, used = _quasi_newton(
            objective, problem, state.start, size, state.used, tolerance, max_evaluations
        )
        reached, curvature = curved(objective, problem, search, used >= max_evaluations)
        # after a step off a saddle, or of rounding
        slack = same * (1.0 + jnp.abs(search.value)) + precise(0.0, size.dtype) * size
        worse = search.value > state.reached.search.value + slack
        stuck = (state.rounds > 0) & jnp.all(search.x == state.reached.search.x)
        done = (reached.decrement < exact) & ~curvature.indefinite
        lost = ~jnp.all(jnp.isfinite(reached.hessian)) | ~jnp.isfinite(search.value)
        return _Rounds(
            start=_next_start(search, reached, curvature),
            reached=_where(worse, state.reached, reached),
            settled=done | worse | stuck | lost | reached.limited,
            used=used,
            rounds=state.rounds + 1,
        )

    nothing = Ended(
        search=start,
        hessian=jnp.full_like(start.inverse, jnp.nan),
        decrement=start.value,
        limited=jnp.array(False),
    )
    state = _Rounds(start, nothing, jnp.array(False), jnp.zeros((), int), jnp.zeros((), int))
    return jax.lax.while_loop(
        lambda state: ~state.settled & (state.rounds < _MAX_ROUNDS), round_of, state
    ).reached


def _quasi_newton(
    objective: Objective,
    problem: Problem,
    search: Search,
    size: Array,
    used: Array,
    tolerance: Array,
    max_evaluations: int,
) -> tuple[Search, Array]:
    """`optimize.bfgs` inside a program: the search's end, and the evaluations spent by then."""
    evaluate = partial(objective.evaluate, problem)

    def unfinished(state: tuple[Search, Array]) -> Array:
        search, used = state
        begun = jnp.isfinite(search.value)
        moving = (search.gain >= tolerance) & (search.length > MIN_LENGTH)
        return jnp.where(begun, moving, search.length == 1.0) & (used < max_evaluations)

    def step(state: tuple[Search, Array]) -> tuple[Search, Array]:
        search, used = state
        return advance(evaluate, search, size), used + 1

    return jax.lax.while_loop(unfinished, step, (search, used))


def curved(
    objective: Objective, problem: Problem, search: Search, limited: Array
) -> tuple[Ended, Curvature]:
    """A search with the exact Hessian at its point, and that Hessian's curvature."""
    hessian = hessian_of(objective, problem, search.x, search.aux)
    curvature = Curvature.of(hessian)
    decrement = 0.5 * search.gradient @ curvature.metric() @ search.gradient
    return Ended(search, hessian, decrement, limited), curvature


def _next_start(search: Search, reached: Ended, curvature: Curvature) -> Search:
    """The search with the exact metric; off a saddle, by about one unit of its scale."""
    metric = curvature.metric()
    saddle = curvature.indefinite & (reached.decrement < MAX_GAIN)
    length = jnp.where(saddle, jax.lax.rsqrt(jnp.abs(curvature.values[0])), 0.0)
    away = curvature.scale * curvature.vectors[:, 0] * length
    plain = search._replace(
        inverse=metric, gain=reached.decrement, length=jnp.ones_like(search.length)
    )
    return _where(saddle, begin(search.x + away, search.aux, metric), plain)


def first_search(objective: Objective, problem: Problem, first: Params) -> Search:
    """As `climb.first_search`: beta and modes from a joint fit at the first theta."""
    ready = prepare(problem, first, 0)
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


def descend(
    objective: Objective, problem: Problem, first: Params, optimizer: Any, steps: int
) -> Ended:
    """So many steps of an optax optimiser, on `Params`; the best point on the way.

    It is given the value and the function as well, which line searches ask for.
    """

    def value_of(params: Params) -> Array:
        return objective.value(problem, params.flat, zero_effects(problem))

    def step(_: Array, state: tuple[Params, Any, Search]) -> tuple[Params, Any, Search]:
        params, memory, best = state
        value, gradient, u = objective.evaluate(problem, params.flat, best.aux)
        found = best._replace(x=params.flat, value=value, gradient=gradient, aux=u)
        best = _where(value < best.value, found, best)
        slopes = problem.split(jnp.where(jnp.isfinite(gradient), gradient, 0.0))
        updates, memory = optimizer.update(
            slopes, memory, params, value=value, grad=slopes, value_fn=value_of
        )
        return jax.tree.map(jnp.add, params, updates), memory, best

    x = first.flat
    best = begin(x, zero_effects(problem), jnp.eye(len(x), dtype=x.dtype))
    state = (first, optimizer.init(first), jax.tree.map(jnp.asarray, best))
    # one evaluation more than steps: the end of the last is looked at too
    best = jax.lax.fori_loop(0, steps + 1, step, state)[2]
    return curved(objective, problem, best, jnp.array(True))[0]


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
        one = jnp.ones(k, own.dtype)
        signs = jnp.where(jnp.diagonal(structure.factor(own, k)) < 0, -one, one)
        # the sign appended is that of parameters that belong to no column
        parts.append(own * jnp.append(signs, one[:1])[structure.columns(k)])
    return params._replace(theta=jnp.concatenate(parts))
