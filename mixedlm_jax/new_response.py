"""Another response for a design that stays as it is otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.design import Design, Labels
from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.formula import Formula
from mixedlm_jax.response import ResponseFamily, has_trials, respond, with_trials
from mixedlm_jax.table import Table, Value


def with_response(
    design: Design, labels: Labels, formula: Formula, family: ResponseFamily, y: Any
) -> Design:
    """The design with `y` on its left-hand side.

    y: one value for each row of the frame, or for each row used: an array, a Series (with the
    frame's index, or that of the rows used), or a frame of one column. Where the model has trials,
    successes, or two columns, successes and failures. Weights, trials and everything else stay.

    Raises
    ------
    ArgumentError
        For another shape, or a Series with another index.
    DataError
        For a response with missing values in rows used, or one the family cannot have.
    """
    values = [_used(column, labels) for column in _columns(y)]
    parts: tuple[Value, ...]
    weights = design.weights
    if has_trials(formula.response, family):
        numbers = [value.numbers("the new response") for value in values]
        _check_count(len(numbers), 2, labels)
        trials = design.trials if len(numbers) == 1 else numbers[0] + numbers[1]
        _check_empty(design, trials)
        parts = with_trials(formula.response, numbers[0], trials)
    else:
        _check_count(len(values), 1, labels)
        parts = (values[0],)
        weights = weights * design.trials  # the weights of a proportion are its trials
    response = respond(formula.response, parts, family, weights, design.weights_type)
    return replace(design, y=response.y, trials=response.trials, weights=response.weights)


def _check_empty(design: Design, trials: np.ndarray) -> None:
    """Rows without trials were left out of the model for good."""
    filled = (design.trials == 0) & (trials > 0)
    if np.any(filled):
        raise DataError(
            f"the new response has trials in {int(filled.sum())} rows that have none in the data "
            "and were left out, the first of them row "
            f"{int(np.argmax(filled))} of those used: fit it with update(data=...)"
        )


def _columns(y: Any) -> list[Any]:
    """The one or more columns of a response."""
    if isinstance(y, pd.DataFrame):
        return [y.iloc[:, j] for j in range(y.shape[1])]
    if isinstance(y, pd.Series):
        return [y]
    array = np.asarray(y)
    if array.ndim not in (1, 2):
        raise ArgumentError(f"the new response has {array.ndim} dimensions; give one column")
    return [array] if array.ndim == 1 else list(array.T)


def _check_count(found: int, most: int, labels: Labels) -> None:
    if not 1 <= found <= most:
        allowed = "one column" if most == 1 else "successes, or successes and failures"
        raise ArgumentError(
            f"the new response has {found} columns; '{labels.response}' takes {allowed}"
        )


def _used(column: Any, labels: Labels) -> Value:
    """The rows used of a column that has a value for each of them, or for each row of the frame."""
    kept = labels.kept
    n_frame, n_used = len(kept), int(kept.sum())
    if len(column) not in (n_frame, n_used):
        raise ArgumentError(
            f"the new response has {len(column)} values; give one for each of the {n_frame} rows "
            f"of the data" + (f", or of the {n_used} rows used" if n_used < n_frame else "")
        )
    index = labels.index if len(column) == n_frame else labels.index[kept]
    if isinstance(column, pd.Series) and not column.index.equals(index):
        raise ArgumentError(
            "the new response is a Series whose index differs from the data's: give .to_numpy() "
            "to match by position, or reindex it"
        )
    series = pd.Series(column)
    if len(series) == n_frame:
        series = series[kept]
    value = Table(pd.DataFrame({"response": series}), "new response").column("response")
    if value.missing.any():
        raise DataError(
            f"the new response is missing in {value.missing.sum()} of the {n_used} rows used; "
            "give a value for each"
        )
    return value
