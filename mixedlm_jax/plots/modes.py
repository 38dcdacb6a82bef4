"""Pictures of random effects: their conditional modes with intervals, sorted."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.canvas import GREY, name_rows, panels, percent, scale_name
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.expression import suggest
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.inference import check_level
from mixedlm_jax.ranef import mode_frames
from mixedlm_jax.tidy import mode_rows
from mixedlm_jax.uncertainty import conditional_variances


@dataclass(frozen=True, eq=False)
class Modes:
    """One random effect of all levels of a grouping factor, in increasing order of the modes.

    rows: level, estimate, conf.low, conf.high. scale: the linear predictor's, in words.
    """

    group: str
    term: str
    rows: pd.DataFrame
    level: float
    scale: str

    @property
    def name(self) -> str:
        """Factor and effect, the title of a panel."""
        return f"{self.group}: {self.term}"

    @property
    def axis(self) -> str:
        """What the modes' axis says."""
        return f"conditional mode, {percent(self.level)} interval\n({self.scale})"

    def numbers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Modes, lower and upper ends of their intervals, (levels,) each."""
        columns = ("estimate", "conf.low", "conf.high")
        estimate, low, high = (self.rows[name].to_numpy() for name in columns)
        return estimate, low, high


def sorted_modes(
    model: Fitted, group: str | None, level: float, function: str, instead: str = ""
) -> list[Modes]:
    """Every random effect of a grouping factor, or of all of them.

    Raises `ArgumentError` for a model without random effects, where `instead` is offered, and for a
    factor that is not there.
    """
    check_fitted(model, function)
    check_level(level)
    labels = model.labels
    if not labels.factors:
        raise ArgumentError(f"{function} draws random effects, and the model has none{instead}")
    if group is not None and group not in labels.factors:
        raise ArgumentError(
            f"group is {group!r}, which is no grouping factor of the model"
            f"{suggest(str(group), labels.factors)}; it has {', '.join(labels.factors)}"
        )
    variances = conditional_variances(model.design, model.family, model.fit, joint=False)
    rows = mode_rows(mode_frames(labels, model.fit.b, variances), level=level)
    scale = scale_name(model.family.link.name)
    return [
        Modes(str(name), str(term), part.sort_values("estimate", kind="stable"), level, scale)
        for (name, term), part in rows.groupby(["group", "term"], sort=False)
        if group in (None, name)
    ]


def plot_ranef(
    model: Fitted, ax: Any = None, *, group: str | None = None, level: float = 0.95
) -> Any:
    """Caterpillar plots: conditional modes with intervals, sorted, one panel per random effect.

    Parameters
    ----------
    model
        A fitted model with random effects.
    ax
        None for a new figure, or as many Axes as there are panels.
    group
        A grouping factor; by default all.
    level
        Of the intervals: mode +- z conditional standard deviations, given the parameters, as
        `ranef(condVar=True)` has them, on the scale of the linear predictor. Intervals that do not
        cross 0 are drawn in full colour.

    Returns
    -------
    Axes
        `ax` as it was given; by default an array of the new ones.

    Raises
    ------
    ArgumentError
        For a model without random effects, an unknown group, another number of Axes.
    MissingPackageError
        Without matplotlib.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> model = mlm.glmer("Reaction ~ Days + (Days | Subject)", mlm.load_sleepstudy())
    >>> axes = mlm.plot_ranef(model, Figure().subplots(1, 2))
    >>> print([ax.get_title() for ax in axes])
    ['Subject: (Intercept)', 'Subject: Days']
    """
    found = sorted_modes(model, group, level, "plot_ranef")
    most = max(len(modes.rows) for modes in found)
    size = (3.8, float(np.clip(1.0 + 0.2 * most, 2.4, 8.0)))
    axes = panels(ax, [modes.name for modes in found], "plot_ranef", size=size)
    for own, modes in zip(axes, found, strict=True):
        _caterpillar(own, modes)
    return axes if ax is None else ax


def _caterpillar(ax: Any, modes: Modes) -> None:
    estimate, low, high = modes.numbers()
    m = len(estimate)
    place = np.arange(m)
    clear = np.where((low > 0.0) | (high < 0.0), 1.0, 0.5)
    ax.hlines(place, low, high, color="C0", alpha=clear, linewidth=float(np.clip(60 / m, 0.5, 1.8)))
    ax.plot(estimate, place, "o", color="C0", markersize=float(np.clip(90 / m, 1.2, 5.0)))
    ax.axvline(0.0, color=GREY, linewidth=0.8, zorder=0)
    ax.set_ylim(-1.0, m)
    named = name_rows(ax, [str(level) for level in modes.rows["level"]], thin=False)
    ax.set_ylabel(modes.group if named else f"{m} levels of {modes.group}, sorted")
    ax.set_xlabel(modes.axis)
    _finish(ax, modes)


def _finish(ax: Any, modes: Modes) -> None:
    """The title, and why there is nothing to see where a standard deviation is 0."""
    ax.set_title(modes.name)
    _, low, high = modes.numbers()
    if not np.any(high > low):
        words = "standard deviation 0"
        ax.text(0.04, 0.92, words, transform=ax.transAxes, va="top")


def normal_qq(ax: Any, modes: Modes) -> None:
    """Modes with their intervals against normal quantiles, and the line through the quartiles."""
    estimate, low, high = modes.numbers()
    m = len(estimate)
    x = normal_quantiles(m)
    ax.vlines(x, low, high, color="C0", alpha=0.5, linewidth=float(np.clip(60 / m, 0.5, 1.5)))
    ax.plot(x, estimate, "o", color="C0", markersize=float(np.clip(300 / m, 2.0, 4.0)))
    if m > 1:
        quartiles = np.quantile(estimate, [0.25, 0.75])
        at = np.quantile(x, [0.25, 0.75])
        slope = float((quartiles[1] - quartiles[0]) / (at[1] - at[0]))
        ax.axline((at[0], quartiles[0]), slope=slope, color=GREY, linewidth=0.8, zorder=0)
    ax.set_xlabel("normal quantile")
    ax.set_ylabel(modes.axis)
    _finish(ax, modes)


def normal_quantiles(n: int) -> np.ndarray:
    """Quantiles of the standard normal at (i - 1/2) / n (n,)."""
    return np.array([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)])
