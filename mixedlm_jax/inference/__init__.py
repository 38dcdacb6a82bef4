"""Uncertainty of estimates, as functions of arrays."""

from __future__ import annotations

from mixedlm_jax.inference.components import component_order, component_slopes
from mixedlm_jax.inference.conditional import (
    conditional_covariance,
    joint_leverages,
    parameter_covariance,
)
from mixedlm_jax.inference.covariance import correlation, standard_errors
from mixedlm_jax.inference.point import Point, delta_covariance, point_of, with_known_boundary
from mixedlm_jax.inference.wald import wald_intervals, wald_tests

__all__ = [
    "Point",
    "component_order",
    "component_slopes",
    "conditional_covariance",
    "correlation",
    "delta_covariance",
    "joint_leverages",
    "parameter_covariance",
    "point_of",
    "standard_errors",
    "wald_intervals",
    "wald_tests",
    "with_known_boundary",
]
