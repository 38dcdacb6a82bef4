"""The log-likelihood cluster by cluster, where the data fall into independent clusters.

    log L = sum_c log L_c,    log L_c = - g_c(u_hat) - log|H_c| / 2

The clusters are the levels of the coarsest grouping factor, in which all others are nested.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array
from mixedlm_jax.elimination import assemble, factorize
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.modes import conditional_modes
from mixedlm_jax.problem import (
    Params,
    Problem,
    determinant_weights,
    row_log_density,
    rows_at,
    zero_effects,
)
from mixedlm_jax.quadrature import quadrature_of_levels
from mixedlm_jax.small import sum_by


def check_clusters(problem: Problem) -> None:
    """Raise `ArgumentError` where the grouping factors cross."""
    if problem.plan.kept:
        raise ArgumentError(
            "the grouping factors cross, so that the likelihood is no product over clusters; "
            "score contributions are for one grouping factor, or for factors nested in one another"
        )


def cluster_log_likelihoods(params: Params, problem: Problem, nAGQ: int) -> Array:
    """log L of each cluster with every constant (clusters,); nAGQ from 1."""
    plan = problem.plan
    coarsest = plan.chain[-1]
    cluster, m = plan.levels[coarsest], plan.n_levels[coarsest]
    u = conditional_modes(params, problem, zero_effects(problem))
    base = sum_by(problem.row_log_base, cluster, m)
    if nAGQ > 1:
        return base - quadrature_of_levels(params, problem, u, nAGQ)
    z, eta = rows_at(problem, params, u)
    total = base + sum_by(row_log_density(problem, eta, params.phi), cluster, m)
    weight = determinant_weights(problem, eta, params.phi)
    factor = factorize(plan, assemble(plan, z, weight))
    for c, f, stage in plan.steps:
        root = factor.diagonal[c]
        own = -0.5 * jnp.sum(u[f] ** 2, axis=0)
        own -= sum(jnp.log(root[i, i]) for i in range(root.shape[0]))
        total += own if f == coarsest else sum_by(own, stage.parents[-1], m)
    return total


def cluster_scores(params: Params, problem: Problem, nAGQ: int) -> Params:
    """Gradient of each cluster's log L in the parameters, (clusters, ...) each."""

    def contributions(flat: Array) -> Array:
        return cluster_log_likelihoods(problem.split(flat), problem, nAGQ)

    scores = jax.jacfwd(contributions)(params.flat)
    q, p = problem.n_theta, problem.X.shape[1]
    return Params(scores[:, :q], scores[:, q : q + p], scores[:, q + p :])
