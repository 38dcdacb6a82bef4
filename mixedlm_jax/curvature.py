"""The curvature at a point: eigenvalues of a Hessian in which every parameter has its own unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curvature:
    """Eigenvalues of the Hessian scaled to a unit diagonal, and what follows from them."""

    scale: np.ndarray  # (d,) the diagonal scaling
    values: np.ndarray  # (d,) eigenvalues, ascending
    vectors: np.ndarray

    @classmethod
    def of(cls, hessian: np.ndarray) -> Curvature:
        """Decompose a symmetric matrix with finite entries."""
        # each parameter in its own unit, however small or large that makes its curvature
        diagonal = np.abs(np.diagonal(hessian))
        scale = 1.0 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        values, vectors = np.linalg.eigh(hessian * scale[:, None] * scale[None, :])
        return cls(scale, values, vectors)

    @property
    def indefinite(self) -> bool:
        """Whether the function goes down along some direction."""
        return bool(len(self.values) and self.values[0] < -1e-8 * self.values[-1])

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue (inf where that is not positive)."""
        if not len(self.values):
            return 1.0
        smallest = self.values[0]
        return float(self.values[-1] / smallest) if smallest > 0 else float("inf")

    def inverse(self) -> np.ndarray:
        """Inverse; a direction that is flat to rounding has an enormous variance, not none."""
        floor = np.finfo(float).eps * np.abs(self.values).max(initial=0.0)
        return self._rebuild(1.0 / np.maximum(self.values, max(floor, 1e-300)))

    def pseudo_inverse(self) -> np.ndarray:
        """Inverse on the directions that are curved to ten digits, 0 on the others."""
        curved = self.values > 1e-10 * self.values.max(initial=0.0)
        return self._rebuild(np.where(curved, 1.0 / np.where(curved, self.values, 1.0), 0.0))

    def metric(self) -> np.ndarray:
        """A positive definite inverse to step with: negative curvature counts by its size."""
        size = np.abs(self.values)
        return self._rebuild(1.0 / np.maximum(size, 1e-6 * size.max(initial=0.0)))

    def _rebuild(self, values: np.ndarray) -> np.ndarray:
        root = self.scale[:, None] * self.vectors
        return (root * values) @ root.T
