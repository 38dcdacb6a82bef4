"""What the engine says of a fit beyond its estimates: arrays of a fit in, NumPy out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np

from mixedlm_jax.design import Design
from mixedlm_jax.families import Family
from mixedlm_jax.fit import Fit
from mixedlm_jax.inference import (
    Point,
    component_slopes,
    conditional_covariance,
    delta_covariance,
    joint_leverages,
    parameter_covariance,
    point_of,
    standard_errors,
    with_known_boundary,
)
from mixedlm_jax.threads import single_blas_thread


@contextmanager
def _engine(design: Design, family: Family, fit: Fit) -> Iterator[Point]:
    with single_blas_thread(), jax.enable_x64(True):
        yield point_of(design, family, fit)


def conditional_variances(
    design: Design, family: Family, fit: Fit, *, joint: bool
) -> tuple[np.ndarray, ...]:
    """Covariance of the random effects of each level, per grouping factor (levels, k, k).

    Given the parameters, or `joint`ly with their uncertainty; covariance parameters on their
    boundary count as known.
    """
    with _engine(design, family, fit) as at:
        found = conditional_covariance(at.params, at.problem, at.u)
        if joint:
            known = with_known_boundary(at.covariance)
            added = parameter_covariance(at.params, at.problem, at.u, known)
            found = tuple(own + more for own, more in zip(found, added, strict=True))
        return tuple(np.moveaxis(np.array(part), -1, 0) for part in found)


def component_errors(design: Design, family: Family, fit: Fit) -> np.ndarray:
    """Standard errors of standard deviations and correlations, sigma last where there is one.

    By the delta method, in theta order and within a term in `component_order`; nan on a boundary.
    """
    with _engine(design, family, fit) as at:
        slopes = np.asarray(component_slopes(at.params, at.problem))
    errors = standard_errors(delta_covariance(slopes, at.covariance))
    if not family.has_residual_sd:
        return errors
    place = fit.phi_names.index("sigma") - len(fit.phi_names)
    return np.append(errors, standard_errors(fit.vcov)[place])


def leverages(design: Design, family: Family, fit: Fit) -> np.ndarray:
    """Leverage of each row in the joint fit of fixed and random effects, given theta (n,)."""
    with _engine(design, family, fit) as at:
        return np.array(joint_leverages(at.params, at.problem, at.u))
