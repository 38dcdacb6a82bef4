"""Estimates, fit and rows of a model as plain frames, with the column names of R's broom.mixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.design import Design
from mixedlm_jax.diagnostics import residuals
from mixedlm_jax.dispersion import natural_at_rows
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import Family
from mixedlm_jax.fit import Fit
from mixedlm_jax.inference import (
    component_order,
    correlation,
    standard_errors,
    wald_intervals,
    wald_tests,
)
from mixedlm_jax.means import link_mean, mean_slope
from mixedlm_jax.ranef import RanEf
from mixedlm_jax.report import VarCorr

EFFECTS = ("fixed", "ran_pars", "ran_vals")
COLUMNS = (
    "effect",
    "component",
    "group",
    "level",
    "term",
    "estimate",
    "std.error",
    "statistic",
    "p.value",
    "conf.low",
    "conf.high",
)


def chosen_effects(effects: str | Sequence[str]) -> tuple[str, ...]:
    """The kinds of rows asked for, in the order of `EFFECTS`; "all" is all of them.

    Raises `ArgumentError` for another name.
    """
    asked = [effects] if isinstance(effects, str) else list(effects)
    unknown = [name for name in asked if name not in (*EFFECTS, "all")]
    if unknown or not asked:
        raise ArgumentError(
            f"tidy has no effects {unknown[0] if unknown else effects!r}; choose "
            f"{', '.join(EFFECTS)} or all"
        )
    return tuple(name for name in EFFECTS if name in asked or "all" in asked)


def together(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of several kinds in one frame: the columns that some of them have, in broom's order."""
    columns = [name for name in COLUMNS if any(name in part for part in parts)]
    whole = {name: np.concatenate([_column(part, name) for part in parts]) for name in columns}
    return pd.DataFrame(whole)


def _column(part: pd.DataFrame, name: str) -> np.ndarray:
    if name in part:
        return part[name].to_numpy()
    words = name in ("component", "group", "level")
    return np.full(len(part), None, dtype=object) if words else np.full(len(part), np.nan)


def fixed_rows(
    names: Sequence[str],
    beta: np.ndarray,
    covariance: np.ndarray,
    *,
    level: float | None,
    exponentiate: bool,
) -> pd.DataFrame:
    """Fixed effects with Wald tests, and intervals unless `level` is None.

    exponentiate: estimates and limits are exponentiated, standard errors multiplied by the
    exponentiated estimate (delta method).
    """
    se = standard_errors(covariance)
    z, p = wald_tests(beta, se)
    transform = np.exp if exponentiate else np.asarray
    estimate = transform(beta)
    columns: dict[str, Any] = {
        "effect": _words("fixed", len(beta)),
        "term": np.array(names, dtype=object),
        "estimate": estimate,
        "std.error": se * estimate if exponentiate else se,
        "statistic": z,
        "p.value": p,
    }
    if level is not None:
        columns["conf.low"], columns["conf.high"] = transform(wald_intervals(beta, se, level)).T
    return pd.DataFrame(columns)


def of_component(rows: pd.DataFrame, component: str) -> pd.DataFrame:
    """Rows with the part of the model they belong to: "cond", "zi" or "disp"."""
    return rows.assign(component=_words(component, len(rows)))


def component_rows(varcorr: VarCorr, se: np.ndarray, *, level: float | None) -> pd.DataFrame:
    """Standard deviations and correlations of the random effects, sigma last.

    se: of the components in the order of the rows. Intervals are Wald's on the scale of log sd and
    of atanh correlation, as far as standard errors are known.
    """
    rows: list[tuple[str, str, float, bool]] = []
    for part in varcorr.components:
        sd, corr = standard_errors(part.covariance), correlation(part.covariance)
        for i, j in component_order(len(part.names), part.correlated):
            if i == j:
                rows.append((part.group, f"sd__{part.names[i]}", float(sd[i]), False))
            else:
                pair = f"cor__{part.names[j]}.{part.names[i]}"
                rows.append((part.group, pair, float(corr[i, j]), True))
    if varcorr.sigma is not None:
        rows.append(("Residual", "sd__Observation", varcorr.sigma, False))
    estimate = np.array([row[2] for row in rows], float)
    columns: dict[str, Any] = {
        "effect": _words("ran_pars", len(rows)),
        "group": np.array([row[0] for row in rows], object),
        "term": np.array([row[1] for row in rows], object),
        "estimate": estimate,
        "std.error": se,
    }
    if level is not None:
        is_correlation = np.array([row[3] for row in rows], bool)
        limits = _component_intervals(estimate, se, is_correlation, level)
        columns["conf.low"], columns["conf.high"] = limits.T
    return pd.DataFrame(columns)


