"""Linear hypotheses about fixed effects, written as text: `"period2 = period3"`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError, brief
from mixedlm_jax.expression import suggest
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.inference import chi_squared_tail, wald_statistic
from mixedlm_jax.noted import NotedFrame

_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WORD = re.compile(r"[^\s+*/=-]+")
_PARTS_OF_NAMES = re.compile(r"[\w.:]")


def linear_hypothesis(
    model: Fitted,
    hypothesis: str | Sequence[str] | np.ndarray,
    *,
    vcov: Any = None,
    component: str = "cond",
) -> NotedFrame:
    """Wald's test that linear combinations of fixed effects have given values.

    chi2 = (L b - r)' (L V L')^-1 (L b - r) with as many degrees of freedom as there are hypotheses,
    all of which are tested together.

    Parameters
    ----------
    model
        A fitted model.
    hypothesis
        Equations in the names of the coefficients, `"period2 = period3"`,
        `"2 * period2 - period4 = 0.5"`; without "=" a combination is compared with 0. Several in a
        list. Or the matrix L (hypotheses, coefficients), r = 0.
    vcov
        Covariance of the fixed effects (p, p), such as `model.vcov(type="robust")`; the model's own
        by default.
    component
        Whose fixed effects: "cond", "zi" or "disp", as in `fixef`.

    Returns
    -------
    DataFrame
        One row: Df, Chisq, Pr(>Chisq).

    Raises
    ------
    ArgumentError
        For a name that no coefficient has, a text that is no equation, and equations that repeat or
        contradict each other.

    Examples
    --------
    >>> cbpp = mlm.load_cbpp()
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", cbpp, "binomial")
    >>> print(mlm.linear_hypothesis(model, "period2 = period3").round(4))
                       Df   Chisq  Pr(>Chisq)
    period2 = period3   1  0.1283      0.7203
    """
    check_fitted(model, "linear_hypothesis")
    names = list(model.fixef(component))
    estimate = np.array(list(model.fixef(component).values()))
    contrasts, values, label = _read(hypothesis, names)
    covariance = _covariance(model, vcov, component, names)
    if np.linalg.matrix_rank(contrasts) < len(contrasts):
        raise ArgumentError(
            f"the hypotheses {label} repeat or contradict each other: leave out those that follow "
            "from the others"
        )
    # L b - r = L (b - b0) for any b0 with L b0 = r
    moved = estimate - np.linalg.lstsq(contrasts, values, rcond=None)[0]
    statistic, df = wald_statistic(contrasts, moved, covariance)
    row = {"Df": df, "Chisq": statistic, "Pr(>Chisq)": chi_squared_tail(statistic, df)}
    return NotedFrame.of([row], index=[label])


def check_fitted(model: Any, function: str) -> None:
    """Raise `ArgumentError` for what is no fitted model."""
    if not isinstance(model, Fitted):
        raise ArgumentError(f"{function} takes a model that glmer returned, found {brief(model)}")


def check_unpenalised(model: Fitted, function: str) -> None:
    """Raise `ArgumentError` for a model whose estimates a prior moved from the likelihood's top."""
    if model.call.prior is not None:
        raise ArgumentError(
            f"{function} compares maximised log-likelihoods, and this model's prior moved its "
            "estimates away from the maximum: fit without prior=, or take Wald's intervals and "
            "tests, whose standard errors know the prior"
        )


def _covariance(model: Fitted, vcov: Any, component: str, names: list[str]) -> np.ndarray:
    if vcov is None:
        return model.vcov(component=component).to_numpy()
    if isinstance(vcov, pd.DataFrame):
        missing = [name for name in names if name not in vcov.index or name not in vcov.columns]
        if missing:
            raise ArgumentError(f"vcov has no row and column for {missing[0]!r}")
        vcov = vcov.loc[names, names]
    found = np.asarray(vcov, float)
    if found.shape != (len(names), len(names)):
        raise ArgumentError(
            f"vcov has shape {found.shape}; give the covariance of the {len(names)} fixed effects"
        )
    return found


