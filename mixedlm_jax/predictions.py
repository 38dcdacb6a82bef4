"""Predictions of a model for the rows of a frame, with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.dispersion import natural_at_rows
from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.expression import Operation
from mixedlm_jax.families import Family
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.inference import check_level, wald_intervals
from mixedlm_jax.means import in_domain, link, link_mean, mean_slope, on_scale
from mixedlm_jax.predict import check_scale, linear_predictor, spread
from mixedlm_jax.predictive import response_limits
from mixedlm_jax.recipe import NewRows
from mixedlm_jax.simulate import check_seed
from mixedlm_jax.table import Table
from mixedlm_jax.uncertainty import PredictorUncertainty, predictor_uncertainty

INTERVALS = (None, "confidence", "prediction")
MARGINAL = "marginal"
_NODES = 200  # of Gauss-Hermite quadrature over a row's random effects


def predict_rows(
    model: Fitted,
    newdata: Any = None,
    type: str = "response",
    re_form: str | None = None,
    allow_new_levels: bool = False,
    *,
    se_fit: bool = False,
    interval: str | None = None,
    level: float = 0.95,
    seed: int | None = None,
) -> np.ndarray | pd.DataFrame:
    """Predictions of a model; see `GlmerResult.predict`."""
    check_scale(type)
    if interval not in INTERVALS:
        raise ArgumentError(
            f"interval is {interval!r}; choose 'confidence', 'prediction' or None for none"
        )
    if re_form == MARGINAL:
        if se_fit or interval is not None:
            raise ArgumentError(
                "population averages (re_form='marginal') come without standard errors and "
                "intervals; leave out se_fit and interval, or take re_form='~0'"
            )
        return _population_averages(model, newdata, type)
    used = model.labels.condition_on(re_form)
    wanted = [i for i, columns in enumerate(used) if np.any(columns)]
    rows = own_rows(model, wanted)
    if newdata is not None:
        rows = model.labels.rebuild(newdata, allow_new_levels=allow_new_levels, factors=wanted)
    b = [model.fit.b[i] * used[i][:, None] for i in wanted]
    eta = linear_predictor(rows.X, model.fit.beta, rows.offset, rows.Z, rows.levels, b)
    shapes = natural_at_rows(model.family, rows.parts, model.fit.phi)
    fit = on_scale(model.family, eta, shapes, type)
    if not se_fit and interval is None:
        return spread(fit, rows.complete)
    check_level(level)
    if se_fit or interval == "confidence":
        _check_transform(model.family, eta, fit, type)
    found = _uncertainty(model, rows, wanted, used)
    columns = {"fit": fit}
    errors = np.sqrt(found.variance)
    if se_fit:
        slope = 1.0 if type == "link" else np.abs(mean_slope(model.family, eta))
        columns["se.fit"] = slope * errors
    if interval == "confidence":
        ends = wald_intervals(eta, errors, level).T
        if type != "link":
            ends = np.stack([_mean_at_end(model.family, end) for end in ends])
        columns["lower"], columns["upper"] = np.min(ends, axis=0), np.max(ends, axis=0)
    if interval == "prediction":
        if type != "response":
            raise ArgumentError(
                f"prediction intervals are for a new response: give type='response', not {type!r}"
            )
        trials, precision = _sizes(model, newdata, rows)
        columns["lower"], columns["upper"] = response_limits(
            model.family,
            eta,
            found,
            model.fit.phi,
            dict(rows.parts),
            trials,
            precision,
            level,
            check_seed(seed),
        )
    return pd.DataFrame(
        {name: spread(values, rows.complete) for name, values in columns.items()}, index=rows.index
    )


def own_rows(model: Fitted, wanted: Sequence[int]) -> NewRows:
    """The model's own rows, with these of its grouping factors."""
    factors = [model.design.factors[i] for i in wanted]
    return NewRows(
        X=model.design.X,
        Z=tuple(factor.Z for factor in factors),
        levels=tuple(factor.levels for factor in factors),
        offset=model.design.offset,
        complete=model.labels.kept,
        index=model.labels.index,
        parts=model.design.parts,
    )


def _uncertainty(
    model: Fitted, rows: NewRows, wanted: Sequence[int], used: Sequence[np.ndarray]
) -> PredictorUncertainty:
    """Uncertainty of the linear predictor, effects that are left out counted as 0."""
    m = len(rows.X)
    own = rows.X is model.design.X
    Z, levels = [], []
    for i, factor in enumerate(model.design.factors):
        if i in wanted:
            place = wanted.index(i)
            Z.append(rows.Z[place] * used[i][:, None])
            levels.append(rows.levels[place])
        else:
            Z.append(np.zeros((len(factor.Z), m)))
            levels.append(factor.levels if own else np.full(m, -1, np.int32))
    return predictor_uncertainty(
        model.design, model.family, model.fit, rows.X, Z, levels, rows.parts
    )


