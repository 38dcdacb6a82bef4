"""Expected responses of rows, with their derivatives in everything they depend on.

    m = E h(eta + sd v, c),   v ~ N(0, 1)                       (one row)

h is a scale of predictions, c the coordinates of the dispersion parameters. A row's random effects
enter its predictor as one normal variable, z'b ~ N(0, sd^2) with sd^2 = sum of |Lambda' z|^2 over
the grouping factors, so that one integral is left, whatever their number. The one node 0 of weight
1 gives h(eta, c) itself.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array
from mixedlm_jax.compiled import program
from mixedlm_jax.elimination import Rows
from mixedlm_jax.families import Family
from mixedlm_jax.problem import Params, Problem, covariance_factors

Coordinates = tuple[Array, ...]
"""Unconstrained coordinates of the estimated dispersion parameters, each (n,)."""


@program()
def factors_at(params: Params, problem: Problem) -> Rows:
    """Lambda of each grouping factor (k, k), on the scale of eta."""
    return covariance_factors(problem, params)


@program()
def factor_slopes(params: Params, problem: Problem) -> Rows:
    """Derivative of `factors_at` in theta, then in the unconstrained phi: (k, k, q + r) each."""
    theta, beta, phi = params
    q = theta.shape[0]

    def factors(moved):
        return covariance_factors(problem, Params(moved[:q], beta, moved[q:]))

    return jax.jacfwd(factors)(jnp.concatenate([theta, phi]))


@program("family", "type")
def expected_values(
    family: Family,
    type: str,
    eta: Array,
    sd: Array,
    coordinates: Coordinates,
    nodes: Array,
    weights: Array,
) -> tuple[Array, Array]:
    """m of each row (n,), and whether all its nodes lie in the family's domain (n,) bool.

    type: a scale of `on_scale`. nodes, weights: of the normal distribution (nodes,).
    """
    return _expected(family, type, eta, sd, coordinates, nodes, weights)


@program("family", "type")
def expected_slopes(
    family: Family,
    type: str,
    eta: Array,
    sd: Array,
    coordinates: Coordinates,
    nodes: Array,
    weights: Array,
) -> Array:
    """Derivatives of `expected_values` in eta, sd and each coordinate (n, 2 + r)."""

    def moved(by):
        shifted = tuple(part + by[2 + j] for j, part in enumerate(coordinates))
        return _expected(family, type, eta + by[0], sd + by[1], shifted, nodes, weights)[0]

    return jax.jacfwd(moved)(jnp.zeros(2 + len(coordinates), eta.dtype))


def _expected(family, type, eta, sd, coordinates, nodes, weights):
    shapes = tuple(
        family.parameters[name].natural(part)
        for name, part in zip(family.dispersion_names, coordinates, strict=True)
    )

    def add(sums, node):
        total, valid = sums
        place, weight = node
        point = eta + place * sd
        inside = family.in_domain(point)
        point = jnp.where(inside, point, family.link.interior)
        return (total + weight * on_scale(family, type, point, shapes), valid & inside), None

    start = (jnp.zeros_like(eta), jnp.ones_like(eta, bool))
    sums, _ = jax.lax.scan(add, start, (nodes, weights))
    return sums


def on_scale(family: Family, type: str, eta: Array, shapes: Coordinates) -> Array:
    """Predictions at eta (n,): of "link", "response", "conditional" or "zprob", as in `predict`.

    "mean" is the link's inverse: E(y) before truncation and without structural zeros.
    """
    if type == "link":
        return eta
    if type == "zprob":
        return jnp.broadcast_to(family.zero_probability(shapes), eta.shape)
    mu = family.link.inverse(eta)
    if type == "mean":
        return mu
    if type == "conditional":
        return family.conditional_mean(mu, shapes)
    return family.mean(mu, shapes)
