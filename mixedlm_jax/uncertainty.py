"""What the engine says of a fit beyond its estimates: arrays of a fit in, NumPy out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np

from mixedlm_jax.buckets import padded
from mixedlm_jax.design import Design
from mixedlm_jax.dispersion import DISPERSION
from mixedlm_jax.families import Family
from mixedlm_jax.fit import Fit
from mixedlm_jax.inference import (
    Correction,
    Point,
    QuadratureCheck,
    can_be_checked,
    component_slopes,
    conditional_covariance,
    delta_covariance,
    joint_leverages,
    parameter_covariance,
    point_of,
    quadrature_check,
    second_order_correction,
    standard_errors,
    with_known_boundary,
)
from mixedlm_jax.priors import Prior
from mixedlm_jax.threads import single_blas_thread


@contextmanager
def _engine(design: Design, family: Family, fit: Fit) -> Iterator[Point]:
    """The point of a fit, its rows and levels `padded`."""
    with single_blas_thread(), jax.enable_x64(True):
        yield point_of(padded(design), family, fit)


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
        return tuple(
            np.moveaxis(np.array(part), -1, 0)[: factor.n_levels]
            for part, factor in zip(found, design.factors, strict=True)
        )


def component_errors(design: Design, family: Family, fit: Fit) -> np.ndarray:
    """Standard errors of standard deviations and correlations, sigma last where there is one.

    By the delta method, in theta order and within a term in `component_order`; nan on a boundary.
    """
    with _engine(design, family, fit) as at:
        slopes = np.asarray(component_slopes(at.params, at.problem))
    errors = standard_errors(delta_covariance(slopes, at.covariance))
    if not family.has_residual_sd or DISPERSION in design.parts:
        return errors
    place = family.dispersion_names.index("sigma") - len(fit.phi)
    return np.append(errors, standard_errors(fit.vcov)[place])


def leverages(design: Design, family: Family, fit: Fit) -> np.ndarray:
    """Leverage of each row in the joint fit of fixed and random effects, given theta (n,)."""
    with _engine(design, family, fit) as at:
        return np.array(joint_leverages(at.params, at.problem, at.u))[: len(design.y)]


def laplace_error(
    design: Design,
    family: Family,
    fit: Fit,
    n_nodes: int | None = None,
    prior: Prior | None = None,
) -> tuple[Correction, QuadratureCheck | None]:
    """What Laplace's approximation leaves out: its correction, and what quadrature changes.

    n_nodes: per dimension, None for a number that suits the model. prior: what the estimates were
    penalised by, and those of quadrature would be too. The second part is None where there is no
    quadrature for the model; with n_nodes given that is an `ArgumentError`.
    """
    with _engine(design, family, fit) as at:
        found = None
        if n_nodes is not None or can_be_checked(at.problem):
            penalised = at._replace(problem=at.problem.replace(prior=prior))
            found = quadrature_check(penalised, n_nodes)
        return second_order_correction(at), found
