"""The summary of a fitted model: which numbers it shows, and which sentences go with them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mixedlm_jax import diagnostics
from mixedlm_jax.dispersion import DISPERSION, part_names, phi_names
from mixedlm_jax.fit import Fit
from mixedlm_jax.fitted import Fitted, square_frame
from mixedlm_jax.inference import correlation, standard_errors, wald_tests
from mixedlm_jax.objective import objective_for
from mixedlm_jax.report import Summary

FEW_LEVELS = 30  # below it a normal quantile is clearly smaller than what t would say


def summarise(model: Fitted, show_correlation: bool | None) -> Summary:
    """The summary of a model; `show_correlation` as in `GlmerResult.summary`."""
    fit, covariance = model.fit, model.vcov().to_numpy()
    fixed = list(model.labels.fixed)
    used = model.design.weights > 0
    limits = [f"{note}." for note in model.family.limit_notes(model.shapes)]
    scaled = np.empty(0)
    if model.family.has_variance:
        scale = model.family.residual_scale(model.shapes) * np.sqrt(fit.dispersion)
        quantiles = [0.0, 0.25, 0.5, 0.75, 1.0]
        scaled = np.quantile((model.residual_rows("pearson") / scale)[used], quantiles)
    criteria = {} if model.family.is_quasi else model.criteria()
    order = ("AIC", "BIC", "logLik", "-2*log(L)")
    return Summary(
        method=objective_for(fit.nAGQ).label,
        family=f"{model.family.name}  ( {model.family.link.name} )",
        formula=model.formula,
        weights=model.call.described_weights,
        criteria={
            **{name: criteria[name] for name in order if name in criteria},
            "df.resid": model.df_residual(),
        },
        scaled_residuals=scaled,
        varcorr=model.VarCorr(),
        nobs=model.nobs,
        ngrps=model.ngrps(),
        coefficients=_coefficients(model, "cond"),
        parts={_title(model, name): _coefficients(model, name) for name in model.labels.parts},
        correlation=square_frame(correlation(covariance), fixed),
        dispersion=_dispersion_table(model),
        show_correlation=show_correlation,
        convergence=model.convergence(),
        notes=(
            *model.labels.notes,
            *_notes_on_fit(fit),
            *limits,
            *_notes_on_method(model),
            *_notes_on_levels(model),
        ),
        maximised="quasi-likelihood" if model.family.is_quasi else "likelihood",
    )


def _title(model: Fitted, part: str) -> str:
    """What a summary calls a part: the parameter it models, and on which scale."""
    names = part_names(model.family)
    parameter = model.family.dispersion_names[names.index(part)]
    scale = model.family.parameters[parameter].scale
    return f"Dispersion ({scale} of {parameter})" if part == DISPERSION else f"Zeros ({scale})"


def _coefficients(model: Fitted, component: str) -> pd.DataFrame:
    """Estimate, Std. Error, z value and Pr(>|z|) of the fixed effects of a component."""
    estimates = model.fixef(component)
    se = standard_errors(model.vcov(component=component).to_numpy())
    values = np.array(list(estimates.values()), float)
    columns = ("Estimate", "Std. Error", "z value", "Pr(>|z|)")
    table = (values, se, *wald_tests(values, se))
    return pd.DataFrame(dict(zip(columns, table, strict=True)), index=list(estimates))


def _dispersion_table(model: Fitted) -> pd.DataFrame:
    """Estimate and Std. Error of each dispersion parameter that VarCorr does not show."""
    if model.family.is_quasi:
        known = {"Estimate": model.fit.dispersion, "Std. Error": np.nan}
        return pd.DataFrame(known, index=["phi"])
    names = phi_names(model.family, model.labels.parts)
    shown = [] if model.family.has_residual_sd else list(model.dispersion)
    of_phi = standard_errors(model.fit.vcov)[len(model.fit.vcov) - len(names) :]
    errors = dict(zip(names, of_phi, strict=True))
    columns = {
        "Estimate": [model.dispersion[name] for name in shown],
        "Std. Error": [errors[name] for name in shown],
    }
    return pd.DataFrame(columns, index=shown, dtype=float)


def _notes_on_fit(fit: Fit) -> list[str]:
    notes = []
    if fit.nAGQ == 0:
        notes.append("Standard errors of the fixed effects are conditional on theta (nAGQ = 0).")
    if fit.log_prior is not None:
        notes.append("Penalised by a prior: estimates and standard errors have it, logLik has not.")
    if fit.information == "expected":
        notes.append("The Laplace determinant uses the expected information, as lme4's does.")
    if fit.verdict.singular:
        notes.append("Covariance parameters on their boundary have no standard errors (nan).")
    if fit.log_likelihood_error > 0.0:
        notes.append(
            "Log-likelihood by random probes for the crossed factors, Monte Carlo standard error "
            f"{fit.log_likelihood_error:.2g}"
        )
        notes.append("(GlmerControl: n_probes for a smaller one, max_corner for none).")
    return notes


def _notes_on_method(model: Fitted) -> list[str]:
    design = model.design
    if model.family.is_quasi:
        return [
            "Dispersion from Pearson's statistic over n less the trace of the joint hat matrix; "
            "standard errors",
            "of the fixed effects are multiplied by its square root, theta is the estimate at "
            "dispersion 1.",
        ]
    doubtful = model.fit.nAGQ == 1 and diagnostics.binary_in_small_clusters(
        model.family,
        design.y,
        design.trials,
        design.weights,
        [factor.levels for factor in design.factors],
    )
    if not doubtful:
        return []
    return ["Binary responses in small clusters: see mlm.check_laplace(model)."]


def _notes_on_levels(model: Fitted) -> list[str]:
    """With few groups the normal approximation of the fixed effects is too narrow."""
    few = [f"{name}: {count}" for name, count in model.ngrps().items() if count < FEW_LEVELS]
    if not few or not len(model.fit.beta):
        return []
    return [f"Fewer than {FEW_LEVELS} levels ({', '.join(few)}): z intervals are too short."]
