"""The negative marginal log-likelihood by adaptive Gauss-Hermite quadrature, and its gradient.

One grouping factor with k random effects a level: the likelihood is a product of one k-dimensional
integral for each level g. With u_hat the conditional modes and H_g = L_g L_g' the level's block of
H there, the nodes z_q of a product Gauss-Hermite rule with weights w_q are put at
u_q = u_hat_g + sqrt(2) L_g^-T z_q (Pinheiro and Chao 2006), and

    log L = sum_g log [ pi^(-k/2) |L_g|^-1 sum_q w_q exp(|z_q|^2 - g_g(u_q)) ]

g_g being the part of g that belongs to level g. One node is Laplace's approximation. The nodes move
with the parameters, and the gradient is that of the computed value. The base measure is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import sqrt
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.elimination import (
    Effects,
    assemble,
)
from mixedlm_jax.likelihood import Evaluation
from mixedlm_jax.modes import (
    conditional_modes,
    dot,
    factor_at,
    implicit_solve,
    penalised_gradient,
)
from mixedlm_jax.problem import (
    Params,
    Problem,
    determinant_weights,
    row_log_density,
    rows_at,
)
from mixedlm_jax.small import small_cholesky, solve_lower, solve_upper

# Rows x nodes that are evaluated at once: 32 MiB for each array of that shape. Nodes beyond it
# wait their turn, and are evaluated again for the gradient instead of being kept.
ROW_NODES = 2**22

MAX_NODES = {1: 101, 2: 25, 3: 11}
"""Most nodes per dimension, by the number of random effects of a level."""


class Rule(NamedTuple):
    """A Gauss-Hermite rule: nodes z (k, Q), and log w + |z|^2 with the w summing to one (Q,)."""

    nodes: np.ndarray
    log_weights: np.ndarray


@cache
def product_rule(n_nodes: int, k: int) -> Rule:
    """The product rule with `n_nodes` in each of k dimensions, Q = n_nodes^k."""
    node, weight = np.polynomial.hermite.hermgauss(n_nodes)
    log_weight = np.log(weight) - 0.5 * np.log(np.pi) + node**2
    nodes = np.stack([axis.ravel() for axis in np.meshgrid(*[node] * k, indexing="ij")])
    parts = np.meshgrid(*[log_weight] * k, indexing="ij")
    return Rule(nodes, np.sum([part.ravel() for part in parts], axis=0))


def quadrature_obstacle(problem: Problem, n_nodes: int) -> str | None:
    """Why the problem's integrals cannot be done with so many nodes, in a sentence, or None."""
    k, found = problem.plan.n_effects, f"nAGQ is {n_nodes}"
    if not k:
        return f"{found}, but the model has no random effects to integrate out"
    if len(k) > 1:
        return (
            f"{found}, but the model has {len(k)} grouping factors, and quadrature is for one; fit "
            "with nAGQ=1 and let mlm.check_laplace(model) say what that leaves out"
        )
    if k[0] not in MAX_NODES:
        return (
            f"{found}, but a level has {k[0]} random effects, and quadrature is for up to "
            f"{max(MAX_NODES)}; fit with nAGQ=1"
        )
    if n_nodes > MAX_NODES[k[0]]:
        effects = "random effect" if k[0] == 1 else "random effects"
        return f"{found}; with {k[0]} {effects} a level it may be at most {MAX_NODES[k[0]]}"
    if problem.family.restricted:
        return (
            f"{found}, but the {problem.family.link.name} link of the {problem.family.name} family "
            "allows only part of the linear predictor's range, and quadrature needs all of it; use "
            "nAGQ=1 or another link"
        )
    return None


