"""Standard errors that hold where responses of one cluster are dependent in ways not modelled.

    V = H^-1 (sum_c s_c s_c') H^-1  n / (n - 1)

s_c is the gradient of the log-likelihood of cluster c, n the number of clusters (White 1982; the
factor is CR1's for likelihoods: Cameron and Miller 2015, section VI.A). Every level of every
grouping factor must lie within one cluster, so that the log-likelihood is a sum over clusters.
"""

from __future__ import annotations

import jax
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.compiled import program
from mixedlm_jax.elimination import Effects
from mixedlm_jax.inference.point import Point, with_known_boundary
from mixedlm_jax.objective import Objective
from mixedlm_jax.problem import Params, Problem
from mixedlm_jax.small import sum_by


@program("objective", "n_clusters")
def cluster_scores(
    objective: Objective,
    params: Params,
    problem: Problem,
    u: Effects,
    cluster: Array,
    n_clusters: int,
) -> Array:
    """Gradient of each cluster's log-likelihood in (theta, beta, unconstrained phi).

    cluster: number of each row's cluster (n,). Returns (clusters, d). The gradient is a sum over
    rows once the adjoints of `likelihood` are known; they link no rows of different clusters.
    """
    pieces = objective.pieces(problem, params, u)

    def of_clusters(flat):
        return -sum_by(pieces(problem.split(flat))[None, :], cluster, n_clusters)[0]

    return jax.jacfwd(of_clusters)(params.flat)


def sandwich(point: Point, scores: np.ndarray) -> np.ndarray:
    """The robust covariance of the searched parameters (d, d), from scores (clusters, d).

    Parameters on their boundary (nan in the point's covariance) count as known, and stay nan.
    """
    unknown = np.isnan(np.diagonal(point.covariance))
    bread, n = with_known_boundary(point.covariance), len(scores)
    found = bread @ (scores.T @ scores) @ bread * (n / (n - 1.0))
    found[unknown, :] = found[:, unknown] = np.nan
    return found
