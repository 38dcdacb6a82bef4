"""A user's table, column by column: numbers, or codes of levels.

Every string-like type, bool and categorical becomes a `Category`; every other number a `Numeric`.
pandas frames are read as they are, all others through narwhals, only the columns asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from pandas.api import types

from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.expression import suggest


@dataclass(frozen=True, eq=False)
class Numeric:
    """Numbers, missing as nan.

    Attributes
    ----------
    values
        Shape (n,), or (n, m) for a basis such as `poly(x, 2)`; a constant has shape ().
    """

    values: np.ndarray

    is_factor = False

    @cached_property
    def missing(self) -> np.ndarray:
        """Rows with a missing value, shape (n,)."""
        missing = np.isnan(self.values)
        return missing.any(axis=1) if missing.ndim == 2 else missing

    def numbers(self, what: str) -> np.ndarray:
        return self.values

    def take(self, rows: np.ndarray) -> Self:
        return replace(self, values=self.values[rows])

    def as_category(self) -> Category:
        """Each number a level, in increasing order; numbers that print alike are one, as in R."""
        ranks, numbers = _ranked(self.values)
        if numbers.dtype.kind == "i":
            return Category(ranks, tuple(map(str, numbers.tolist())))
        labels = [level_label(number) for number in numbers.tolist()]
        if len(set(labels)) == len(labels):
            return Category(ranks, tuple(labels))
        codes, levels = pd.factorize(np.array(labels, dtype=object))
        return Category(np.append(codes, -1)[ranks].astype(np.int32), tuple(levels))

    def equals(self, text: str, what: str) -> Category:
        """Raise: a number never equals a string."""
        raise DataError(
            f"{what} compares numbers with the string '{text}'; compare with a number instead"
        )


@dataclass(frozen=True, eq=False)
class Category:
    """Codes of levels, missing as -1.

    Attributes
    ----------
    codes
        Shape (n,) int32, indices into `levels`.
    levels
        Labels as R prints them, in level order.
    logical
        Whether the levels are FALSE and TRUE, which arithmetic takes as 0 and 1.
    """

    codes: np.ndarray
    levels: tuple[str, ...]
    logical: bool = False

    is_factor = True

    @cached_property
    def missing(self) -> np.ndarray:
        """Rows with a missing value, shape (n,)."""
        return self.codes < 0

    def numbers(self, what: str) -> np.ndarray:
        if not self.logical:
            shown = ", ".join(f"'{level}'" for level in self.levels[:3])
            raise DataError(f"{what} needs numbers, found the levels {shown}, ...")
        return np.where(self.missing, np.nan, self.codes.astype(float))

    def take(self, rows: np.ndarray) -> Self:
        return replace(self, codes=self.codes[rows])

    def as_category(self) -> Category:
        return self

    def equals(self, text: str, what: str) -> Category:
        equal = np.array([level == text for level in (*self.levels, "")])[self.codes]
        return logical(np.where(self.missing, -1, equal))

    def used(self) -> Category:
        """The same values without the levels that no row has."""
        present = np.bincount(self.codes[~self.missing], minlength=len(self.levels)) > 0
        if present.all():
            return self
        recode = np.append(np.cumsum(present) - 1, -1).astype(np.int32)
        levels = tuple(level for level, used in zip(self.levels, present, strict=True) if used)
        return Category(recode[self.codes], levels, self.logical)

    def recode(self, levels: Sequence[str]) -> np.ndarray:
        """Codes with respect to other levels, -1 for what is missing or not among them."""
        lookup = pd.Index(list(levels), dtype="object").get_indexer(
            pd.Index(list(self.levels), dtype="object")
        )
        return np.append(lookup, -1)[self.codes].astype(np.int32)


Value = Numeric | Category

_MOST_DIGITS = 1e15
"""Whole numbers below this print without an exponent."""
_LARGEST_EXACT = 2**53
_MOST_COUNTED = 4
"""Integers up to this many times the number of rows are counted rather than hashed."""


def logical(codes: np.ndarray) -> Category:
    """Truth values from 0, 1 and -1 (missing)."""
    return Category(codes.astype(np.int32), ("FALSE", "TRUE"), logical=True)


def distinct(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The sorted distinct values of integers in 0..size-1, and the rank of each (int32)."""
    if size <= _MOST_COUNTED * len(codes):
        present = np.bincount(codes, minlength=size) > 0
        ranks = (np.cumsum(present) - 1).astype(np.int32)
        return np.flatnonzero(present), ranks[codes]
    positions, values = pd.factorize(codes, sort=True)
    return values, positions.astype(np.int32)


