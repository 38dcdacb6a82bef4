"""Estimates of the data without one cluster each, by one Newton step from those of all data.

    psi_c = psi - H_c^-1 s_c,        H_c = H - h_c

s_c and h_c are the gradient and the negative Hessian of cluster c's log-likelihood at the optimum
psi of all data, H that of all: the step of Newton's method for the log-likelihood without the
cluster, whose gradient at psi is -s_c (Pregibon 1981, Ann. Stat. 9: 705, for single cases of a
generalized linear model; here theta moves too). Its error is of second order in psi_c - psi.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.compiled import program
from mixedlm_jax.elimination import Effects
from mixedlm_jax.inference.point import Point
from mixedlm_jax.objective import Objective
from mixedlm_jax.problem import Params, Problem
from mixedlm_jax.small import sum_by


class LeftOut(NamedTuple):
    """Estimates without each cluster, and their covariance (clusters, d), (clusters, d, d).

    sound: where the log-likelihood without the cluster is concave at the estimates of all data; the
    others are nan (clusters,). Parameters on their boundary stay there, with covariance 0.
    """

    params: np.ndarray
    covariance: np.ndarray
    sound: np.ndarray


@program("objective", "n_clusters")
def cluster_derivatives(
    objective: Objective,
    params: Params,
    problem: Problem,
    u: Effects,
    cluster: Array,
    n_clusters: int,
) -> tuple[Array, Array]:
    """Gradient and negative Hessian of each cluster's log-likelihood (as `cluster_scores`).

    cluster: number of each row's cluster (n,). Returns (clusters, d) and (clusters, d, d), in
    (theta, beta, unconstrained phi).
    """

    def scores(flat: Array) -> Array:
        pieces = objective.pieces(problem, problem.split(flat), u)

        def of_clusters(point: Array) -> Array:
            return -sum_by(pieces(problem.split(point))[None, :], cluster, n_clusters)[0]

        return jax.jacfwd(of_clusters)(flat)

    flat = params.flat

    def along(direction: Array) -> tuple[Array, Array]:
        return jax.jvp(scores, (flat,), (direction,))

    # one direction at a time: memory is that of a few copies of the rows for each parameter
    found, slopes = jax.lax.map(along, jnp.eye(len(flat), dtype=flat.dtype))
    hessians = -jnp.moveaxis(slopes, 0, 2)
    return found[0], 0.5 * (hessians + jnp.swapaxes(hessians, 1, 2))


def without_each(point: Point, scores: np.ndarray, hessians: np.ndarray) -> LeftOut:
    """The estimates without each of the clusters (clusters, d), (clusters, d, d)."""
    known = np.flatnonzero(~np.isnan(np.diagonal(point.covariance)))
    flat = np.concatenate(point.params)
    count, d = scores.shape
    within = np.ix_(known, known)
    scale = np.sqrt(np.diagonal(point.covariance)[known])
    unit = scale[:, None] * scale[None, :]
    whole = np.linalg.inv(point.covariance[within] / unit)
    rest = whole - hessians[:, within[0], within[1]] * unit
    sound = np.all(np.isfinite(rest), axis=(1, 2))
    rest = np.where(sound[:, None, None], rest, np.eye(len(known)))
    sound &= np.linalg.eigvalsh(rest)[:, 0] > 0.0
    inverse = np.linalg.inv(np.where(sound[:, None, None], rest, np.eye(len(known)))) * unit
    inverse[~sound] = np.nan
    params = np.tile(flat, (count, 1))
    params[:, known] -= np.einsum("cij,cj->ci", inverse, scores[:, known])
    covariance = np.zeros((count, d, d))
    covariance[:, within[0], within[1]] = inverse
    params[~sound], covariance[~sound] = np.nan, np.nan
    return LeftOut(params, covariance, sound)
