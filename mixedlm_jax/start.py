"""Where a fit starts: parameters, modes, and the metric of the first step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.compiled import program
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.dispersion import coefficients, coordinates
from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.means import in_domain, link, link_mean
from mixedlm_jax.modes import JointModes, find_joint_modes, joint_hessian
from mixedlm_jax.problem import (
    Params,
    Problem,
    fixed_predictor,
    random_rows,
    row_log_density,
    row_terms,
    rows_at,
    zero_effects,
)
from mixedlm_jax.scoring import level_sums, scored

# Joint modes to start from need not be exact: log-likelihood units a further step would gain.
_ROUGH = 1e-1
# Rows, evenly spaced, that a first beta is fitted to, at most about so many.
_FIRST_ROWS = 2**16
# The information of a parameter is taken to be no less.
LEAST_INFORMATION = 1e-3
# Rounds of scoring that improve a first theta which nobody gave.
SCORING_ROUNDS = 5


class Start(NamedTuple):
    """The first theta, rough modes of (u, beta) and the information of each parameter there."""

    first: Array
    modes: JointModes
    theta: Array  # information of theta, (n_theta, n_theta)
    beta: Array  # of beta, given theta (p, p)
    phi: Array  # of phi (n_phi, n_phi)


def first_params(problem: Problem, given: dict | None) -> Params:
    """Rough parameters (NumPy): what the user gave, else unit effects and a least-squares beta.

    given: any of "theta", "beta" and "phi", the latter on its natural scale.

    Raises `ArgumentError` for start values of the wrong name or length, `DataError` when no beta
    puts every row into the domain of a restricted link.
    """
    given = {name: _numbers(name, values) for name, values in (given or {}).items()}
    sizes = {"theta": problem.n_theta, "beta": problem.X.shape[1], "phi": problem.n_phi}
    for name, values in given.items():
        if name not in sizes:
            raise ArgumentError(f"start has no part {name!r}; it may hold theta, beta and phi")
        if values.shape != (sizes[name],):
            raise ArgumentError(
                f"start[{name!r}] has shape {values.shape}; the model has {sizes[name]} such "
                "parameters, in the order of vcov(full=True)"
            )
        if not np.all(np.isfinite(values)):
            raise ArgumentError(f"start[{name!r}] is {values}; give finite numbers")
    beta = given.get("beta")
    if beta is None:
        beta = _first_beta(problem)
    if "phi" in given:
        phi = coordinates(problem.family, problem.phi_matrices, given["phi"])
        if not np.all(np.isfinite(phi)):
            family = problem.family
            ranges = [(name, family.parameters[name]) for name in family.dispersion_names]
            must = ", ".join(f"{name} must be {part.described}" for name, part in ranges)
            raise ArgumentError(f"start['phi'] is {given['phi']}; {must}")
    else:
        mu = problem.y
        if problem.n_phi:
            mu = link_mean(problem.family, fixed_predictor(problem, beta))
        rough = problem.family.start_phi(problem.y, mu, problem.trials, problem.weights)
        phi = coefficients(problem.phi_matrices, rough)
    theta = given.get("theta")
    if theta is None:
        theta = _first_theta(problem, phi)
    return Params(theta, beta, phi)


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        return np.atleast_1d(np.asarray(values, float))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"start[{name!r}] is {values!r}; give numbers") from error


def _first_theta(problem: Problem, phi: np.ndarray) -> np.ndarray:
    """Independent effects that each move eta by one `effect_unit` of the family."""
    size = float(_first_size(problem, phi))
    blocks = []
    for term in problem.terms:
        rms = problem.effect_sizes(term)
        blocks.append(STRUCTURES[term.structure].start(size / np.where(rms > 0, rms, 1.0)))
    return np.concatenate([np.empty(0), *blocks])


@program()
def _first_size(problem: Problem, phi: Array) -> Array:
    """One `effect_unit` in the unit of theta."""
    return jnp.asarray(problem.effect_unit(phi) / problem.ranef_scale(phi), phi.dtype)


def _first_beta(problem: Problem) -> np.ndarray:
    """Least squares for the link of a mean near each y, or for a constant predictor."""
    counted = np.flatnonzero(np.asarray(problem.weights) > 0)
    every = -(-len(counted) // _FIRST_ROWS)
    # a level of a factor may have no row among few: its coefficient is then 0, and may leave the
    # domain
    for rows in (counted[::every], counted) if every > 1 else (counted,):
        for beta in _betas(problem, rows):
            eta = fixed_predictor(problem, beta)
            if np.all(in_domain(problem.family, eta)[counted]):
                return beta
    raise DataError(
        f"no starting fixed effects were found that keep every row inside the domain of the "
        f"{problem.family.link.name} link; give start={{'beta': ...}} or use another link"
    )


def _betas(problem: Problem, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Least squares in some rows, for the mean near each y and for one mean of all."""
    family = problem.family
    arrays = (problem.y, problem.trials, problem.weights, problem.offset, problem.X)
    y, trials, weights, offset, X = (np.asarray(values)[rows] for values in arrays)
    weight = weights * trials
    rms = np.sqrt(np.einsum("ij,ij->j", X, X) / len(X))
    rms = np.where(rms > 0.0, rms, 1.0)
    weighted = X * weight[:, None]
    gram = (weighted.T @ X) / np.outer(rms, rms)
    per_row = family.start_mean(y, trials)
    for mu in (per_row, np.full_like(y, np.average(per_row, weights=weight))):
        target = link(family, mu) - offset
        yield np.linalg.lstsq(gram, weighted.T @ target / rms, rcond=None)[0] / rms


