"""The entry points: `glmer` walks from a formula to a model, `checkConv` judges one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import jax

from mixedlm_jax.control import GlmerControl
from mixedlm_jax.design import build
from mixedlm_jax.errors import ArgumentError, ConvergenceWarning, SingularFitWarning
from mixedlm_jax.families import Family, resolve
from mixedlm_jax.fit import fit_problem
from mixedlm_jax.formula import parse
from mixedlm_jax.model import GlmerResult
from mixedlm_jax.objective import OBJECTIVES
from mixedlm_jax.problem import make_problem
from mixedlm_jax.report import Convergence
from mixedlm_jax.threads import single_blas_thread


def glmer(
    formula: str,
    data: Any,
    family: Family | type[Family] | str = "gaussian",
    *,
    nAGQ: int = 1,
    weights: Any = None,
    weights_type: str = "prior",
    offset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, str] | None = None,
    start: Mapping[str, Any] | None = None,
    control: GlmerControl | None = None,
) -> GlmerResult:
    """Fit a generalized linear mixed model by maximum likelihood.

    Parameters
    ----------
    formula
        In lme4's language, `"incidence / size ~ period + (1 | herd)"`.
    data
        A pandas or polars frame.
    family
        `families.Binomial()`, `families.Poisson`, `"gaussian"` (default, as in lme4), ...
    nAGQ
        1 for the Laplace approximation, 0 to maximise over theta alone with the fixed effects
        among the conditional modes: faster, less exact.
    weights, offset
        A column's name, or one number a row; `offset` adds to `offset(...)` in the formula.
    weights_type
        "prior" (R's meaning: dispersion / w, or a multiplier of the log-density where there is
        no dispersion) or "frequency" (a multiplier of every log-density).
    na_action
        Rows with missing values: "omit" and "exclude" drop them ("exclude" shows them as nan in
        `fitted` and `residuals`), "raise" refuses them.
    contrasts
        Per column of a fixed-effect factor "treatment" (default), "sum", "helmert" or "poly".
    start
        Where to begin, each part optional: "theta", "beta" (or lme4's "fixef"), and "phi", the
        dispersion parameters (sigma for the Gaussian).
    control
        A `GlmerControl`.

    Returns
    -------
    GlmerResult

    Raises
    ------
    FormulaError
        For a formula that cannot be read.
    DataError
        For data the formula or the family cannot be fitted to.
    ArgumentError
        For arguments outside the values they may take.
    FitError
        When no optimiser finds a finite likelihood.

    Warns
    -----
    ConvergenceWarning
        When the verdict on the fit is not clean; `checkConv` says why.
    SingularFitWarning
        When the optimum lies on the boundary of the random effects' covariances.

    Examples
    --------
    >>> cbpp = mlm.load_cbpp()
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", cbpp, family="binomial")
    >>> print(round(model.fixef()["period2"], 4), round(float(model.logLik()), 4))
    -0.9923 -92.0263
    """
    _check_nAGQ(nAGQ)
    control = _checked_control(control)
    parsed = parse(formula)
    resolved = resolve(family)
    design, labels = build(
        parsed,
        data,
        resolved,
        weights=weights,
        weights_type=weights_type,
        offset=offset,
        na_action=na_action,
        contrasts=contrasts,
    )
    with single_blas_thread(), jax.enable_x64(True):
        problem = make_problem(design, resolved, information=control.information)
        fit = fit_problem(problem, nAGQ=int(nAGQ), control=control, start=_start(start))
    model = GlmerResult(
        formula=str(parsed),
        family=resolved,
        design=design,
        labels=labels,
        fit=fit,
        weights=_describe_weights(weights, weights_type),
    )
    _warn(model.convergence())
    return model


def checkConv(model: GlmerResult) -> Convergence:
    """The verdict on a fit: `.ok`, `.singular`, `.separated`, `.decrement`, `.messages`.

    A singular fit at its optimum is ok.
    """
    if not isinstance(model, GlmerResult):
        raise ArgumentError(f"checkConv judges a model that glmer returned, found {model!r}")
    return model.convergence()


def _check_nAGQ(nAGQ: int) -> None:
    if isinstance(nAGQ, bool) or not isinstance(nAGQ, Integral) or nAGQ not in OBJECTIVES:
        raise ArgumentError(
            f"nAGQ is {nAGQ!r}; choose "
            + " or ".join(f"{n} ({objective.label})" for n, objective in OBJECTIVES.items())
        )


def _checked_control(control: GlmerControl | None) -> GlmerControl:
    if control is None:
        return GlmerControl()
    if not isinstance(control, GlmerControl):
        raise ArgumentError(
            f"control is a {type(control).__name__}; give a GlmerControl, for example "
            "control=GlmerControl(maxfun=50000)"
        )
    return control


def _start(start: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Start values under the engine's names: lme4 calls beta `fixef`."""
    if start is None:
        return None
    if not isinstance(start, Mapping):
        raise ArgumentError(
            f"start is a {type(start).__name__}; give a dict such as {{'theta': ..., 'beta': ...}}"
        )
    given = {"beta" if name == "fixef" else name: values for name, values in start.items()}
    if len(given) < len(start):
        raise ArgumentError("start has both 'beta' and 'fixef', which are one: give one of them")
    return given


def _describe_weights(weights: Any, weights_type: str) -> str | None:
    if weights is None:
        return None
    return f"{weights if isinstance(weights, str) else 'given as an array'} ({weights_type})"


def _warn(found: Convergence) -> None:
    """Speak up where lme4 would, at the caller of `glmer`."""
    if not found.ok:
        warnings.warn(f"{found}; see checkConv(model)", ConvergenceWarning, stacklevel=3)
    elif found.singular:
        warnings.warn(
            "boundary (singular) fit: a standard deviation is 0 or a correlation is +-1; see "
            "model.VarCorr()",
            SingularFitWarning,
            stacklevel=3,
        )
