"""What the engine calls an array: NumPy's on the host, JAX's inside a compiled program."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any


def precise(tolerance: float, dtype: Any) -> float:
    """A tolerance meant for double precision, or the nearest that a coarser type can keep.

    That is 16 units in the last place, relative to 1: in single precision 2e-6.
    """
    return max(tolerance, 16.0 * float(np.finfo(dtype).eps))
