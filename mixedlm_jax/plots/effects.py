"""Pictures of what a model predicts along one of its predictors, over the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.canvas import (
    dots,
    jittered,
    legend,
    name_columns,
    of_bins,
    percent,
    scale_name,
    single,
    titled,
)
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.expression import columns, suggest
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.predictions import MARGINAL, predict_rows
from mixedlm_jax.reference_grid import not_estimable
from mixedlm_jax.table import Category, Numeric, Table, level_label

TYPES = ("response", "link", "conditional")
_TYPICAL = "typical group (b = 0)"
_RE_FORMS = {"~0": _TYPICAL, "NA": _TYPICAL, MARGINAL: "averaged over the random effects"}
_POINTS = 200  # of a curve
_MOST_LINES = 12
_MOST_BINS = 12
_ROWS_A_BIN = 15


@dataclass(frozen=True, eq=False)
class Variable:
    """A column that a model's predictions depend on, on the rows used.

    Attributes
    ----------
    rows
        Numbers, or positions in `entries` (n,).
    entries
        What a frame holds for each distinct value of a factor, and of a number that is coded as
        one or has two values; None for other numbers.
    labels
        The names of the entries.
    """

    rows: np.ndarray
    entries: np.ndarray | None = None
    labels: tuple[str, ...] = ()

    @property
    def is_discrete(self) -> bool:
        return self.entries is not None

    def typical(self) -> tuple[Any, str]:
        """The value it is held at, and how the picture says so."""
        if self.entries is None:
            mean = float(np.mean(self.rows))
            centred = abs(mean) < 1e-9 * float(np.std(self.rows))
            return mean, f"{0.0 if centred else mean:.3g} (mean)"
        most = int(np.argmax(np.bincount(self.rows, minlength=len(self.entries))))
        return self.entries[most], f"{self.labels[most]} (most common)"

    def at(self, value: Any) -> np.ndarray:
        """Rows that have a value which this is held at (n,) bool; all where it is no factor."""
        if self.entries is None:
            return np.ones(len(self.rows), bool)
        named = np.array([label == level_label(value) for label in self.labels])
        return named[self.rows]

    def along(self) -> np.ndarray:
        """The values that predictions are drawn at."""
        if self.entries is not None:
            return self.entries
        return np.linspace(np.min(self.rows), np.max(self.rows), _POINTS)

    def lines(self) -> list[tuple[str, Any]]:
        """Names and values that there is a line each for: all entries, or the quartiles."""
        if self.entries is not None:
            return list(zip(self.labels, self.entries, strict=True))
        quartiles = np.unique(np.quantile(self.rows, [0.25, 0.5, 0.75]))
        return [(f"{value:.3g}", float(value)) for value in quartiles]


def plot_effects(
    model: Fitted,
    predictor: str,
    ax: Any = None,
    *,
    by: str | None = None,
    at: Mapping[str, Any] | None = None,
    type: str = "response",
    re_form: str = "~0",
    level: float | None = 0.95,
    data: bool = True,
) -> Any:
    """What the model predicts along one predictor, with its confidence band, over the data.

    All other predictors are held: numbers at their mean, factors (and numbers of two values) at
    their most common level, or where `at` says. The title says which, and whether the random
    effects are 0 or averaged over. Nothing is drawn where the data do not determine a prediction:
    at combinations of levels that they lack, whose columns were dropped from the model.

    Parameters
    ----------
    model
        A fitted model.
    predictor
        A column of the data that the formula names.
    ax
        None for a new figure, or the Axes to draw on.
    by
        Another one: a line for each of its levels (at most 12), or for the quartiles of a number.
    at
        Values to hold other columns at: {"age": 30.0, "urban": "Y"}.
    type
        "response", "link" (scale of the linear predictor) or "conditional" (without structural
        zeros), as in `predict`.
    re_form
        "~0" (or "NA"): the typical group, all random effects 0. "marginal": the population average.
    level
        Of the band, pointwise; None for none.
    data
        Draw the responses too (shares of the trials, areas by their number), on the response's
        scale, and only of rows that have the levels which factors are held at. Of responses with
        two values, ticks at both and circles for the shares: at each level of the predictor, or in
        bins of it.

    Returns
    -------
    Axes
        `ax`, or that of a new figure.

    Raises
    ------
    ArgumentError
        For a column that predictions do not depend on, a `by` of more than 12 levels, a type or
        re_form that is not listed, and as in `predict`: an offset that was given as an array,
        and a fit without a covariance (level=None draws no band).
    DataError
        For a level in `at` that the model does not know.
    MissingPackageError
        Without matplotlib.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> model = mlm.glmer("y ~ trt + week + (1 | ID)", mlm.load_bacteria(), family="binomial")
    >>> ax = mlm.plot_effects(model, "week", Figure().subplots(), by="trt")
    >>> print(ax.get_title())
    typical group (b = 0), 95% confidence band
    """
    check_fitted(model, "plot_effects")
    _check_choices(type, re_form)
    variables = _variables(model)
    names = [predictor] if by is None else [predictor, by]
    held_at = {} if at is None else dict(at)
    _check_names(variables, names, held_at)
    lines: list[tuple[str, Any]] = [("", None)] if by is None else variables[by].lines()
    if len(lines) > _MOST_LINES:
        raise ArgumentError(
            f"by={by!r} has {len(lines)} levels; a picture holds lines of at most {_MOST_LINES}: "
            "give another column"
        )
    along = variables[predictor].along()
    grid = _grid(variables, predictor, along, by, lines, held_at)
    predicted = _predicted(model, grid.frame, type, re_form, level)
    given, ax = ax, single(ax, "plot_effects", (6.0, 4.2))
    over_data = data and type == "response"
    if over_data:
        own = None if by is None else variables[by]
        _draw_data(ax, model, variables[predictor], own, grid.matching)
    for i, (label, _) in enumerate(lines):
        part = predicted.iloc[i * len(along) : (i + 1) * len(along)]
        _draw_line(ax, variables[predictor], along, part, f"C{i}", label, _beside(i, len(lines)))
    if variables[predictor].is_discrete:
        name_columns(ax, variables[predictor].labels)
    ax.set_xlabel(predictor)
    ax.set_ylabel(_response_words(model, type))
    kind = "intervals" if variables[predictor].is_discrete else "band"
    band = "no band" if level is None else f"{percent(level)} confidence {kind}"
    whose = f"{_RE_FORMS[re_form]}, " if model.labels.factors else ""
    titled(ax, f"{whose}{band}\n{grid.words(over_data)}")
    if by is not None:
        quartiles = "" if variables[by].is_discrete else " (quartiles)"
        legend(ax, given is None, title=f"{by}{quartiles}")
    return ax


@dataclass(frozen=True, eq=False)
class Grid:
    """Rows to predict for, line by line, and what is held where.

    matching: rows of the data that have the levels which factors are held at (n,) bool.
    """

    frame: pd.DataFrame
    held: tuple[str, ...]
    matching: np.ndarray

    def words(self, over_data: bool) -> str:
        """What the title says of the columns that are held, and of rows that are not drawn."""
        some = over_data and not np.all(self.matching)
        rows = f"; data: the {np.sum(self.matching)} of {len(self.matching)} rows at these levels"
        return f"at {', '.join(self.held)}{rows * some}" if self.held else ""


def _grid(
    variables: Mapping[str, Variable],
    predictor: str,
    along: np.ndarray,
    by: str | None,
    lines: list[tuple[str, Any]],
    at: Mapping[str, Any],
) -> Grid:
    """The grid along the predictor for every line, all other variables held."""
    frame: dict[str, Any] = {}
    held: list[str] = []
    matching = np.ones(len(variables[predictor].rows), bool)
    for name, variable in variables.items():
        if name == predictor:
            frame[name] = np.concatenate([along] * len(lines))
        elif name == by:
            frame[name] = np.repeat([value for _, value in lines], len(along))
        else:
            value, words = variable.typical()
            if name in at:
                value, words = at[name], level_label(at[name])
            frame[name] = [value] * (len(along) * len(lines))
            held.append(f"{name} = {words}")
            matching &= variable.at(value)
    return Grid(pd.DataFrame(frame), tuple(held), matching)


def _check_choices(type: str, re_form: str) -> None:
    if type not in TYPES:
        raise ArgumentError(f"type is {type!r}; plot_effects draws {', '.join(TYPES)}")
    if re_form not in _RE_FORMS:
        raise ArgumentError(
            f"re_form is {re_form!r}; choose '~0' for the typical group or 'marginal' for the "
            "population average"
        )


def _check_names(
    variables: Mapping[str, Variable], names: list[str], at: Mapping[str, Any]
) -> None:
    for name in (*names, *at):
        if name not in variables:
            raise ArgumentError(
                f"{name!r} is no column that predictions depend on"
                f"{suggest(str(name), list(variables))}; these are {', '.join(variables) or 'none'}"
            )
    if len(set(names)) < len(names):
        raise ArgumentError(f"by is {names[1]!r}, which is the predictor itself: give another one")
    for name in names:
        if name in at:
            raise ArgumentError(
                f"at holds {name!r}, along which the picture is drawn: leave it out"
            )


def _variables(model: Fitted) -> dict[str, Variable]:
    """What the predictions of a model depend on, by column, on the rows used."""
    call, recipe = model.call, model.labels.recipe
    table, formula = Table(call.data), call.formula
    used = np.flatnonzero(model.labels.kept)[model.design.weights > 0]
    names = chain(
        *(side.columns() for side in formula.sides()),
        *(columns(node) for node in formula.offsets),
        [recipe.offset_argument] if recipe.offset_argument else [],
    )
    coded = set(_coded_as_factors(model))
    return {
        name: _variable(table.column(name).take(used), name in coded)
        for name in dict.fromkeys(names)
    }


def _coded_as_factors(model: Fitted) -> Iterator[str]:
    """Columns that some term takes as a factor, numbers such as `factor(year)` among them."""
    recipe = model.labels.recipe
    codings = [recipe.fixed, *(coding for coding, _ in recipe.parts.values())]
    codings += [coding for effects in recipe.effects for _, coding in effects]
    for coding in codings:
        for node, coded in coding.variables().items():
            if coded.levels is not None:
                yield from columns(node)


def _variable(value: Numeric | Category, coded: bool) -> Variable:
    if isinstance(value, Category):
        seen = value.used()
        entries = np.array([label == "TRUE" for label in seen.levels], bool)
        if not value.logical:
            entries = np.array(seen.levels, object)
        return Variable(seen.codes, entries, seen.levels)
    numbers = value.values
    distinct, codes = np.unique(numbers, return_inverse=True)
    if coded or len(distinct) <= 2:
        return Variable(codes, distinct, tuple(map(level_label, distinct)))
    return Variable(numbers)


def _predicted(
    model: Fitted, grid: pd.DataFrame, type: str, re_form: str, level: float | None
) -> pd.DataFrame:
    """Columns fit, and lower and upper where a level is given; nan where it is not estimable."""
    interval = None if level is None else "confidence"
    found = predict_rows(
        model, grid, type, re_form, interval=interval, level=0.95 if level is None else level
    )
    frame = pd.DataFrame({"fit": found} if level is None else found)
    frame[not_estimable(model, grid)] = np.nan
    return frame


def _beside(i: int, count: int) -> float:
    """How far from the place of a level its line i of so many stands."""
    return (i - 0.5 * (count - 1)) * min(0.15, 0.6 / count)


def _draw_line(
    ax: Any,
    predictor: Variable,
    along: np.ndarray,
    predicted: pd.DataFrame,
    color: str,
    label: str,
    place: float,
) -> None:
    fit = predicted["fit"].to_numpy()
    if not predictor.is_discrete:
        ax.plot(along, fit, color=color, linewidth=2.0, label=label)
        if "lower" in predicted:
            low, high = predicted["lower"].to_numpy(), predicted["upper"].to_numpy()
            ax.fill_between(along, low, high, color=color, alpha=0.2, linewidth=0)
        return
    x = np.arange(len(along)) + place
    if "lower" in predicted:
        wide = float(np.clip(60.0 / len(along), 0.6, 2.0))
        ax.vlines(x, predicted["lower"], predicted["upper"], color=color, linewidth=wide)
    size = float(np.clip(150.0 / len(along), 2.0, 7.0))
    ax.plot(x, fit, "o", color=color, markersize=size, label=label)


def _draw_data(
    ax: Any, model: Fitted, predictor: Variable, by: Variable | None, shown: np.ndarray
) -> None:
    """The responses of the rows shown, in the colours of their lines where these are levels."""
    design = model.design
    used = design.weights > 0
    trials = design.trials[used]
    y = design.y[used] / np.where(trials > 0, trials, 1.0)
    levels = by if by is not None and by.is_discrete else None
    group = np.zeros(len(y), int) if levels is None else levels.rows
    binary = len(np.unique(y)) <= 2 and bool(np.all(trials == 1.0))
    style = dots(int(np.sum(shown)))
    x = predictor.rows.astype(float)
    place = jittered(x, 0.3) if predictor.is_discrete else x
    for i in np.unique(group[shown]):
        own, color = shown & (group == i), "0.35" if levels is None else f"C{i}"
        if not binary:
            size = style["s"] * trials[own] / np.mean(trials)
            ax.scatter(place[own], y[own], color=color, zorder=1, **{**style, "s": size})
            continue
        ax.plot(place[own], y[own], "|", color=color, alpha=style["alpha"], markersize=6, zorder=1)
        count = len(predictor.labels) or _bin_count(int(np.sum(own)))
        at, shares = of_bins(x[own], y[own], count, np.mean).T
        size = 10.0 if predictor.is_discrete else 5.0
        if predictor.is_discrete and levels is not None:
            at = at + _beside(i, len(levels.labels))
        ax.plot(at, shares, "o", color=color, markerfacecolor="none", markersize=size, zorder=2)


def _bin_count(n: int) -> int:
    return int(np.clip(n // _ROWS_A_BIN, 2, _MOST_BINS))


def _response_words(model: Fitted, type: str) -> str:
    response = model.labels.response
    if type == "link":
        return f"{response} ({scale_name(model.family.link.name)})"
    if type == "conditional":
        return f"mean of {response} without structural zeros"
    return f"{'probability' if model.family.takes_trials else 'mean'} of {response}"