def _read(hypothesis: Any, names: list[str]) -> tuple[np.ndarray, np.ndarray, str]:
    """L (r, p), the values it is compared with (r,), and a label."""
    if isinstance(hypothesis, str):
        hypothesis = [hypothesis]
    if isinstance(hypothesis, (list, tuple)) and all(isinstance(part, str) for part in hypothesis):
        if not hypothesis:
            raise ArgumentError("the list of hypotheses is empty; give one such as 'period2 = 0'")
        rows = [_equation(text, names) for text in hypothesis]
        return (
            np.array([row for row, _ in rows]),
            np.array([value for _, value in rows]),
            ", ".join(text.strip() for text in hypothesis),
        )
    try:
        contrasts = np.atleast_2d(np.asarray(hypothesis, float))
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"the hypothesis is {hypothesis!r}; give an equation such as 'period2 = period3', a "
            "list of them, or a matrix with a column for each fixed effect"
        ) from error
    if contrasts.ndim != 2 or contrasts.shape[1] != len(names):
        raise ArgumentError(
            f"the matrix of hypotheses has shape {contrasts.shape}; it needs a column for each of "
            f"the {len(names)} fixed effects: {', '.join(names)}"
        )
    return contrasts, np.zeros(len(contrasts)), f"L ({len(contrasts)} rows)"


def _equation(text: str, names: list[str]) -> tuple[np.ndarray, float]:
    """Coefficients of the names (p,) and the value on the right of `text`."""
    sides = text.split("=")
    if len(sides) > 2:
        raise ArgumentError(f"'{text}' has several '='; give one equation each")
    coefficients, constant = np.zeros(len(names)), 0.0
    for sign, side in zip((1.0, -1.0), sides, strict=False):
        own, number = _combination(side, names, text)
        coefficients += sign * own
        constant += sign * number
    if not np.any(coefficients):
        raise ArgumentError(f"'{text}' says nothing about any coefficient; write 'period2 = 0'")
    return coefficients, -constant


def _combination(side: str, names: list[str], text: str) -> tuple[np.ndarray, float]:
    """A sum of multiples of names and of numbers: coefficients (p,) and the constant."""
    coefficients, constant = np.zeros(len(names)), 0.0
    tokens = _tokens(side, names, text)
    at = 0
    while at < len(tokens):
        sign = 1.0
        while at < len(tokens) and tokens[at] in ("+", "-"):
            sign *= -1.0 if tokens[at] == "-" else 1.0
            at += 1
        factor, name, divide, empty = sign, None, False, True
        while at < len(tokens) and tokens[at] not in ("+", "-"):
            token = tokens[at]
            at += 1
            if token in ("*", "/"):
                divide = token == "/"
                continue
            if isinstance(token, float):
                factor = factor / token if divide else factor * token
            elif name is None and not divide:
                name = int(token)
            else:
                raise ArgumentError(f"'{text}' is not linear in the coefficients")
            divide, empty = False, False
        if empty:
            raise ArgumentError(f"'{text}' is no equation: a term is missing")
        if name is None:
            constant += factor
        else:
            coefficients[name] += factor
    return coefficients, constant


def _tokens(side: str, names: list[str], text: str) -> list[Any]:
    """Operators as text, numbers as float, names by their place as int."""
    longest = sorted(range(len(names)), key=lambda i: -len(names[i]))
    tokens: list[Any] = []
    at = 0
    while at < len(side):
        if side[at].isspace() or side[at] == "`":
            at += 1
            continue
        place = next((i for i in longest if _stands(names[i], side, at)), None)
        number = _NUMBER.match(side, at)
        if place is not None:
            tokens.append(place)
            at += len(names[place])
        elif side[at] in "+-*/":
            tokens.append(side[at])
            at += 1
        elif number is not None:
            tokens.append(float(number.group()))
            at = number.end()
        else:
            word = _WORD.match(side, at)
            found = word.group() if word else side[at]
            raise ArgumentError(
                f"'{text}' names {found!r}, which is no fixed effect of the model"
                f"{suggest(found, names)}; it has {', '.join(names)}"
            )
    return tokens


def _stands(name: str, side: str, at: int) -> bool:
    """Whether a name stands at a place, and does not go on."""
    end = at + len(name)
    ends = end >= len(side) or not _PARTS_OF_NAMES.match(side[end])
    return side.startswith(name, at) and ends
