"""Sums over the rows of a problem, a block of rows after the other where there are very many.

All that a likelihood needs of its rows are sums: of the log-density, of the entries of H, of the
effects that the scores pull at, of the gradient. A block's rows fit into the processor's cache and
its intermediate arrays into memory that is at hand already, where those of all rows would each be
written to memory and read back. `Plan.blocks` says in how many blocks a problem's rows are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array
from mixedlm_jax.problem import Problem

_Part = Callable[[Problem, Any], tuple[Any, Any]]


def over_blocks(part_of: _Part, problem: Problem, rows: Any = ()) -> tuple[Any, Any]:
    """What all rows give together, from what `part_of` says that those of one block do.

    part_of: a function of a block's problem and of its part of `rows`, a pytree of arrays (..., n).
    It returns two pytrees: arrays that are summed over the blocks, and arrays (..., rows of the
    block) that are put together to arrays (..., n). Either may be empty.
    """
    count = problem.plan.blocks
    if count <= 1:
        return part_of(problem, rows)
    size = len(problem.y) // count

    def block(i: Array) -> tuple[Any, Any]:
        def cut(values: Array, axis: int = -1) -> Array:
            return jax.lax.dynamic_slice_in_dim(values, i * size, size, axis)

        return part_of(_of_rows(problem, cut), jax.tree.map(cut, rows))

    def add(total: Any, i: Array) -> tuple[Any, Any]:
        sums, kept = block(i)
        return jax.tree.map(jnp.add, total, sums), kept

    sums, _ = jax.eval_shape(block, 0)
    nothing = jax.tree.map(lambda part: jnp.zeros(part.shape, part.dtype), sums)
    total, kept = jax.lax.scan(add, nothing, jnp.arange(count))
    return total, jax.tree.map(_in_one, kept)


def _of_rows(problem: Problem, cut: Callable[..., Array]) -> Problem:
    """The problem of some of the rows, as `cut` takes them along an axis (the last by default)."""
    return problem.replace(
        y=cut(problem.y),
        trials=cut(problem.trials),
        weights=cut(problem.weights),
        offset=cut(problem.offset),
        X=cut(problem.X, 0),
        Z=tuple(map(cut, problem.Z)),
        plan=replace(problem.plan, levels=tuple(map(cut, problem.plan.levels)), blocks=0),
        phi_matrices=tuple(
            None if matrix is None else cut(matrix, 0) for matrix in problem.phi_matrices
        ),
    )


def _in_one(kept: Array) -> Array:
    """What the blocks kept (blocks, ..., rows of one), as (..., n)."""
    return jnp.moveaxis(kept, 0, -2).reshape((*kept.shape[1:-1], -1))
