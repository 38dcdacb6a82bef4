"""Solutions and log-determinants of matrices that are known by their products alone.

Preconditioned conjugate gradients, and Gauss quadrature by Lanczos' process for
tr f(A), A = I + E symmetric positive definite with tr E = 0 (Ubaru, Chen and Saad 2017,
SIAM J. Matrix Anal. Appl. 38(4); for crossed random effects Kuendig and Sigrist 2025).

What of log(1 + e) = e - e^2/2 + e^3/3 - ... is known exactly is taken out first: tr E = 0, and
where tr E^2 = |E|_F^2 is computed too,

    log|I + E| = -|E|_F^2 / 2 + tr g(I + E),     g(a) = log a - (a - 1) + (a - 1)^2 / 2

and the trace of g, a third-order remainder, is estimated by the mean of z' g(A) z over fixed random
probes z. Directions in which E is known to be large are summed exactly, and left out of the probes
(Meyer, Musco, Musco and Woodruff 2021, Hutch++).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array

_MAX_ITERATIONS = 2000
_USELESS = 1e-5  # a residual this large after all iterations is no solution
_MAX_STEPS = 32  # of Lanczos' process
# Residual of A x = z in Lanczos' subspace, relative to z, at which the process stops.
_STEP_TOLERANCE = 1e-7
# Terms kept of the derivative of z' g(A) z in A, sum_k weight_k y_k y_k'.
_RANK = 4


def conjugate_gradients(
    multiply: Callable[[Array], Array],
    precondition: Callable[[Array], Array],
    rhs: Array,
    tolerance: float,
) -> Array:
    """A^-1 rhs (q,) of a positive definite A; nan where that did not converge.

    precondition: multiplies by an approximate inverse of A, positive definite too. tolerance: of
    the residual, relative to rhs in the norm of the preconditioner.
    """

    def unfinished(state: tuple) -> Array:
        _, _, _, rho, rounds = state
        return (rho > enough) & (rounds < _MAX_ITERATIONS)

    def advance(state: tuple) -> tuple:
        x, residual, direction, rho, rounds = state
        image = multiply(direction)
        step = rho / (direction @ image)
        x, residual = x + step * direction, residual - step * image
        scaled = precondition(residual)
        new = residual @ scaled
        return x, residual, scaled + (new / rho) * direction, new, rounds + 1

    scaled = precondition(rhs)
    size = rhs @ scaled
    tolerance = max(tolerance, 4.0 * float(jnp.finfo(rhs.dtype).eps))
    enough = tolerance**2 * size
    first = (jnp.zeros_like(rhs), rhs, scaled, size, jnp.zeros((), int))
    x, _, _, rho, _ = jax.lax.while_loop(unfinished, advance, first)
    return jnp.where(rho <= jnp.maximum(_USELESS**2 * size, enough), x, jnp.nan)


class Tridiagonal(NamedTuple):
    """Lanczos' process: A Q = Q T + (what the last entry of `beside` belongs to).

    Steps that were not taken leave a 1 in the diagonal, and nothing beside it.
    """

    diagonal: Array  # of T (steps,)
    beside: Array  # it (steps,)
    basis: Array  # Q' (steps + 1, q): orthonormal rows, or 0
    taken: Array  # the number of steps

    @property
    def within(self) -> Array:
        """What stands beside the diagonal of T (steps - 1,)."""
        inside = jnp.arange(1, len(self.diagonal)) < self.taken
        return jnp.where(inside, self.beside[:-1], 0.0)

    @property
    def matrix(self) -> Array:
        """T (steps, steps)."""
        return jnp.diag(self.diagonal) + jnp.diag(self.within, 1) + jnp.diag(self.within, -1)


class _Process(NamedTuple):
    found: Tridiagonal
    pivot: Array  # the last one of T = L D L'
    residual: Array  # of A x = start in the subspace, relative to start


def lanczos(multiply: Callable[[Array], Array], start: Array, steps: int) -> Tridiagonal:
    """At most so many steps of Lanczos' process from a vector (q,), fully reorthogonalised."""
    dtype = start.dtype
    tolerance = max(_STEP_TOLERANCE, 4.0 * float(jnp.finfo(dtype).eps))

    def unfinished(state: _Process) -> Array:
        return (state.residual > tolerance) & (state.found.taken < steps)

    def advance(state: _Process) -> _Process:
        found, j = state.found, state.found.taken
        own = found.basis[j]
        before = jnp.where(j > 0, found.beside[j - 1], 0.0)
        image = multiply(own)
        middle = own @ image
        rest = image - middle * own - before * found.basis[j - 1]
        rest = rest - (found.basis @ rest) @ found.basis
        size = jnp.linalg.norm(rest)
        pivot = middle - before**2 / state.pivot
        return _Process(
            found=Tridiagonal(
                found.diagonal.at[j].set(middle),
                found.beside.at[j].set(size),
                found.basis.at[j + 1].set(rest / jnp.where(size > 0.0, size, 1.0)),
                j + 1,
            ),
            pivot=pivot,
            # the last entry of T^-1 e_1 is a product of ratios of what L and D hold
            residual=state.residual * size / jnp.abs(pivot),
        )

    one = jnp.ones((), dtype)
    basis = jnp.zeros((steps + 1, len(start)), dtype).at[0].set(start / jnp.linalg.norm(start))
    nothing = Tridiagonal(
        jnp.ones(steps, dtype), jnp.zeros(steps, dtype), basis, jnp.zeros((), int)
    )
    return jax.lax.while_loop(unfinished, advance, _Process(nothing, one, one)).found