def nodes_at_once(problem: Problem, n_nodes: int) -> int:
    """How many nodes of the product rule are evaluated together."""
    total = n_nodes ** problem.plan.n_effects[0]
    most = max(1, ROW_NODES // problem.y.shape[0])
    passes = -(-total // most)
    return -(-total // passes)


def _chunks(problem: Problem, n_nodes: int) -> Rule:
    """The rule in pieces of `nodes_at_once`, the last one filled up with nodes of no weight.

    Nodes (pieces, k, c), log weights (pieces, c).
    """
    rule, size = product_rule(n_nodes, problem.plan.n_effects[0]), nodes_at_once(problem, n_nodes)
    k, total = rule.nodes.shape
    missing = -total % size
    nodes = np.pad(rule.nodes, ((0, 0), (0, missing)))
    log_weights = np.pad(rule.log_weights, (0, missing), constant_values=-np.inf)
    return Rule(np.moveaxis(nodes.reshape((k, -1, size)), 1, 0), log_weights.reshape((-1, size)))


def quadrature(params: Params, problem: Problem, u0: Effects, n_nodes: int) -> Array:
    """-log L by adaptive quadrature, without the base measure (scalar)."""
    return quadrature_around(params, problem, conditional_modes(params, problem, u0), n_nodes)


def quadrature_around(params: Params, problem: Problem, u: Effects, n_nodes: int) -> Array:
    """-log L with the nodes around u, whatever that is (scalar)."""
    return jnp.sum(quadrature_of_levels(params, problem, u, n_nodes))


def quadrature_pieces(
    params: Params, problem: Problem, u0: Effects, n_nodes: int
) -> Callable[[Params], Array]:
    """A function to (n,) numbers that add up to `quadrature`, over the rows of a level to its part.

    The modes move with the parameters.
    """
    (level,), (m,) = problem.plan.levels, problem.plan.n_levels
    share = 1.0 / jax.ops.segment_sum(jnp.ones_like(problem.y), level, num_segments=m)[level]

    def pieces(point: Params) -> Array:
        u = conditional_modes(point, problem, u0)
        return share * quadrature_of_levels(point, problem, u, n_nodes)[level]

    return pieces


def quadrature_of_levels(params: Params, problem: Problem, u: Effects, n_nodes: int) -> Array:
    """What each level adds to `quadrature_around` (m,)."""
    plan, (modes,) = problem.plan, u
    (level,), (m,), k = plan.levels, plan.n_levels, plan.n_effects[0]
    z, eta = rows_at(problem, params, u)
    weight = determinant_weights(problem, eta, params.phi)
    root = small_cholesky(assemble(plan, z, weight).diagonal[0])
    # u_q = u_hat + spread z_q, and eta_iq = eta_i + slope_i . z_q
    identity = jnp.broadcast_to(jnp.eye(k, dtype=eta.dtype)[:, :, None], root.shape)
    spread = sqrt(2.0) * solve_upper(root, identity)
    slope = sqrt(2.0) * solve_lower(root[:, :, level], z[0][:, None, :])[:, 0, :]

    def level_sums(rows: Array) -> Array:
        return jax.ops.segment_sum(rows, level, num_segments=m)

    def density(points: Array) -> Array:
        return row_log_density(problem, points, params.phi)

    # the integrand is taken relative to its value at the mode, which keeps the sums in range
    at_mode = 0.5 * jnp.sum(modes**2, axis=0) - level_sums(density(eta))
    at_mode = jax.lax.stop_gradient(at_mode)

    def add(total: Array, rule: Rule) -> tuple[Array, None]:
        """Add what some nodes contribute to every level's sum (m,)."""
        nodes, log_weights = rule
        points = eta[:, None] + _times(slope, nodes)
        fit = level_sums(jax.vmap(density, in_axes=1, out_axes=1)(points))
        effects = [
            own[:, None] + _times(part, nodes) for own, part in zip(modes, spread, strict=True)
        ]
        penalty = 0.5 * sum(part**2 for part in effects)
        relative = log_weights[None, :] + at_mode[:, None] + fit - penalty
        return total + jnp.sum(jnp.exp(relative), axis=1), None

    rule = jax.tree.map(lambda part: jnp.asarray(part, eta.dtype), _chunks(problem, n_nodes))
    total = jnp.zeros_like(at_mode)
    if len(rule.nodes) == 1:
        total, _ = add(total, Rule(rule.nodes[0], rule.log_weights[0]))
    else:
        total, _ = jax.lax.scan(jax.checkpoint(add), total, rule)
    log_roots = sum(jnp.log(root[i, i]) for i in range(k))
    return at_mode - jnp.log(total) + log_roots


def _times(slopes: Array, nodes: Array) -> Array:
    """Inner products of (k, m) slopes with (k, c) nodes: (m, c)."""
    return sum(own[:, None] * node[None, :] for own, node in zip(slopes, nodes, strict=True))


def quadrature_gradient(params: Params, problem: Problem, u0: Effects, n_nodes: int) -> Evaluation:
    """Value and gradient of `quadrature`; the modes' part is one adjoint solve.

    With V the value as a function of the parameters and of where the nodes are centred,
    dV/dpsi + (dV/du) (du_hat/dpsi), and du_hat/dpsi = -H^-1 (d/dpsi grad_u g).
    """
    u = conditional_modes(params, problem, u0)
    both = jax.value_and_grad(quadrature_around, argnums=(0, 2))
    value, (direct, centre) = both(params, problem, u, n_nodes)
    pull = implicit_solve(problem, params, u, factor_at(problem, params, u), centre)
    moved = jax.grad(lambda point: dot(pull, penalised_gradient(problem, point, u)))(params)
    return Evaluation(value, jax.tree.map(jnp.subtract, direct, moved), u)
