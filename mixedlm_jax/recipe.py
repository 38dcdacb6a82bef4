"""What a design learnt from its data, and how it is replayed on new rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol, Self, TypeVar

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.expression import Expression
from mixedlm_jax.formula import RandomTerm
from mixedlm_jax.grouping import Grouping
from mixedlm_jax.matrix import Coding
from mixedlm_jax.table import Category, Table, Value
from mixedlm_jax.variables import GROUPING, Evaluation, State

Key = TypeVar("Key")
Rows = TypeVar("Rows", bound="_Rows")
Values = dict[Expression, Value]
"""The values of a formula's variables."""
Groups = dict[Expression, Category]
"""The levels of the variables that grouping factors are made of."""


class _Rows(Protocol):
    """What has a value per row."""

    def take(self, rows: np.ndarray) -> Self: ...


@dataclass(frozen=True, eq=False)
class NewRows:
    """Rows to predict for; those with a missing value are left out of the arrays.

    Attributes
    ----------
    X
        Shape (m, p).
    Z
        Per requested factor, shape (k, m).
    levels
        Per requested factor, shape (m,) int32; -1 for a level the model was not fitted with.
    offset
        Shape (m,).
    complete
        Shape (n_new,) bool: the rows that are in the arrays.
    index
        The new frame's index.
    parts
        Model matrices of other parameters of the distribution, (m, columns) each.
    """

    X: np.ndarray
    Z: tuple[np.ndarray, ...]
    levels: tuple[np.ndarray, ...]
    offset: np.ndarray
    complete: np.ndarray
    index: pd.Index
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Recipe:
    """What was learnt from the data a model was fitted to, and is replayed on new rows.

    Attributes
    ----------
    fixed
        Coding of the fixed effects; `kept` its columns that entered X, shape (columns,) bool.
    groupings
        Per factor, in the order of `Design.factors`.
    effects
        Per factor the random terms and their codings, in the order of Z's rows.
    offsets
        Variables of `offset(...)`; `offset_argument` the argument's column name, "" for an array.
    states, kinds
        See `Evaluation`.
    parts
        Per part of the formula its coding and the columns of it that entered the design.
    """

    fixed: Coding
    kept: np.ndarray
    groupings: tuple[Grouping, ...]
    effects: tuple[tuple[tuple[RandomTerm, Coding], ...], ...]
    offsets: tuple[Expression, ...]
    offset_argument: str | None
    states: Mapping[str, State]
    kinds: Mapping[str, bool]
    parts: Mapping[str, tuple[Coding, np.ndarray]] = field(default_factory=dict)


def replay(
    recipe: Recipe,
    table: Table,
    wanted: tuple[int, ...],
    allow_new_levels: bool,
    *,
    ungrouped: bool = False,
) -> NewRows:
    """Replay a recipe on new rows; `ungrouped` ones belong to no level, all of theirs are -1."""
    if recipe.offset_argument == "":
        raise ArgumentError(
            "the model's offset= was an array, which newdata does not have: put it into a "
            "column and fit with offset='column' or offset(column) in the formula"
        )
    evaluation = Evaluation(table, dict(recipe.states), dict(recipe.kinds), learning=False)
    codings = [recipe.fixed, *(coding for coding, _ in recipe.parts.values())]
    codings += [coding for i in wanted for _, coding in recipe.effects[i]]
    groups = {
        node: evaluation.variable(node, GROUPING).as_category()
        for i in (() if ungrouped else wanted)
        for node in recipe.effects[i][0][0].group
    }
    coded = {node: c for coding in codings for node, c in coding.variables().items()}
    values: Values = {node: evaluation.variable(node) for node in (*coded, *recipe.offsets)}
    for node, of_node in coded.items():
        of_node.check_levels(values[node], table.noun)
    added = table.argument("offset", recipe.offset_argument)
    missing = [value.missing for value in chain(values.values(), groups.values())]
    missing += [] if added is None else [np.isnan(added)]
    complete = ~np.any(missing, axis=0) if missing else np.ones(len(table), dtype=bool)
    values, groups = take(values, complete), take(groups, complete)
    n = int(complete.sum())
    return NewRows(
        X=_matrix(recipe.fixed, recipe.kept, values, n),
        Z=tuple(covariates(recipe.effects[i], values, n) for i in wanted),
        levels=tuple(
            np.full(n, -1, np.int32) if ungrouped else _locate(recipe, i, groups, allow_new_levels)
            for i in wanted
        ),
        offset=total_offset(recipe.offsets, values, None if added is None else added[complete], n),
        complete=complete,
        index=table.index,
        parts={
            name: _matrix(coding, kept, values, n) for name, (coding, kept) in recipe.parts.items()
        },
    )


def _matrix(coding: Coding, kept: np.ndarray, values: Values, n: int) -> np.ndarray:
    """The columns of a model matrix that entered the design, shape (n, columns)."""
    columns = [column for column, keep in zip(coding.columns(values, n), kept, strict=True) if keep]
    return np.stack(columns, axis=1) if columns else np.empty((n, 0))


def _locate(recipe: Recipe, i: int, groups: Groups, allow_new_levels: bool) -> np.ndarray:
    grouping = recipe.groupings[i]
    categories = [groups[node] for node in recipe.effects[i][0][0].group]
    levels = grouping.locate(categories)
    if not allow_new_levels and np.any(levels < 0):
        row = int(np.argmax(levels < 0))
        label = ":".join(c.levels[c.codes[row]] for c in categories)
        raise DataError(
            f"grouping factor '{grouping.name}' has the level '{label}' in newdata, which the "
            "model was not fitted with: use allow_new_levels=True for its population value"
        )
    return levels


def take(values: Mapping[Key, Rows], kept: np.ndarray) -> dict[Key, Rows]:
    """The rows in `kept` (bool) of every value."""
    if kept.all():
        return dict(values)
    return {node: value.take(kept) for node, value in values.items()}


def covariates(effects: Sequence[tuple[RandomTerm, Coding]], values: Values, n: int) -> np.ndarray:
    """The rows of Z that the random terms of one factor give it, shape (k, n)."""
    return np.stack([column for _, coding in effects for column in coding.columns(values, n)])


def total_offset(
    offsets: Sequence[Expression], values: Values, added: np.ndarray | None, n: int
) -> np.ndarray:
    """The sum of all offsets, shape (n,)."""
    total = np.zeros(n) if added is None else np.array(added)
    for node in offsets:
        total = total + values[node].numbers(f"offset({node})")
    return total