class Quadratures(NamedTuple):
    """z' g(A) z of each vector z, and its derivative in A.

    That derivative is sum_ab v_a v_b g[l_a, l_b] q_a q_b', with the Ritz pairs (l_a, q_a), the
    components v of z along them and g's divided differences: it is the derivative of the value for
    a fixed z (z' g'(A) z only has the same mean), and so an optimiser finds what it is promised.
    It is held by its largest eigenvectors, sum_k weight_k y_k y_k'.
    """

    value: Array  # (vectors,)
    weight: Array  # (vectors, rank)
    vector: Array  # y (vectors, rank, q)
    image: Array  # A y


def quadratures(
    multiply: Callable[[Array], Array], starts: Array, *, second_order_known: bool
) -> Quadratures:
    """Lanczos quadrature of z' g(A) z for each of the vectors (vectors, q).

    second_order_known: g(a) is log a - (a - 1) + (a - 1)^2 / 2, else log a - (a - 1).
    """
    steps = min(_MAX_STEPS, starts.shape[1])
    known = 0.5 if second_order_known else 0.0

    def of_vector(start: Array) -> Quadratures:
        found = lanczos(multiply, start, steps)
        size = start @ start
        ritz, vectors = jnp.linalg.eigh(found.matrix)
        gap, along = ritz - 1.0, vectors[0]
        value = size * jnp.sum(along**2 * (jnp.log(ritz) - gap + known * gap**2))
        slopes = _log_differences(ritz) - 1.0 + known * (gap[:, None] + gap[None, :])
        inside = vectors @ (along[:, None] * slopes * along[None, :]) @ vectors.T
        weight, parts = jnp.linalg.eigh(0.5 * size * (inside + inside.T))
        chosen = _largest(jnp.abs(weight), min(_RANK, steps))
        parts = parts[:, chosen]
        extended = jnp.pad(jnp.triu(found.matrix), ((0, 1), (0, 0)))
        extended = extended.at[jnp.arange(1, steps + 1), jnp.arange(steps)].add(found.beside)
        return Quadratures(
            value=value,
            weight=weight[chosen],
            vector=parts.T @ found.basis[:-1],
            image=(extended @ parts).T @ found.basis,
        )

    return jax.lax.map(of_vector, starts)


def _largest(sizes: Array, count: int) -> Array:
    """Where the `count` largest of a few sizes stand; a program that sorts could not be kept."""
    places = []
    for _ in range(count):
        places.append(jnp.argmax(sizes))
        sizes = sizes.at[places[-1]].set(-1.0)
    return jnp.stack(places)


def _log_differences(points: Array) -> Array:
    """Divided differences (log a - log b) / (a - b) of all pairs of points."""
    a, b = points[:, None], points[None, :]
    ratio = (a - b) / b
    safe = jnp.where(ratio == 0.0, 1.0, ratio)
    return jnp.where(ratio == 0.0, 1.0, jnp.log1p(safe) / safe) / b
