"""Evaluates the variables of a formula: columns, arithmetic, comparisons and transforms.

A transform with a memory (`poly`, `bs`, `cr`, `cc`, `center`, `scale`; all formulaic's) learns its
state from all values of the fitted frame that are not missing, as in R, and replays it later.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.errors import DataError, DataWarning, FormulaError, warn
from mixedlm_jax.expression import Call, Expression, Name, columns, suggest
from mixedlm_jax.table import Category, Numeric, Table, Value, logical

_ARITHMETIC: dict[str, Callable[..., np.ndarray]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "^": np.power,
}
_SIGN: dict[str, Callable[..., np.ndarray]] = {"+": np.positive, "-": np.negative}
_COMPARISON: dict[str, Callable[..., np.ndarray]] = {
    "<": np.less,
    ">": np.greater,
    "<=": np.less_equal,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
    "abs": np.abs,
    "cos": np.cos,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log10": np.log10,
    "log1p": np.log1p,
    "log2": np.log2,
    "sin": np.sin,
    "sqrt": np.sqrt,
}
# Names in formulaic, which takes longer to import than most formulas need: see `_transform`.
STATEFUL: dict[str, str] = {
    "bs": "basis_spline",
    "cc": "cyclic_cubic_spline",
    "center": "center",
    "cr": "natural_cubic_spline",
    "poly": "poly",
    "scale": "scale",
}
_DEFAULTS: dict[str, dict[str, Any]] = {"bs": {"extrapolation": "extend"}}

State = dict[str, Any]
"""Of one transform: what formulaic has "learnt", and the "shape" of one row of the result."""
GROUPING = "grouping factor"
"""The role of a column right of a bar."""


@dataclass(frozen=True)
class Text:
    """A string constant, which only a comparison can use."""

    text: str

    def numbers(self, what: str) -> np.ndarray:
        raise FormulaError(f"{what} needs numbers, found the string '{self.text}'")


@dataclass(frozen=True)
class Evaluation:
    """Evaluates expressions on one table; a `Scope` of the formula language.

    Attributes
    ----------
    table
        Where columns come from.
    states
        What stateful transforms learnt, by the text of the call. Filled where `learning`.
    kinds
        Per column whether it held levels when the model was fitted. Filled where `learning`.
    """

    table: Table
    states: dict[str, State] = field(default_factory=dict)
    kinds: dict[str, bool] = field(default_factory=dict)
    learning: bool = True

    def variable(self, node: Expression, role: str = "column") -> Value:
        """The values of one variable, shape (n,) or (n, m).

        Raises
        ------
        DataError
            For columns that are absent or of the wrong kind, and where the values are not finite
            though no column is missing.
        """
        if isinstance(node, Name):
            return self.column(node.name, role)
        with np.errstate(all="ignore"):
            value = node.evaluate(self)
        if not value.is_factor:
            self._check_finite(node, value)
        return value

    def column(self, name: str, role: str = "column") -> Value:
        value = self.table.column(name, role)
        if self.learning:
            self.kinds[name] = value.is_factor
            return value
        return _of_kind(value, self.kinds[name], name, role)

    def number(self, value: float) -> Numeric:
        return Numeric(np.asarray(value))

    def string(self, value: str) -> Text:
        return Text(value)

    def operate(self, operator: str, operands: tuple[Any, ...]) -> Value:
        what = f"'{operator}'"
        if operator in _COMPARISON:
            return self._compare(operator, operands)
        table = _SIGN if len(operands) == 1 else _ARITHMETIC
        return Numeric(table[operator](*(operand.numbers(what) for operand in operands)))

    def _compare(self, operator: str, operands: tuple[Any, ...]) -> Category:
        what = f"'{operator}'"
        texts = [operand.text for operand in operands if isinstance(operand, Text)]
        if texts:
            if operator not in ("==", "!="):
                raise FormulaError(f"{what} cannot order strings: use == or !=")
            value = next(operand for operand in operands if not isinstance(operand, Text))
            if self.learning:
                _check_is_level(what, texts[0], value)
            equal = value.equals(texts[0], what)
            if operator == "==":
                return equal
            return logical(np.where(equal.missing, -1, 1 - equal.codes))
        left, right = (operand.numbers(what) for operand in operands)
        missing = np.isnan(left) | np.isnan(right)
        return logical(np.where(missing, -1, _COMPARISON[operator](left, right)))

    def call(self, node: Call, operands: tuple[Any, ...]) -> Value:
        (operand,) = operands
        if node.function == "I":
            return operand
        if node.function in ("C", "factor", "as.factor"):
            return _as_factor(node, operand)
        if node.function in ELEMENTWISE:
            return Numeric(ELEMENTWISE[node.function](operand.numbers(f"{node.function}()")))
        return self._replay(node, operand.numbers(f"{node.function}()"))

    def _replay(self, node: Call, x: np.ndarray) -> Numeric:
        """Apply a stateful transform to the rows that are not missing."""
        if x.ndim != 1:
            raise FormulaError(f"{node.function}() takes one column, found a basis of several")
        known = ~np.isnan(x)
        arguments = {**_DEFAULTS.get(node.function, {}), **dict(node.constants)}
        state = self.states.setdefault(str(node), {"learnt": {}, "shape": ()})
        if self.learning and node.function == "poly":
            _check_degree(node, x[known], arguments.get("degree", 1))
        if not self.learning:
            _warn_outside(node, x[known], state["learnt"])
            if not known.any():
                return Numeric(np.full(x.shape + state["shape"], np.nan))
        try:
            basis = _transform(node.function)(x[known], _state=state["learnt"], **arguments)
        except (TypeError, ValueError) as error:
            raise FormulaError(f"{node} cannot be computed: {error}") from error
        basis = _stack(basis)
        state["shape"] = basis.shape[1:]
        result = np.full(x.shape + basis.shape[1:], np.nan)
        result[known] = basis
        return Numeric(result)

    def _check_finite(self, node: Expression, value: Numeric) -> None:
        bad = ~np.isfinite(value.values)
        if not bad.any():
            return
        bad = bad.any(axis=1) if bad.ndim == 2 else bad.copy()
        for name in columns(node):
            bad &= ~self.table.column(name).missing
        if bad.any():
            raise DataError(
                f"{node} is not a finite number in {bad.sum()} rows where its columns are (first: "
                f"row {int(bad.argmax())}): remove or recode these rows"
            )


def _transform(name: str) -> Callable[..., Any]:
    """formulaic's transform with a memory that formulas call by this name."""
    return getattr(importlib.import_module("formulaic.transforms"), STATEFUL[name])


