"""Where many fits of one design start: near one fit, or each at rough values of its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mixedlm_jax.arrays import Array
from mixedlm_jax.compiled import program
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.dispersion import coefficients
from mixedlm_jax.lanes import (
    Responses,
    batches,
    filled,
    lane_slice,
    lanes_at_once,
    over_lanes,
    problem_rows,
)
from mixedlm_jax.means import in_domain, link, link_mean
from mixedlm_jax.modes import JointModes
from mixedlm_jax.objective import Objective
from mixedlm_jax.optimize import Search
from mixedlm_jax.problem import Params, Problem
from mixedlm_jax.start import (
    LEAST_INFORMATION,
    SCORING_ROUNDS,
    Start,
    inverse_metric,
    prepare,
)

# A sum of variances, of parameters in the unit of their own information, that says of a weak
# direction.
_WEAK = 1e4


def rough_starts(
    objective: Objective,
    problem: Problem,
    responses: Responses,
    *,
    width: int,
    mesh: Mesh | None = None,
) -> Search:
    """Each lane at rough values of its own (NumPy, one row a lane): `first_search` of them all.

    beta by least squares for the link of a mean near each response, phi by moments, theta at one
    `effect_unit` an effect; then joint modes there, and the metric that goes with them.
    """
    first = _rough_params(problem, responses)
    # scoring of theta asks for a dispersion that is about right
    rounds = 0 if problem.n_phi else SCORING_ROUNDS
    return prepared_starts(
        objective, problem, responses, first, rounds=rounds, width=width, mesh=mesh
    )


def prepared_starts(
    objective: Objective,
    problem: Problem,
    responses: Responses,
    first: Params,
    *,
    rounds: int,
    width: int,
    mesh: Mesh | None = None,
) -> Search:
    """Each lane at the joint modes of (u, beta) at its first parameters (NumPy, one row a lane).

    rounds: of scoring that theta is improved by. The searches are before their first evaluation.
    """
    count, parts = len(first.beta), []
    at_once = lanes_at_once(problem_rows(problem, responses), width, mesh)
    for lanes in batches(count, width):
        own = filled(lanes, width)
        found = _prepare_lanes(
            mesh,
            at_once,
            np.asarray(len(lanes)),
            problem,
            np.asarray(rounds),
            lane_slice(responses, own),
            lane_slice(first, own),
        )
        parts.append(lane_slice(jax.device_get(found), np.arange(len(lanes))))
    ready: Start = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    leaves = [leaf.reshape((count, -1)) for leaf in jax.tree.leaves(ready.modes)]
    finite = np.all(np.isfinite(np.concatenate([ready.first, *leaves], axis=1)), axis=1)

    def choose(new: np.ndarray, old: np.ndarray) -> np.ndarray:
        return np.where(finite.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

    origin = tuple(np.zeros_like(part) for part in ready.modes.u)
    modes = jax.tree.map(choose, ready.modes, JointModes(origin, first.beta))
    x = objective.x_of(first._replace(theta=choose(ready.first, first.theta), beta=modes.beta))
    return Search(
        x=x,
        value=np.full(count, np.inf),
        gradient=np.zeros_like(x),
        aux=objective.aux_of(modes),
        inverse=_inverse_metrics(*objective.metric_blocks(ready.theta, ready.beta, ready.phi)),
        length=np.ones(count),
        gain=np.full(count, np.inf),
    )


def _inverse_metrics(*blocks: np.ndarray) -> np.ndarray:
    """`inverse_metric` of many lanes; eigenvalues, which take long, only for weak directions."""
    sizes = [block.shape[-1] for block in blocks]
    ends = np.cumsum(sizes)
    inverse, sound = np.zeros((len(blocks[0]), ends[-1], ends[-1])), np.array(True)
    for block, size, end in zip(blocks, sizes, ends, strict=True):
        scale = 1.0 / np.sqrt(np.maximum(np.diagonal(block, 0, 1, 2), LEAST_INFORMATION))
        try:
            root = np.linalg.cholesky(block * scale[:, :, None] * scale[:, None, :])
        except np.linalg.LinAlgError:  # a lane's is not positive definite
            return inverse_metric(*blocks)
        half = np.linalg.inv(root)
        sound = sound & (np.sum(half**2, axis=(1, 2)) < _WEAK)
        half *= scale[:, None, :]
        inverse[:, end - size : end, end - size : end] = np.swapaxes(half, 1, 2) @ half
    weak = np.flatnonzero(~sound)
    if len(weak):
        inverse[weak] = inverse_metric(*(block[weak] for block in blocks))
    return inverse


@program("mesh", "at_once")
def _prepare_lanes(
    mesh: Mesh | None,
    at_once: int,
    count: Array,
    problem: Problem,
    rounds: Array,
    responses: Responses,
    first: Params,
) -> Start:
    """`prepare` of the first `count` lanes, `at_once` at a time; rounds: of scoring."""

    def begin(shared: Any, lanes: Any) -> Start:
        problem, rounds = shared

        def one(response: Responses, own: Params) -> Start:
            return prepare(response.of(problem), own, rounds)

        return jax.vmap(one)(*lanes)

    return over_lanes(begin, mesh, at_once, count, (problem, rounds), (responses, first))


def _rough_params(problem: Problem, responses: Responses) -> Params:
    """Rough parameters of every lane, one row each."""
    family, X, y = problem.family, np.asarray(problem.X), responses.y
    count, n = y.shape
    trials = problem.trials if responses.trials is None else responses.trials
    weights = problem.weights if responses.weights is None else responses.weights
    trials, weights = np.broadcast_to(trials, (count, n)), np.broadcast_to(weights, (count, n))
    means = np.stack([family.start_mean(*rows) for rows in zip(y, trials, strict=True)])
    beta = _first_betas(problem, means, weights * trials)

    phi = np.zeros((count, problem.n_phi))
    if problem.n_phi:
        eta = beta @ X.T + problem.offset
        mu = link_mean(family, eta.ravel()).reshape((count, n))
        for lane in range(count):
            rough = family.start_phi(y[lane], mu[lane], trials[lane], weights[lane])
            phi[lane] = coefficients(problem.phi_matrices, rough)
    sizes = np.asarray(_first_sizes(problem, Responses(y), phi))
    blocks = [np.zeros((count, 0))]
    for term in problem.terms:
        rms = problem.effect_sizes(term)
        unit = 1.0 / np.where(rms > 0, rms, 1.0)
        blocks.append(np.stack([STRUCTURES[term.structure].start(size * unit) for size in sizes]))
    return Params(np.concatenate(blocks, axis=1), beta, phi)


def _first_betas(problem: Problem, means: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Least squares for the link of each row's mean (lanes, n); of a constant one where those lead
    out of the domain of a restricted link (lanes, p)."""
    family, X = problem.family, np.asarray(problem.X)

    def squares(mu: np.ndarray) -> np.ndarray:
        target = link(family, mu.ravel()).reshape(mu.shape) - problem.offset
        return _least_squares(X, target, weights)

    beta = squares(means)
    eta = beta @ X.T + problem.offset
    inside = in_domain(family, eta.ravel()).reshape(eta.shape)
    astray = ~np.all(inside | (weights == 0.0), axis=1)
    if np.any(astray):
        pooled = np.average(means, axis=1, weights=weights)
        constant = squares(np.broadcast_to(pooled[:, None], means.shape))
        beta = np.where(astray[:, None], constant, beta)
    return beta


def _least_squares(X: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least squares of each row of targets (m, n) on X (n, p): (m, p)."""
    rms = np.sqrt(np.mean(X**2, axis=0))
    scaled = X / rms
    weighted = weights * targets
    normal = np.einsum("ln,np,nq->lpq", weights, scaled, scaled, optimize=True)
    ridge = 1e-10 * np.eye(X.shape[1])  # a lane whose observed rows do not span X starts anyhow
    return np.linalg.solve(normal + ridge, (weighted @ scaled)[..., None])[..., 0] / rms


@program()
def _first_sizes(problem: Problem, responses: Responses, phi: Array) -> Array:
    """One `effect_unit` in the unit of theta, for every lane."""

    def one(response, own):
        lane = response.of(problem)
        return jnp.asarray(lane.effect_unit(own) / lane.ranef_scale(own), own.dtype)

    return jax.vmap(one)(responses, phi)