def _check_transform(family: Family, eta: np.ndarray, fit: np.ndarray, type: str) -> None:
    """Raise `ArgumentError` unless a prediction is eta or a function of eta alone."""
    known = type == "link" or (
        type != "zprob" and np.allclose(fit, link_mean(family, eta), rtol=1e-10, atol=0.0)
    )
    if not known:
        raise ArgumentError(
            f"type={type!r} of the {family.name} family depends on more than the linear predictor, "
            "and has no standard error here; ask for type='link', or for interval='prediction' "
            "without se_fit"
        )


def _mean_at_end(family: Family, eta: np.ndarray) -> np.ndarray:
    """The mean at an end of an interval (m,)."""
    valid = in_domain(family, eta)
    if not np.all(valid):
        raise DataError(
            f"the confidence intervals of {np.sum(~valid)} rows leave the domain of the "
            f"{family.link.name} link; ask for type='link' or a lower level"
        )
    return link_mean(family, eta)


def _sizes(model: Fitted, newdata: Any, rows: NewRows) -> tuple[np.ndarray, np.ndarray]:
    """Trials and precision of the rows of a prediction (m,): new rows have precision 1."""
    design, family = model.design, model.family
    if newdata is None:
        precise = family.weights_are_precisions and design.weights_type == "prior"
        precision = np.where(design.weights > 0, design.weights, 1.0) if precise else None
        return design.trials, np.ones(len(design.y)) if precision is None else precision
    ones = np.ones(len(rows.X))
    if np.all(design.trials == 1.0):
        return ones, ones
    response, table = model.call.formula.response, Table(newdata, "newdata")
    ratio = isinstance(response, Operation) and response.operator == "/"
    name = str(response.operands[1]) if ratio else ""
    if name not in table.names:
        raise ArgumentError(
            "prediction intervals of new rows need their numbers of trials: write the response as "
            f"successes / trials, and give newdata the column of trials{f' {name!r}' * bool(name)}"
        )
    trials = table.column(name).numbers(f"the trials '{name}'")[rows.complete]
    if not np.all(trials >= 1.0):
        raise DataError(f"the column {name!r} of trials holds {np.min(trials)}; give 1 or more")
    return trials, ones


def _population_averages(model: Fitted, newdata: Any, type: str) -> np.ndarray:
    """E(y) of rows with the random effects integrated out, or its link.

    z'b is N(0, sd^2) with sd^2 = sum over the factors of z' Lambda Lambda' z, so that one integral
    over a normal variable is left for each row, whatever the number of factors.
    """
    everything = range(len(model.design.factors))
    rows = own_rows(model, everything)
    if newdata is not None:
        rows = model.labels.rebuild(newdata, ungrouped=True)
    eta = rows.X @ model.fit.beta + rows.offset
    variance = random_variances(model, rows.Z, len(eta))
    shapes = natural_at_rows(model.family, rows.parts, model.fit.phi)
    kind = "response" if type == "link" else type
    averages = _averaged(model.family, eta, np.sqrt(variance), shapes, kind)
    if type == "link":
        averages = link(model.family, averages)
    return spread(averages, rows.complete)


def random_variances(model: Fitted, Z: Sequence[np.ndarray], n: int) -> np.ndarray:
    """z' Lambda Lambda' z, summed over the grouping factors (n,)."""
    total = np.zeros(n)
    for factor, rows in zip(model.fit.factors, Z, strict=True):
        total = total + np.sum((factor.T @ rows) ** 2, axis=0)
    return total


def _averaged(
    family: Family, eta: np.ndarray, sd: np.ndarray, shapes: Any, type: str
) -> np.ndarray:
    """E of predictions at eta + N(0, sd^2) (m,), by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    total = np.zeros(len(eta))
    for node, weight in zip(nodes, weights / np.sum(weights), strict=True):
        if weight == 0.0:
            continue
        point = eta + node * sd
        if not np.all(in_domain(family, point)):
            raise DataError(
                f"random effects lead out of the domain of the {family.link.name} link, so that "
                "there is no population average; take re_form='~0', or fit another link"
            )
        total += weight * on_scale(family, point, shapes, type)
    return total