def _of_kind(value: Value, factor: bool, name: str, role: str) -> Value:
    """A column of new data as the kind it had when the model was fitted.

    Numbers stand for the levels that print like them; the reverse holds for grouping factors only.
    """
    if value.is_factor == factor:
        return value
    if factor:
        return value.as_category()
    if value.missing.all():
        return Numeric(np.full(value.missing.shape, np.nan))
    if role == GROUPING:
        return value
    raise DataError(
        f"column '{name}' held numbers when the model was fitted and holds levels now: convert it"
    )


def _check_is_level(what: str, text: str, value: Value) -> None:
    if isinstance(value, Category) and text not in value.levels:
        raise DataError(
            f"{what} compares with '{text}', which is no level{suggest(text, value.levels)}: "
            f"the levels are {', '.join(value.levels[:12])}"
        )


def _as_factor(node: Call, operand: Value) -> Category:
    category = operand.as_category()
    levels = dict(node.constants).get("levels")
    if levels is None:
        return category
    if not isinstance(levels, tuple):
        raise FormulaError(f"{node}: write levels = c(...) with all levels in order")
    ordered = tuple(str(level) for level in levels)
    unknown = [level for level in category.used().levels if level not in ordered]
    if unknown:
        raise DataError(f"{node} leaves out the level '{unknown[0]}', which the data have: add it")
    return Category(category.recode(ordered), ordered)


def _check_degree(node: Call, x: np.ndarray, degree: Any) -> None:
    distinct = len(pd.unique(x))
    if not isinstance(degree, int) or isinstance(degree, bool) or not 1 <= degree < distinct:
        raise FormulaError(
            f"{node}: the degree must be a whole number from 1 to {distinct - 1}, one less "
            f"than the number of distinct values, found {degree}"
        )


def _warn_outside(node: Call, x: np.ndarray, state: State) -> None:
    if node.function != "bs" or not x.size:
        return
    outside = (x < state["lower_bound"]) | (x > state["upper_bound"])
    if outside.any():
        warn(
            f"{node} is extrapolated in {outside.sum()} rows beyond "
            f"[{state['lower_bound']:g}, {state['upper_bound']:g}], the range it was fitted to",
            DataWarning,
        )


def _stack(basis: Any) -> np.ndarray:
    """formulaic's result as (n,) or (n, m); a basis of one column is a vector, as in R."""
    if isinstance(basis, dict):
        columns_ = [np.asarray(column, dtype=float) for column in basis.values()]
        array = np.stack(columns_, axis=1)
    else:
        array = np.asarray(getattr(basis, "__wrapped__", basis), dtype=float)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
