"""Predictions of a model for the rows of a frame, with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.dispersion import natural_at_rows
from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.expectation import Parameters
from mixedlm_jax.expression import Operation
from mixedlm_jax.families import ZERO, Family
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
    population = None
    if re_form == MARGINAL:
        population = Parameters.of(model.design, model.family, model.fit)
        used = [np.ones(len(names), bool) for names in model.labels.columns]
        wanted, rows = list(range(len(used))), ungrouped_rows(model, newdata)
        eta = rows.X @ model.fit.beta + rows.offset
        fit = population.population_values(type, eta, rows.parts, rows.Z)
    else:
        used = list(model.labels.condition_on(re_form))
        wanted = [i for i, columns in enumerate(used) if np.any(columns)]
        rows = own_rows(model, wanted)
        if newdata is not None:
            rows = model.labels.rebuild(
                newdata, allow_new_levels=allow_new_levels, factors=wanted
            )
        b = [model.fit.b[i] * used[i][:, None] for i in wanted]
        eta = linear_predictor(rows.X, model.fit.beta, rows.offset, rows.Z, rows.levels, b)
        shapes = natural_at_rows(model.family, rows.parts, model.fit.phi)
        fit = on_scale(model.family, eta, shapes, type)
    if not se_fit and interval is None:
        return spread(fit, rows.complete)
    check_level(level)
    columns = {"fit": fit}
    known = _uncertainty(model, rows, wanted, used)
    if se_fit or interval == "confidence":
        if population is None:
            errors = _Errors.of(model, rows, type, eta, fit, known)
        else:
            errors = _Errors.of_population(population, rows, type, eta)
        if se_fit:
            columns["se.fit"] = errors.se
        if interval == "confidence":
            columns["lower"], columns["upper"] = errors.limits(model.family, type, level)
    if interval == "prediction":
        if type != "response":
            raise ArgumentError(
                f"prediction intervals are for a new response: give type='response', not {type!r}"
            )
        trials, precision = _sizes(model, newdata, rows)
        columns["lower"], columns["upper"] = response_limits(
            model.family,
            eta,
            known,
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


@dataclass(frozen=True)
class _Errors:
    """Standard errors of predictions (m,), and where their intervals are symmetric.

    centre, scatter: the prediction and its error on that scale, which `back` names: "link",
    "logit" or "" for the scale of the prediction itself.
    """

    se: np.ndarray
    centre: np.ndarray
    scatter: np.ndarray
    back: str

    @classmethod
    def of(
        cls,
        model: Fitted,
        rows: NewRows,
        type: str,
        eta: np.ndarray,
        fit: np.ndarray,
        known: PredictorUncertainty,
    ) -> _Errors:
        """Of predictions `fit` at eta, whose uncertainty is known."""
        family, root = model.family, np.sqrt(known.variance)
        if type == "link":
            return cls(root, eta, root, "")
        if _is_mean_of(family, eta, fit, type):
            return cls(np.abs(mean_slope(family, eta)) * root, eta, root, "link")
        at = Parameters.of(model.design, family, model.fit)
        found = at.expected(type, eta, known.slope, rows.parts)
        variance = at.variances(found.slope) + found.of_eta**2 * known.own
        return cls._transformed(family, type, fit, np.sqrt(variance))

    @classmethod
    def of_population(
        cls, at: Parameters, rows: NewRows, type: str, eta: np.ndarray
    ) -> _Errors:
        """Of population averages; eta at b = 0."""
        found = at.population(type, rows.X, eta, rows.parts, rows.Z)
        return cls._transformed(at.family, type, found.value, np.sqrt(at.variances(found.slope)))

    @classmethod
    def _transformed(cls, family: Family, type: str, fit: np.ndarray, se: np.ndarray) -> _Errors:
        if type == "link":
            return cls(se, fit, se, "")
        if type == "zprob":
            if ZERO not in family.dispersion_names:
                raise ArgumentError(
                    "the model has no structural zeros, whose probability is 0 without an error: "
                    "fit it with a ziformula, or leave out se_fit and interval"
                )
            return cls(se, np.log(fit) - np.log1p(-fit), se / (fit * (1.0 - fit)), "logit")
        centre = link(family, fit)
        return cls(se, centre, se / np.abs(mean_slope(family, centre)), "link")

    def limits(self, family: Family, type: str, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Limits of Wald's intervals (m,), taken back to the scale of the prediction."""
        ends = wald_intervals(self.centre, self.scatter, level).T
        if self.back == "link":
            ends = np.stack([_mean_at_end(family, end) for end in ends])
        if self.back == "logit":
            ends = 0.5 + 0.5 * np.tanh(0.5 * ends)
        return np.min(ends, axis=0), np.max(ends, axis=0)


def ungrouped_rows(model: Fitted, newdata: Any) -> NewRows:
    """Rows whose random effects are averaged over: with Z of all factors, and of no level."""
    if newdata is not None:
        return model.labels.rebuild(newdata, ungrouped=True)
    rows = own_rows(model, range(len(model.design.factors)))
    return replace(rows, levels=tuple(np.full_like(level, -1) for level in rows.levels))


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


def _is_mean_of(family: Family, eta: np.ndarray, fit: np.ndarray, type: str) -> bool:
    """Whether predictions are the link's inverse of eta."""
    return type != "zprob" and np.allclose(fit, link_mean(family, eta), rtol=1e-10, atol=0.0)


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
