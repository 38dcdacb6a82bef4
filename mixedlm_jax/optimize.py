"""Minimisers of a smooth function of a few dozen parameters.

`bfgs` spends one evaluation of value and gradient an iteration: a step is accepted or shortened,
and there is no nested line search, so that `advance` can run for many models in lockstep. Its state
is a pytree; several steps are one program (`advance_while`), driven from the host.
`derivative_free` wraps library optimisers for functions whose gradient cannot be trusted.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array, precise
from mixedlm_jax.errors import ArgumentError

_SUFFICIENT = 1e-4  # Armijo's fraction of the predicted decrease
_SLACK = 1e-11  # rounding of the objective, relative to its size
MIN_LENGTH = 1e-10  # of a step, below which a search has stalled


class Search(NamedTuple):
    """Where a search stands: the best point so far and what the next step needs.

    `aux` rides along with the point (the conditional modes, say); `gain` is the decrease of the
    objective the metric predicts, g' B g / 2.
    """

    x: Array
    value: Array
    gradient: Array
    aux: Any
    inverse: Array  # B, the metric's inverse Hessian (d, d)
    length: Array  # of the next step, 1 is the whole of it
    gain: Array


def begin(x: Array, aux: Any, inverse: Array) -> Search:
    """A search before its first evaluation: `advance` evaluates x itself and stays there."""
    value = np.full((), np.inf, x.dtype)
    return Search(x, value, np.zeros(x.shape, x.dtype), aux, inverse, np.ones_like(value), value)


def advance(evaluate: Callable, search: Search, size: Array | float = 0.0) -> Search:
    """One evaluation: take the quasi-Newton step, or shorten the next one.

    `evaluate(x, aux)` returns (value, gradient, aux). Steps that lead to a value that is not finite
    are rejected like steps that go up. size: of terms that cancel in the value, whose rounding is
    left in it.
    """
    direction = -(search.inverse @ search.gradient)
    step = search.length * direction
    slope = search.gradient @ step
    value, gradient, aux = evaluate(search.x + step, search.aux)
    slack = precise(_SLACK, value.dtype) * (1.0 + jnp.abs(search.value))
    slack += precise(0.0, value.dtype) * size
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient))
    accepted = finite & (value <= search.value + _SUFFICIENT * slope + slack)

    # the parabola through the two values and the slope says how much shorter to try
    rise = value - search.value - slope
    parabola = -0.5 * slope / jnp.where(rise > 0.0, rise, jnp.inf)
    shorter = search.length * jnp.where(finite, jnp.clip(parabola, 0.1, 0.5), 0.1)

    def choose(new, old):
        return jnp.where(accepted, new, old)

    inverse = choose(_updated(search.inverse, step, gradient - search.gradient), search.inverse)
    gradient = choose(gradient, search.gradient)
    return Search(
        x=choose(search.x + step, search.x),
        value=choose(value, search.value),
        gradient=gradient,
        aux=jax.tree.map(choose, aux, search.aux),
        inverse=inverse,
        length=choose(jnp.ones_like(shorter), shorter),
        gain=0.5 * gradient @ (inverse @ gradient),
    )


def _updated(inverse: Array, step: Array, change: Array) -> Array:
    """The BFGS update of an inverse Hessian; unchanged where the curvature is not positive."""
    curvature = step @ change
    image = inverse @ change
    usable = curvature > 1e-12 * jnp.sqrt((step @ step) * (change @ change))
    rho = 1.0 / jnp.where(usable, curvature, 1.0)
    outer = step[:, None] * image[None, :]
    update = (1.0 + rho * (change @ image)) * rho * (step[:, None] * step[None, :])
    return jnp.where(usable, inverse + update - rho * (outer + outer.T), inverse)


def advance_while(
    evaluate: Callable, search: Search, tol: Array, most: Array
) -> tuple[Search, Array]:
    """At least one step and at most so many, until one of `bfgs`' reasons to stop; how many."""

    def unfinished(carry):
        here, spent = carry
        ended = (here.gain < tol) | (here.length < MIN_LENGTH) | ~jnp.isfinite(here.value)
        return (spent == 0) | (~ended & (spent < most))

    def step(carry):
        here, spent = carry
        return advance(evaluate, here), spent + 1

    return jax.lax.while_loop(unfinished, step, (search, jnp.zeros((), int)))