def _ranked(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (-1 for nan) and sorted distinct values; numbers of a narrow range are counted."""
    if len(values) and not np.isnan(values).any():
        low, high = values.min(), values.max()
        if high - low < _MOST_COUNTED * len(values) and abs(low) < _MOST_DIGITS:
            codes = values.astype(np.int64)
            if np.array_equal(codes, values):
                codes -= int(low)
                found, ranks = distinct(codes, int(high - low) + 1)
                return ranks, found + int(low)
    ranks, numbers = pd.factorize(values, sort=True)
    return ranks.astype(np.int32), numbers


def level_label(level: Any) -> str:
    """A level as R prints it: '1' for 1.0, 'TRUE' for True."""
    if isinstance(level, (bool, np.bool_)):
        return str(level).upper()
    if isinstance(level, (float, np.floating)):
        number = float(level)
        whole = number.is_integer() and abs(number) < _MOST_DIGITS
        return str(int(number)) if whole else f"{number:.15g}"
    return str(level)


class Table:
    """The columns of a pandas frame, or of any eager frame narwhals reads.

    Parameters
    ----------
    data
        The frame.
    noun
        What messages call it: "data" or "newdata".

    Raises
    ------
    DataError
        For what is no frame.
    """

    def __init__(self, data: Any, noun: str = "data") -> None:
        self.noun = noun
        self.frame = data if isinstance(data, pd.DataFrame) else _narwhals_frame(data, noun)
        self._cache: dict[str, Value] = {}
        self.names: list[Any] = list(self.frame.columns)

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def index(self) -> pd.Index:
        """The frame's index; positions for frames that have none."""
        if isinstance(self.frame, pd.DataFrame):
            return self.frame.index
        return pd.RangeIndex(len(self.frame))

    def column(self, name: str, role: str = "column") -> Value:
        """One column's values.

        Raises
        ------
        DataError
            For a column that is absent, ambiguous or infinite, or holds neither numbers nor levels.
        """
        if name not in self._cache:
            self._cache[name] = self._read(name, role)
        return self._cache[name]

    def argument(self, argument: str, given: Any) -> np.ndarray | None:
        """What `weights=` or `offset=` stands for: a column's name, or one number a row.

        Raises
        ------
        ArgumentError
            For a wrong length or shape, or a Series with another index than the frame.
        DataError
            For infinite values, or a column that is absent or no number.
        """
        if given is None:
            return None
        if isinstance(given, str):
            return self.column(given).numbers(f"{argument}='{given}'")
        values = self._aligned(argument, given)
        if values.shape != (len(self),):
            raise ArgumentError(
                f"{argument} has shape {values.shape}, expected one number for each of the "
                f"{len(self)} rows: give an array of that length or a column's name"
            )
        _refuse_infinite(values, argument)
        return values

    def numbers(self, argument: str, given: Any) -> np.ndarray:
        """`argument` of something that was given."""
        return np.asarray(self.argument(argument, given), float)

    def _aligned(self, argument: str, given: Any) -> np.ndarray:
        labelled = isinstance(given, pd.Series) and len(given) == len(self)
        if labelled and not given.index.equals(self.index):
            raise ArgumentError(
                f"{argument} is a Series whose index differs from the {self.noun}'s: give "
                f"{argument}.to_numpy() to match by position, or reindex it"
            )
        try:
            if isinstance(given, pd.Series):
                return given.to_numpy(dtype=float, na_value=np.nan)
            return np.array(given, dtype=float)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"{argument} must be a column's name or an array of numbers, "
                f"found {type(given).__name__}"
            ) from error

    def _read(self, name: str, role: str) -> Value:
        count = self.names.count(name)
        if count == 0:
            raise DataError(
                f"{role} '{name}' is not in the {self.noun}{suggest(name, self.names)} "
                f"({self.noun} has: {_shorten(self.names)})"
            )
        if count > 1:
            raise DataError(f"the {self.noun} has {count} columns named '{name}', expected one")
        column = self.frame[name]
        series = column if isinstance(column, pd.Series) else _pandas_series(column)
        value = _read_series(name, series)
        if not value.is_factor:
            _refuse_infinite(value.numbers(name), f"column '{name}'")
        return value


