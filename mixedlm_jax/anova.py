"""`anova`: models against each other, or the terms of one model."""

from __future__ import annotations

from collections.abc import Sequence

from mixedlm_jax.comparison import compare
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.noted import NotedFrame
from mixedlm_jax.term_tests import TYPES, term_table


def anova(
    *models: Fitted, type: str | None = None, names: Sequence[str] | None = None
) -> NotedFrame:
    """Likelihood-ratio tests between nested models, or Wald tests of the terms of one model.

    Parameters
    ----------
    models
        Fits of one response on the same rows with the same weights; a model without random effects
        (`glm`) may be among them.
    type
        For one model: "II" (default; a term given all that do not contain it) or "III" (given all
        others, by contrasts that sum to zero, whatever coding the model has).
    names
        Labels of the rows of several models; model1, model2, ... by default.

    Returns
    -------
    DataFrame
        Of several models, by number of parameters, lme4's columns: npar, AIC, BIC, logLik,
        -2*log(L), Chisq, Df, Pr(>Chisq); each is tested against the one above it. There is no test
        (nan, and a note says why) across different nAGQ, information, family or link, with a prior,
        and where the smaller model is no special case of the larger one. Of one model: Chisq, Df,
        Pr(>Chisq) of each term. Attribute `notes` holds what is printed below the table.

    Raises
    ------
    ArgumentError
        For models of different rows, responses or weights, of quasi families, which have no
        likelihood, for another type, and for a type with several models.

    Examples
    --------
    >>> cbpp = mlm.load_cbpp()
    >>> null = mlm.glmer("incidence / size ~ 1 + (1 | herd)", cbpp, "binomial")
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", cbpp, "binomial")
    >>> print(mlm.anova(null, model)[["npar", "AIC", "Chisq", "Df"]].round(3))
            npar      AIC  Chisq   Df
    model1     2  213.663    NaN  NaN
    model2     5  194.053  25.61  3.0
    model1: incidence / size ~ 1 + (1 | herd)
    model2: incidence / size ~ period + (1 | herd)
    """
    if not models:
        raise ArgumentError("anova compares models: give one or several that glmer returned")
    for model in models:
        check_fitted(model, "anova")
    if len(models) == 1 and names is None:
        kind = "II" if type is None else str(type)
        if kind not in TYPES:
            raise ArgumentError(f"type is {type!r}; choose one of {', '.join(TYPES)}")
        return term_table(models[0], kind)
    if type is not None:
        raise ArgumentError(
            f"type={type!r} is for the terms of one model; found {len(models)} models, which are "
            "compared by likelihood ratios"
        )
    return compare(models, names)
