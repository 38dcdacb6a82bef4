"""What the engine calls an array: NumPy's on the host, JAX's inside a compiled program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any

# JAX on a processor takes an array that begins at a multiple of so many bytes as its own.
_ALIGNMENT = 64


def aligned_empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An empty NumPy array that `jax.device_put` on a processor does not copy.

    It must not be written to once it is placed.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def precise(tolerance: float, dtype: Any) -> float:
    """A tolerance meant for double precision, or the nearest that a coarser type can keep.

    That is 16 units in the last place, relative to 1: in single precision 2e-6.
    """
    return max(tolerance, 16.0 * float(np.finfo(dtype).eps))
