"""What the engine calls an array: NumPy's on the host, JAX's inside a compiled program."""

from __future__ import annotations

from typing import Any, TypeAlias

Array: TypeAlias = Any
