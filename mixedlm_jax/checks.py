"""The entry points that judge a model: `checkConv` and the checks of its assumptions."""

from __future__ import annotations

from numbers import Integral

from mixedlm_jax.adequacy import (
    OverdispersionCheck,
    ZeroInflationCheck,
    overdispersion,
    zero_inflation,
)
from mixedlm_jax.approximation import LaplaceCheck
from mixedlm_jax.dispersion import phi_names
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.model import GlmerResult
from mixedlm_jax.names import theta_names
from mixedlm_jax.report import Convergence
from mixedlm_jax.uncertainty import laplace_error


def checkConv(model: GlmerResult) -> Convergence:
    """The verdict on a fit: `.ok`, `.singular`, `.separated`, `.decrement`, `.messages`.

    A singular fit at its optimum is ok.
    """
    check_fitted(model, "checkConv")
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
    check_fitted(model, "check_laplace")
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
    check_fitted(model, "check_overdispersion")
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
    check_fitted(model, "check_zero_inflation")
    return zero_inflation(model.design, model.family, model.fit)
