"""Pictures of residuals: against what is fitted, and against the distribution they should have."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixedlm_jax.canvas import (
    GREY,
    dots,
    jittered,
    of_bins,
    panels,
    scale_name,
)
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.plots.modes import normal_qq, sorted_modes
from mixedlm_jax.predictions import predict_rows
from mixedlm_jax.simulated_residuals import SimulatedResiduals, simulate_residuals

WHAT = ("ranef", "residuals")
_ROWS_A_BIN = 30
_MOST_BINS = 15
_FEW_VALUES = 12  # of which each is a bin of its own
_QUARTILES = (0.25, 0.5, 0.75)
_FITTED = "Residuals against fitted"
_QQ = "QQ of quantile residuals"
_QUANTILE = "Quantile residuals"


def plot_residuals(model: Fitted, ax: Any = None, *, nsim: int = 250, seed: int | None = 1) -> Any:
    """Is the model right? Four panels of residuals; three for a model without random effects.

    1. Pearson residuals against the linear predictor with its random effects. Those of two-valued
       responses lie on two curves and say little.
    2. Simulated quantile residuals (`simulate_residuals`, random effects drawn anew) against
       uniform quantiles, with the p-value of their test: near the line where the model is right.
    3. The same residuals against the linear predictor at b = 0, with their quartiles in bins, which
       should stay near 1/4, 1/2 and 3/4.
    4. The first random effect's conditional modes against normal quantiles, as in `plot_qq`.

    Parameters
    ----------
    model
        A fitted model of a family that can be drawn from.
    ax
        None for a new figure, or as many Axes as there are panels.
    nsim, seed
        Number of simulated data sets, and what decides them.

    Returns
    -------
    Axes
        `ax` as it was given; by default an array of the new ones.

    Raises
    ------
    ArgumentError
        For a family that cannot be drawn from, another number of Axes, and as in
        `simulate_residuals`.
    MissingPackageError
        Without matplotlib.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> model = mlm.glm("y ~ trt + week", mlm.load_bacteria(), family="binomial")
    >>> axes = model.plot(Figure().subplots(1, 3))
    >>> print(axes[0].get_title())
    Residuals against fitted
    """
    check_fitted(model, "plot_residuals")
    simulated = simulate_residuals(model, nsim, seed)
    effects = sorted_modes(model, None, 0.95, "plot_residuals")[:1] if model.labels.factors else []
    names = [_FITTED, _QQ, _QUANTILE, *(modes.name for modes in effects)]
    axes = panels(ax, names, "plot_residuals", columns=2 if effects else 3, size=(4.0, 3.4))
    _against_fitted(axes[0], model)
    _uniform_qq(axes[1], simulated)
    _quantile_residuals(axes[2], model, simulated)
    for own, modes in zip(axes[3:], effects, strict=True):
        normal_qq(own, modes)
    return axes if ax is None else ax


def plot_qq(
    model: Fitted,
    ax: Any = None,
    *,
    what: str = "ranef",
    group: str | None = None,
    level: float = 0.95,
    nsim: int = 250,
    seed: int | None = 1,
) -> Any:
    """QQ plots: of the random effects, one panel each, or of the residuals.

    Parameters
    ----------
    model
        A fitted model.
    ax
        None for a new figure, or as many Axes as there are panels.
    what
        "ranef": conditional modes with their intervals against normal quantiles. The line goes
        through the quartiles; modes are shrunk towards 0, so that its slope is less than the
        standard deviation of the effect. "residuals": simulated quantile residuals against uniform
        quantiles, which they follow where the model is right (residuals of a generalized model are
        not normal).
    group, level
        Of random effects, as in `plot_ranef`.
    nsim, seed
        Of residuals, as in `simulate_residuals`.

    Returns
    -------
    Axes
        `ax` as it was given; by default an array of the new ones.

    Raises
    ------
    ArgumentError
        For another `what`, random effects of a model without, another number of Axes, and as in
        `simulate_residuals`.
    MissingPackageError
        Without matplotlib.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> model = mlm.glmer("y ~ trt + (1 | ID)", mlm.load_bacteria(), family="binomial")
    >>> ax = mlm.plot_qq(model, Figure().subplots())
    >>> print(ax.get_title(), "|", ax.get_xlabel())
    ID: (Intercept) | normal quantile
    """
    check_fitted(model, "plot_qq")
    if what not in WHAT:
        raise ArgumentError(f"what is {what!r}; plot_qq draws {' or '.join(map(repr, WHAT))}")
    if what == "residuals":
        simulated = simulate_residuals(model, nsim, seed)
        axes = panels(ax, [_QQ], "plot_qq", size=(4.4, 4.2))
        _uniform_qq(axes[0], simulated)
    else:
        instead = "; give what='residuals' for the QQ plot of its residuals"
        found = sorted_modes(model, group, level, "plot_qq", instead)
        axes = panels(ax, [modes.name for modes in found], "plot_qq", size=(3.8, 3.6))
        for own, modes in zip(axes, found, strict=True):
            normal_qq(own, modes)
    return axes if ax is None else ax


def _against_fitted(ax: Any, model: Fitted) -> None:
    kind = "pearson" if model.family.has_variance else "response"
    used = model.design.weights > 0
    eta, residual = model.fit.eta[used], model.residual_rows(kind)[used]
    ax.scatter(eta, residual, color="C0", **dots(len(eta)))
    ax.axhline(0.0, color=GREY, linewidth=0.8, zorder=0)
    ax.set_xlabel(f"fitted ({scale_name(model.family.link.name)})")
    ax.set_ylabel({"pearson": "Pearson residual", "response": "response residual"}[kind])
    ax.set_title(_FITTED)


def _uniform_qq(ax: Any, simulated: SimulatedResiduals) -> None:
    ordered = np.sort(simulated.residuals.to_numpy())
    n = len(ordered)
    ax.scatter((np.arange(n) + 0.5) / n, ordered, color="C0", **{**dots(n), "alpha": 0.7})
    ax.axline((0.0, 0.0), slope=1.0, color=GREY, linewidth=0.8, zorder=0)
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("uniform quantile")
    ax.set_ylabel("quantile residual")
    ax.text(
        0.04, 0.92, f"uniform: p = {simulated.uniformity().p_value:.2g}", transform=ax.transAxes
    )
    ax.set_title(_QQ)


def _quantile_residuals(ax: Any, model: Fitted, simulated: SimulatedResiduals) -> None:
    used = model.design.weights > 0
    eta = predict_rows(model, None, "link", "~0")
    eta = np.asarray(eta)[model.labels.kept][used]
    residual = simulated.residuals.to_numpy()
    distinct = np.unique(eta)
    few = len(distinct) <= _FEW_VALUES
    count = _FEW_VALUES if few else int(np.clip(len(eta) // _ROWS_A_BIN, 2, _MOST_BINS))
    gaps = np.diff(distinct) if len(distinct) > 1 else np.ones(1)
    gap = float(np.min(gaps)) if few else 0.0
    ax.scatter(jittered(eta, 0.15 * gap), residual, color="C0", **dots(len(eta)))
    for share in _QUARTILES:
        line = of_bins(eta, residual, count, lambda part, share=share: np.quantile(part, share))
        ax.plot(*line.T, "o-", color="C3", markersize=2.5, linewidth=1.2)
        ax.axhline(share, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
    if len(distinct) == 1:  # only spread out to be seen
        ax.set_xticks(distinct, [f"{distinct[0]:.3g}"])
    ax.set_ylim(-0.02, 1.02)
    ax.set_yticks([0.0, *_QUARTILES, 1.0])
    at_zero = " at b = 0" * bool(model.labels.factors)
    ax.set_xlabel(f"fitted{at_zero} ({scale_name(model.family.link.name)})")
    ax.set_ylabel("quantile residual")
    ax.set_title(f"{_QUANTILE}, quartiles in bins")
