"""Average slopes and comparisons: what a change of one predictor does to expected responses.

For rows i and a predictor set to hi_i and lo_i, all others as they are,

    avg = mean_i (m_i(hi_i) - m_i(lo_i)) / s_i,    s_i = hi_i - lo_i for slopes, 1 for comparisons

with the variance J V J', J its derivative in all parameters. Slopes are differences over a step so
small that they are derivatives to about six digits, whatever the formula makes of the predictor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.averages import (
    average_notes,
    cell_any,
    cell_means,
    expected_rows,
    is_population,
    parameters_of,
    rows_of,
)
from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.expectation import Expected, Parameters
from mixedlm_jax.expression import suggest
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.inference import check_level, wald_intervals, wald_tests
from mixedlm_jax.noted import NotedFrame
from mixedlm_jax.predict import check_scale
from mixedlm_jax.reference_grid import (
    factor_columns,
    level_places,
    not_estimable,
    predictors,
    used_rows,
)
from mixedlm_jax.table import Table, level_label, with_columns

_STEP = 1e-6  # of a slope, as a share of the predictor's range
SLOPE = "dY/dX"
_OF_LEVELS = ("reference", "sequential", "pairwise")
_OF_NUMBERS = ("sd", "iqr", "minmax")


def avg_slopes(
    model: Fitted,
    variables: str | Sequence[str] | None = None,
    by: str | Sequence[str] | None = None,
    newdata: Any = None,
    *,
    type: str = "response",
    re_form: str = "~0",
    vcov: Any = None,
    level: float = 0.95,
) -> NotedFrame:
    """Average slopes (average marginal effects) of predictors.

    Parameters
    ----------
    model
        A fitted model.
    variables
        Predictors; all by default. A factor has differences to its first level in place of a slope.
    by
        Columns within whose combinations to average; over all rows by default.
    newdata
        Rows to average over; those of the model that were used by default.
    type
        As in `predict`: "response" (probabilities, expected counts), "link", ...
    re_form
        "~0" (or "NA"): of the typical group, b = 0. "marginal": of population averages, the random
        effects integrated out.
    vcov
        Covariance of all parameters in place of the model's own, such as
        `model.vcov(type="robust", full=True)`.
    level
        Probability of the intervals.

    Returns
    -------
    DataFrame
        term, contrast, the columns of `by`, estimate, std.error, statistic, p.value, conf.low,
        conf.high: Wald's, by the delta method over all parameters. Notes say what is averaged.

    Raises
    ------
    ArgumentError
        For a variable, type or re_form that is not there.
    DataError
        For newdata without a column that is needed.

    Examples
    --------
    >>> data = mlm.load_bacteria()
    >>> model = mlm.glmer("y ~ trt + week + (1 | ID)", data, family="binomial")
    >>> slopes = mlm.avg_slopes(model, "week", re_form="marginal")
    >>> print(slopes[["term", "contrast", "estimate", "std.error"]].round(4))
       term contrast  estimate  std.error
    0  week    dY/dX   -0.0175     0.0058
    Population averages: the random effects are integrated out.
    Of predictions of type 'response', averaged over 220 rows.
    Intervals have level 0.95.
    """
    check_fitted(model, "avg_slopes")
    if isinstance(variables, Mapping):
        raise ArgumentError("slopes are of single predictors: give avg_comparisons a dict")
    asked = _chosen(variables)
    return _averages(model, asked, by, newdata, type, re_form, vcov, level, slopes=True)


def avg_comparisons(
    model: Fitted,
    variables: str | Sequence[str] | Mapping[str, Any] | None = None,
    by: str | Sequence[str] | None = None,
    newdata: Any = None,
    *,
    type: str = "response",
    re_form: str = "~0",
    vcov: Any = None,
    level: float = 0.95,
) -> NotedFrame:
    """Average differences of expected responses between two values of a predictor.

    variables: predictors, all by default; or a dict from predictors to what is compared. For
    numbers: a number (that much more, half of it on either side; 1 by default), [low, high], "sd",
    "iqr" or "minmax"; numbers that are 0 or 1 have 1 - 0. For factors: "reference" (to the first
    level, the default), "sequential", "pairwise", or two levels. The rest as in `avg_slopes`.

    Examples
    --------
    >>> cbpp = mlm.load_cbpp()
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", cbpp, "binomial")
    >>> found = mlm.avg_comparisons(model, {"period": "sequential"})
    >>> print(found[["term", "contrast", "estimate", "std.error", "p.value"]].round(4))
         term contrast  estimate  std.error  p.value
    0  period    2 - 1   -0.1142     0.0353   0.0012
    1  period    3 - 2   -0.0099     0.0276   0.7199
    2  period    4 - 3   -0.0256     0.0268   0.3392
    Of the typical group: random effects at 0, which is not the population average.
    Of predictions of type 'response', averaged over 56 rows.
    Intervals have level 0.95.
    """
    check_fitted(model, "avg_comparisons")
    asked = _chosen(variables)
    return _averages(model, asked, by, newdata, type, re_form, vcov, level, slopes=False)


@dataclass(frozen=True)
class _Comparison:
    """A predictor at two values in each row, and what their difference is divided by (n,)."""

    term: str
    contrast: str
    low: Any
    high: Any
    step: np.ndarray


def _averages(
    model: Fitted,
    variables: dict[str, Any] | None,
    by: Any,
    newdata: Any,
    type: str,
    re_form: Any,
    vcov: Any,
    level: float,
    *,
    slopes: bool,
) -> NotedFrame:
    check_scale(type)
    check_level(level)
    marginal = is_population(re_form)
    known = predictors(model, random=marginal)
    for name in variables or ():
        if name not in known:
            raise ArgumentError(
                f"the model has no predictor {name!r}{suggest(str(name), known)}; it has "
                f"{', '.join(known) or 'none'}"
            )
    frame = _rows_to_average(model, newdata, marginal)
    cells, labels = _cells(frame, by)
    parameters = parameters_of(model, vcov)
    rows, slope = [], []
    asked = dict.fromkeys(known) if variables is None else variables
    for name, spec in asked.items():
        for part in _comparisons(model, frame, name, spec, slopes):
            difference = _difference(model, parameters, frame, part, type, marginal)
            value, own = cell_means(difference, cells, len(labels))
            if variables is None and not np.any(own) and not np.any(value):
                continue  # the predictor of another part of the model
            unknown = cell_any(_not_estimable(model, frame, part), cells, len(labels))
            value[unknown], own[unknown] = np.nan, np.nan
            rows += [
                {"term": name, "contrast": part.contrast, **cell, "estimate": estimate}
                for cell, estimate in zip(labels, value, strict=True)
            ]
            slope.append(own)
    if not rows:
        raise ArgumentError("there is no predictor whose change would change these predictions")
    table = pd.DataFrame(rows)
    estimate = table["estimate"].to_numpy()
    se = np.sqrt(parameters.variances(np.concatenate(slope)))
    statistic, p = wald_tests(estimate, se)
    low, high = wald_intervals(estimate, se, level).T
    notes = average_notes(model, marginal)
    notes.append(f"Of predictions of type {type!r}, averaged over {len(frame)} rows.")
    if np.any(se == 0.0):
        idle = dict.fromkeys(table["term"][se == 0.0])
        notes.append(f"{', '.join(idle)}: these predictions do not depend on it (no test, nan).")
    if np.any(np.isnan(estimate)):
        notes.append(
            f"{np.sum(np.isnan(estimate))} averages cannot be estimated (nan): they need rows that "
            f"tell the columns {', '.join(model.labels.dropped)} from others, which the data lack."
        )
    notes.append(f"Intervals have level {level:g}.")
    return NotedFrame.of(
        table.assign(
            **{
                "std.error": se,
                "statistic": statistic,
                "p.value": p,
                "conf.low": low,
                "conf.high": high,
            }
        ),
        notes,
    )


def _chosen(variables: Any) -> dict[str, Any] | None:
    """Predictors with what is compared, None for the default."""
    if variables is None or isinstance(variables, Mapping):
        return None if variables is None else dict(variables)
    names = [variables] if isinstance(variables, str) else list(variables)
    if not names or not all(isinstance(name, str) for name in names):
        raise ArgumentError(
            f"variables is {variables!r}; give the name of a predictor, or several"
        )
    return dict.fromkeys(names)


def _rows_to_average(model: Fitted, newdata: Any, marginal: bool) -> pd.DataFrame:
    """The rows that are averaged over, without those that miss a value."""
    if newdata is None:
        return with_columns(Table(model.call.data), {})[used_rows(model)]
    frame = with_columns(Table(newdata, "newdata"), {})
    complete = rows_of(model, frame, marginal).complete
    if not np.any(complete):
        raise DataError("newdata has no row without a missing value: nothing is left to average")
    return frame[complete]


def _cells(frame: pd.DataFrame, by: Any) -> tuple[np.ndarray, list[dict[str, str]]]:
    """The number of the combination of `by` that each row has (n,), and the combinations."""
    names = [by] if isinstance(by, str) else list(by or ())
    if not names:
        return np.zeros(len(frame), int), [{}]
    table = Table(frame)
    columns = [table.column(str(name)).as_category().used() for name in names]
    for name, column in zip(names, columns, strict=True):
        if np.any(column.missing):
            raise DataError(f"by: the column {name!r} has missing values; drop or fill them")
    keys = np.stack([column.codes for column in columns], axis=1)
    distinct, cells = np.unique(keys, axis=0, return_inverse=True)
    labels = [
        {
            str(name): column.levels[code]
            for name, column, code in zip(names, columns, key, strict=True)
        }
        for key in distinct
    ]
    return cells.reshape(-1), labels


def _comparisons(
    model: Fitted, frame: pd.DataFrame, name: str, spec: Any, slopes: bool
) -> Iterator[_Comparison]:
    if name in factor_columns(model):
        yield from _of_levels(model, frame, name, spec)
    elif slopes:
        yield _small_step(model, frame, name)
    else:
        yield _of_numbers(model, frame, name, spec)


def _of_levels(
    model: Fitted, frame: pd.DataFrame, name: str, spec: Any
) -> Iterator[_Comparison]:
    table = Table(model.call.data)
    levels, places = level_places(table, name, used_rows(model))
    series = with_columns(table, {})[name]
    k, n = len(levels), len(frame)
    if spec is None or isinstance(spec, str):
        pairs = {
            "reference": [(0, j) for j in range(1, k)],
            "sequential": [(j - 1, j) for j in range(1, k)],
            "pairwise": [(i, j) for i in range(k) for j in range(i + 1, k)],
        }.get(spec or "reference")
        if pairs is None:
            raise _no_comparison(name, spec, f"{', '.join(_OF_LEVELS)} or two of its levels")
    else:
        shown = [level_label(value) for value in spec] if np.iterable(spec) else []
        if len(shown) != 2 or not set(shown) <= set(levels):
            raise _no_comparison(name, spec, f"two of the levels {', '.join(levels)}")
        pairs = [(levels.index(shown[0]), levels.index(shown[1]))]

    def whole(code: int) -> Any:
        return series.iloc[np.full(n, places[code])].array

    for low, high in pairs:
        contrast = f"{levels[high]} - {levels[low]}"
        yield _Comparison(name, contrast, whole(low), whole(high), np.ones(n))


def _of_numbers(model: Fitted, frame: pd.DataFrame, name: str, spec: Any) -> _Comparison:
    x, own = _numbers(frame, name), _own_numbers(model, name)
    one = np.ones(len(x))
    if spec is None and np.all((own == 0.0) | (own == 1.0)):
        spec = [0, 1]
    if spec is None or (np.isscalar(spec) and not isinstance(spec, (str, bytes, bool))):
        gap = 1.0 if spec is None else float(spec)  # type: ignore[arg-type]
        if not np.isfinite(gap):
            raise _no_comparison(name, spec, "a finite number")
        return _Comparison(name, f"+{gap:g}", x - 0.5 * gap, x + 0.5 * gap, one)
    if isinstance(spec, str):
        if spec == "sd":
            half = 0.5 * float(np.std(own, ddof=1))
            return _Comparison(name, "(x + sd/2) - (x - sd/2)", x - half, x + half, one)
        ends = {"iqr": (25, 75, "Q3 - Q1"), "minmax": (0, 100, "max - min")}.get(spec)
        if ends is None:
            raise _no_comparison(name, spec, f"a number, [low, high], {', '.join(_OF_NUMBERS)}")
        low, high = np.percentile(own, ends[:2])
        return _Comparison(name, ends[2], low * one, high * one, one)
    try:
        low, high = (float(value) for value in spec)
    except (TypeError, ValueError) as error:
        raise _no_comparison(name, spec, "a number, or [low, high]") from error
    return _Comparison(name, f"{high:g} - {low:g}", low * one, high * one, one)


def _small_step(model: Fitted, frame: pd.DataFrame, name: str) -> _Comparison:
    """A step that stays within the range of the data, where formulas need no extrapolation."""
    x, own = _numbers(frame, name), _own_numbers(model, name)
    least, most = min(np.min(own), np.min(x)), max(np.max(own), np.max(x))
    size = _STEP * ((most - least) or 1.0)
    if most == least:
        least, most = least - size, most + size
    low, high = np.maximum(x - size, least), np.minimum(x + size, most)
    return _Comparison(name, SLOPE, low, high, high - low)


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    return Table(frame).column(name).numbers(f"column '{name}'")


def _own_numbers(model: Fitted, name: str) -> np.ndarray:
    """A column on the rows that the model was fitted to."""
    column = Table(model.call.data).column(name)
    return column.numbers(f"column '{name}'")[used_rows(model)]


def _no_comparison(name: str, spec: Any, expected: str) -> ArgumentError:
    return ArgumentError(f"variables compares {name!r} by {spec!r}; give {expected}")


def _not_estimable(model: Fitted, frame: pd.DataFrame, part: _Comparison) -> np.ndarray:
    """Rows whose prediction at an end of the comparison is not estimable (n,) bool."""
    low, high = (
        not_estimable(model, frame.assign(**{part.term: values}))
        for values in (part.low, part.high)
    )
    return low | high


def _difference(
    model: Fitted,
    parameters: Parameters,
    frame: pd.DataFrame,
    part: _Comparison,
    type: str,
    marginal: bool,
) -> Expected:
    """What the comparison does to each row, over its step."""

    def expected(values: Any) -> Expected:
        rows = rows_of(model, frame.assign(**{part.term: values}), marginal)
        return expected_rows(parameters, rows, type, marginal)

    high, low = expected(part.high), expected(part.low)
    return Expected(
        (high.value - low.value) / part.step,
        (high.slope - low.slope) / part.step[:, None],
        (high.of_eta - low.of_eta) / part.step,
    )
