"""Forest plots: coefficients with intervals, of one model or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.canvas import GREY, legend, name_rows, percent, ratio_axis, scale_name, single
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.intervals import intervals
from mixedlm_jax.parameters import GROUPS, Estimate, chosen, estimates

_RATIOS = {"logit": "odds ratio", "log": "ratio of means"}
_METHODS = {"Wald": "Wald", "profile": "profile", "boot": "bootstrap"}


def plot_forest(
    models: Any,
    ax: Any = None,
    *,
    parm: str | Sequence[str] | None = None,
    level: float = 0.95,
    exp: bool = False,
    method: str = "Wald",
) -> Any:
    """Coefficients with confidence intervals; of several models in one picture, in colours.

    Parameters
    ----------
    models
        A fitted model, a list of them, or a dict from what the legend calls each to the model.
    ax
        None for a new figure, or the Axes to draw on.
    parm
        As in `confint`: names, "beta_", "theta_"; by default all fixed effects but the intercept. A
        model is drawn with those of them that it has.
    level, method
        Of the intervals, as in `confint`.
    exp
        Exponentiate the coefficients: odds ratios under the logit link, ratios of means under the
        log link, on a logarithmic axis. Limits beyond what a number holds are left out.

    Returns
    -------
    Axes
        `ax`, or that of a new figure.

    Raises
    ------
    ArgumentError
        For what is no model, a parameter that none of them has, no coefficient but the intercept,
        and `exp` of standard deviations, correlations or a dispersion; and as in `confint`.
    MissingPackageError
        Without matplotlib.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> cbpp, formula = mlm.load_cbpp(), "incidence / size ~ period"
    >>> models = {"glm": mlm.glm(formula, cbpp, "binomial"),
    ...           "glmm": mlm.glmer(f"{formula} + (1 | herd)", cbpp, "binomial")}
    >>> ax = mlm.plot_forest(models, Figure().subplots(), exp=True)
    >>> print(ax.get_xlabel(), [label.get_text() for label in ax.get_yticklabels()])
    odds ratio, 95% Wald interval ['period2', 'period3', 'period4']
    """
    named = _named(models)
    chosen_parts = _chosen(named, parm, exp)
    tables = {
        label: _table(model, parts, level, method, exp)
        for (label, model), parts in zip(named.items(), chosen_parts, strict=True)
    }
    names = list(dict.fromkeys(name for table in tables.values() for name in table.index))
    given, ax = (
        ax,
        single(ax, "plot_forest", (6.0, float(np.clip(1.2 + 0.35 * len(names), 2.4, 9.0)))),
    )
    place, many = {name: i for i, name in enumerate(names)}, len(tables)
    step = min(0.2, 0.8 / many)
    dense = max(len(names) * many, 1)
    for j, (label, table) in enumerate(tables.items()):
        y = np.array([place[name] for name in table.index]) + (j - 0.5 * (many - 1)) * step
        color = f"C{j % 10}"
        ax.hlines(y, table["low"], table["high"], color=color, linewidth=_thin(100 / dense, 1.8))
        ax.plot(
            table["estimate"], y, "o", color=color, markersize=_thin(200 / dense, 5.0), label=label
        )
    ax.axvline(float(exp), color=GREY, linewidth=0.8, zorder=0)
    ax.set_ylim(len(names) - 0.4, -0.6)
    name_rows(ax, names, thin=True)
    if exp:
        ends = np.concatenate([table.to_numpy().ravel() for table in tables.values()])
        ends = np.append(ends[np.isfinite(ends) & (ends > 0.0)], 1.0)
        ratio_axis(ax, np.min(ends) / 1.1, np.max(ends) * 1.1)
    links = list(dict.fromkeys(model.family.link.name for model in named.values()))
    ax.set_xlabel(f"{_words(links, exp)}, {percent(level)} {_METHODS[method]} interval")
    if many > 1:
        legend(ax, given is None)
    return ax


def _thin(size: float, most: float) -> float:
    return float(np.clip(size, 0.6, most))


def _named(models: Any) -> dict[str, Fitted]:
    """The models by what the legend calls them."""
    if isinstance(models, Mapping):
        named = {str(label): model for label, model in models.items()}
    elif isinstance(models, (list, tuple)):
        named = {f"model {i}": model for i, model in enumerate(models, start=1)}
    else:
        named = {"model": models}
    if not named:
        raise ArgumentError("plot_forest draws the coefficients of models, and there is none")
    for model in named.values():
        check_fitted(model, "plot_forest")
    return named


def _chosen(
    named: Mapping[str, Fitted], parm: str | Sequence[str] | None, exp: bool
) -> list[list[Estimate]]:
    """The parameters of each model that are drawn."""
    known = [estimates(model) for model in named.values()]
    if parm is None:
        found = [
            [p for p in own if p.quantity.kind == "fixed" and p.name != "(Intercept)"]
            for own in known
        ]
        if not any(found):
            raise ArgumentError(
                "there are no coefficients but the intercept: give parm='(Intercept)' to draw it"
            )
    else:
        asked = [parm] if isinstance(parm, str) else list(parm)
        everything = {part.name: part for own in known for part in own}
        chosen(asked, list(everything.values()))  # says which name none of them has
        found = []
        for own in known:
            there = {*GROUPS, *(part.name for part in own)}
            found.append(chosen([name for name in asked if name in there], own))
        if not any(found):
            raise ArgumentError(f"parm is {parm!r}, and no model has such parameters")
    refused = [part.name for own in found for part in own if not _is_coefficient(part)]
    if exp and refused:
        raise ArgumentError(
            f"exp exponentiates coefficients, and {refused[0]!r} is none: leave it out of parm"
        )
    return found


def _is_coefficient(part: Estimate) -> bool:
    return part.quantity.kind == "fixed" or (part.quantity.kind == "phi" and part.parameter is None)


def _table(
    model: Fitted, parts: Sequence[Estimate], level: float, method: str, exp: bool
) -> pd.DataFrame:
    """Columns estimate, low and high, a row per parameter; unknown ends are nan."""
    names = [part.name for part in parts]
    limits = intervals(model, names, level, method).to_numpy()
    values = np.column_stack([[part.value for part in parts], limits])
    if exp:
        with np.errstate(over="ignore", under="ignore"):
            values = np.exp(values)
        values = np.where(np.isfinite(values), values, np.nan)
    return pd.DataFrame(values, index=names, columns=["estimate", "low", "high"])


def _words(links: Sequence[str], exp: bool) -> str:
    if exp:
        return _RATIOS.get(links[0], "exp(coefficient)") if len(links) == 1 else "exp(coefficient)"
    return f"coefficient ({' / '.join(scale_name(link) for link in links)})"
