"""Generalized linear mixed models in JAX."""
