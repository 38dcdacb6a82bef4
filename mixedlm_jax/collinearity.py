"""How much of a term's precision is lost to the other terms: variance inflation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.inference import correlation


def vif(model: Fitted) -> pd.DataFrame:
    """Generalised variance-inflation factors of the terms of the fixed effects.

    det(R_tt) det(R_rr) / det(R) with R the correlation matrix of the estimates without the
    intercept, t a term's coefficients and r all others (Fox and Monette 1992, JASA 87: 178): for a
    term of one coefficient the factor by which collinearity multiplies its variance. From 5 on a
    term is hard to tell from the others, from 10 hardly at all.

    Parameters
    ----------
    model
        A fitted model with at least two terms besides the intercept.

    Returns
    -------
    pandas.DataFrame
        One row a term: Df, GVIF, and GVIF^(1/(2 Df)), which is comparable between terms.

    Raises
    ------
    ArgumentError
        For fewer terms, and where the covariance of the fixed effects is not known.

    Examples
    --------
    >>> model = mlm.glmer("y ~ trt + week + (1 | ID)", mlm.load_bacteria(), family="binomial")
    >>> print(mlm.vif(model).round(3))
          Df   GVIF  GVIF^(1/(2*Df))
    trt    2  1.015            1.004
    week   1  1.015            1.008
    """
    check_fitted(model, "vif")
    recipe = model.labels.recipe
    assign = np.array(recipe.fixed.assign)[recipe.kept]
    names = [":".join(map(str, term)) for term in recipe.fixed.terms]
    terms = [i for i, name in enumerate(names) if name and np.any(assign == i)]
    if len(terms) < 2:
        raise ArgumentError(
            f"vif compares terms with each other, and the model has {len(terms)} besides the "
            "intercept"
        )
    inside = np.isin(assign, terms)
    covariance = model.fixed_covariance[np.ix_(inside, inside)]
    if not np.all(np.isfinite(covariance)):
        raise ArgumentError(
            "the covariance of the fixed effects is not known: see checkConv(model)"
        )
    whole, own = correlation(covariance), assign[inside]
    rows = []
    for i in terms:
        mine = own == i
        parts = [np.linalg.slogdet(whole[np.ix_(part, part)])[1] for part in (mine, ~mine)]
        inflation = float(np.exp(sum(parts) - np.linalg.slogdet(whole)[1]))
        df = int(np.sum(mine))
        rows.append((df, inflation, inflation ** (0.5 / df)))
    columns = ["Df", "GVIF", "GVIF^(1/(2*Df))"]
    return pd.DataFrame(rows, index=[names[i] for i in terms], columns=columns)
