"""A fitted model as PyPI's marginaleffects takes it, for what that package does with predictions.

Its coefficients are all parameters: theta, the fixed effects, and the dispersion parameters in
their unconstrained coordinates, so that population averages carry the uncertainty of the random
effects' covariance. marginaleffects differentiates predictions in them by finite differences.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.averages import is_population, rows_of
from mixedlm_jax.dispersion import phi_names
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.expectation import Parameters
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.names import theta_names
from mixedlm_jax.predict import check_scale
from mixedlm_jax.recipe import NewRows
from mixedlm_jax.reference_grid import factor_columns, level_places, predictors, used_rows
from mixedlm_jax.table import Table, with_columns


def for_marginaleffects(model: Fitted, type: str = "response", re_form: str = "~0") -> Any:
    """The model in the form that PyPI's `marginaleffects` takes (`pip install marginaleffects`).

    `marginaleffects.avg_predictions(mlm.for_marginaleffects(model), by="period")`, and so on with
    its predictions, comparisons, slopes, hypotheses and plots. Importing those functions switches
    JAX to double precision for the whole process, which is that package's doing. Its version 0.6
    needs polars before 2 for comparisons, and its standard errors of slopes, differences of
    differences, lose two digits unless it is given `eps_vcov=1e-5`.

    Parameters
    ----------
    model
        A fitted model.
    type
        What is predicted, as in `predict`.
    re_form
        "~0" (or "NA"): of the typical group, b = 0. "marginal": population averages.

    Returns
    -------
    marginaleffects.classes.ModelAbstract

    Raises
    ------
    ArgumentError
        For another type or re_form, and where marginaleffects is not installed.
    """
    check_fitted(model, "for_marginaleffects")
    check_scale(type)
    marginal = is_population(re_form)
    base, vault = _interface()

    class Adapted(base):  # type: ignore[misc, valid-type]
        """Predictions of a mixed model as a function of all its parameters."""

        def __init__(self) -> None:
            self.source = _Source.of(model, type, marginal)
            super().__init__(model, vault(**_contents(model, self.source)))

        def validation(self) -> None:
            # the package's own looks at the text of a formula, which ours are no examples of
            self.coef, self.response_name = self.get_coef(), self.find_response()
            self.formula = self.get_formula()

        def get_vcov(self, vcov: Any = True) -> np.ndarray | None:
            if vcov is False or vcov is None:
                return None
            if vcov is not True:
                raise ArgumentError(
                    f"vcov is {vcov!r}; give True, or a covariance of all {len(self.coef)} "
                    "parameters as an array"
                )
            return self.source.parameters.covariance

        def get_exog(self, newdata: Any) -> _Frames:
            return _Frames.of(self.source, newdata)

        def get_predict(self, params: np.ndarray, newdata: Any) -> Any:
            rows = newdata if isinstance(newdata, _Frames) else self.get_exog(newdata)
            estimate = self.source.predicted(np.asarray(params, float), rows.rows)
            polars = importlib.import_module("polars")
            numbers = polars.Series(np.arange(len(estimate), dtype=np.int32))
            return polars.DataFrame({"rowid": numbers, "estimate": estimate})

    return Adapted()


def _interface() -> tuple[Any, Any]:
    try:
        classes = importlib.import_module("marginaleffects.classes.model")
    except ImportError as error:
        raise ArgumentError(
            "for_marginaleffects hands the model to the package marginaleffects, which is not "
            'installed: pip install "mixedlm_jax[marginaleffects]", or use mlm.avg_slopes, '
            "mlm.avg_comparisons and mlm.emmeans, which do without it"
        ) from error
    return classes.ModelAbstract, classes.ModelVault


@dataclass(frozen=True, eq=False)
class _Source:
    """What predictions are made from."""

    model: Fitted
    parameters: Parameters
    type: str
    marginal: bool

    @classmethod
    def of(cls, model: Fitted, type: str, marginal: bool) -> _Source:
        return cls(model, Parameters.of(model.design, model.family, model.fit), type, marginal)

    def predicted(self, params: np.ndarray, rows: NewRows) -> np.ndarray:
        """Predictions of rows at other parameters (m,)."""
        at = self.parameters.moved(params)
        eta = rows.X @ np.asarray(at.params.beta) + rows.offset
        if self.marginal:
            return at.population_values(self.type, eta, rows.parts, rows.Z)
        return eta if self.type == "link" else at.values(self.type, eta, rows.parts)


@dataclass(frozen=True, eq=False)
class _Frames:
    """Rows to predict for, which marginaleffects cuts its filling from."""

    source: _Source
    frame: Any
    rows: NewRows

    @classmethod
    def of(cls, source: _Source, frame: Any) -> _Frames:
        plain = with_columns(Table(frame, "newdata"), {})
        return cls(source, frame, rows_of(source.model, plain, source.marginal))

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.X.shape

    def __getitem__(self, rows: Any) -> _Frames:
        return _Frames.of(self.source, self.frame[rows])


def _contents(model: Fitted, source: _Source) -> Mapping[str, Any]:
    """What marginaleffects keeps of a model."""
    rest = phi_names(model.family, model.labels.parts)
    names = (*theta_names(model.design, model.labels), *model.labels.fixed, *rest)
    known = predictors(model, random=source.marginal)
    data = _model_data(model)
    return {
        "coef": source.parameters.flat,
        "coefnames": np.array(names, dtype=object),
        "formula": _no_matrices,
        "modeldata": data,
        "variables_type": {name: _kind(data[name]) for name in data.columns},
        "package": "mixedlm_jax",
        "variable_names": [model.labels.response, *known],
    }


def _no_matrices(data: Any) -> Any:
    raise ArgumentError("the model makes its own model matrices: get_exog")


def _kind(column: Any) -> str:
    """What marginaleffects calls a column's type."""
    if column.dtype.is_numeric():
        return "binary" if set(column.unique().to_list()) <= {0, 1} else "numeric"
    return "boolean" if str(column.dtype) == "Boolean" else "character"


def _model_data(model: Fitted) -> Any:
    """The rows used as a polars frame, what counts as levels as an Enum in the model's order."""
    polars = importlib.import_module("polars")
    table, used = Table(model.call.data), used_rows(model)
    frame = with_columns(table, {})[used]
    factors = factor_columns(model)
    columns = {}
    for name in frame.columns:
        series = frame[name]
        if name in factors and not pd.api.types.is_bool_dtype(series.dtype):
            levels, _ = level_places(table, name, used)
            codes = table.column(name).as_category().recode(levels)[used]
            columns[str(name)] = polars.Series(
                [levels[code] for code in codes], dtype=polars.Enum(levels)
            )
        else:
            columns[str(name)] = polars.Series(series.to_list())
    return polars.DataFrame(columns)