@program()
def prepare(problem: Problem, first: Params, rounds: Array) -> Start:
    """Joint modes at the first theta, theta after `rounds` of scoring, and the metric there."""
    start = JointModes(zero_effects(problem), first.beta)
    modes = find_joint_modes(first.theta, first.phi, problem, start, _ROUGH)[0]
    params = first._replace(beta=modes.beta)
    eta = rows_at(problem, params, modes.u)[1]
    rows = row_terms(problem, eta, params.phi)
    rows = rows._replace(weight=jnp.maximum(rows.weight, 0.0))
    theta, score = scored(problem, params, level_sums(problem, params, modes.u, rows), rounds)
    u = jax.tree.map(lambda new, old: jnp.where(rounds > 0, new, old), score.u, modes.u)
    z = random_rows(problem, params._replace(theta=theta))

    def negative(phi):
        return -jnp.sum(row_log_density(problem, eta, phi))

    return Start(
        first=theta,
        modes=modes._replace(u=u),
        theta=score.information,
        beta=joint_hessian(problem, z, rows.weight).information,
        phi=jax.hessian(negative)(params.phi),
    )


def inverse_metric(*blocks: Array) -> Array:
    """Inverse of a block-diagonal information, with weak directions held to a moderate step.

    Blocks (..., k, k) with the same leading axes, those of the result (..., d, d). NumPy from
    NumPy, JAX from JAX.
    """
    inverses = [_guarded_inverse(block) for block in blocks if block.shape[-1]]
    ends = np.cumsum([block.shape[-1] for block in inverses])
    xp = blocks[0].__array_namespace__()
    lead = [(0, 0)] * (blocks[0].ndim - 1)
    rows = [
        xp.pad(block, [*lead, (int(end) - block.shape[-1], int(ends[-1] - end))])
        for block, end in zip(inverses, ends, strict=True)
    ]
    return xp.concatenate(rows, axis=-2)


def _guarded_inverse(information: Array) -> Array:
    """The inverse (..., k, k); the identity where an entry is not finite."""
    xp = information.__array_namespace__()
    finite = xp.all(xp.isfinite(information), axis=(-2, -1), keepdims=True)
    unit = xp.eye(information.shape[-1], dtype=information.dtype)
    unit = xp.broadcast_to(unit, information.shape)
    information = xp.where(finite, information, unit)
    diagonal = xp.diagonal(information, 0, -2, -1)
    scale = 1.0 / xp.sqrt(xp.maximum(diagonal, LEAST_INFORMATION))
    values, vectors = xp.linalg.eigh(information * scale[..., :, None] * scale[..., None, :])
    root = scale[..., :, None] * vectors
    inverse = (root / xp.maximum(values, 1e-6)[..., None, :]) @ xp.swapaxes(root, -2, -1)
    return xp.where(finite, inverse, unit)
