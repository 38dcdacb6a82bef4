"""Wald tests of whole terms of the fixed effects, of type II and type III."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.formula import Product
from mixedlm_jax.inference import chi_squared_tail, wald_statistic
from mixedlm_jax.matrix import CONTRASTS, Coding
from mixedlm_jax.noted import NotedFrame
from mixedlm_jax.recipe import replay
from mixedlm_jax.table import Table

TYPES = ("II", "III")


def term_table(model: Fitted, type: str) -> NotedFrame:
    """Chisq, Df and Pr(>Chisq) of every term.

    Type II: a term given all others but those that contain it, W(T and what contains T) -
    W(what contains T), W Wald's statistic that coefficients are 0. Type III: given all others, its
    coefficients in a coding whose columns sum to zero over the levels of each factor, in whatever
    coding the model was fitted.
    """
    coding = model.labels.recipe.fixed
    table = _type_two(model, coding) if type == "II" else _type_three(model, coding)
    rows = [(value, df, chi_squared_tail(value, df)) for value, df in table.values()]
    notes = [f"Wald chi-squared tests, type {type}."]
    if model.labels.dropped and type == "II":
        notes.append("Columns that were dropped from the model matrix are in no test.")
    frame = NotedFrame.of(
        rows, notes, index=list(table), columns=["Chisq", "Df", "Pr(>Chisq)"]
    )
    return frame.astype({"Df": int})


def _name(term: Product) -> str:
    return ":".join(map(str, term)) or "(Intercept)"


def _type_two(model: Fitted, coding: Coding) -> dict[str, tuple[float, int]]:
    beta, covariance = model.fit.beta, model.fixed_covariance
    assign = np.array(coding.assign)[model.labels.recipe.kept]
    unit = np.eye(len(beta))
    found = {}
    for i, term in enumerate(coding.terms):
        if not term:
            continue
        above = [j for j, other in enumerate(coding.terms) if set(term) < set(other)]
        containing = np.isin(assign, above)
        both, df_both = wald_statistic(unit[containing | (assign == i)], beta, covariance)
        rest, df_rest = wald_statistic(unit[containing], beta, covariance)
        found[_name(term)] = (both - rest, df_both - df_rest)
    return found


def _type_three(model: Fitted, coding: Coding) -> dict[str, tuple[float, int]]:
    if model.labels.dropped:
        raise ArgumentError(
            f"type III tests need every cell of the design, and {', '.join(model.labels.dropped)} "
            'cannot be estimated; take type="II"'
        )
    found = {}
    contrasts = _to_zero_sums(model, coding)
    for i, term in enumerate(coding.terms):
        own = contrasts[np.array(coding.assign) == i]
        found[_name(term)] = wald_statistic(own, model.fit.beta, model.fixed_covariance)
    return found


def _to_zero_sums(model: Fitted, coding: Coding) -> np.ndarray:
    """The matrix (p, p) that takes beta to the coefficients of the zero-sum coding.

    X beta = X0 beta0 with the columns of X0 spanning the same space.
    """
    recipe = model.labels.recipe
    centred = replace(
        coding,
        coded=tuple(
            tuple(
                part
                if part.levels is None or part.coding is None
                else replace(part, coding=CONTRASTS["sum"](part.levels)[0])
                for part in term
            )
            for term in coding.coded
        ),
    )
    table = Table(model.call.data)
    X, X0 = (
        replay(replace(recipe, fixed=own, offsets=(), offset_argument=None), table, (), False).X
        for own in (coding, centred)
    )
    if not _same_rows(X, model):
        raise DataError(
            "the data have changed since the model was fitted to them: type III tests read them "
            "again; fit the model anew"
        )
    return np.linalg.lstsq(X0, X, rcond=None)[0]


def _same_rows(X: np.ndarray, model: Fitted) -> bool:
    """Whether the rows of the data with complete predictors are still those of the model."""
    used = model.design.X
    return len(X) >= len(used) and (len(X) > len(used) or bool(np.allclose(X, used)))
