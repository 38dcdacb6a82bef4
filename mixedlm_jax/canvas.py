"""What pictures are drawn on: matplotlib's Axes, and names and points that stay legible.

Matplotlib is imported when the first picture is drawn; all else works without it.
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from mixedlm_jax.errors import ArgumentError, MissingPackageError

GREY = "0.45"
_SMALLEST = 5.0  # size of letters that can still be read, in points
_THINNED = 6.0  # size of those that are left where every name has no room
_LONGEST = 28  # letters of a name
_MANY = 5000  # points that a vector picture had better hold as an image


def library(module: str) -> Any:
    """A module of matplotlib. Raises `MissingPackageError` where it is not installed."""
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise MissingPackageError(
            "pictures are drawn by matplotlib, which is not installed: "
            'pip install "matplotlib>=3.9"'
        ) from error


def single(ax: Any, function: str, size: tuple[float, float] = (6.0, 4.0)) -> Any:
    """The Axes that was given, or one of a new figure of this size in inches."""
    return panels(ax, [function], function, size=size)[0]


def panels(
    ax: Any,
    names: Sequence[str],
    function: str,
    *,
    columns: int = 3,
    size: tuple[float, float] = (3.6, 3.2),
) -> np.ndarray:
    """One Axes for each name, as an array of objects.

    Those that were given, or a new figure's in so many columns, each of this size in inches. Raises
    `ArgumentError` for what is not that many Axes.
    """
    count = len(names)
    if ax is None:
        columns = min(columns, count)
        rows = -(-count // columns)
        _, grid = library("pyplot").subplots(
            rows,
            columns,
            figsize=(size[0] * columns, size[1] * rows),
            squeeze=False,
            layout="constrained",
        )
        found = grid.ravel()
        for spare in found[count:]:
            spare.remove()
        return found[:count]
    given = np.array(ax, dtype=object).ravel()
    kind = library("axes").Axes
    wrong = [item for item in given if not isinstance(item, kind)]
    if wrong:
        raise ArgumentError(
            f"ax holds a {type(wrong[0]).__name__}; {function} draws on matplotlib Axes: give "
            f"{_counted(count)}, or leave ax out"
        )
    if len(given) != count:
        panels_there = ", ".join(names[:6]) + ", ..." * (count > 6)
        raise ArgumentError(
            f"ax holds {_counted(len(given))}, and {function} has {count} panel{'s' * (count > 1)} "
            f"to draw ({panels_there}): give that many, or leave ax out"
        )
    return given


def _counted(count: int) -> str:
    return "one Axes" if count == 1 else f"{count} Axes"


# Names along an axis


def name_rows(ax: Any, names: Sequence[str], *, thin: bool) -> bool:
    """Name the rows 0, 1, ... along y, in letters as small as needed; whether all are named.

    Where there is no room for all of them: every so many where `thin`, else none.
    """
    room = _points(ax, "height") / max(len(names), 1)
    size = min(_label_size(), 0.85 * room)
    if size >= _SMALLEST:
        ax.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=size)
        return True
    step = int(np.ceil(1.5 * _THINNED / room))
    shown = range(0, len(names), step) if thin else range(0)
    ax.set_yticks(shown, [_short(names[i]) for i in shown], fontsize=_THINNED)
    return False


def name_columns(ax: Any, names: Sequence[str]) -> None:
    """Name the columns 0, 1, ... along x: turned where they are long, every so many where many."""
    room = _points(ax, "width") / max(len(names), 1)
    size, short = _label_size(), [_short(name) for name in names]
    turned = 0.65 * size * max(map(len, short), default=0) > room
    needed = 1.25 * size if turned else 0.0
    step = max(int(np.ceil(needed / room)), 1)
    shown = range(0, len(names), step)
    ax.set_xticks(shown, [short[i] for i in shown], rotation=90 if turned else 0)


def _points(ax: Any, side: str) -> float:
    """Height or width of an Axes in points."""
    return float(getattr(ax.get_window_extent(), side)) * 72.0 / ax.figure.dpi


def _label_size() -> float:
    sizes = library("font_manager").FontProperties(
        size=library("pyplot").rcParams["ytick.labelsize"]
    )
    return float(sizes.get_size_in_points())


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def titled(ax: Any, text: str) -> None:
    """Give an Axes a title, its lines broken where they are wider than it."""
    size = 10.0
    letters = max(int(_points(ax, "width") / (0.52 * size)), 20)
    lines = [textwrap.fill(line, letters) for line in text.splitlines()]
    ax.set_title("\n".join(lines), fontsize=size)


def legend(ax: Any, own: bool, **options: Any) -> None:
    """A legend: beside the Axes in a figure of our own, whose layout makes room, else inside."""
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if own else {"loc": "best"}
    ax.legend(fontsize="small", title_fontsize="small", **beside, **options)


def ratio_axis(ax: Any, low: float, high: float) -> None:
    """A logarithmic x axis from low to high, with ticks at round numbers that print plainly."""
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    digits = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 6, 8), *map(_steps, (0.5, 0.2, 0.1, 0.05)))
    every = (np.outer(decades, chosen).ravel() for chosen in digits)
    inside = (ticks[(ticks >= low) & (ticks <= high)] for ticks in every)
    ticks = next((found for found in inside if len(found) >= 3), np.array([low, high]))
    ax.set_xticks(ticks, [f"{tick:.4g}" for tick in ticks])
    ax.minorticks_off()


def _steps(width: float) -> tuple[float, ...]:
    return tuple(np.arange(1.0, 10.0, width))


# Points


def dots(n: int) -> dict[str, Any]:
    """How `scatter` draws n points: the more, the smaller and the fainter."""
    return {
        "s": float(np.clip(4000.0 / max(n, 1), 5.0, 22.0)),
        "alpha": float(np.clip(200.0 / max(n, 1), 0.12, 0.7)),
        "linewidths": 0,
        "rasterized": n > _MANY,
    }


def jittered(x: np.ndarray, width: float) -> np.ndarray:
    """Positions (n,) moved by up to this much either way, the same each time."""
    return x + np.random.default_rng(len(x)).uniform(-width, width, len(x))


def bins(x: np.ndarray, count: int) -> np.ndarray:
    """The bin of each x (n,), about equally full; one for each distinct value where those are few.

    Equal values fall into one bin.
    """
    distinct, codes = np.unique(x, return_inverse=True)
    if len(distinct) <= count:
        return codes
    edges = np.unique(np.quantile(x, np.linspace(0.0, 1.0, count + 1)))
    return np.searchsorted(edges[1:-1], x, side="left")


def of_bins(x: np.ndarray, y: np.ndarray, count: int, statistic: Any) -> np.ndarray:
    """Mean of x and a statistic of y in each bin, two columns in order of x."""
    code = bins(x, count)
    parts = [code == i for i in np.unique(code)]
    return np.array([(np.mean(x[part]), statistic(y[part])) for part in parts])


# Words


def scale_name(link: str) -> str:
    """The scale of a linear predictor in words, by its link's name."""
    words = {"logit": "log-odds", "log": "log scale", "identity": "units of the response"}
    return words.get(link, f"{link} scale")


def percent(level: float) -> str:
    """A level as "95%"."""
    return f"{100.0 * level:.6g}%"
