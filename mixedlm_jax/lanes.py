"""Many fits of one design in lockstep: the compiled programs, and the search that drives them.

A lane is one response to the design. All lanes of a program take the same step at the same time,
one evaluation of value and gradient (`optimize.advance`), and none waits inside a line search.
Lanes that have arrived hand their place to those that wait, so that a program of fixed width stays
full; its width is chosen so that what it holds fits a processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from mixedlm_jax.arrays import Array
from mixedlm_jax.compiled import program
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.dispersion import Matrices
from mixedlm_jax.modes import joint_hessian
from mixedlm_jax.objective import Objective
from mixedlm_jax.optimize import MIN_LENGTH, Search, advance
from mixedlm_jax.priors import log_prior
from mixedlm_jax.problem import (
    Params,
    Problem,
    covariance_factors,
    fixed_predictor,
    row_terms,
    rows_at,
)
from mixedlm_jax.verdict import ALL_BUT

AXIS = "lanes"

# Rows x lanes of one call, and the lanes of it at most.
_CALL_ROWS = 2**15
_MOST_LANES = 256
# Rows x lanes that a core works on at a time, and rows x lanes x parameters of a Hessian: what its
# cache holds.
_STEP_ROWS = 2**12
_HESSIAN_ROWS = 2**14
# What an accelerator takes in place of a core: it needs that many rows to be busy.
_ACCELERATOR = 2**8

_STEPS = 3  # evaluations of a call, after which the host looks who has arrived
# A lane that is this near (predicted gain, log-likelihood units) is left to the exact Hessian.
ARRIVED = 1e-9
_MAX_EVALUATIONS = 100


class OwnRows(NamedTuple):
    """The rows of a lane that has a design of its own, with one grouping factor."""

    X: Array  # (n, p)
    Z: Array  # (k, n)
    level: Array  # (n,)
    offset: Array  # (n,)
    phi_matrices: Matrices

    def of(self, problem: Problem) -> Problem:
        """The problem of these rows."""
        return problem.replace(
            X=self.X,
            Z=(self.Z,),
            offset=self.offset,
            plan=replace(problem.plan, levels=(self.level,), rounds=0),
            phi_matrices=self.phi_matrices,
        )


class Responses(NamedTuple):
    """What differs between lanes, one row a lane (lanes, n); None where all lanes share it.

    ends: -1 for a response at the lower end of what its family allows, 1 at the upper end, else 0;
    None where no response is.
    """

    y: Array
    trials: Array | None = None
    weights: Array | None = None
    ends: Array | None = None
    rows: OwnRows | None = None

    def of(self, problem: Problem) -> Problem:
        """The problem of one lane, from that lane's rows (n,)."""
        own = {"y": self.y, "trials": self.trials, "weights": self.weights}
        if self.rows is not None:
            problem = self.rows.of(problem)
        return problem.replace(**{name: rows for name, rows in own.items() if rows is not None})


class Ending(NamedTuple):
    """What the exact Hessian says of the points where lanes have ended; one entry a lane.

    Parameters and covariances are reported ones: theta with its signs, beta of the columns that
    were given, phi on its natural scale.
    """

    hessian: Array  # of -log L in the searched parameters (d, d)
    metric: Array  # its inverse (d, d); nan where it is not positive definite
    gain: Array  # what a Newton step promises, g' H^-1 g / 2
    condition: Array  # a bound of the condition of the Hessian scaled to a unit diagonal
    theta: Array
    signs: Array  # of the columns of Lambda that theta's parameters belong to
    beta: Array
    phi: Array
    vcov: Array  # of (theta, beta, phi)
    phi_slope: Array  # Jacobian of the natural phi in its unconstrained coordinates
    beta_information: Array | None  # of beta, given theta (p, p), if the objective wants it
    log_likelihood: Array
    sizes: Array  # |Lambda_jj| of every effect, in units of its family and covariate
    lengths: Array  # the largest |Lambda_ij| of every effect's column, in the same units
    longest: Array  # the largest row norm of Lambda, in the same units
    reached: Array  # a row whose response the fixed effects alone put at the end of its range


