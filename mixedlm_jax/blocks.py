"""Sums over the rows of a problem, a block of rows after the other where there are very many.

What the modes, the gradient and the Hessian of Laplace's approximation need of the rows are sums:
of the log-density, of the entries of H, of the effects that the scores pull at. A block's rows fit
into the processor's cache and its intermediate arrays into memory that is at hand already, where
those of all rows would each be written to memory and read back. `Plan.blocks` says in how many
blocks the rows are taken; `laplace` itself and quadrature take all of them at once. Where the rows
stand in the order of the levels of the largest factor, a block knows only a window of these levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array
from mixedlm_jax.plan import Window
from mixedlm_jax.problem import Problem


def over_blocks(
    of_block: Callable[[Problem, Any], tuple[Any, Any]], problem: Problem, rows: Any = ()
) -> tuple[Any, Any]:
    """What all rows give together, from what `of_block` says that those of one block do.

    of_block: a function of a block's problem and of its part of `rows`, a pytree of arrays
    (..., n). It returns two pytrees: arrays that are summed over the blocks, and arrays (..., rows
    of the block) that are put together to arrays (..., n). Either may be empty. It asks for levels
    by `elimination.of_rows` and `of_levels` alone, which know of the window.
    problem: its plan is one of `plan.in_blocks` or has no blocks: in a block nothing crosses, and
    rows are in no rounds.
    """
    plan = problem.plan
    if plan.blocks <= 1:
        return of_block(problem, rows)
    size = len(problem.y) // plan.blocks

    def block(i: Array, window: Window | None) -> tuple[Any, Any]:
        def cut(values: Array, axis: int) -> Array:
            return jax.lax.dynamic_slice_in_dim(values, i * size, size, axis)

        levels = [cut(of_row, 0) for of_row in plan.levels]
        if window is not None:
            levels[plan.chain[0]] -= window.first
        own = replace(plan, levels=tuple(levels), blocks=0, block_windows=None, window=window)
        part = problem.with_rows(cut, own)
        return of_block(part, jax.tree.map(lambda values: cut(values, -1), rows))

    def add(total: Any, at: tuple[Array, Window | None]) -> tuple[Any, Any]:
        i, window = at
        sums, kept = block(i, window)
        return jax.tree.map(lambda whole, part: _plus(whole, part, window), total, sums), kept

    sums, _ = jax.eval_shape(lambda: block(jnp.zeros((), int), None))  # as long as all levels
    nothing = jax.tree.map(lambda part: jnp.zeros(part.shape, part.dtype), sums)
    total, kept = jax.lax.scan(add, nothing, (jnp.arange(plan.blocks), plan.block_windows))
    return total, jax.tree.map(_joined, kept)


def _plus(total: Array, part: Array, window: Window | None) -> Array:
    """The total with a block's part of it, which may be that of a window of levels (..., width)."""
    if window is None or part.shape == total.shape:
        return total + part
    here = jax.lax.dynamic_slice_in_dim(total, window.first, window.width, -1)
    return jax.lax.dynamic_update_slice_in_dim(total, here + part, window.first, -1)


def sum_over_blocks(
    of_block: Callable[[Problem, Any], Any], problem: Problem, rows: Any = ()
) -> Any:
    """The sums of `over_blocks`, where nothing is put together."""
    return over_blocks(lambda block, own: (of_block(block, own), ()), problem, rows)[0]


def _joined(kept: Array) -> Array:
    """What the blocks kept (blocks, ..., rows of one), as (..., n)."""
    return jnp.moveaxis(kept, 0, -2).reshape((*kept.shape[1:-1], -1))
