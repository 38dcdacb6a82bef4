"""Pictures of profile likelihoods: zeta against the parameter, with the interval it gives."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.canvas import GREY, panels, percent, scale_name
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.intervals import profile_table
from mixedlm_jax.parameters import Estimate, chosen, estimates


def plot_profile(
    model: Fitted,
    ax: Any = None,
    *,
    parm: str | Sequence[str] | None = None,
    level: float = 0.95,
) -> Any:
    """Profile zeta curves, one panel per parameter, and the interval of a level.

    zeta = sign(value - estimate) sqrt(2 (logLik_max - logLik)), all other parameters maximised. The
    curve goes from one end of the interval to the other, where zeta reaches the dotted lines; the
    title has both ends, which are those of `confint(method="profile")`. The dashed line is the
    curve of a normal estimate with the standard error of the fit: where the two lie together, that
    approximation is good.

    Parameters
    ----------
    model
        A converged fit; not of a quasi family, nor of nAGQ=0.
    ax
        None for a new figure, or as many Axes as there are parameters.
    parm
        As in `confint`: names, "theta_", "beta_"; all parameters by default.
    level
        Of the interval.

    Returns
    -------
    Axes
        `ax` as it was given; by default an array of the new ones.

    Raises
    ------
    ArgumentError
        As in `profile`, and for another number of Axes.
    FitError
        Where profiling finds a likelihood higher than the fit's.
    MissingPackageError
        Without matplotlib.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> model = mlm.glmer("y ~ trt + (1 | ID)", mlm.load_bacteria(), family="binomial")
    >>> ax = mlm.plot_profile(model, Figure().subplots(), parm="sd_(Intercept)|ID")
    >>> print(ax.get_title())
    sd_(Intercept)|ID
    95%: 0.204 to 1.8
    """
    check_fitted(model, "plot_profile")
    parts = chosen(parm, estimates(model))
    names = [part.name for part in parts]
    size = (3.2, 2.8) if len(parts) > 1 else (4.6, 3.6)
    axes = panels(ax, names, "plot_profile", columns=3 if len(parts) <= 9 else 4, size=size)
    table = profile_table(model, names, level)
    for own, part in zip(axes, parts, strict=True):
        curve = table[table["parameter"] == part.name]
        own.set_title(part.name)
        own.set_xlabel(_axis(model, part))
        own.set_ylabel("zeta")
        if len(curve):
            _draw(own, part, curve, level)
        else:  # the note of that parameter says why
            own.text(0.5, 0.5, "no profile", transform=own.transAxes, ha="center", color=GREY)
    return axes if ax is None else ax


def _draw(ax: Any, part: Estimate, curve: pd.DataFrame, level: float) -> None:
    target = NormalDist().inv_cdf(0.5 + 0.5 * level)
    curve = curve.sort_values("value")
    value, zeta = curve["value"].to_numpy(), curve["zeta"].to_numpy()
    if np.isfinite(part.se) and part.se > 0.0:
        straight = part.value + np.array([-target, target]) * part.se
        ax.plot(straight, [-target, target], "--", color=GREY, linewidth=1.0)
    ax.plot(value, zeta, "o-", color="C0", markersize=2.5, linewidth=1.5)
    ax.axhline(0.0, color=GREY, linewidth=0.8, zorder=0)
    for bound in (-target, target):
        ax.axhline(bound, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
    ends = []
    for at, height in zip(value[[0, -1]], zeta[[0, -1]], strict=True):
        reached = abs(height) > target * (1.0 - 1e-4)
        ends.append(f"{at:.3g}" if reached or _at_bound(part, at) else "open")
        if reached:
            ax.vlines(at, min(height, 0.0), max(height, 0.0), color="C0", linewidth=1.0)
    ax.set_ylim(-1.25 * target, 1.25 * target)
    ax.set_title(f"{part.name}\n{percent(level)}: {ends[0]} to {ends[1]}", fontsize="medium")


def _at_bound(part: Estimate, value: float) -> bool:
    """Whether the curve ends where the parameter's range does."""
    if part.quantity.kind == "sd":
        return bool(np.isclose(value, 0.0, atol=1e-8))
    return part.quantity.kind == "cor" and bool(np.isclose(abs(value), 1.0, atol=1e-6))


def _axis(model: Fitted, part: Estimate) -> str:
    scale = scale_name(model.family.link.name)
    words = {"fixed": f"coefficient ({scale})", "sd": f"sd ({scale})", "cor": "correlation"}
    return words.get(part.quantity.kind, part.name)