def free_name(wanted: str, table: Table) -> str:
    """A name that no column of the table has."""
    while wanted in table.names:
        wanted += "_"
    return wanted


def with_columns(table: Table, columns: Mapping[str, Any]) -> pd.DataFrame:
    """The table as a pandas frame, with further columns (n,)."""
    frame = table.frame
    if not isinstance(frame, pd.DataFrame):
        frame = pd.DataFrame({name: _pandas_series(frame[name]) for name in table.names})
    return frame.assign(**columns)


def _narwhals() -> Any:
    """narwhals, imported when the first frame that is not pandas' comes along."""
    return importlib.import_module("narwhals")


def _narwhals_frame(data: Any, noun: str) -> Any:
    try:
        return _narwhals().from_native(data, eager_only=True)
    except TypeError as error:
        raise DataError(
            f"{noun} must be a pandas or polars DataFrame (or another eager frame that narwhals "
            f"reads), found {type(data).__name__}"
        ) from error


def _pandas_series(column: Any) -> pd.Series:
    """A narwhals series as pandas', through NumPy or a list, so that no other library is needed.

    An Enum keeps the order of its levels; a Categorical has none of its own and counts as strings.
    """
    nw = _narwhals()
    if isinstance(column.dtype, nw.Enum):
        return pd.Series(pd.Categorical(column.to_list(), categories=column.dtype.categories))
    if column.dtype.is_numeric():
        return pd.Series(column.cast(nw.Float64).to_numpy())
    return pd.Series(column.to_list(), dtype=object)


_NUMBERS_AS_OBJECTS = {"integer", "floating", "mixed-integer-float", "decimal", "empty"}


def _read_series(name: str, series: pd.Series) -> Value:
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        levels = tuple(level_label(level) for level in dtype.categories)
        if len(set(levels)) < len(levels):
            raise DataError(f"column '{name}' has different categories that print the same")
        return Category(series.cat.codes.to_numpy(dtype=np.int32), levels)
    if types.is_bool_dtype(dtype):
        return logical(series.to_numpy(dtype=float, na_value=-1.0))
    if types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype):
        _refuse_rounding(name, series)
        return Numeric(series.to_numpy(dtype=float, na_value=np.nan))
    kind = "string" if isinstance(dtype, pd.StringDtype) else types.infer_dtype(series, skipna=True)
    if kind == "string":
        codes, strings = pd.factorize(series, sort=True)
        return Category(codes.astype(np.int32), tuple(str(string) for string in strings))
    if kind == "boolean":
        return logical(series.map({True: 1, False: 0}).fillna(-1).to_numpy(dtype=int))
    if kind in _NUMBERS_AS_OBJECTS:
        return Numeric(pd.to_numeric(series).to_numpy(dtype=float, na_value=np.nan))
    raise DataError(
        f"column '{name}' holds {kind} values ({dtype}); expected numbers, strings, bools or "
        "categories: convert it first"
    )


def _refuse_rounding(name: str, series: pd.Series) -> None:
    """Identifiers of many digits would silently fall together as float64."""
    if types.is_integer_dtype(series.dtype) and len(series):
        low, high = series.min(), series.max()
        if not pd.isna(low) and (high > _LARGEST_EXACT or low < -_LARGEST_EXACT):
            raise DataError(
                f"column '{name}' holds integers beyond 2**53, which float64 cannot tell apart: "
                "convert it to strings"
            )


def _refuse_infinite(values: np.ndarray, what: str) -> None:
    infinite = np.isinf(values)
    if infinite.any():
        raise DataError(
            f"{what} is infinite in {infinite.sum()} rows (first: row {int(infinite.argmax())}); "
            "expected finite or missing values: remove or recode them"
        )


def _shorten(names: Sequence[Any], most: int = 12) -> str:
    shown = ", ".join(str(name) for name in names[:most])
    return shown + (", ..." if len(names) > most else "")
