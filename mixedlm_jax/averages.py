"""Expected responses of rows averaged within cells, of the typical group or of the population."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError, brief
from mixedlm_jax.expectation import Expected, Parameters
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.predictions import MARGINAL
from mixedlm_jax.recipe import NewRows


def parameters_of(model: Fitted, vcov: Any = None) -> Parameters:
    """The estimates of a model with their covariance, or with another one.

    vcov: of all parameters, as `vcov(full=True)` has it.
    """
    fit = model.fit
    if vcov is not None:
        try:
            found = np.asarray(vcov, float)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"vcov is {brief(vcov)}; give a matrix, such as "
                'model.vcov(type="robust", full=True)'
            ) from error
        if found.shape != fit.vcov.shape:
            raise ArgumentError(
                f"vcov has shape {found.shape}; give the covariance of all {len(fit.vcov)} "
                'parameters, such as model.vcov(type="robust", full=True)'
            )
        fit = replace(fit, vcov=found)
    return Parameters.of(model.design, model.family, fit)


def is_population(re_form: Any) -> bool:
    """Whether averages are to integrate the random effects out, rather than set them to 0."""
    if re_form not in ("~0", "NA", MARGINAL):
        raise ArgumentError(
            f"re_form is {re_form!r}; choose '~0' for the typical group (b = 0) or 'marginal' for "
            "population averages"
        )
    return re_form == MARGINAL


def rows_of(model: Fitted, frame: pd.DataFrame, marginal: bool) -> NewRows:
    """Rows of a frame that belong to no group, with Z where random effects are integrated out."""
    if marginal:
        return model.labels.rebuild(frame, ungrouped=True)
    return model.labels.rebuild(frame, factors=())


def expected_rows(
    parameters: Parameters, rows: NewRows, type: str, marginal: bool
) -> Expected:
    """Expected responses of rows at b = 0 or over the population, with their total derivatives.

    type: of `predict`, or "mean", the link's inverse.
    """
    eta = rows.X @ np.asarray(parameters.params.beta, float) + rows.offset
    if marginal:
        return parameters.population(type, rows.X, eta, rows.parts, rows.Z)
    slope = parameters.fixed_slope(rows.X)
    if type == "link":
        return Expected(eta, slope, np.ones(len(eta)))
    return parameters.expected(type, eta, slope, rows.parts)


def cell_means(found: Expected, cells: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of values and slopes over the rows of each cell: (number,), (number, d)."""
    size = np.bincount(cells, minlength=number).astype(float)
    value = np.bincount(cells, found.value, number) / size
    slope = np.zeros((number, found.slope.shape[1]))
    np.add.at(slope, cells, found.slope)
    return value, slope / size[:, None]


def cell_any(rows: np.ndarray, cells: np.ndarray, number: int) -> np.ndarray:
    """Which cells have one of these rows (number,) bool."""
    return np.bincount(cells, rows, number) > 0.0


def average_notes(model: Fitted, marginal: bool) -> list[str]:
    """Which of the two averages are: of the typical group, or of the population."""
    if not model.design.factors:
        return []
    if marginal:
        notes = ["Population averages: the random effects are integrated out."]
        if np.any(np.isnan(np.diagonal(model.fit.vcov)[: len(model.fit.theta)])):
            notes.append("Covariance parameters on their boundary count as known.")
        return notes
    return ["Of the typical group: random effects at 0, which is not the population average."]
