"""Covariance parameters by Fisher scoring in the working linear model: where a search starts.

With weights w and working responses fixed, and all other effects at their modes, level g says of
its effects b_g ~ N(0, Sigma) only W_g = Z_g' w Z_g and t_g = W_g b_g + Z_g' s, s the score of its
rows at b_g. Marginally

    dlogL / dSigma = (P_g P_g' - M_g) / 2,   M_g = W_g - W_g Lambda H_g^-1 Lambda' W_g,
    P_g = t_g - W_g Lambda H_g^-1 Lambda' t_g,   H_g = Lambda' W_g Lambda + I,

and the information of theta is sum_g tr(M_g dSigma_a M_g dSigma_b) / 2. No pass over the rows is
needed but the one that sums W_g and t_g.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.elimination import Effects, of_levels
from mixedlm_jax.problem import Params, Problem, RowTerms, covariance_factors
from mixedlm_jax.small import gram, small_cholesky, solve_lower, solve_upper

# A parameter that starts positive stays between these multiples of its start: theta = 0 is always
# stationary, and the working model knows little of sd's far away.
_LEAST, _MOST = 0.1, 8.0
_RIDGE = 1e-6


class Levels(NamedTuple):
    """What the rows say of the effects of each level of one grouping factor."""

    weight: Array  # W_g (k, k, levels)
    pull: Array  # t_g (k, levels)


def level_sums(problem: Problem, params: Params, u: Effects, rows: RowTerms) -> tuple[Levels, ...]:
    """W_g and t_g per grouping factor, at effects u and row terms there (no negative weights)."""
    found = []
    factors = covariance_factors(problem, params)
    for f, (Z, factor, own) in enumerate(zip(problem.Z, factors, u, strict=True)):
        total = partial(of_levels, problem.plan, f)
        weight = gram(Z, Z * rows.weight[None, :], total)
        score = total(Z * rows.score[None, :])
        found.append(Levels(weight, _times(weight, factor @ own) + score))
    return tuple(found)


class Score(NamedTuple):
    """Score and information of theta in the working model, and the spherical modes there."""

    theta: Array  # (n_theta,)
    information: Array  # (n_theta, n_theta), a block a term
    u: Effects


def working_score(problem: Problem, params: Params, levels: tuple[Levels, ...]) -> Score:
    """The score of theta at `params`."""
    scale = problem.ranef_scale(params.phi)
    score = jnp.zeros(problem.n_theta, params.theta.dtype)
    information = jnp.zeros((problem.n_theta,) * 2, params.theta.dtype)
    parts, modes = [], []
    for factor, (weight, pull) in zip(covariance_factors(problem, params), levels, strict=True):
        half = jnp.einsum("abl,bc->acl", weight, factor)  # W Lambda
        k = factor.shape[0]
        inner = jnp.einsum("ba,bcl->acl", factor, half) + jnp.eye(k, dtype=half.dtype)[:, :, None]
        root = small_cholesky(inner)
        scaled = solve_lower(root, jnp.swapaxes(half, 0, 1))  # L^-1 Lambda' W
        within = solve_lower(root, (factor.T @ pull)[:, None, :])  # L^-1 Lambda' t
        left = weight - jnp.einsum("cal,cbl->abl", scaled, scaled)
        rest = pull - jnp.einsum("cal,cl->al", scaled, within[:, 0, :])
        slope = 0.5 * (rest @ rest.T - jnp.sum(left, axis=2))
        square = jnp.einsum("jml,knl->jmkn", left, left)
        parts.append((slope, square))
        modes.append(solve_upper(root, within)[:, 0, :])
    for term, where in zip(problem.terms, problem.theta_slices, strict=True):
        structure, columns = STRUCTURES[term.structure], np.array(term.columns)
        slope, square = parts[term.factor]

        def sigma(values, structure=structure, columns=columns):
            block = structure.factor(values, len(columns)) * scale
            return block @ block.T

        slopes = jax.jacfwd(sigma)(params.theta[where])
        own = square[np.ix_(columns, columns, columns, columns)]
        score = score.at[where].set(
            jnp.einsum("jk,jka->a", slope[np.ix_(columns, columns)], slopes)
        )
        information = information.at[where, where].set(
            0.5 * jnp.einsum("jmkn,jka,mnb->ab", own, slopes, slopes)
        )
    return Score(score, information, tuple(modes))


def scored(
    problem: Problem, params: Params, levels: tuple[Levels, ...], rounds: Array
) -> tuple[Array, Score]:
    """theta after so many rounds of scoring from `params`, and the score there.

    theta stays where it is if a round leads to anything that is not finite.
    """
    first = params.theta
    if not first.size:  # no random effects
        return first, Score(first, jnp.zeros((0, 0), first.dtype), ())
    most = _MOST * jnp.max(jnp.abs(first))
    least = jnp.where(first > 0.0, _LEAST * first, -most)

    def advance(_, theta):
        found = working_score(problem, params._replace(theta=theta), levels)
        unit = 1.0 / jnp.sqrt(jnp.maximum(jnp.diagonal(found.information), 1e-12))
        matrix = found.information * unit[:, None] * unit[None, :]
        matrix += _RIDGE * jnp.eye(len(unit), dtype=unit.dtype)
        root = jnp.linalg.cholesky(matrix)
        step = unit * jax.scipy.linalg.cho_solve((root, True), unit * found.theta)
        moved = jnp.clip(theta + step, least, most)
        return jnp.where(jnp.all(jnp.isfinite(moved)), moved, theta)

    theta = jax.lax.fori_loop(0, rounds, advance, first)
    return theta, working_score(problem, params._replace(theta=theta), levels)


def _times(blocks: Array, effects: Array) -> Array:
    """Blocks (k, k, levels) times effects (k, levels), level by level."""
    return jnp.sum(blocks * effects[None, :, :], axis=1)
