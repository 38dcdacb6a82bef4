"""The arrays of one model and the quantities of its rows: what every objective is a function of.

    eta = X beta + Z Lambda(theta) u + offset,   u ~ N(0, I)

A `Problem` is a pytree (arrays are leaves; family, terms and flags are static), `Params` the point
at which it is evaluated. Rows of Z Lambda are written z_i, held per grouping factor as (k, n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.design import Design, Term
from mixedlm_jax.dispersion import Matrices, at_rows, matrices_of, reported, slices_of
from mixedlm_jax.elimination import Effects, Rows, predictor
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import Family
from mixedlm_jax.families.base import elementwise_derivatives
from mixedlm_jax.plan import DEFAULT_CROSSING, Crossing, Plan, make_plan

_static = {"static": True}


class Params(NamedTuple):
    """A point of the parameter space: theta, beta, and phi in unconstrained coordinates."""

    theta: Array
    beta: Array
    phi: Array

    @property
    def flat(self) -> Array:
        """theta, beta and phi in one vector."""
        return jnp.concatenate(self, axis=-1)


class RowTerms(NamedTuple):
    """Log-density of each row and its derivatives in eta (n,): weight is -d2/deta2."""

    value: Array
    score: Array
    weight: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """Everything the likelihood needs besides its parameters.

    `weights_type` is "prior" or "frequency"; `information` names the weights in the determinant,
    "observed" or "expected"; `differentiation` is "automatic", or "numerical" for log-densities
    whose derivatives in eta autodiff cannot give.
    """

    y: Any
    trials: Any
    weights: Any
    offset: Any
    X: Any  # (n, p)
    Z: tuple[Any, ...]  # per factor (k, n)
    plan: Plan
    family: Family = field(metadata=_static)
    terms: tuple[Term, ...] = field(metadata=_static)
    weights_type: str = field(metadata=_static)
    information: str = field(metadata=_static)
    differentiation: str = field(default="automatic", metadata=_static)
    phi_matrices: Matrices = ()  # per dispersion parameter that is estimated; () for none at all
    prior: Any = None  # a `Prior`, whose log-density the objectives add; None for none

    replace = replace

    def with_rows(self, take: Callable[..., Any], plan: Plan) -> Problem:
        """The problem of some rows, in any order, and their plan.

        take: gives these rows' part of an array along an axis, `take(values, axis)`.
        """
        return self.replace(
            y=take(self.y, 0),
            trials=take(self.trials, 0),
            weights=take(self.weights, 0),
            offset=take(self.offset, 0),
            X=take(self.X, 0),
            Z=tuple(take(Z, 1) for Z in self.Z),
            plan=plan,
            phi_matrices=tuple(
                None if matrix is None else take(matrix, 0) for matrix in self.phi_matrices
            ),
        )

    @property
    def n_theta(self) -> int:
        """Number of covariance parameters."""
        return sum(STRUCTURES[term.structure].n_theta(len(term.columns)) for term in self.terms)

    @property
    def n_phi(self) -> int:
        """Length of phi."""
        return sum(where.stop - where.start for where in slices_of(self.phi_matrices))

    def ranef_scale(self, phi: Array) -> Array | float:
        """What theta is relative to; a dispersion that differs by row is no unit."""
        if any(matrix is not None for matrix in self.phi_matrices):
            return 1.0
        return self.family.ranef_scale(at_rows(self.phi_matrices, phi))

    def effect_unit(self, phi: Array) -> Array | float:
        """What random effects are small or large against, at a typical row's dispersion."""
        parts = zip(self.phi_matrices, at_rows(self.phi_matrices, phi), strict=True)
        typical = tuple(part if matrix is None else part.mean() for matrix, part in parts)
        return self.family.effect_unit(typical, self.y, self.weights)

    def reported_phi(self, phi: Array) -> Array:
        """phi as it is reported: natural values, and coefficients as they are."""
        return reported(self.family, self.phi_matrices, phi)

    @property
    def theta_slices(self) -> tuple[slice, ...]:
        """Where each term's parameters stand in theta."""
        sizes = [STRUCTURES[term.structure].n_theta(len(term.columns)) for term in self.terms]
        ends = np.cumsum([0, *sizes])
        return tuple(slice(int(a), int(b)) for a, b in zip(ends, ends[1:], strict=False))

    @property
    def weights_are_precisions(self) -> bool:
        """Whether weights divide the dispersion; else they multiply the log-density."""
        return self.family.weights_are_precisions and self.weights_type == "prior"

    @property
    def log_base(self) -> Array:
        """Sum of the rows' weighted log base measures: what the objectives leave out."""
        return jnp.sum(self.row_log_base)

    @property
    def row_log_base(self) -> Array:
        """The weighted log base measure of each row (n,)."""
        base = self.family.log_base_measure(self.y, self.trials)
        used, multiplier, _ = _weighting(self)
        return jnp.where(used, multiplier * base, 0.0)

    def effect_sizes(self, term: Term) -> np.ndarray:
        """Root mean square of each covariate of a term over the rows that count (k,) (NumPy)."""
        return covariate_sizes(np.asarray(self.Z[term.factor]), np.asarray(self.weights), term)

    def split(self, flat: Array) -> Params:
        """The inverse of `Params.flat`."""
        q, p = self.n_theta, self.X.shape[1]
        return Params(flat[:q], flat[q : q + p], flat[q + p :])


