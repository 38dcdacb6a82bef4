"""A fit as the arrays that the engine's functions of parameters take."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.compiled import program
from mixedlm_jax.design import Design
from mixedlm_jax.dispersion import coordinates
from mixedlm_jax.elimination import Effects
from mixedlm_jax.families import Family
from mixedlm_jax.fit import Fit
from mixedlm_jax.problem import Params, Problem, make_problem


class Point(NamedTuple):
    """Where a fit ended.

    u: spherical conditional modes. covariance: of (theta, beta, phi), phi unconstrained as in
    params (d, d); nan for covariance parameters on their boundary.
    """

    problem: Problem
    params: Params
    u: Effects
    covariance: np.ndarray


def point_of(design: Design, family: Family, fit: Fit) -> Point:
    """The point of a fit, for its design or that design padded. Call it with JAX in float64."""
    problem = make_problem(design, family, information=fit.information, crossing=fit.crossing)
    phi = coordinates(family, problem.phi_matrices, np.asarray(fit.phi, float))
    return Point(
        problem=problem.replace(differentiation=fit.optinfo["differentiation"]),
        params=Params(fit.theta, fit.beta, phi),
        u=tuple(
            np.pad(part, ((0, 0), (0, factor.n_levels - part.shape[1])))
            for part, factor in zip(fit.u, design.factors, strict=True)
        ),
        covariance=_in_search_coordinates(problem, phi, fit.vcov),
    )


def _in_search_coordinates(problem: Problem, phi: np.ndarray, vcov: np.ndarray) -> np.ndarray:
    """The covariance of a fit with phi taken back to its unconstrained coordinates."""
    if not len(phi):
        return vcov
    at = len(vcov) - len(phi)
    back = np.eye(len(vcov))
    back[at:, at:] = np.linalg.inv(np.asarray(_reported_slope(problem, phi)))
    return delta_covariance(back, vcov)


@program()
def _reported_slope(problem: Problem, phi: Array) -> Array:
    """Jacobian of the reported phi in its unconstrained coordinates."""
    return jax.jacfwd(problem.reported_phi)(phi)


def in_reported_scale(point: Point, covariance: np.ndarray) -> np.ndarray:
    """A covariance of the searched parameters (d, d), phi on the scale it is reported on."""
    phi = np.asarray(point.params.phi)
    forth = np.eye(len(covariance))
    if len(phi):
        at = len(covariance) - len(phi)
        forth[at:, at:] = np.asarray(_reported_slope(point.problem, phi))
    return delta_covariance(forth, covariance)


def delta_covariance(slope: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Covariance (m, m) of functions of the parameters with Jacobian `slope` (m, d).

    nan where a function depends on a parameter whose covariance is nan, or its slope is.
    """
    unknown = np.isnan(np.diagonal(covariance))
    found = slope @ with_known_boundary(covariance) @ slope.T
    touched = np.any(slope[:, unknown] != 0.0, axis=1)
    found[touched, :] = found[:, touched] = np.nan
    return found


def with_known_boundary(covariance: np.ndarray) -> np.ndarray:
    """The covariance with parameters on their boundary (nan) counted as known."""
    return np.where(np.isnan(covariance), 0.0, covariance)
