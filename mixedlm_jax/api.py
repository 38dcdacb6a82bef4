"""The entry points: `glmer`, `glmer_nb` and `glm` make a model of a formula, checks judge one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import pandas as pd

from mixedlm_jax.adequacy import (
    OverdispersionCheck,
    ZeroInflationCheck,
    overdispersion,
    zero_inflation,
)
from mixedlm_jax.approximation import LaplaceCheck
from mixedlm_jax.bootstrap import Bootstrap, OneFit, boot
from mixedlm_jax.call import Call
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.dispersion import phi_names
from mixedlm_jax.errors import ArgumentError, brief
from mixedlm_jax.families import Family, NegativeBinomial, resolve
from mixedlm_jax.fits import Fits
from mixedlm_jax.formula import parse
from mixedlm_jax.many import fit_lanes_of
from mixedlm_jax.model import GlmerResult, announce, fit_call
from mixedlm_jax.modular import GlFormula, mkGlmerDevfun
from mixedlm_jax.names import theta_names
from mixedlm_jax.pooling import pooled
from mixedlm_jax.power import Power, PowerCurve, curve_of, power_of
from mixedlm_jax.ratio_test import RatioTest, compare
from mixedlm_jax.report import Convergence
from mixedlm_jax.scenario import Scenario, extended, simulate_design
from mixedlm_jax.simulate import check_count
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


def fit_many(
    formula: str,
    data: Any,
    responses: Any,
    family: Family | type[Family] | str = "gaussian",
    *,
    trials: Any = None,
    nAGQ: int = 1,
    weights: Any = None,
    weights_type: str = "prior",
    offset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, str] | None = None,
    ziformula: str | None = None,
    dispformula: str | None = None,
    control: GlmerControl | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Fits:
    """Fit one design to many responses at once: simulations, genes, imputations.

    All fits take their steps together, on every core and device there is; each ends with its exact
    Hessian and a verdict of its own. Memory is bounded by blocks of lanes, each of about 32,768
    rows x fits a core, besides the responses themselves.

    Parameters
    ----------
    formula
        One-sided, `"~ period + (1 | herd)"`.
    data
        A pandas or polars frame with the predictors.
    responses
        Rows x fits: an array, or a frame whose columns name the fits (genes). Numbers: successes
        where there are trials. nan is a missing value: that row has weight 0 in that fit.
    trials
        A column's name, or one number a row: what successes are out of.
    checkpoint
        A folder in which finished blocks are kept, so that a killed run goes on where it stood.
    progress
        Show a bar with fits a second: True, False, or None for on a terminal only.
    family, nAGQ, weights, weights_type, offset, na_action, contrasts, ziformula, dispformula
        As in `glmer`.
    control
        As in `glmer`; its optimizer, tol and maxfun are those of fits that failed in lockstep and
        are made anew by the path of a single fit.

    Returns
    -------
    Fits
        Arrays with one row a fit: beta, theta, phi, se, logLik, ok, code.

    Raises
    ------
    FormulaError, DataError, ArgumentError
        As `glmer`; and `ArgumentError` for responses of another shape, a quasi family, or a
        checkpoint of another run.

    Examples
    --------
    >>> import numpy as np
    >>> cbpp = mlm.load_cbpp()
    >>> Y = np.column_stack([cbpp["incidence"], cbpp["size"] - cbpp["incidence"]])
    >>> fits = mlm.fit_many("~ period + (1 | herd)", cbpp, Y, "binomial", trials="size")
    >>> print(fits.ok, fits.logLik.round(4))
    [ True  True] [-92.0263 -92.0263]
    """
    arguments = {
        "family": resolve(family),
        "nAGQ": nAGQ,
        "weights": weights,
        "weights_type": weights_type,
        "offset": offset,
        "na_action": na_action,
        "contrasts": contrasts,
        "ziformula": ziformula,
        "dispformula": dispformula,
        "control": control,
    }
    return fit_lanes_of(
        formula, data, responses, trials, arguments, checkpoint=checkpoint, progress=progress
    )


def simulate_formula(
    formula: str,
    data: Any,
    family: Family | type[Family] | str = "gaussian",
    *,
    beta: Any,
    theta: Any,
    sigma: float | None = None,
    phi: Any = None,
    trials: Any = None,
    nsim: int = 1,
    seed: int | None = None,
    weights: Any = None,
    weights_type: str = "prior",
    offset: Any = None,
    contrasts: Mapping[str, str] | None = None,
    ziformula: str | None = None,
    dispformula: str | None = None,
) -> pd.DataFrame:
    """Responses simulated from a formula and parameters, without a fit.

    Parameters
    ----------
    formula
        One-sided, or with a left-hand side, of which only the trials of `successes / trials` count.
    data
        A pandas or polars frame with the predictors.
    family
        As in `glmer`.
    beta, theta
        Fixed effects and covariance parameters (lme4's: relative to sigma for the Gaussian), arrays
        or dicts by name.
    sigma, phi
        The residual standard deviation of the Gaussian; or all dispersion parameters on their
        natural scale, an array or a dict by name.
    trials
        A column's name, or one number a row.
    nsim, seed
        Number of replicates, and a whole number that decides what is drawn; None for fresh draws.
        Replicate i is the same however many there are.
    weights, weights_type, offset, contrasts, ziformula, dispformula
        As in `glmer`.

    Returns
    -------
    pandas.DataFrame
        Rows used x nsim, columns `sim_1`, `sim_2`, ...: successes where there are trials.

    Raises
    ------
    FormulaError, DataError, ArgumentError
        As `glmer`; and `ArgumentError` for parameters of another number than the model has.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"x": np.tile([0.0, 1.0], 30), "g": np.repeat(np.arange(20), 3)})
    >>> formula, beta = "~ x + (1 | g)", [1.0, 0.5]
    >>> y = mlm.simulate_formula(formula, frame, "poisson", beta=beta, theta=[0.3], seed=1)
    >>> print(y.shape, bool((y >= 0).all().all()))
    (60, 1) True
    """
    if sigma is not None:
        if phi is not None:
            raise ArgumentError("sigma and phi are both given, which are one: give one of them")
        phi = {"sigma": sigma}
    given = {"beta": beta, "theta": theta} | ({} if phi is None else {"phi": phi})
    arguments = {
        "weights": weights,
        "weights_type": weights_type,
        "offset": offset,
        "contrasts": contrasts,
        "ziformula": ziformula,
        "dispformula": dispformula,
    }
    return simulate_design(formula, data, resolve(family), trials, given, arguments, nsim, seed)


def bootMer(
    model: GlmerResult,
    FUN: Callable[[OneFit], Any] | None = None,
    nsim: int = 1000,
    *,
    seed: int | None = None,
    type: str = "parametric",
    progress: bool | None = None,
) -> Bootstrap:
    """Bootstrap a statistic of a model by refits to simulated responses, all fitted together.

    Parameters
    ----------
    model
        A fit.
    FUN
        A function of one fit (`.beta`, `.theta`, `.phi`, `.components`, `.vcov`, `.logLik`,
        `.fixef()`, `.estimates`) that gives a number, an array or a dict of numbers, NumPy's or
        JAX's. By default all estimates: fixed effects, standard deviations and correlations,
        dispersion.
    nsim, seed, progress
        As in `simulate_formula` and `fit_many`.
    type
        "parametric": responses simulated with new random effects. "cluster": groups drawn with
        replacement, for models with one grouping factor.

    Returns
    -------
    Bootstrap
        `.t0`, `.t`, `.confint(level, type="perc" | "basic" | "bca")`. Fits that are not ok are left
        out and counted.

    Raises
    ------
    ArgumentError
        For arguments outside the values they may take, and for a family that cannot be simulated.

    Examples
    --------
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), "binomial")
    >>> found = mlm.bootMer(model, lambda fit: fit.fixef(), nsim=200, seed=1)
    >>> print(found.t.shape, bool((found.confint().loc["period2"] < 0).all()))
    (200, 4) True
    """
    _check_model(model, "bootMer")
    return boot(model, FUN, nsim, seed, type, progress)


def powerSim(
    model: GlmerResult | Scenario,
    test: str | Callable[[OneFit], float] | None = None,
    nsim: int = 1000,
    alpha: float = 0.05,
    *,
    method: str = "Wald",
    seed: int | None = None,
    progress: bool | None = None,
) -> Power:
    """The power of a test where a model's estimates are the truth, by simulation.

    Parameters
    ----------
    model
        A fit, or what `extend` returned.
    test
        A fixed effect ("period2"), a term ("period", all its columns jointly), or a function of one
        fit (as in `bootMer`) that returns a p-value. By default the only fixed effect there is.
    nsim, seed, progress
        As in `bootMer`.
    alpha
        The level of the test.
    method
        "Wald", or "LRT", the likelihood ratio with the model without the term.

    Returns
    -------
    Power
        `.power`, `.interval()` (Wilson's), `.p_values`, `.failures`: fits that are not ok count as
        not rejected.

    Raises
    ------
    ArgumentError
        For a test that the model does not have, or arguments outside the values they may take.

    Examples
    --------
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), "binomial")
    >>> found = mlm.powerSim(model, "period", nsim=200, seed=1)
    >>> print(found.power > 0.95, found.failures < 5)
    True True
    """
    if not isinstance(model, Scenario):
        _check_model(model, "powerSim")
    return power_of(model, test, nsim, alpha, method, seed, progress)


def powerCurve(
    model: GlmerResult,
    along: str,
    values: Sequence[float],
    test: str | Callable[[OneFit], float] | None = None,
    nsim: int = 1000,
    alpha: float = 0.05,
    *,
    group: str | None = None,
    effect: str | None = None,
    method: str = "Wald",
    seed: int | None = None,
    progress: bool | None = None,
) -> PowerCurve:
    """Power at several sizes of a study or of an effect.

    Parameters
    ----------
    along
        "n_groups" or "n_per_group", the levels of a grouping column and their rows (`extend`), or
        "effect_size", the value of a fixed effect.
    values
        What is tried. All effect sizes are fitted as one batch.
    group
        The grouping column, where there are several.
    effect
        The fixed effect whose size varies; by default the one that is tested.
    model, test, nsim, alpha, method, seed, progress
        As in `powerSim`; nsim simulations for each value.

    Returns
    -------
    PowerCurve
        `.to_dataframe()`, `.plot()`, and a `Power` for each value in `.powers`.

    Raises
    ------
    ArgumentError
        As `powerSim`, and for a column or an effect that the model does not have.
    """
    _check_model(model, "powerCurve")
    return curve_of(model, along, values, test, group, effect, nsim, alpha, method, seed, progress)


def PBmodcomp(
    model: GlmerResult,
    null: GlmerResult | str,
    nsim: int = 1000,
    *,
    seed: int | None = None,
    progress: bool | None = None,
) -> RatioTest:
    """Likelihood ratio test of nested models by parametric bootstrap: of a variance, say.

    Parameters
    ----------
    model
        A fit.
    null
        The smaller model, or what makes it of the model: `". ~ . - (1 | batch)"`.
    nsim, seed, progress
        As in `bootMer`; responses are drawn from the null model.

    Returns
    -------
    RatioTest
        `.statistic`, `.df`, `.p_value`, `.references` (the simulated ratios), `.failures`.

    Raises
    ------
    ArgumentError
        For models of different rows, and a null model that is not smaller.
    FitError
        Where no replicate could be fitted by both models.

    Examples
    --------
    >>> pastes = mlm.load_pastes()
    >>> model = mlm.glmer("strength ~ 1 + (1 | sample) + (1 | batch)", pastes, "gaussian")
    >>> found = mlm.PBmodcomp(model, ". ~ . - (1 | sample)", nsim=99, seed=1)
    >>> print(found.df, found.p_value)
    1 0.01
    """
    _check_model(model, "PBmodcomp")
    smaller = model.update(null) if isinstance(null, str) else null
    _check_model(smaller, "PBmodcomp")
    return compare(model, smaller, nsim, seed, progress)


def extend(model: GlmerResult, along: str, n: int, group: str | None = None) -> Scenario:
    """A model's parameters with a design of another size, for `powerSim`.

    Parameters
    ----------
    along
        "n_groups": n levels of the grouping column, those of the data in order and then over again
        under new names, with all their rows. "n_per_group": n rows for each level, likewise.
    group
        The grouping column, where there are several. Columns of groups inside it get new names too.

    Raises
    ------
    ArgumentError
        For another `along`, or a column that makes no groups.
    DataError
        For a design that has lost a fixed effect.

    Examples
    --------
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), "binomial")
    >>> mlm.extend(model, "n_groups", 40).design.factors[0].n_levels
    40
    """
    _check_model(model, "extend")
    return extended(model, along, check_count("n", n), group)


def pool(fits: Fits | Sequence[GlmerResult]) -> pd.DataFrame:
    """Fixed effects of multiply imputed data put together by Rubin's rules.

    fits: what `fit_many` returned for imputed responses or `model.refit_many([frame, ...])` for
    imputed predictors, or a list of models. Returns a row a fixed effect: estimate, std.error,
    statistic (t), df, p.value, riv (relative increase in variance) and fmi (fraction of missing
    information). Raises `ArgumentError` for fewer than two fits, fits that are not ok, and models
    of different fixed effects or families.

    Examples
    --------
    >>> import numpy as np
    >>> data, rng = mlm.load_contraception(), np.random.default_rng(1)
    >>> lost = rng.random(len(data)) < 0.1
    >>> frames = [data.assign(age=data["age"].where(~lost, rng.normal(0, 9, len(data))))
    ...           for _ in range(5)]
    >>> model = mlm.glmer("use ~ age + (1 | district)", frames[0], "binomial")
    >>> table = mlm.pool(model.refit_many(frames, progress=False))
    >>> print(bool((table.loc["age", ["riv", "fmi"]] > 0).all()))
    True
    """
    return pooled(fits)


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
    if not model.design.factors:
        raise ArgumentError("the model has no random effects: its likelihood is no approximation")
    if model.fit.nAGQ != 1:
        raise ArgumentError(
            f"check_laplace judges a Laplace fit, and this model has nAGQ={model.fit.nAGQ}; give "
            "it model.update(nAGQ=1)"
        )
    if nAGQ is not None and (isinstance(nAGQ, bool) or not isinstance(nAGQ, Integral) or nAGQ < 2):
        raise ArgumentError(f"nAGQ is {nAGQ!r}; give a number of quadrature nodes from 2, or None")
    correction, quadrature = laplace_error(
        model.design,
        model.family,
        model.fit,
        None if nAGQ is None else int(nAGQ),
        model.call.prior,
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
        raise ArgumentError(f"{function} takes a model that glmer returned, found {brief(model)}")
