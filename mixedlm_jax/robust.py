"""Robust standard errors of a fitted model, by clusters of its rows."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np

from mixedlm_jax.buckets import bucket, filled_rows, padded
from mixedlm_jax.errors import ArgumentError, MixedlmWarning
from mixedlm_jax.expression import Name
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.inference import cluster_scores, in_reported_scale, point_of, sandwich
from mixedlm_jax.objective import objective_for
from mixedlm_jax.pattern import INDEX
from mixedlm_jax.table import Table
from mixedlm_jax.threads import single_blas_thread
from mixedlm_jax.variables import GROUPING, Evaluation

FEW_CLUSTERS = 40


def robust_covariance(model: Fitted, cluster: Any) -> np.ndarray:
    """The sandwich covariance of (theta, beta, phi), as `vcov(type="robust")` has it.

    Raises `ArgumentError` where the log-likelihood is no sum over clusters or has no scores; warns
    where there are few clusters. To be called by a method that a user calls.
    """
    check_scores(model, "robust standard errors")
    name, numbers = _clusters(model, cluster)
    used = model.design.weights > 0
    _check_nested(model, name, numbers, used)
    # rows of weight 0 are absent: they have no score, and make no cluster
    numbers[used] = _numbered(numbers[used])
    numbers[~used] = 0
    count = int(numbers.max()) + 1
    if count < 2:
        raise ArgumentError(f"all rows are in one cluster of {name}; there must be several")
    if count < FEW_CLUSTERS:
        warnings.warn(
            f"{name} has {count} clusters; robust standard errors are too small with fewer than "
            f"about {FEW_CLUSTERS}",
            MixedlmWarning,
            stacklevel=3,
        )
    objective = objective_for(model.fit.nAGQ)
    with single_blas_thread(), jax.enable_x64(True):
        point = point_of(padded(model.design), model.family, model.fit)
        rows = filled_rows(numbers, len(point.problem.y))
        scores = cluster_scores(
            objective, point.params, point.problem, point.u, rows, bucket(count)
        )
        # copies of rows that fill a bucket have weight 0, and so have clusters without rows
        found = sandwich(point, np.asarray(scores)[:count])
        return in_reported_scale(point, found)


def check_scores(model: Fitted, what: str) -> None:
    """Raise `ArgumentError` where a fit has no scores, which `what` is made of."""
    if model.family.is_quasi:
        raise ArgumentError(
            f"{what} come from the scores of a likelihood, which a quasi family does not have; fit "
            "a family with a distribution"
        )
    if model.fit.nAGQ == 0:
        raise ArgumentError(
            "at nAGQ=0 the fixed effects do not maximise the likelihood whose scores are needed: "
            "refit with nAGQ=1"
        )
    if model.fit.optinfo["differentiation"] != "automatic":
        raise ArgumentError("the family's gradient failed in this fit, and scores are gradients")


def _clusters(model: Fitted, cluster: Any) -> tuple[str, np.ndarray]:
    """A name for messages, and the number of each used row's cluster from 0 (n,)."""
    labels, kept = model.labels, model.labels.kept
    if cluster is None:
        number = _coarsest(model)
        return f"'{labels.factors[number]}'", _numbered(model.design.factors[number].levels)
    if isinstance(cluster, str):
        if cluster in labels.factors:
            number = labels.factors.index(cluster)
            return f"'{cluster}'", _numbered(model.design.factors[number].levels)
        value = Evaluation(Table(model.call.data)).variable(Name(cluster), GROUPING).as_category()
        if np.any(value.missing[kept]):
            raise ArgumentError(f"cluster '{cluster}' has missing values in rows that are used")
        return f"'{cluster}'", _numbered(value.codes[kept])
    values = np.asarray(cluster)
    if values.ndim == 1 and len(values) == len(kept):
        values = values[kept]
    if values.shape != (int(kept.sum()),):
        raise ArgumentError(
            f"cluster has shape {np.shape(cluster)}; give the name of a column, or one label for "
            f"each of the {len(kept)} rows of the data"
        )
    return "cluster", _numbered(values)


def _numbered(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(INDEX)


def _coarsest(model: Fitted) -> int:
    """The grouping factor that all others are nested in."""
    factors = model.design.factors
    if not factors:
        raise ArgumentError("the model has no grouping factor: name clusters with cluster=")
    last = min(range(len(factors)), key=lambda f: factors[f].n_levels)
    if any(level_across(factor.levels, factors[last].levels) is not None for factor in factors):
        raise ArgumentError(
            f"the grouping factors {', '.join(model.labels.factors)} cross, so that none contains "
            "the others; name clusters that contain them all with cluster="
        )
    return last


def _check_nested(model: Fitted, name: str, numbers: np.ndarray, used: np.ndarray) -> None:
    for factor, group, levels in zip(
        model.design.factors, model.labels.factors, model.labels.levels, strict=True
    ):
        level = level_across(factor.levels[used], numbers[used])
        if level is not None:
            raise ArgumentError(
                f"level {levels[level]!r} of '{group}' lies in several clusters of {name}, so that "
                "the log-likelihood is no sum over clusters: take clusters that contain every "
                "level of every grouping factor"
            )


def level_across(levels: np.ndarray, numbers: np.ndarray) -> int | None:
    """A level whose rows lie in several clusters, None where there is none."""
    first = np.zeros(int(levels.max()) + 1, int)
    first[levels] = numbers
    outside = np.flatnonzero(first[levels] != numbers)
    return int(levels[outside[0]]) if len(outside) else None