def covariate_sizes(Z: Array, weights: Array, term: Term) -> Array:
    """`Problem.effect_sizes` from the term's factor's Z (k, n) and the weights (n,)."""
    used = weights > 0
    squares = Z[np.array(term.columns)] ** 2 * used[None, :]
    return (squares.sum(axis=1) / used.sum()) ** 0.5


def make_problem(
    design: Design,
    family: Family,
    *,
    information: str = "observed",
    crossing: Crossing = DEFAULT_CROSSING,
) -> Problem:
    """Put a design's arrays and its elimination plan together.

    crossing: how large a Schur complement of crossed factors is formed.

    Raises `ArgumentError` for `information="expected"` where the family has no closed form.
    """
    check_information(family, information)
    plan = make_plan(
        [factor.levels for factor in design.factors],
        [factor.n_levels for factor in design.factors],
        [factor.Z.shape[0] for factor in design.factors],
        crossing,
    )
    counted = design.weights > 0
    return Problem(
        y=_of_rows_that_count(design.y, counted),
        trials=_of_rows_that_count(design.trials, counted),
        weights=design.weights,
        offset=design.offset,
        X=design.X,
        Z=tuple(factor.Z for factor in design.factors),
        plan=plan,
        family=family,
        terms=design.terms,
        weights_type=design.weights_type,
        information=information,
        phi_matrices=matrices_of(family, design.parts),
    )


