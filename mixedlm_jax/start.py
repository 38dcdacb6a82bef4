"""Where a fit starts: parameters, modes, and the metric of the first step."""

from __future__ import annotations

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
    covariance_factors,
    fixed_predictor,
    row_log_density,
    row_terms,
    rows_at,
    zero_effects,
)
from mixedlm_jax.small import sum_by

# Joint modes to start from need not be exact: log-likelihood units a further step would gain.
_ROUGH = 1e-2


class Start(NamedTuple):
    """Joint modes of (u, beta) at the first theta, and the information of each parameter there."""

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
    family, y, trials = problem.family, np.asarray(problem.y), np.asarray(problem.trials)
    weight = np.asarray(problem.weights) * trials
    rms = np.sqrt(np.mean(np.asarray(problem.X) ** 2, axis=0))
    X = np.asarray(problem.X) / rms
    per_row = family.start_mean(y, trials)
    pooled = np.full_like(y, np.average(per_row, weights=weight))
    for mu in (per_row, pooled):
        target = link(family, mu) - problem.offset
        weighted = X * weight[:, None]
        beta = np.linalg.lstsq(weighted.T @ X, weighted.T @ target, rcond=None)[0] / rms
        if np.all(in_domain(family, fixed_predictor(problem, beta))[weight > 0]):
            return beta
    raise DataError(
        f"no starting fixed effects were found that keep every row inside the domain of the "
        f"{family.link.name} link; give start={{'beta': ...}} or use another link"
    )


@program()
def prepare(problem: Problem, first: Params) -> Start:
    """Joint modes at the first theta and the metric that goes with them.

    theta's information is that of independent levels,
    I_ab = 1/2 sum_jk Q_jk dSigma_jk/dtheta_a dSigma_jk/dtheta_b with
    Q_jk = sum_g m_jg m_kg, m_jg = w_jg / (1 + Sigma_jj w_jg), w_jg the weight of effect j in g.
    """
    start = JointModes(zero_effects(problem), first.beta)
    modes = find_joint_modes(first.theta, first.phi, problem, start, _ROUGH)[0]
    params = first._replace(beta=modes.beta)
    z, eta = rows_at(problem, params, modes.u)
    weight = jnp.maximum(row_terms(problem, eta, params.phi).weight, 0.0)

    scale = problem.ranef_scale(params.phi)
    covariance = [(factor @ factor.T) / scale**2 for factor in covariance_factors(problem, params)]
    theta = jnp.zeros((problem.n_theta, problem.n_theta), eta.dtype)
    for term, where in zip(problem.terms, problem.theta_slices, strict=True):
        f, columns = term.factor, np.array(term.columns)
        squares = (problem.Z[f][columns] * scale) ** 2 * weight[None, :]
        amount = sum_by(squares, problem.plan.levels[f], problem.plan.n_levels[f])
        variance = jnp.diagonal(covariance[f])[columns]
        m = amount / (1.0 + variance[:, None] * amount)
        structure = STRUCTURES[term.structure]

        def sigma(values, structure=structure, columns=columns):
            block = structure.factor(values, len(columns))
            return block @ block.T

        slopes = jax.jacfwd(sigma)(params.theta[where])
        information = 0.5 * jnp.einsum("jk,jka,jkb->ab", m @ m.T, slopes, slopes)
        theta = theta.at[where, where].set(information)

    def negative(phi):
        return -jnp.sum(row_log_density(problem, eta, phi))

    return Start(
        modes=modes,
        theta=theta,
        beta=joint_hessian(problem, z, weight).information,
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
    scale = 1.0 / xp.sqrt(xp.maximum(diagonal, 1e-3))
    values, vectors = xp.linalg.eigh(information * scale[..., :, None] * scale[..., None, :])
    root = scale[..., :, None] * vectors
    inverse = (root / xp.maximum(values, 1e-6)[..., None, :]) @ xp.swapaxes(root, -2, -1)
    return xp.where(finite, inverse, unit)
