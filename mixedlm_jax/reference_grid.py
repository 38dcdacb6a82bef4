"""The grid of predictor values that estimated marginal means are averages over.

Levels of factors are crossed; a number stands at its mean over the rows used, or at both of its
values where it has two (Lenth's emmeans). Numbers inside `factor()` count as levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.expression import Call, Expression, columns, suggest, walk
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.formula import Formula
from mixedlm_jax.recipe import replay
from mixedlm_jax.table import Table, level_label, with_columns

LARGEST = 100_000
_FACTORS = ("C", "factor", "as.factor")


@dataclass(frozen=True, eq=False)
class ReferenceGrid:
    """Combinations of predictor values, the first variable varying fastest.

    Attributes
    ----------
    frame
        The combinations, with the data's types: rows to predict for.
    levels
        Per variable its values as they are shown, in order.
    codes
        Per variable which of its values a row has (rows,).
    means
        Variables that stand at their mean.
    """

    frame: pd.DataFrame
    levels: dict[str, tuple[Any, ...]]
    codes: dict[str, np.ndarray]
    means: dict[str, float]


@dataclass(frozen=True)
class _Values:
    """A variable's values in the grid, as data and as they are shown."""

    data: pd.Series
    shown: tuple[Any, ...]
    mean: bool = False


def used_rows(model: Fitted) -> np.ndarray:
    """Which rows of the model's data count: complete and of positive weight (rows of data,)."""
    used = model.labels.kept.copy()
    used[used] = model.design.weights > 0
    return used


def predictors(model: Fitted, random: bool) -> tuple[str, ...]:
    """Columns that predictions depend on, in the order of the formula.

    random: those of random effects too, besides the grouping factors.
    """
    names = (name for node in _variables(model, random) for name in columns(node))
    return tuple(dict.fromkeys(names))


def factor_columns(model: Fitted) -> set[str]:
    """Columns that count as levels: those that hold them, and numbers inside `factor()`."""
    kinds = model.labels.recipe.kinds
    found = {name for name, is_factor in kinds.items() if is_factor}
    for node in _variables(model, random=True):
        for part in walk(node):
            if isinstance(part, Call) and part.function in _FACTORS:
                found |= set(columns(part))
    return found


def _variables(model: Fitted, random: bool) -> Iterator[Expression]:
    formula: Formula = model.call.formula
    sides = [formula.fixed, *(terms for _, terms in formula.parts)]
    if random:
        sides += [term.effects for term in formula.random]
    yield from (node for terms in sides for term in terms.terms for node in term)
    yield from formula.offsets


def reference_grid(
    model: Fitted, at: Mapping[str, Any] | None = None, *, random: bool = False
) -> ReferenceGrid:
    """The grid of a model.

    at: values of variables in place of those, one or several each. random: with the covariates of
    random effects.

    Raises
    ------
    ArgumentError
        For a variable or a level in `at` that the model does not have, and a grid of more than
        100,000 rows.
    """
    table, used = Table(model.call.data), used_rows(model)
    names = list(predictors(model, random))
    argument = model.labels.recipe.offset_argument
    if argument:
        names += [argument] * (argument not in names)
    given = _checked_at(at, names)
    factors = factor_columns(model)
    values = {
        name: _values(table, name, used, name in factors, given.get(name)) for name in names
    }
    sizes = [len(part.shown) for part in values.values()]
    rows = prod(sizes)
    if rows > LARGEST:
        wide = max(values, key=lambda name: len(values[name].shown))
        raise ArgumentError(
            f"the reference grid has {rows} rows, at most {LARGEST} are possible: fix variables "
            f"by at=, such as at={{{wide!r}: ...}}, which has {len(values[wide].shown)} values"
        )
    codes, step = {}, 1
    for name, size in zip(values, sizes, strict=True):
        codes[name] = np.arange(rows) // step % size
        step *= size
    frame = pd.DataFrame(
        {
            name: part.data.iloc[codes[name]].reset_index(drop=True)
            for name, part in values.items()
        },
        index=pd.RangeIndex(rows),
    )
    return ReferenceGrid(
        frame,
        {name: part.shown for name, part in values.items()},
        codes,
        {name: float(part.shown[0]) for name, part in values.items() if part.mean},
    )


