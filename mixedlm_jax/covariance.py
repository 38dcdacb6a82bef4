"""Covariance structures: theta -> Lambda, the k x k factor of one random-effects term.

A term's random effects are b = Lambda u with u ~ N(0, I) (times sigma for the Gaussian family), so
their covariance is Lambda Lambda'. A new structure is one class and one row of `STRUCTURES`.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np


class Structure:
    """How theta parametrises the covariance factor of a term with k effects a level."""

    name: ClassVar[str]

    def n_theta(self, k: int) -> int:
        """Number of parameters of a term with k effects."""
        raise NotImplementedError

    def factor(self, theta: jax.Array, k: int) -> jax.Array:
        """Lambda (k, k), lower triangular."""
        raise NotImplementedError

    def lower(self, k: int) -> np.ndarray:
        """Lower bounds of theta as reported (n_theta,): 0 on the diagonal of Lambda."""
        raise NotImplementedError

    def start(self, scale: np.ndarray) -> np.ndarray:
        """theta of independent effects with the given standard deviations (k,)."""
        raise NotImplementedError

    def columns(self, k: int) -> np.ndarray:
        """The column of Lambda that each parameter belongs to (n_theta,).

        A column may change its sign, or be set to zero, with its parameters and nothing else.
        """
        raise NotImplementedError


class Unstructured(Structure):
    """Any covariance matrix: theta is Lambda's lower triangle by columns (lme4's order)."""

    name = "unstructured"

    def n_theta(self, k):
        return k * (k + 1) // 2

    def factor(self, theta, k):
        columns, rows = np.triu_indices(k)
        return jnp.zeros((k, k), theta.dtype).at[rows, columns].set(theta)

    def lower(self, k):
        columns, rows = np.triu_indices(k)
        return np.where(rows == columns, 0.0, -np.inf)

    def start(self, scale):
        columns, rows = np.triu_indices(len(scale))
        return np.where(rows == columns, scale[columns], 0.0)

    def columns(self, k):
        return np.triu_indices(k)[0]


STRUCTURES: dict[str, Structure] = {structure.name: structure for structure in (Unstructured(),)}


def column_signs(factor: np.ndarray) -> np.ndarray:
    """The +-1 per column (k,) that makes the diagonal of a factor Lambda non-negative.

    Changing a column's sign with that of its spherical effect leaves the model as it is; a column
    whose diagonal is zero goes by its first entry that is not.
    """
    leading = [column[np.flatnonzero(column)[:1]] for column in factor.T]
    return np.array([-1.0 if len(first) and first[0] < 0 else 1.0 for first in leading])
