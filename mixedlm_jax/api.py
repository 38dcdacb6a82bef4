"""The entry points that fit one model of a formula: `glmer`, `glmer_nb` and `glm`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixedlm_jax.call import Call
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.families import Family, NegativeBinomial, resolve
from mixedlm_jax.formula import parse
from mixedlm_jax.model import GlmerResult, announce, fit_call
from mixedlm_jax.modular import GlFormula, mkGlmerDevfun


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
    ziformula: str | None = None,
    dispformula: str | None = None,
    prior: Any = None,
    start: Mapping[str, Any] | None = None,
    control: GlmerControl | None = None,
    verbose: int | None = None,
    devFunOnly: bool = False,
) -> GlmerResult:
    """Fit a generalized linear mixed model by maximum likelihood.

    Parameters
    ----------
    formula
        In lme4's language, `"incidence / size ~ period + (1 | herd)"`.
    data
        A pandas or polars frame.
    family
        An instance, a class or a name: `families.Binomial("probit")`, `families.Gamma`,
        `"gaussian"` (default, as in lme4), `"binomial"`, `"poisson"`, `"gamma"`,
        `"inverse_gaussian"`, `"nbinom2"`, `"nbinom1"`, `"beta"`, `"betabinomial"`, `"tweedie"`,
        `"student_t"`, `"lognormal"`, `"truncated_poisson"`, `"truncated_nbinom2"`. Dispersion and
        shape parameters are estimated jointly with everything else, unless they are given as in
        `families.NegativeBinomial(theta=2.0)`. `link=` is a name or a JAX function eta -> mu.
    nAGQ
        1 for the Laplace approximation. From 2, the nodes per random effect of adaptive
        Gauss-Hermite quadrature, which is as exact as they are many: one grouping factor with one
        random effect a level (up to 101 nodes), two (25) or three (11). 0 to maximise over theta
        alone with the fixed effects among the conditional modes: faster, less exact.
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
    ziformula
        Fixed effects of the logit of the probability of a structural zero, one-sided: `"~ 1"`,
        `"~ x"`. With a truncated family this is the hurdle: the probability of any zero.
    dispformula
        Fixed effects of the logarithm of the family's first dispersion parameter, one-sided; of the
        logit, where that is bounded. The random effects' theta is then absolute for every family.
    prior
        Penalises the likelihood: `priors.Normal`, `Ridge`, `HalfT`, `AwayFromZero`, a tuple of
        them, or a JAX function of the parameters that returns a log-density. The estimates maximise
        log-likelihood plus log-prior, standard errors come from the Hessian of that sum, and
        `logLik` leaves the prior out. Cures separation and singular fits; not with nAGQ=0.
    start
        Where to begin, each part optional: "theta", "beta" (or lme4's "fixef"), and "phi", the
        estimated dispersion parameters on their natural scale, in the order of
        `model.dispersion`.
    control
        A `GlmerControl`.
    verbose
        1 prints a line per iteration: its number, the log-likelihood, the decrement (what the next
        step promises to gain) and seconds. 0 prints nothing. None (default) shows one line, on a
        terminal only, while a fit takes more than a few seconds.
    devFunOnly
        Return the function that would be minimised, a `modular.DevianceFunction` of the flat
        parameters, instead of a fit. For type checkers, which are told of a fit:
        `mkGlmerDevfun(glFormula(...))`.

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
    call = Call(
        formula=parse(formula),
        data=data,
        family=resolve(family),
        nAGQ=nAGQ,
        weights=weights,
        weights_type=weights_type,
        offset=offset,
        na_action=na_action,
        contrasts=contrasts,
        ziformula=ziformula,
        dispformula=dispformula,
        control=control,
        prior=prior,
    )
    if devFunOnly:
        return mkGlmerDevfun(GlFormula.of(call))  # type: ignore[return-value]
    model = fit_call(call, start=start, verbose=verbose)
    announce(model)
    return model


def glmer_nb(
    formula: str,
    data: Any,
    *,
    link: Any = "log",
    nAGQ: int = 1,
    weights: Any = None,
    weights_type: str = "prior",
    offset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, str] | None = None,
    ziformula: str | None = None,
    dispformula: str | None = None,
    prior: Any = None,
    start: Mapping[str, Any] | None = None,
    control: GlmerControl | None = None,
    verbose: int | None = None,
) -> GlmerResult:
    """Fit a negative binomial mixed model, variance mu + mu^2 / theta, theta estimated.

    lme4's `glmer.nb`, with theta maximised jointly with everything else: `model.dispersion`, with
    its standard error in the summary. `glmer` with `family=families.NegativeBinomial(link)`; all
    other arguments, what is raised and what is warned of are as there. A theta beyond 1e5 is
    reported as the Poisson limit.

    Examples
    --------
    >>> epil = mlm.load_epil()
    >>> model = mlm.glmer_nb("y ~ lbase * trt + lage + V4 + (1 | subject)", epil)
    >>> print(round(model.dispersion["theta"], 3), round(float(model.logLik()), 4))
    7.418 -624.9571
    """
    call = Call(
        formula=parse(formula),
        data=data,
        family=NegativeBinomial(link),
        nAGQ=nAGQ,
        weights=weights,
        weights_type=weights_type,
        offset=offset,
        na_action=na_action,
        contrasts=contrasts,
        ziformula=ziformula,
        dispformula=dispformula,
        control=control,
        prior=prior,
    )
    model = fit_call(call, start=start, verbose=verbose)
    announce(model)
    return model


def glm(
    formula: str,
    data: Any,
    family: Family | type[Family] | str = "gaussian",
    *,
    weights: Any = None,
    weights_type: str = "prior",
    offset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, str] | None = None,
    ziformula: str | None = None,
    dispformula: str | None = None,
    start: Mapping[str, Any] | None = None,
    control: GlmerControl | None = None,
    verbose: int | None = None,
) -> GlmerResult:
    """Fit a generalized linear model without random effects: what `anova` compares a mixed one to.

    The same likelihood, families and arguments as in `glmer`, dispersion maximised jointly; `ranef`
    and `VarCorr` are empty. What is raised and what is warned of are as there.

    Examples
    --------
    >>> cbpp = mlm.load_cbpp()
    >>> null = mlm.glm("incidence / size ~ period", cbpp, family="binomial")
    >>> print(round(null.fixef()["period2"], 4), round(float(null.logLik()), 4))
    -1.1708 -99.0292
    """
    call = Call(
        formula=parse(formula, mixed=False),
        data=data,
        family=resolve(family),
        weights=weights,
        weights_type=weights_type,
        offset=offset,
        na_action=na_action,
        contrasts=contrasts,
        ziformula=ziformula,
        dispformula=dispformula,
        control=control,
    )
    model = fit_call(call, start=start, verbose=verbose)
    announce(model)
    return model
