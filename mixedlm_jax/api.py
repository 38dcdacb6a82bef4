"""The entry points: `glmer` and `glmer_nb` go from a formula to a model, checks judge one."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from mixedlm_jax.adequacy import (
    OverdispersionCheck,
    ZeroInflationCheck,
    overdispersion,
    zero_inflation,
)
from mixedlm_jax.approximation import LaplaceCheck
from mixedlm_jax.call import Call
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.dispersion import phi_names
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import Family, NegativeBinomial, resolve
from mixedlm_jax.formula import parse
from mixedlm_jax.model import GlmerResult, announce, fit_call
from mixedlm_jax.modular import GlFormula, mkGlmerDevfun
from mixedlm_jax.names import theta_names
from mixedlm_jax.report import Convergence
from mixedlm_jax.uncertainty import laplace_error


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


def checkConv(model: GlmerResult) -> Convergence:
    """The verdict on a fit: `.ok`, `.singular`, `.separated`, `.decrement`, `.messages`.

    A singular fit at its optimum is ok.
    """
    _check_model(model, "checkConv")
    return model.convergence()


def check_laplace(model: GlmerResult, nAGQ: int | None = None) -> LaplaceCheck:
    """Is the Laplace approximation good enough for this model? Numbers and a verdict, to print.

    With one grouping factor, by quadrature at the model's estimates: its log-likelihood with nAGQ
    and 2 nAGQ + 1 nodes, which must agree to 0.01, and how far a Newton step with its Hessian moves
    each estimate. Above 0.3 standard errors the verdict is to refit. Always shown, and what is
    judged with several factors, is the second-order correction of the Laplace log-likelihood.

    Parameters
    ----------
    model
        A fit with nAGQ=1.
    nAGQ
        Nodes per random effect; by default 25, 11 or 5 with one, two or three a level.

    Returns
    -------
    LaplaceCheck

    Raises
    ------
    ArgumentError
        For a model that is no Laplace fit, an nAGQ the model does not allow, or a crossed design
        too large for its correction.
    FitError
        Where the log-density has no finite third and fourth derivatives.

    Examples
    --------
    >>> bacteria = mlm.load_bacteria()
    >>> model = mlm.glmer("y ~ trt + (1 | ID)", bacteria, family="binomial")
    >>> mlm.check_laplace(model).ok
    True
    """
    _check_model(model, "check_laplace")
    if model.fit.nAGQ != 1:
        raise ArgumentError(
            f"check_laplace judges a Laplace fit, and this model has nAGQ={model.fit.nAGQ}; give "
            "it model.update(nAGQ=1)"
        )
    if nAGQ is not None and (isinstance(nAGQ, bool) or not isinstance(nAGQ, Integral) or nAGQ < 2):
        raise ArgumentError(f"nAGQ is {nAGQ!r}; give a number of quadrature nodes from 2, or None")
    correction, quadrature = laplace_error(
        model.design, model.family, model.fit, None if nAGQ is None else int(nAGQ)
    )
    names = (
        *theta_names(model.design, model.labels),
        *model.labels.fixed,
        *phi_names(model.family, model.labels.parts),
    )
    return LaplaceCheck.of(correction, quadrature, sum(model.ngrps().values()), names)


def check_overdispersion(model: GlmerResult) -> OverdispersionCheck:
    """Do the responses vary more than the family says? Prints a ratio, its test and a verdict.

    Pearson's statistic sum w (y - mu)^2 / V(mu) at the conditional modes, over n less the trace of
    the joint hat matrix of fixed and random effects given theta; n less the number of fixed effects
    would take the random effects for free and the ratio come out too small. The test compares the
    statistic with chi-squared, which needs expected counts that are not all small.

    Parameters
    ----------
    model
        A fit of a family whose mean fixes its variance: Poisson, binomial with several trials, a
        quasi family (whose dispersion is the ratio), or one with its dispersion given.

    Returns
    -------
    OverdispersionCheck

    Raises
    ------
    ArgumentError
        For a family that estimates its dispersion, for responses of 0 and 1, and for a custom
        family without a variance.

    Examples
    --------
    >>> model = mlm.glmer("y ~ lbase * trt + (1 | subject)", mlm.load_epil(), "poisson")
    >>> check = mlm.check_overdispersion(model)
    >>> print(check.ok, round(check.ratio, 2))
    False 2.0
    """
    _check_model(model, "check_overdispersion")
    return overdispersion(model.design, model.family, model.fit)


def check_zero_inflation(model: GlmerResult) -> ZeroInflationCheck:
    """Is a count 0 more often than the model expects? Prints both numbers, a test and a verdict.

    Expected is the sum of P(y = 0) over the rows at their conditional modes. The test takes the
    number of zeros as a sum of independent events, so approximately normal; modes that follow the
    data make it cautious.

    Parameters
    ----------
    model
        A fit of a family of counts that may be 0.

    Returns
    -------
    ZeroInflationCheck

    Raises
    ------
    ArgumentError
        For any other family.

    Examples
    --------
    >>> model = mlm.glmer("y ~ lbase * trt + (1 | subject)", mlm.load_epil(), "poisson")
    >>> check = mlm.check_zero_inflation(model)
    >>> print(check.ok, int(check.observed), round(check.expected, 1))
    False 23 11.9
    """
    _check_model(model, "check_zero_inflation")
    return zero_inflation(model.design, model.family, model.fit)


def _check_model(model: Any, function: str) -> None:
    """Raise `ArgumentError` for what `glmer` did not return."""
    if not isinstance(model, GlmerResult):
        raise ArgumentError(f"{function} judges a model that glmer returned, found {model!r}")
