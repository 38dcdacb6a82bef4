"""Where arrays are: the rows of a problem divided among devices, and memory given back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixedlm_jax.arrays import Array
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.problem import Problem

AXIS = "rows"  # the name of the mesh's only axis

_Some = TypeVar("_Some", bound=Problem)


def shard_rows(problem: _Some, devices: Sequence[jax.Device] | None = None) -> _Some:
    """The problem with its rows divided among devices.

    Each device holds an equal run of rows of every array that has an axis of rows, and the whole of
    all others (levels, parameters). What is computed from it stays divided or whole in the same
    way: sums over rows are made where the rows are, and only their results, as long as there are
    levels or parameters, are exchanged.

    Parameters
    ----------
    problem
        Of n rows.
    devices
        By default all that JAX has.

    Raises
    ------
    ArgumentError
        Where n is no multiple of the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    n, number = problem.y.shape[0], len(devices)
    if n % number:
        raise ArgumentError(
            f"{n} rows cannot be divided evenly among {number} devices: add {-n % number} rows of "
            "weight 0 to the data, or take another number of devices"
        )
    mesh = Mesh(np.array(devices), (AXIS,))

    def place(leaf: Array) -> jax.Array:
        axes = [AXIS if size == n else None for size in np.shape(leaf)]
        first = axes.index(AXIS) if AXIS in axes else len(axes)
        spec = PartitionSpec(*axes[: first + 1])  # a square X has its rows first
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, problem)


def let_go() -> None:
    """Have memory freed that JAX had from NumPy, of arrays that are gone (`arrays.aligned_empty`).

    JAX itself does that with its next transfer, which may be that of the next fit.
    """
    jax.device_put(np.zeros(1))