def width_of(objective: Objective, problem: Problem) -> int:
    """How many lanes one call of a program takes, a power of two."""
    rows, more = len(problem.y) * objective.width(problem), _capacity()
    return _power_of_two(more * _CALL_ROWS // rows, more * _MOST_LANES)


def lanes_at_once(rows: int, width: int, mesh: Mesh | None) -> int:
    """How many of the lanes of a call take a step at a time, each of so many rows."""
    return _at_once(rows, width // (1 if mesh is None else mesh.size), _STEP_ROWS)


def _at_once(rows: int, lanes: int, capacity: int) -> int:
    """How many of the lanes of a call are worked on at a time; divides them."""
    more = _capacity()
    return min(_power_of_two(more * capacity // rows, more * _MOST_LANES), lanes)


def _power_of_two(size: int, most: int) -> int:
    """The largest power of two that is no larger than either, at least 1."""
    return int(np.clip(1 << size.bit_length() >> 1, 1, most))


def _capacity() -> int:
    """How much more than a core the default device takes at a time."""
    return 1 if jax.default_backend() == "cpu" else _ACCELERATOR


def over_lanes(
    function: Callable, mesh: Mesh | None, at_once: int, count: Array, shared: Any, lanes: Any
) -> Any:
    """A function of (shared, lanes) applied to `at_once` lanes at a time, on all devices of a mesh.

    lanes: a pytree (width, ...), of which the first `count` are somebody's. What is made of the
    others, those of the last piece aside, is 0. Each device drives its own loops: nothing is
    exchanged between them.
    """

    def of_device(shared: Any, lanes: Any) -> Any:
        own = len(jax.tree.leaves(lanes)[0])
        first = 0 if mesh is None else jax.lax.axis_index(AXIS) * own
        pieces = jnp.clip(-((first - count) // at_once), 0, own // at_once)
        return _in_pieces(lambda some: function(shared, some), lanes, at_once, pieces)

    if mesh is None:
        return of_device(shared, lanes)
    specs = (PartitionSpec(), PartitionSpec(AXIS))
    spread = jax.shard_map(
        of_device, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False
    )
    return spread(shared, lanes)


def _in_pieces(function: Callable, lanes: Any, size: int, pieces: Array) -> Any:
    """A function of lanes applied to `pieces` times `size` of them, 0 for the others."""

    def folded(leaf):
        return leaf.reshape((leaf.shape[0] // size, size, *leaf.shape[1:]))

    def unfolded(leaf):
        return leaf.reshape((leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]))

    given = jax.tree.map(folded, lanes)
    most = len(jax.tree.leaves(given)[0])

    def work(piece, made):
        found = function(jax.tree.map(lambda leaf: leaf[piece], given))
        return jax.tree.map(lambda all_of, new: all_of.at[piece].set(new), made, found)

    one = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], given))
    blank = jax.tree.map(lambda leaf: jnp.zeros((most, *leaf.shape), leaf.dtype), one)
    return jax.tree.map(unfolded, jax.lax.fori_loop(0, pieces, work, blank))


@program("objective", "mesh", "steps", "at_once")
def take_steps(
    objective: Objective,
    mesh: Mesh | None,
    steps: int,
    at_once: int,
    count: Array,
    problem: Problem,
    responses: Responses,
    searches: Search,
) -> Search:
    """`steps` steps of the first `count` lanes, `at_once` lanes at a time."""

    def step(problem, lanes):
        def one(response, search):
            own = response.of(problem)
            return advance(lambda x, aux: objective.evaluate(own, x, aux), search)

        own, begun = lanes
        return jax.lax.fori_loop(0, steps, lambda _, at: jax.vmap(one)(own, at), begun)

    return over_lanes(step, mesh, at_once, count, problem, (responses, searches))


@program("objective", "mesh", "at_once")
def endings(
    objective: Objective,
    mesh: Mesh | None,
    at_once: int,
    count: Array,
    problem: Problem,
    back: Array,
    responses: Responses,
    searches: Search,
) -> Ending:
    """`Ending` of the first `count` lanes, `at_once` at a time.

    back: takes the beta that was searched over to the one that is reported (p, p).
    """

    def end(shared, lanes):
        problem, back = shared

        def one(response, search):
            return _ending(objective, response.of(problem), back, search, response.ends)

        return jax.vmap(one)(*lanes)

    return over_lanes(end, mesh, at_once, count, (problem, back), (responses, searches))


def _ending(
    objective: Objective, problem: Problem, back: Array, search: Search, ends: Array | None
) -> Ending:
    x, aux = search.x, search.aux
    hessian = objective.hessian(problem, x, aux, len(x))
    hessian = 0.5 * (hessian + hessian.T)
    # each parameter in its own unit: the diagonal is one, the largest eigenvalue at most d
    diagonal = jnp.abs(jnp.diagonal(hessian))
    scale = jax.lax.rsqrt(jnp.where(diagonal > 0.0, diagonal, 1.0))
    root = jnp.linalg.cholesky(hessian * scale[:, None] * scale[None, :])
    half = jax.scipy.linalg.solve_triangular(root, jnp.diag(scale), lower=True)
    metric = half.T @ half

    params = objective.params_of(problem, x, aux)
    effects = _effect_sizes(problem, params)
    theta = params.theta * effects.signs
    q, p, r = len(theta), len(params.beta), len(params.phi)
    slope = jax.jacfwd(problem.reported_phi)(params.phi)
    reported = jax.scipy.linalg.block_diag(jnp.diag(effects.signs), back, slope)
    searched, information = metric, None
    if objective.beta_is_conditional:
        z, eta = rows_at(problem, params, objective.modes_of(aux))
        weight = row_terms(problem, eta, params.phi).weight
        information = joint_hessian(problem, z, weight).information
        outer = np.r_[0:q, q + p : q + p + r]
        searched = jnp.zeros((q + p + r, q + p + r), x.dtype)
        searched = searched.at[outer[:, None], outer[None, :]].set(metric)
        searched = searched.at[q : q + p, q : q + p].set(jnp.linalg.inv(information))
    return Ending(
        hessian=hessian,
        metric=metric,
        gain=0.5 * search.gradient @ metric @ search.gradient,
        condition=len(x) * jnp.sum((half / scale[None, :]) ** 2),
        theta=theta,
        signs=effects.signs,
        beta=back @ params.beta,
        phi=problem.reported_phi(params.phi),
        vcov=reported @ searched @ reported.T,
        phi_slope=slope,
        beta_information=information,
        log_likelihood=problem.log_base - search.value - log_prior(params, problem),
        sizes=effects.sizes,
        lengths=effects.lengths,
        longest=effects.longest,
        reached=_reaches_an_end(problem, params.beta, ends),
    )


class _EffectSizes(NamedTuple):
    signs: Array
    sizes: Array
    lengths: Array
    longest: Array


def _effect_sizes(problem: Problem, params: Params) -> _EffectSizes:
    """Lambda against the units of its effects, over all terms (see `Ending`)."""
    factors, unit = covariance_factors(problem, params), problem.effect_unit(params.phi)
    used = problem.weights > 0
    signs, sizes, lengths, longest = [], [], [], []
    for term in problem.terms:
        columns = np.array(term.columns)
        block = factors[term.factor][columns[:, None], columns[None, :]]
        squares = jnp.where(used[None, :], problem.Z[term.factor][columns] ** 2, 0.0)
        rms = jnp.sqrt(jnp.sum(squares, axis=1) / jnp.sum(used))
        scaled = jnp.abs(block / unit * rms[:, None])
        # the sign appended is that of parameters that belong to no column
        of_parameter = STRUCTURES[term.structure].columns(len(columns))
        signs.append(jnp.append(_leading_signs(block), 1.0)[of_parameter])
        sizes.append(jnp.diagonal(scaled))
        lengths.append(jnp.max(scaled, axis=0))
        longest.append(jnp.sqrt(jnp.max(jnp.sum(scaled**2, axis=1))))
    none = jnp.zeros(0, params.theta.dtype)  # of a model without random effects
    return _EffectSizes(
        signs=jnp.concatenate([none, *signs]),
        sizes=jnp.concatenate([none, *sizes]),
        lengths=jnp.concatenate([none, *lengths]),
        longest=jnp.max(jnp.stack([jnp.zeros(()), *longest])),
    )


def _leading_signs(block: Array) -> Array:
    """`covariance.column_signs` in JAX: by the first entry of each column that is not zero."""
    first = jnp.argmax(block != 0.0, axis=0)
    return jnp.where(block[first, jnp.arange(len(block))] < 0.0, -1.0, 1.0)


def _reaches_an_end(problem: Problem, beta: Array, ends: Array | None) -> Array:
    """Whether the fixed effects alone put a response at an end of its range all but there."""
    if ends is None:
        return jnp.array(False)
    mean = problem.trials * problem.family.link.inverse(fixed_predictor(problem, beta))
    return jnp.any((ends != 0) & (jnp.abs(problem.y - mean) < ALL_BUT))


# The search


def lane_slice(tree: Any, lanes: np.ndarray | int) -> Any:
    """Some lanes of a pytree of NumPy arrays (lanes, ...), or one lane of it."""
    return jax.tree.map(lambda leaf: leaf[lanes], tree)


def lane_update(tree: Any, lanes: np.ndarray, new: Any) -> None:
    """Put what was computed for some lanes back into NumPy arrays (lanes, ...)."""

    def put(leaf, values):
        leaf[lanes] = np.asarray(values)[: len(lanes)]

    jax.tree.map(put, tree, new)


def filled(lanes: np.ndarray, width: int) -> np.ndarray:
    """Lane numbers filled up to a width by repeating the first."""
    return np.concatenate([lanes, np.full(width - len(lanes), lanes[0])])


def batches(count: int, width: int) -> Iterator[np.ndarray]:
    """The numbers below `count` in pieces of `width`."""
    for start in range(0, count, width):
        yield np.arange(start, min(start + width, count))


def problem_rows(problem: Problem, responses: Responses) -> int:
    """Rows of a lane: those of the problem, or its own."""
    return len(problem.y) if responses.rows is None else responses.y.shape[1]


def search_lanes(
    objective: Objective,
    problem: Problem,
    responses: Responses,
    searches: Search,
    *,
    width: int,
    tol: float,
    mesh: Mesh | None = None,
) -> None:
    """Drive every lane until the predicted gain is below `tol`; `searches` is changed in place.

    searches: NumPy arrays (lanes, ...), each lane at any point. width: lanes that take a step
    in one call. A lane that finds no way down, or would go further than `_MAX_EVALUATIONS`, stays
    where it is.
    """
    evaluations = np.zeros(len(searches.value), int)
    rows = problem_rows(problem, responses) * objective.width(problem)

    def step(lanes: np.ndarray) -> None:
        own = filled(lanes, width)
        reached = take_steps(
            objective,
            mesh,
            _STEPS,
            lanes_at_once(rows, width, mesh),
            np.asarray(len(lanes)),
            problem,
            lane_slice(responses, own),
            lane_slice(searches, own),
        )
        lane_update(searches, lanes, reached)
        evaluations[lanes] += _STEPS

    # the first steps of all: they take the most Newton rounds for the modes
    for lanes in batches(len(evaluations), width):
        step(lanes)
    while True:
        on_the_way = (
            ~(searches.gain < tol)
            & np.isfinite(searches.value)
            & (searches.length >= MIN_LENGTH)
            & (evaluations < _MAX_EVALUATIONS)
        )
        lanes = np.flatnonzero(on_the_way)
        if not len(lanes):
            return
        step(lanes[:width])


def lane_endings(
    objective: Objective,
    problem: Problem,
    back: np.ndarray,
    responses: Responses,
    searches: Search,
    *,
    width: int,
    mesh: Mesh | None = None,
) -> Ending:
    """`Ending` of every lane (NumPy, one row a lane)."""
    count, d = searches.x.shape
    devices = 1 if mesh is None else mesh.size
    rows = problem_rows(problem, responses) * objective.width(problem) * d
    at_once = _at_once(rows, width // devices, _HESSIAN_ROWS)
    parts = []
    for lanes in batches(count, width):
        own = filled(lanes, width)
        found = endings(
            objective,
            mesh,
            at_once,
            np.asarray(len(lanes)),
            problem,
            back,
            lane_slice(responses, own),
            lane_slice(searches, own),
        )
        parts.append(lane_slice(jax.device_get(found), np.arange(len(lanes))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