def _checked_at(at: Mapping[str, Any] | None, names: list[str]) -> dict[str, list[Any]]:
    if at is not None and not isinstance(at, Mapping):
        raise ArgumentError(f"at is {at!r}; give a dict such as at={{'age': [0, 10]}}")
    given = {}
    for name, value in dict(at or {}).items():
        if name not in names:
            raise ArgumentError(
                f"at names {name!r}, which the model does not depend on"
                f"{suggest(str(name), names)}; it depends on {', '.join(names)}"
            )
        single = isinstance(value, (str, bytes)) or not np.iterable(value)
        given[name] = [value] if single else list(value)
        if not given[name]:
            raise ArgumentError(f"at has no value for {name!r}; give one or more, or leave it out")
    return given


def level_places(table: Table, name: str, used: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Levels of a column in the rows used, and a row of the table that has each (levels,)."""
    value = table.column(name).as_category()
    codes = np.where(used, value.codes, -1)
    present = [code for code in range(len(value.levels)) if np.any(codes == code)]
    return (
        tuple(value.levels[code] for code in present),
        np.array([int(np.argmax(codes == code)) for code in present], int),
    )


def _values(
    table: Table, name: str, used: np.ndarray, is_factor: bool, given: list[Any] | None
) -> _Values:
    if is_factor:
        levels, places = level_places(table, name, used)
        series = with_columns(table, {})[name]
        wanted = range(len(levels)) if given is None else _chosen(name, levels, given)
        return _Values(series.iloc[places[list(wanted)]], tuple(levels[i] for i in wanted))
    if given is None:
        numbers = table.column(name).numbers(f"column '{name}'")[used]
        distinct = np.unique(numbers)
        if len(distinct) > 2:
            mean = float(np.mean(numbers))
            return _Values(pd.Series([mean]), (mean,), mean=True)
        found = distinct
    else:
        try:
            found = np.array(given, float)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"at[{name!r}] is {given!r}; give finite numbers") from error
        if found.ndim != 1 or not np.all(np.isfinite(found)):
            raise ArgumentError(f"at[{name!r}] is {given!r}; give finite numbers")
    return _Values(pd.Series(found), tuple(float(number) for number in found))


def _chosen(name: str, levels: tuple[str, ...], given: list[Any]) -> list[int]:
    found = []
    for value in given:
        label = level_label(value)
        if label not in levels:
            raise ArgumentError(
                f"at[{name!r}] names the level {label!r}, which the rows used do not have"
                f"{suggest(label, levels)}; the levels are {', '.join(levels)}"
            )
        found.append(levels.index(label))
    return found


def not_estimable(model: Fitted, frame: pd.DataFrame) -> np.ndarray:
    """Rows whose predictor depends on which dependent columns of X were left out (rows,) bool.

    With the columns that were left out X2 = X1 A in the data, x1'beta is the same whatever was
    left out exactly where x2 = A' x1.
    """
    if not model.labels.dropped:
        return np.zeros(len(frame), bool)
    recipe = model.labels.recipe
    whole = replace(recipe, kept=np.ones_like(recipe.kept), offset_argument=None, offsets=())
    data = with_columns(Table(model.call.data), {})[used_rows(model)]
    own, new = (
        replay(whole, Table(rows, "newdata"), (), False).X for rows in (data, frame)
    )
    kept = recipe.kept
    scale = np.sqrt(np.mean(own**2, axis=0))
    scale = np.where(scale > 0.0, scale, 1.0)
    own, new = own / scale, new / scale
    dependence = np.linalg.lstsq(own[:, kept], own[:, ~kept], rcond=None)[0]
    return np.any(np.abs(new[:, ~kept] - new[:, kept] @ dependence) > 1e-6, axis=1)
