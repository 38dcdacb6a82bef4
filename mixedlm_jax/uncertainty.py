"""What the engine says of a fit beyond its estimates: arrays of a fit in, NumPy out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import jax
import numpy as np

from mixedlm_jax.buckets import filled_rows, padded, row_bucket
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
    row_uncertainty,
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


@dataclass(frozen=True)
class PredictorUncertainty:
    """Uncertainty of the linear predictor of rows: own + J V J', J = d eta / d (theta, beta, phi).

    own: of the random effects given the parameters (n,). slope: J (n, d). covariance: V (d, d), phi
    unconstrained; parameters on their boundary count as known, with 0.
    """

    own: np.ndarray
    slope: np.ndarray
    covariance: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Of the linear predictor (n,)."""
        return self.own + np.sum((self.slope @ self.covariance) * self.slope, axis=1)


def predictor_uncertainty(
    design: Design,
    family: Family,
    fit: Fit,
    X: np.ndarray,
    Z: Sequence[np.ndarray],
    levels: Sequence[np.ndarray],
    parts: Mapping[str, np.ndarray],
) -> PredictorUncertainty:
    """Uncertainty of x'beta + z'b of other rows, with that of the conditional modes.

    X (m, p), Z per factor (k, m) with zeros for effects that are left out, levels (m,) with -1 for
    a level that the model does not know: its prior variance counts in its place. parts: as in
    `Design`.
    """
    known = [level >= 0 for level in levels]
    with _engine(design, family, fit) as at:
        covariance = with_known_boundary(np.asarray(at.covariance))
    q, n = len(fit.theta), len(design.y)
    new = [
        np.sum((scale.T @ np.where(there, 0.0, rows)) ** 2, axis=0)
        for scale, rows, there in zip(fit.factors, Z, known, strict=True)
    ]
    own = np.sum(new, axis=0) if new else np.zeros(len(X))
    covariates = [np.where(there, rows, 0.0) for rows, there in zip(Z, known, strict=True)]
    if not any(np.any(rows) for rows in covariates):
        slope = np.zeros((len(X), len(covariance)))
        slope[:, q : q + len(fit.beta)] = X
        return PredictorUncertainty(own, slope, covariance)
    extended, first = design, 0
    if not _own_rows(design, X, levels):
        extended, first = _extended(design, X, Z, levels, parts), n
    with _engine(extended, family, fit) as at:
        size = at.problem.X.shape[0]
        filled = tuple(
            np.pad(rows, ((0, 0), (first, size - first - len(X)))) for rows in covariates
        )
        rows = filled_rows(np.arange(first, first + len(X)), row_bucket(len(X)))
        given, slope = row_uncertainty(at.params, at.problem, at.u, filled, rows)
    own = own + np.asarray(given)[: len(X)]
    return PredictorUncertainty(own, np.asarray(slope)[: len(X)], covariance)


def _own_rows(design: Design, X: np.ndarray, levels: Sequence[np.ndarray]) -> bool:
    """Whether rows to predict for are those of the design."""
    return X is design.X and all(
        level is factor.levels for level, factor in zip(levels, design.factors, strict=True)
    )


def _extended(
    design: Design,
    X: np.ndarray,
    Z: Sequence[np.ndarray],
    levels: Sequence[np.ndarray],
    parts: Mapping[str, np.ndarray],
) -> Design:
    """The design with rows of weight 0 below its own, so that H^-1 is selected for them too.

    What a row does not say of its levels it takes from a row of the design that shares the first of
    those it does say, so that nested factors stay nested.
    """
    template = np.zeros(len(X), int)
    for level, factor in reversed(list(zip(levels, design.factors, strict=True))):
        _, first = np.unique(factor.levels, return_index=True)
        place = np.zeros(factor.n_levels, int)
        place[factor.levels[first]] = first
        template = np.where(level >= 0, place[level], template)

    def below(values: np.ndarray, more: np.ndarray | None = None) -> np.ndarray:
        return np.concatenate([values, values[template] if more is None else more])

    return replace(
        design,
        y=below(design.y),
        trials=below(design.trials),
        weights=below(design.weights, np.zeros(len(X))),
        offset=below(design.offset),
        X=below(design.X, X),
        factors=tuple(
            replace(
                factor,
                levels=below(
                    factor.levels, np.where(level >= 0, level, factor.levels[template])
                ).astype(factor.levels.dtype),
                Z=np.concatenate([factor.Z, rows], axis=1),
            )
            for factor, rows, level in zip(design.factors, Z, levels, strict=True)
        ),
        parts={name: below(own, parts[name]) for name, own in design.parts.items()},
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
