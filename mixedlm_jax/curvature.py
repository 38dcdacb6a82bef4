"""The curvature at a point: eigenvalues of a Hessian in which every parameter has its own unit.

NumPy from NumPy, JAX from JAX, where nothing here looks at a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mixedlm_jax.arrays import Array, precise


@dataclass(frozen=True)
class Curvature:
    """Eigenvalues of the Hessian scaled to a unit diagonal, and what follows from them."""

    scale: Array  # (d,) the diagonal scaling
    values: Array  # (d,) eigenvalues, ascending
    vectors: Array

    @classmethod
    def of(cls, hessian: Array) -> Curvature:
        """Decompose a symmetric matrix with finite entries."""
        xp = hessian.__array_namespace__()
        # each parameter in its own unit, however small or large that makes its curvature
        diagonal = xp.abs(xp.diagonal(hessian))
        scale = 1.0 / xp.sqrt(xp.where(diagonal > 0, diagonal, 1.0))
        values, vectors = xp.linalg.eigh(hessian * scale[:, None] * scale[None, :])
        return cls(scale, values, vectors)

    @property
    def _xp(self) -> Any:
        return self.values.__array_namespace__()

    @property
    def indefinite(self) -> Any:
        """Whether the function goes down along some direction (bool)."""
        if not len(self.values):
            return False
        return self.values[0] < -precise(1e-8, self.values.dtype) * self.values[-1]

    @property
    def condition(self) -> Any:
        """Largest over smallest eigenvalue (inf where that is not positive)."""
        if not len(self.values):
            return 1.0
        positive = self.values[0] > 0
        smallest = self._xp.where(positive, self.values[0], 1.0)
        return self._xp.where(positive, self.values[-1] / smallest, np.inf)

    def inverse(self) -> Array:
        """Inverse; a direction that is flat to rounding has an enormous variance, not none."""
        floor = np.finfo(self.values.dtype).eps * self._xp.abs(self.values).max(initial=0.0)
        return self._rebuild(1.0 / self._xp.maximum(self.values, self._xp.maximum(floor, 1e-300)))

    def pseudo_inverse(self) -> Array:
        """Inverse on the directions that are curved to ten digits, 0 on the others."""
        least = precise(1e-10, self.values.dtype) * self.values.max(initial=0.0)
        curved = self.values > least
        where = self._xp.where
        return self._rebuild(where(curved, 1.0 / where(curved, self.values, 1.0), 0.0))

    def metric(self) -> Array:
        """A positive definite inverse to step with: negative curvature counts by its size."""
        size = self._xp.abs(self.values)
        return self._rebuild(1.0 / self._xp.maximum(size, 1e-6 * size.max(initial=0.0)))

    def _rebuild(self, values: Array) -> Array:
        root = self.scale[:, None] * self.vectors
        return (root * values[None, :]) @ root.T
