"""Uncertainty of estimates, as functions of arrays."""

from __future__ import annotations

from mixedlm_jax.inference.charts import Quantity, Survey
from mixedlm_jax.inference.chi_squared import (
    chi_squared_tail,
    chi_squared_tails,
    mixture_tail,
)
from mixedlm_jax.inference.components import component_order, component_slopes, lane_components
from mixedlm_jax.inference.conditional import (
    conditional_covariance,
    joint_leverages,
    parameter_covariance,
    row_uncertainty,
)
from mixedlm_jax.inference.covariance import correlation, standard_errors
from mixedlm_jax.inference.expectation import (
    expected_slopes,
    expected_values,
    factor_slopes,
    factors_at,
)
from mixedlm_jax.inference.laplace_check import (
    Correction,
    QuadratureCheck,
    can_be_checked,
    quadrature_check,
    second_order_correction,
)
from mixedlm_jax.inference.left_out import LeftOut, cluster_derivatives, without_each
from mixedlm_jax.inference.point import (
    Point,
    delta_covariance,
    in_reported_scale,
    point_of,
    with_known_boundary,
)
from mixedlm_jax.inference.profile import Curve, Limit
from mixedlm_jax.inference.sandwich import cluster_scores, sandwich
from mixedlm_jax.inference.wald import check_level, wald_intervals, wald_statistic, wald_tests

__all__ = [
    "Correction",
    "Curve",
    "LeftOut",
    "Limit",
    "Point",
    "QuadratureCheck",
    "Quantity",
    "Survey",
    "can_be_checked",
    "check_level",
    "chi_squared_tail",
    "chi_squared_tails",
    "cluster_derivatives",
    "cluster_scores",
    "component_order",
    "component_slopes",
    "conditional_covariance",
    "correlation",
    "delta_covariance",
    "expected_slopes",
    "expected_values",
    "factor_slopes",
    "factors_at",
    "in_reported_scale",
    "joint_leverages",
    "lane_components",
    "mixture_tail",
    "parameter_covariance",
    "point_of",
    "quadrature_check",
    "row_uncertainty",
    "sandwich",
    "second_order_correction",
    "standard_errors",
    "wald_intervals",
    "wald_statistic",
    "wald_tests",
    "with_known_boundary",
    "without_each",
]