def _of_rows_that_count(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Values (n,) where each row that does not count has that of the first row that does.

    Its own may be one that the family cannot have: a derivative would be lost in it.
    """
    first = values[np.argmax(counted)]
    if np.all(values[~counted] == first):
        return values
    return np.where(counted, values, first)


def check_information(family: Family, information: str) -> None:
    """Raise `ArgumentError` where a family does not have what the determinant's weights ask for."""
    if information == "expected" and not family.has_expected_information:
        raise ArgumentError(
            f'information="expected" needs a closed-form Fisher information, which the '
            f'{family.name} family does not have; use information="observed"'
        )


def zero_effects(problem: Problem) -> tuple[np.ndarray, ...]:
    """Spherical random effects u = 0 in the problem's precision, per factor (k, levels)."""
    sizes = zip(problem.plan.n_effects, problem.plan.n_levels, strict=True)
    return tuple(np.zeros(size, problem.X.dtype) for size in sizes)


def covariance_factors(problem: Problem, params: Params) -> tuple[Array, ...]:
    """Lambda of each grouping factor (k, k), on the scale of eta."""
    scale = problem.ranef_scale(params.phi)
    factors = [jnp.zeros((k, k), params.theta.dtype) for k in problem.plan.n_effects]
    for term, where in zip(problem.terms, problem.theta_slices, strict=True):
        structure, columns = STRUCTURES[term.structure], np.array(term.columns)
        block = structure.factor(params.theta[where], len(columns)) * scale
        f = term.factor
        factors[f] = factors[f].at[columns[:, None], columns[None, :]].set(block)
    return tuple(factors)


def random_rows(problem: Problem, params: Params) -> Rows:
    """z_i, the rows of Z Lambda, per factor (k, n)."""
    return tuple(
        jnp.sum(factor[:, :, None] * z[:, None, :], axis=0)
        for factor, z in zip(covariance_factors(problem, params), problem.Z, strict=True)
    )


def fixed_predictor(problem: Problem, beta: Array) -> Array:
    """X beta + offset (n,)."""
    return problem.X @ beta + problem.offset


def rows_at(problem: Problem, params: Params, u: Effects) -> tuple[Rows, Array]:
    """The rows z_i of Z Lambda, and eta = X beta + Z Lambda u + offset (n,)."""
    z = random_rows(problem, params)
    return z, fixed_predictor(problem, params.beta) + predictor(problem.plan, z, u)


def _weighting(problem: Problem) -> tuple[Array, Array, Array]:
    """Which rows count, the multiplier of their log-density, and the divisor of its dispersion."""
    used = problem.weights > 0
    one = jnp.ones_like(problem.weights)
    if problem.weights_are_precisions:
        return used, one, jnp.where(used, problem.weights, 1.0)
    return used, problem.weights, one


def row_log_density(problem: Problem, eta: Array, phi: Array) -> Array:
    """Weighted log-density of each row without its base measure (n,).

    -inf where eta lies outside the family's domain, with finite derivatives there.
    """
    family = problem.family
    used, multiplier, precision = _weighting(problem)
    valid = family.in_domain(eta)
    point = jnp.where(valid, eta, family.link.interior)
    shapes = at_rows(problem.phi_matrices, phi)
    value = multiplier * family.log_density(problem.y, point, shapes, problem.trials, precision)
    return jnp.where(used, jnp.where(valid, value, -jnp.inf), 0.0)


def row_terms(problem: Problem, eta: Array, phi: Array) -> RowTerms:
    """Log-density, score and observed information of every row in eta."""
    if problem.differentiation == "numerical":
        return _numerical_row_terms(problem, eta, phi)
    value, score, curvature = elementwise_derivatives(
        lambda point: row_log_density(problem, point, phi), eta
    )
    return RowTerms(value, score, -curvature)


def _numerical_row_terms(problem: Problem, eta: Array, phi: Array) -> RowTerms:
    """`row_terms` by five-point central differences, good to about 1e-9."""
    h = 1e-3

    def value(step):
        return row_log_density(problem, eta + step * h, phi)

    centre, left, right = value(0), value(-1), value(1)
    far_left, far_right = value(-2), value(2)
    score = (8.0 * (right - left) - (far_right - far_left)) / (12.0 * h)
    curvature = (16.0 * (right + left) - (far_right + far_left) - 30.0 * centre) / (12.0 * h * h)
    return RowTerms(centre, score, -curvature)


def determinant_weights(problem: Problem, eta: Array, phi: Array) -> Array:
    """The weights (n,) that enter log|H|: observed or expected information of each row."""
    if problem.information == "observed":
        return row_terms(problem, eta, phi).weight
    family = problem.family
    used, multiplier, precision = _weighting(problem)
    point = jnp.where(family.in_domain(eta), eta, family.link.interior)
    shapes = at_rows(problem.phi_matrices, phi)
    weight = multiplier * family.expected_information(point, shapes, problem.trials, precision)
    return jnp.where(used, weight, 0.0)
