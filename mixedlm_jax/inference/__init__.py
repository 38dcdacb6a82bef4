"""Uncertainty of estimates, as functions of arrays."""

from __future__ import annotations

from mixedlm_jax.inference.covariance import correlation, standard_errors
from mixedlm_jax.inference.wald import wald_intervals, wald_tests

__all__ = ["correlation", "standard_errors", "wald_intervals", "wald_tests"]
