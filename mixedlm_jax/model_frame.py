"""The variables of a model, evaluated on the rows it was fitted to: R's `model.frame`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.design import Design, Labels
from mixedlm_jax.formula import Formula
from mixedlm_jax.table import Category, Table, Value
from mixedlm_jax.variables import GROUPING, Evaluation


def model_frame(formula: Formula, design: Design, labels: Labels, data: Any) -> pd.DataFrame:
    """One column for each variable of the formula, one row for each row used, with its index.

    data: the frame that the design was built from. Columns are named as R names them: the response
    as the model has it (0 and 1 for two levels, a proportion of trials), the predictors as written
    (`I(age^2)`; a basis has numbered columns, `poly(x, 2)1`), grouping factors, `offset(x)`, then
    `(weights)` (prior weights times trials) and `(offset)` (the argument's) where they are not 1
    and 0 throughout.
    """
    evaluation = Evaluation(Table(data))
    kept = labels.kept
    columns: dict[str, Any] = {str(formula.response): design.y / design.trials}
    nodes = (node for side in formula.sides() for term in side.terms for node in term)
    for node in dict.fromkeys(nodes):
        columns |= _columns(str(node), evaluation.variable(node).take(kept))
    for node in dict.fromkeys(node for term in formula.random for node in term.group):
        levels = evaluation.variable(node, GROUPING).as_category().take(kept)
        columns.setdefault(str(node), _as_factor(levels))
    added = design.offset
    for node in formula.offsets:
        offset = evaluation.variable(node).take(kept).numbers(f"offset({node})")
        columns[f"offset({node})"] = offset
        added = added - offset
    weights = design.weights * design.trials
    if np.any(weights != 1.0):
        columns["(weights)"] = weights
    if np.any(added != 0.0):
        columns["(offset)"] = added
    return pd.DataFrame(columns, index=labels.index[kept])


def _columns(name: str, value: Value) -> dict[str, Any]:
    """One value as named columns."""
    if isinstance(value, Category):
        return {name: _as_factor(value)}
    values = value.numbers(name)
    if values.ndim == 2:
        return {f"{name}{j}": column for j, column in enumerate(values.T, start=1)}
    return {name: values}


def _as_factor(value: Category) -> Any:
    used = value.used()
    return pd.Categorical.from_codes(used.codes, pd.Index(used.levels))
