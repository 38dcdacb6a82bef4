"""Estimates of multiply imputed data put together by Rubin's rules.

With m estimates b_i and variances v_i: b the mean of b_i, W the mean of v_i, B the variance of b_i,
T = W + (1 + 1/m) B, and df = (m - 1) (1 + W / ((1 + 1/m) B))^2 (Rubin 1987, Multiple Imputation for
Nonresponse in Surveys, equations 3.1.2 to 3.1.6).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError, brief
from mixedlm_jax.fits import Fits
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.inference import standard_errors


def pooled(fits: Fits | Sequence[Fitted]) -> pd.DataFrame:
    """One row a fixed effect; see `replicates.pool`."""
    if isinstance(fits, Fits):
        names, beta, se, ok = fits.fixed, fits.beta, fits.se, fits.ok
    else:
        models = list(fits) if isinstance(fits, Iterable) else [fits]
        strangers = [model for model in models if not isinstance(model, Fitted)]
        if strangers or not models:
            found = brief(strangers[0]) if strangers else "an empty list"
            raise ArgumentError(
                "pool takes what fit_many or refit_many returned, or a list of models that glmer "
                f"returned, found {found}"
            )
        names = models[0].labels.fixed
        if any(model.labels.fixed != names for model in models):
            raise ArgumentError("the models have different fixed effects: fit one formula to all")
        families = list(dict.fromkeys(str(model.family) for model in models))
        if len(families) > 1:
            raise ArgumentError(
                f"the models have the families {' and '.join(families[:2])}, whose coefficients "
                "mean different things: fit one family to all"
            )
        beta = np.stack([model.beta for model in models])
        se = np.stack([standard_errors(model.fixed_covariance) for model in models])
        ok = np.array([model.converged for model in models])
    if not np.all(ok):
        raise ArgumentError(
            f"{int(np.sum(~ok))} of {len(ok)} fits are not ok, the first of them number "
            f"{int(np.argmin(ok))}: mend or leave them out before pooling"
        )
    m = len(beta)
    if m < 2:
        raise ArgumentError(f"pool needs at least 2 fits, found {m}")
    estimate, within = beta.mean(axis=0), np.mean(se**2, axis=0)
    between = (1.0 + 1.0 / m) * np.var(beta, axis=0, ddof=1)
    total = within + between
    increase = between / within
    with np.errstate(divide="ignore"):  # no variance between imputations: infinite df, normal
        df = (m - 1.0) * (1.0 + 1.0 / increase) ** 2
    error = np.sqrt(total)
    statistic = estimate / error
    special = importlib.import_module("scipy.special")  # slow to import
    tail = np.where(
        np.isfinite(df),
        special.stdtr(np.where(np.isfinite(df), df, 1.0), -np.abs(statistic)),
        special.ndtr(-np.abs(statistic)),
    )
    return pd.DataFrame(
        {
            "estimate": estimate,
            "std.error": error,
            "statistic": statistic,
            "df": df,
            "p.value": 2.0 * tail,
            "riv": increase,
            "fmi": (increase + 2.0 / (df + 3.0)) / (increase + 1.0),
        },
        index=pd.Index(names, name="term"),
    )
