"""Conditional modes of the random effects, and their derivative.

    g(u; psi) = - sum_i log f(y_i | eta_i, phi) + u'u / 2,      u_hat = argmin_u g
    H = Lambda' Z' W Z Lambda + I,  W = diag(- d2 log f / d eta2)

`conditional_modes` is found by Newton's method with step halving (by chords, with one factor of H
for several steps, where that takes long to make) and differentiated by the implicit
function theorem, du_hat = - H^-1 (d/dpsi grad_u g) dpsi, to any order: the iteration itself is
never differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array, precise
from mixedlm_jax.blocks import over_blocks, sum_over_blocks
from mixedlm_jax.elimination import (
    Blocks,
    Effects,
    Factorization,
    Rows,
    adjoint,
    factorize,
    is_definite,
    penalised_products,
    predictor,
    products_of_rows,
    solve,
)
from mixedlm_jax.plan import Plan
from mixedlm_jax.problem import (
    Params,
    Problem,
    RowTerms,
    fixed_predictor,
    random_rows,
    row_terms,
    rows_at,
)

# Newton converges quadratically: a step that is to gain less leaves an error of about this size.
# In single precision both this and the slack are what `precise` makes of them.
MODE_TOLERANCE = 1e-12
# With the Hessian of another point convergence is linear: the last step must be smaller to leave as
# little. In single precision gains of this size are rounding: there the steps end as slow ones, and
# the first with a Hessian of its own point is the last.
_CHORD_TOLERANCE = 1e-18
_CHORD_DECREASE = 1e-2
# Columns of S from which on a factor of H serves for several steps.
_MANY_COLUMNS = 256
_MAX_ROUNDS = 200
_MAX_HALVINGS = 30
# Rounding of a sum of rows, relative to its size: an increase of g below it is no increase.
_SLACK = 1e-12


class _State(NamedTuple):
    point: Any  # the best point so far
    step: Any  # the Newton step from it
    length: Array  # how much of it is tried next
    objective: Array
    gain: Array  # what the whole step is predicted to gain
    restarted: Array  # whether it was sent to the refuge for want of a definite Hessian
    rounds: Array
    slow: Array  # whether the last step left too much to the next


def dot(a: Effects, b: Effects) -> Array:
    """Inner product of two sets of effects."""
    parts = [jnp.sum(x * y) for x, y in zip(a, b, strict=True)]
    return sum(parts[1:], parts[0]) if parts else jnp.zeros(())


def penalised(rows: RowTerms, u: Effects) -> Array:
    """g at u."""
    return -jnp.sum(rows.value) + 0.5 * dot(u, u)


def penalised_gradient(problem: Problem, params: Params, u: Effects) -> Effects:
    """grad_u g, per factor (k, levels)."""

    def pull(block, _):
        z, eta = rows_at(block, params, u)
        return adjoint(block.plan, z, row_terms(block, eta, params.phi).score)

    return _minus(u, sum_over_blocks(pull, problem))


def factor_at(problem: Problem, params: Params, u: Effects) -> Factorization:
    """H at effects u, factored."""

    def products(block, _):
        z, eta = rows_at(block, params, u)
        return products_of_rows(block.plan, z, row_terms(block, eta, params.phi).weight)

    matrix = penalised_products(sum_over_blocks(products, problem))
    return factorize(problem.plan, matrix)


@jax.custom_jvp
def conditional_modes(params: Params, problem: Problem, u0: Effects) -> Effects:
    """u_hat(psi), per factor (k, levels); `u0` is where the search starts.

    Where no mode was found the result is what the search ended with.
    """
    return find_modes(params, problem, u0)[0]


@conditional_modes.defjvp
def _conditional_modes_jvp(primals, tangents):
    params, problem, _ = primals
    u = conditional_modes(*primals)
    pushed = jax.jvp(
        lambda params, problem: penalised_gradient(problem, params, u),
        (params, problem),
        (tangents[0], tangents[1]),
    )[1]
    step = implicit_solve(problem, params, u, factor_at(problem, params, u), pushed)
    return u, tuple(-part for part in step)


def implicit_solve(
    problem: Problem, params: Params, u: Effects, factor: Factorization, rhs: Effects
) -> Effects:
    """H^-1 rhs, H at effects u and factored.

    Differentiable in all but the factor through the products of H itself.
    """

    def multiply(x):
        def pull(block, _):
            z, eta = rows_at(block, params, u)
            weight = row_terms(block, eta, params.phi).weight
            return adjoint(block.plan, z, weight * predictor(block.plan, z, x))

        pulled = sum_over_blocks(pull, problem)
        return tuple(own + part for own, part in zip(x, pulled, strict=True))

    fixed = jax.lax.stop_gradient(factor)
    return jax.lax.custom_linear_solve(
        multiply, rhs, lambda _, b: solve(problem.plan, fixed, b), symmetric=True
    )


def find_modes(params: Params, problem: Problem, u0: Effects) -> tuple[Effects, Array, Array]:
    """The modes, the predicted gain of the last Newton step, and the number of steps."""
    params, problem, u0 = jax.lax.stop_gradient((params, problem, u0))
    plan = problem.plan
    if not plan.n_effects:
        return u0, jnp.zeros(()), jnp.zeros((), int)
    z = random_rows(problem, params)  # of all rows: only `_definite_factor` may ask for it
    fixed = fixed_predictor(problem, params.beta)

    def evaluate(u):
        def sums(block, known):
            own_z = random_rows(block, params)
            rows = row_terms(block, known + predictor(block.plan, own_z, u), params.phi)
            pull = adjoint(block.plan, own_z, rows.score)
            products = products_of_rows(block.plan, own_z, rows.weight)
            kept = () if block.family.log_concave else rows.weight
            return (jnp.sum(rows.value), pull, products), kept

        (log_density, pull, products), weight = over_blocks(sums, problem, fixed)
        return 0.5 * dot(u, u) - log_density, (pull, products, weight)

    def direction(u, found):
        pull, products, weight = found
        downhill = _minus(pull, u)
        factor, sound = _definite_factor(problem, z, weight, products)
        step = solve(plan, factor, downhill, rough=True)
        return step, 0.5 * dot(downhill, step), sound

    def chords(start):
        factor = factor_at(problem, params, start)

        def chord(u, found):
            downhill = _minus(found[0], u)
            step = solve(plan, factor, downhill)
            return step, 0.5 * dot(downhill, step), jnp.array(True)

        return chord

    origin = jax.tree.map(jnp.zeros_like, u0)
    if _keeps_factor(problem):
        ended = _by_chords(evaluate, chords, u0, origin)
    else:
        ended = _newton(evaluate, direction, u0, origin)
    return ended.point, ended.gain, ended.rounds


def _keeps_factor(problem: Problem) -> bool:
    """Whether modes are found with one factor of H for several steps (`_by_chords`).

    Where S is large a factor takes longer than many evaluations of the rows. Where the family is
    log-concave H is positive definite everywhere: there is nothing to find out about it.
    """
    plan = problem.plan
    formed = bool(plan.kept) and plan.unformed is None
    return formed and plan.n_columns >= _MANY_COLUMNS and problem.family.log_concave


class _Ended(NamedTuple):
    """How a search for modes ended."""

    point: Any
    gain: Array  # predicted, of the last step
    rounds: Array
    slow: Array  # whether for want of a Hessian of its own point


def _by_chords(evaluate: Callable, chords: Callable, start: Any, refuge: Any) -> _Ended:
    """`_newton`, with one Hessian for several steps: the chord method.

    `chords(point)` makes the Hessian at a point, and a `direction` of `_newton` with it. It is made
    anew where a step leaves more than `_CHORD_DECREASE` of its gain to the next.
    """

    def with_one_hessian(state: _Ended) -> _Ended:
        ended = _newton(evaluate, chords(state.point), state.point, refuge, chord=True)
        return ended._replace(rounds=state.rounds + ended.rounds)

    def unfinished(state: _Ended) -> Array:
        return state.slow & (state.rounds < _MAX_ROUNDS)

    # a Hessian of a start that is left at once would be of no use
    objective, _ = evaluate(start)
    start = jax.tree.map(
        lambda own, other: jnp.where(jnp.isfinite(objective), own, other), start, refuge
    )
    unknown = jnp.full((), jnp.inf, jax.tree.leaves(start)[0].dtype)
    first = _Ended(start, unknown, jnp.zeros((), int), jnp.array(True))
    return jax.lax.while_loop(unfinished, with_one_hessian, first)


def _newton(
    evaluate: Callable,
    direction: Callable,
    start: Any,
    refuge: Any,
    tolerance: float = MODE_TOLERANCE,
    *,
    chord: bool = False,
) -> _Ended:
    """Newton's method on a pytree: one evaluation a round, steps halved until the objective falls.

    `evaluate(point)` gives the objective and what `direction(point, found)` needs for the step, its
    predicted gain, and whether the true Hessian is positive definite. A full step that is to gain
    less than `tolerance` is the last: it is taken and its end not looked at. A start whose
    objective is not finite is exchanged for `refuge`; so is, once, a stationary point whose Hessian
    is not positive definite (a saddle between two modes).
    chord: all directions have the Hessian at the start. The last step is to gain less than
    `_CHORD_TOLERANCE` unless it is the first, which is Newton's own, and the iteration ends, too,
    where a step leaves much of its gain to the next.
    """
    unknown = jnp.full((), jnp.inf, jax.tree.leaves(start)[0].dtype)
    tolerance, rounding = (precise(size, unknown.dtype) for size in (tolerance, _SLACK))

    def advance(state: _State) -> _State:
        trial = jax.tree.map(lambda own, part: own + state.length * part, state.point, state.step)
        objective, found = evaluate(trial)
        slack = rounding * (1.0 + jnp.abs(state.objective))
        accepted = jnp.isfinite(objective) & ~(objective > state.objective + slack)
        step, gain, sound = direction(trial, found)

        def choose(new, old):
            return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)

        astray = accepted & (gain < tolerance) & ~sound & ~state.restarted
        lost = (~accepted & (state.rounds == 0)) | astray
        point = jax.tree.map(
            lambda own, other: jnp.where(lost, other, own), choose(trial, state.point), refuge
        )
        return _State(
            point=point,
            step=jax.tree.map(lambda part: jnp.where(astray, 0.0, part), choose(step, state.step)),
            length=choose(jnp.ones_like(gain), jnp.where(lost, 1.0, 0.5 * state.length)),
            objective=jnp.where(astray, jnp.inf, choose(objective, state.objective)),
            gain=jnp.where(astray, jnp.inf, choose(gain, state.gain)),
            restarted=state.restarted | astray,
            rounds=state.rounds + 1,
            slow=accepted & (gain > _CHORD_DECREASE * state.gain) if chord else state.slow,
        )

    def reached(state: _State) -> Array:
        if not chord:
            return state.gain < tolerance
        return state.gain < jnp.where(state.rounds == 1, tolerance, _CHORD_TOLERANCE)

    def unfinished(state: _State) -> Array:
        moving = (state.length > 0.5**_MAX_HALVINGS) & (state.rounds < _MAX_ROUNDS)
        return ~reached(state) & moving & ~state.slow

    first = _State(
        point=start,
        step=jax.tree.map(jnp.zeros_like, start),
        length=jnp.ones_like(unknown),
        objective=unknown,
        gain=unknown,
        restarted=jnp.zeros((), bool),
        rounds=jnp.zeros((), int),
        slow=jnp.array(False),
    )
    last = jax.lax.while_loop(unfinished, advance, first)
    found = reached(last)
    point = jax.tree.map(lambda own, part: jnp.where(found, own + part, own), last.point, last.step)
    return _Ended(point, last.gain, last.rounds, last.slow & ~found)


class JointModes(NamedTuple):
    """Modes of u and beta together (penalised iteratively reweighted least squares)."""

    u: Effects
    beta: Array


class JointHessian(NamedTuple):
    """The Hessian of g in (u, beta), factored: H, bordered by the fixed effects."""

    factor: Factorization
    coupling: Effects  # (Z Lambda)' W X, per factor (p, k, levels)
    reduced: Effects  # H^-1 of it
    information: Array  # X'WX - coupling' H^-1 coupling (p, p): beta's, given theta


def joint_gradient(problem: Problem, theta: Array, phi: Array, point: JointModes) -> JointModes:
    """Gradient of g in u and beta."""
    params = Params(theta, point.beta, phi)
    z, eta = rows_at(problem, params, point.u)
    score = row_terms(problem, eta, phi).score
    pull = adjoint(problem.plan, z, score)
    return JointModes(_minus(point.u, pull), -score @ problem.X)


@jax.custom_jvp
def joint_modes(theta: Array, phi: Array, problem: Problem, start: JointModes) -> JointModes:
    """(u_hat, beta_hat) minimising g at this theta: what lme4 calls nAGQ = 0."""
    return find_joint_modes(theta, phi, problem, start)[0]


@joint_modes.defjvp
def _joint_modes_jvp(primals, tangents):
    theta, phi, problem, _ = primals
    point = joint_modes(*primals)
    pushed = jax.jvp(
        lambda theta, phi, problem: joint_gradient(problem, theta, phi, point),
        (theta, phi, problem),
        tangents[:3],
    )[1]
    z, eta = rows_at(problem, Params(theta, point.beta, phi), point.u)
    weight = row_terms(problem, eta, phi).weight
    hessian = jax.lax.stop_gradient(joint_hessian(problem, z, weight))

    def multiply(x):
        rows = weight * (predictor(problem.plan, z, x.u) + problem.X @ x.beta)
        pulled = adjoint(problem.plan, z, rows)
        own = tuple(part + back for part, back in zip(x.u, pulled, strict=True))
        return JointModes(own, rows @ problem.X)

    step = jax.lax.custom_linear_solve(
        multiply, pushed, lambda _, b: solve_joint(problem, hessian, b), symmetric=True
    )
    return point, jax.tree.map(jnp.negative, step)


class JointProducts(NamedTuple):
    """What the rows add to the joint Hessian of g in (u, beta)."""

    effects: Blocks
    coupling: Effects  # (Z Lambda)' W X, per factor (p, k, levels)
    fixed: Array  # X'WX (p, p)

    @classmethod
    def of_rows(cls, problem: Problem, z: Rows, weight: Array) -> JointProducts:
        """z: the rows of Z Lambda (per factor (k, n)). weight: their weights (n,)."""
        plan, weighted = problem.plan, problem.X * weight[:, None]
        return cls(
            products_of_rows(plan, z, weight),
            jax.vmap(lambda column: adjoint(plan, z, column), in_axes=1)(weighted),
            weighted.T @ problem.X,
        )


def joint_hessian(problem: Problem, z: Rows, weight: Array) -> JointHessian:
    """Factor the joint Hessian of g in (u, beta); z, weight as in `JointProducts.of_rows`.

    Where H is not positive definite its factor is that without negative weights.
    """
    products = sum_over_blocks(
        lambda block, known: JointProducts.of_rows(block, *known), problem, (z, weight)
    )
    factor, _ = _definite_factor(problem, z, weight, products.effects)
    return _bordered(problem.plan, factor, products)


def _bordered(plan: Plan, factor: Factorization, products: JointProducts) -> JointHessian:
    """The joint Hessian from H, factored, and what couples it to the fixed effects."""
    coupling, p = products.coupling, len(products.fixed)
    reduced = jax.vmap(lambda rhs: solve(plan, factor, rhs), axis_size=p)(coupling)
    information = products.fixed - sum(
        jnp.einsum("akl,bkl->ab", c, r) for c, r in zip(coupling, reduced, strict=True)
    )
    return JointHessian(factor, coupling, reduced, information)


def solve_joint(problem: Problem, hessian: JointHessian, rhs: JointModes) -> JointModes:
    """Joint Hessian^-1 rhs."""
    u = solve(problem.plan, hessian.factor, rhs.u)
    residual = rhs.beta - sum(
        jnp.einsum("akl,kl->a", c, part) for c, part in zip(hessian.coupling, u, strict=True)
    )
    beta = jnp.linalg.solve(hessian.information, residual)
    u = tuple(
        part - jnp.einsum("a,akl->kl", beta, r) for part, r in zip(u, hessian.reduced, strict=True)
    )
    return JointModes(u, beta)


def find_joint_modes(
    theta: Array,
    phi: Array,
    problem: Problem,
    start: JointModes,
    tolerance: float = MODE_TOLERANCE,
) -> tuple[JointModes, Array, Array]:
    """The joint modes, the predicted gain of the last Newton step, and the number of steps."""
    theta, phi, problem, start = jax.lax.stop_gradient((theta, phi, problem, start))
    z = random_rows(problem, Params(theta, start.beta, phi))

    def evaluate(point):
        def sums(block, own_z):
            eta = fixed_predictor(block, point.beta) + predictor(block.plan, own_z, point.u)
            rows = row_terms(block, eta, phi)
            weight = rows.weight
            if not block.family.log_concave:
                weight = jnp.maximum(weight, 0.0)
            pull = JointModes(adjoint(block.plan, own_z, rows.score), rows.score @ block.X)
            return jnp.sum(rows.value), pull, JointProducts.of_rows(block, own_z, weight)

        log_density, pull, products = sum_over_blocks(sums, problem, z)
        return 0.5 * dot(point.u, point.u) - log_density, (pull, products)

    def direction(point, found):
        pull, products = found
        downhill = JointModes(_minus(pull.u, point.u), pull.beta)
        factor = factorize(problem.plan, penalised_products(products.effects))
        step = solve_joint(problem, _bordered(problem.plan, factor, products), downhill)
        gain = 0.5 * (dot(downhill.u, step.u) + jnp.sum(downhill.beta * step.beta))
        return step, gain, jnp.array(True)

    origin = start._replace(u=jax.tree.map(jnp.zeros_like, start.u))
    ended = _newton(evaluate, direction, start, origin, tolerance)
    return ended.point, ended.gain, ended.rounds


def _definite_factor(
    problem: Problem, z: Rows, weight: Any, products: Blocks
) -> tuple[Factorization, Array]:
    """A factor of H and True, or where H is not positive definite that without negative weights.

    products: what the rows add to H. z, weight: of the rows, (k, n) per factor and (n,); those of a
    family that is log-concave are not looked at.
    """
    factor = factorize(problem.plan, penalised_products(products))
    if problem.family.log_concave:
        return factor, jnp.array(True)

    def without_negative():
        clipped = sum_over_blocks(
            lambda block, known: products_of_rows(block.plan, *known),
            problem,
            (z, jnp.maximum(weight, 0.0)),
        )
        return factorize(problem.plan, penalised_products(clipped))

    sound = is_definite(factor)
    return jax.lax.cond(sound, lambda: factor, without_negative), sound


def _minus(a: Effects, b: Effects) -> Effects:
    """a - b, per factor (k, levels)."""
    return tuple(own - part for own, part in zip(a, b, strict=True))