def _component_intervals(
    estimate: np.ndarray, se: np.ndarray, is_correlation: np.ndarray, level: float
) -> np.ndarray:
    known = np.isfinite(se)
    r = np.where(is_correlation & known, estimate, 0.0)
    sd = np.where(is_correlation | ~known, 1.0, estimate)
    of_r = np.tanh(wald_intervals(np.arctanh(r), se / (1.0 - r**2), level))
    of_sd = np.exp(wald_intervals(np.log(sd), se / sd, level))
    return np.where(is_correlation[:, None], of_r, of_sd)


def mode_rows(
    modes: RanEf,
    *,
    level: float | None,
) -> pd.DataFrame:
    """Conditional modes with conditional standard deviations, from modes that have `condVar`."""
    parts = []
    variances = modes.condVar or {}
    for group, frame in modes.items():
        m, k = frame.shape
        estimate = frame.to_numpy().T.ravel()
        se = np.sqrt(np.diagonal(variances[group], axis1=1, axis2=2)).T.ravel()
        columns: dict[str, Any] = {
            "effect": _words("ran_vals", m * k),
            "group": _words(group, m * k),
            "level": np.tile(frame.index.to_numpy(dtype=object), k),
            "term": np.repeat(np.array(frame.columns, dtype=object), m),
            "estimate": estimate,
            "std.error": se,
        }
        if level is not None:
            columns["conf.low"], columns["conf.high"] = wald_intervals(estimate, se, level).T
        parts.append(pd.DataFrame(columns))
    return together(parts)


def _words(word: str, count: int) -> np.ndarray:
    return np.full(count, word, dtype=object)


def row_columns(design: Design, family: Family, fit: Fit, hat: np.ndarray) -> dict[str, np.ndarray]:
    """What `augment` adds to a model frame, from the fit and the leverages of the rows (n,)."""
    eta, mu = fit.eta, link_mean(family, fit.eta)
    weights = design.weights * design.trials
    shapes = natural_at_rows(family, design.parts, fit.phi)
    rows = (design.y, design.trials, design.weights, eta, shapes)
    columns = {
        ".fitted": eta,
        ".resid": residuals(family, *rows, type="deviance"),
        ".hat": hat,
        ".cooksd": None,
        ".fixed": design.X @ fit.beta + design.offset,
        ".mu": family.mean(mu, shapes),
        ".offset": design.offset,
        ".sqrtXwt": None,
        ".sqrtrwt": None,
        ".weights": weights,
        ".wtres": None,
    }
    if family.has_variance:
        root = np.sqrt(weights / family.variance(mu, shapes))
        pearson = residuals(family, *rows, type="pearson")
        scaled = pearson / (family.residual_scale(shapes) * np.sqrt(fit.dispersion))
        columns[".cooksd"] = cooks_distance(hat, scaled, len(fit.beta))
        columns[".sqrtXwt"] = root * mean_slope(family, eta)
        columns |= {".sqrtrwt": root, ".wtres": pearson}
    known = {name: values for name, values in columns.items() if values is not None}
    return known if family.is_linear else {**known, ".eta": eta}


def cooks_distance(hat: np.ndarray, pearson: np.ndarray, p: int) -> np.ndarray:
    """Cook's distance (n,) from leverages and scaled Pearson residuals; p fixed effects.

    nan where it is not finite.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (pearson / (1.0 - hat)) ** 2 * hat / p
    return np.where(np.isfinite(distance), distance, np.nan)