def bfgs(
    steps: Callable[[Search, float, int], tuple[Search, int]],
    search: Search,
    *,
    tol: float,
    maxfun: int,
) -> tuple[Search, int, str]:
    """Drive `steps` until the predicted gain falls below `tol`.

    `steps(search, tol, most)` is a compiled `advance_while`, and may return before it has to.
    Returns the last state, the evaluations spent, and why it stopped: "converged", "stalled" (no
    step of any length goes down), "limit" or "not finite" (at the start).
    """
    evaluations = 0
    while True:
        if evaluations and not np.isfinite(search.value):
            return search, evaluations, "not finite"
        if float(search.gain) < tol:
            return search, evaluations, "converged"
        if float(search.length) < MIN_LENGTH:
            return search, evaluations, "stalled"
        if evaluations >= maxfun:
            return search, evaluations, "limit"
        search, spent = steps(search, tol, maxfun - evaluations)
        evaluations += spent


def has_nlopt() -> bool:
    """Whether NLopt is installed."""
    return importlib.util.find_spec("nlopt") is not None


class Descent(NamedTuple):
    """What a derivative-free search found; the value is inf if no point had a finite one."""

    x: np.ndarray
    value: float
    evaluations: int
    method: str


def derivative_free(
    function: Callable[[np.ndarray], float],
    x0: np.ndarray,
    scale: np.ndarray,
    *,
    maxfun: int,
    tol: float = 1e-7,
    nlopt: bool | None = None,
) -> Descent:
    """Minimise without derivatives: NLopt's BOBYQA if it is installed, else SciPy's COBYQA.

    nlopt: which of the two, where that is not to depend on what is installed.
    `scale` (d, d) maps search coordinates to parameters, x = x0 + scale @ t, and should make the
    function vary about equally in all of t; `tol` is the final radius in t.
    """
    best, best_value, spent = np.asarray(x0), np.inf, 0

    def of_search(t: np.ndarray) -> float:
        nonlocal best, best_value, spent
        x = x0 + scale @ t
        value = float(function(x))
        spent += 1
        if value < best_value:
            best, best_value = x, value
        # these optimisers build models of the values and cannot carry inf
        return value if np.isfinite(value) else 1e100

    zero = np.zeros(len(x0))
    if has_nlopt() if nlopt is None else nlopt:
        library = importlib.import_module("nlopt")
        search = library.opt(library.LN_BOBYQA, len(x0))
        search.set_min_objective(lambda t, _: of_search(t))
        search.set_initial_step(1.0)
        search.set_xtol_abs(tol)
        search.set_maxeval(maxfun)
        search.optimize(zero)
        method = "NLopt BOBYQA"
    else:
        options = {"maxfev": maxfun, "final_tr_radius": tol, "initial_tr_radius": 1.0}
        optimize = importlib.import_module("scipy.optimize")  # slow to import, rarely needed
        optimize.minimize(of_search, zero, method="COBYQA", options=options)
        method = "SciPy COBYQA"
    return Descent(best, best_value, spent, method)


def central_differences(
    function: Callable[[np.ndarray], float], x: np.ndarray, scale: np.ndarray, step: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (d,) and Hessian (d, d) of a function by differences along the columns of `scale`.

    The steps are `step` and half of it, extrapolated (Richardson): errors are of fourth order.
    """
    d = len(x)

    def at(*moves):
        return float(function(x + scale @ np.sum(moves, axis=0)))

    units = np.eye(d)
    slopes, curvatures = [], []
    for h in (step, 0.5 * step):
        plus = [at(h * e) for e in units]
        minus = [at(-h * e) for e in units]
        centre = at(np.zeros(d))
        slopes.append((np.array(plus) - minus) / (2 * h))
        curvature = np.diag((np.array(plus) + minus - 2 * centre) / h**2)
        for i in range(d):
            for j in range(i):
                mixed = at(h * units[i], h * units[j]) + at(-h * units[i], -h * units[j])
                mixed -= at(h * units[i], -h * units[j]) + at(-h * units[i], h * units[j])
                curvature[i, j] = curvature[j, i] = mixed / (4 * h**2)
        curvatures.append(curvature)
    gradient = (4 * slopes[1] - slopes[0]) / 3
    hessian = (4 * curvatures[1] - curvatures[0]) / 3
    back = np.linalg.inv(scale)
    return back.T @ gradient, back.T @ hessian @ back


OPTIMIZERS = ("bfgs", "bobyqa")


def check_optimizer(name: str) -> str:
    """The optimiser's name if there is one so called; `ArgumentError` otherwise."""
    if name not in OPTIMIZERS:
        raise ArgumentError(
            f"there is no optimizer {name!r}; choose one of {', '.join(OPTIMIZERS)}"
        )
    return name
