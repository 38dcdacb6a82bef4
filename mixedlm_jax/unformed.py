"""The corner of H where its Schur complement S is never formed: its products are those of lists.

    S x = P x - sum_c E_c' (E_c x),      E_c = L_c^-1 G_c,

P the corner of H and E_c the eliminated border of chain factor c. Solutions come of conjugate
gradients, log|S| of Lanczos quadrature with fixed probes (`krylov`), each exact to its tolerance
but for the probes' Monte Carlo error in the latter. With D = L L' the blocks of S of each level and
L^-1 S L^-T = I + E,

    log|S| = log|D| - |E|_F^2 / 2 + tr g(I + E)

with the trace as `krylov` estimates it. That is one smooth function of H, and its gradient stands
in for the selected inverse. The methods are those of `corner`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, combinations_with_replacement
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.krylov import (
    Quadratures,
    conjugate_gradients,
    lanczos,
    quadratures,
)
from mixedlm_jax.pattern import INDEX, Pairs
from mixedlm_jax.plan import Border, Plan
from mixedlm_jax.small import (
    apply,
    contract,
    cross,
    gram,
    plus_identity,
    small_cholesky,
    solve_lower,
    solve_upper,
    sum_by,
)

# Steps of Lanczos' process that a negative eigenvalue has to show itself in.
_DEFINITE_STEPS = 12
# Residuals of solutions with an S that is not formed, relative to the right-hand side.
_TOLERANCE = 1e-11
_ROUGH = 1e-6


class SparseCorner(NamedTuple):
    """The corner on its pattern: of H, or what stands in for that of its inverse.

    own: the block of each level, per kept factor (k, k, levels). cells: per pair of kept factors
    (k, l, cells).
    """

    own: tuple[Array, ...]
    cells: tuple[Array, ...]

    @classmethod
    def of_rows(cls, plan: Plan, z: tuple[Array, ...], w: Array) -> SparseCorner:
        """What the rows add to the corner of H; z those of Z Lambda, w their weights."""
        totals = [partial(sum_by, index=plan.levels[s], size=plan.n_levels[s]) for s in plan.kept]
        own = tuple(
            gram(z[s], z[s] * w[None, :], total) for s, total in zip(plan.kept, totals, strict=True)
        )
        cells = tuple(
            sum_by(cross(z[s] * w[None, :], z[t]), cell.of_row, len(cell.first))
            for (s, t), cell in zip(combinations(plan.kept, 2), plan.unformed.cells, strict=True)
        )
        return cls(own, cells)

    def plus_identity(self) -> SparseCorner:
        """The corner with the identity added."""
        return self._replace(own=tuple(map(plus_identity, self.own)))

    def eliminated(self, plan: Plan, edges: tuple[Array, ...]) -> SparseFactor:
        """What S is known by. edges: E_c per chain factor."""
        blocks = list(self.own)
        for edge, (_, border) in zip(edges, plan.borders, strict=True):
            for i, part in enumerate(_edges_of(plan, border, edge)):
                other = _others(plan, border, i)
                blocks[i] = blocks[i] - sum_by(contract(part, part), other, blocks[i].shape[2])
        return SparseFactor(plan, self, edges, tuple(small_cholesky(block) for block in blocks))

    def level_blocks(self, plan: Plan) -> list[Array]:
        """The block of each level, per kept factor (k, k, levels)."""
        return list(self.own)

    def row_products(self, plan: Plan, z: tuple[Array, ...]) -> list[Array]:
        """The corner times each row's part in it, on the row's own levels, per kept factor."""
        products = [
            apply(block[:, :, plan.levels[s]], z[s])
            for block, s in zip(self.own, plan.kept, strict=True)
        ]
        for (i, j), cell, block in self._pairs(plan):
            here = block[:, :, cell.of_row]
            products[i] += apply(here, z[plan.kept[j]])
            products[j] += apply(jnp.swapaxes(here, 0, 1), z[plan.kept[i]])
        return products

    def times(self, plan: Plan, x: Array) -> Array:
        """P x (columns,)."""
        parts = _parts(plan, x)
        products = [apply(block, part) for block, part in zip(self.own, parts, strict=True)]
        for (i, j), cell, block in self._pairs(plan):
            there = apply(block, parts[j][:, cell.second])
            back = apply(jnp.swapaxes(block, 0, 1), parts[i][:, cell.first])
            products[i] += sum_by(there, cell.first, products[i].shape[1])
            products[j] += sum_by(back, cell.second, products[j].shape[1])
        return jnp.concatenate([part.ravel() for part in products])

    def form(self, plan: Plan, x: Array) -> Array:
        """x' P x."""
        parts = _parts(plan, x)
        total = sum(jnp.sum(block * cross(p, p)) for block, p in zip(self.own, parts, strict=True))
        for (i, j), cell, block in self._pairs(plan):
            total += 2.0 * jnp.sum(block * cross(parts[i][:, cell.first], parts[j][:, cell.second]))
        return total

    def _pairs(self, plan):
        positions = combinations(range(len(plan.kept)), 2)
        return zip(positions, plan.unformed.cells, self.cells, strict=True)


def _parts(plan: Plan, x: Array) -> list[Array]:
    """A vector of columns of S as effects, per kept factor (k, levels)."""
    return [
        x[start:stop].reshape((plan.n_effects[s], plan.n_levels[s]))
        for s, start, stop in zip(plan.kept, plan.offsets, plan.offsets[1:], strict=False)
    ]


def _edges_of(plan: Plan, border: Border, edge: Array) -> list[Array]:
    """The border of a chain factor as blocks, per kept factor (k_c, k_s, pairs)."""
    blocks = []
    for s, base, m in zip(plan.kept, border.base, border.n_pairs, strict=True):
        k = plan.n_effects[s]
        blocks.append(edge[:, base : base + k * m].reshape((-1, k, m)))
    return blocks


# One row at a time: XLA gathers from, and adds up, vectors several times as fast as matrices.


def _times_border(border: Border, edge: Array, x: Array, n_levels: int) -> list[Array]:
    """E_c x as its k rows, each (levels,)."""
    entries = x[border.column]
    return [sum_by(row * entries, border.level, n_levels) for row in edge]


def _product_sums(first: Array, second: Array, pairs: Pairs, size: int) -> Array:
    """Sums of a' b over the pairs with one target; a, b blocks (k_c, k, m), (k_c, l, m)."""

    def summed(i: int, j: int) -> Array:
        products = sum(
            a[i][pairs.first] * b[j][pairs.second] for a, b in zip(first, second, strict=True)
        )
        return sum_by(products, pairs.target, size)

    k, m = first.shape[1], second.shape[1]
    return jnp.stack([jnp.stack([summed(i, j) for j in range(m)]) for i in range(k)])


def _others(plan: Plan, border: Border, i: int) -> Array:
    """The level of the i-th kept factor of each of a border's pairs with it."""
    base, m = border.base[i], border.n_pairs[i]
    return border.column[base : base + m] - INDEX(plan.offsets[i])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SparseFactor:
    """S by its products: P, E_c per chain factor (k, entries), and the blocks of S of each level.

    roots: their Cholesky factors L, per kept factor (k, k, levels).
    """

    plan: Plan
    block: SparseCorner
    edges: tuple[Array, ...]
    roots: tuple[Array, ...]

    def multiply(self, x: Array) -> Array:
        """S x (columns,)."""
        plan, product = self.plan, self.block.times(self.plan, x)
        for edge, (f, border) in zip(self.edges, plan.borders, strict=True):
            inner = _times_border(border, edge, x, plan.n_levels[f])
            outer = sum(row * part[border.level] for row, part in zip(edge, inner, strict=True))
            product -= sum_by(outer, border.column, plan.n_columns)
        return product

    def form(self, x: Array) -> Array:
        """x' S x."""
        plan, total = self.plan, self.block.form(self.plan, x)
        for edge, (f, border) in zip(self.edges, plan.borders, strict=True):
            for inner in _times_border(border, edge, x, plan.n_levels[f]):
                total -= jnp.sum(inner**2)
        return total

    def _unscaled(self, x: Array) -> Array:
        """L^-T x."""
        return self._by_level(solve_upper, x)

    def _by_level(self, solve: Callable[[Array, Array], Array], x: Array) -> Array:
        parts = zip(self.roots, _parts(self.plan, x), strict=True)
        return jnp.concatenate([solve(root, part[:, None, :]).ravel() for root, part in parts])

    def scaled(self, x: Array) -> Array:
        """(I + E) x = L^-1 S L^-T x."""
        return self._by_level(solve_lower, self.multiply(self._unscaled(x)))

    def solve(self, rhs: Array, *, rough: bool = False) -> Array:
        """S^-1 rhs (columns,), rough for a step that others correct."""

        def precondition(x: Array) -> Array:
            return self._unscaled(self._by_level(solve_lower, x))

        tolerance = _ROUGH if rough else _TOLERANCE
        return conjugate_gradients(self.multiply, precondition, rhs, tolerance)

    def quadratures(self) -> Quadratures:
        """What the exact vectors and the probes say of log|I + E|."""
        lists, dtype = self.plan.unformed, self.roots[0].dtype
        starts = jnp.concatenate([lists.exact, lists.probes]).astype(dtype)
        return quadratures(self.scaled, starts, second_order_known=lists.patterns is not None)

    def log_determinant(self) -> Array:
        """log|S|."""
        return self._known() + self._shares @ self.quadratures().value

    def log_determinant_error(self) -> Array:
        """Monte Carlo standard error of `log_determinant`."""
        value = self.quadratures().value[len(self.plan.unformed.exact) :]
        return jnp.std(value, ddof=1) / jnp.sqrt(float(len(value)))

    @property
    def _shares(self) -> Array:
        """What each vector of `quadratures` counts in a trace: a mean over the probes."""
        n_exact, n_probes = len(self.plan.unformed.exact), len(self.plan.unformed.probes)
        shares = np.repeat([1.0, 1.0 / n_probes], [n_exact, n_probes])
        return jnp.asarray(shares, self.roots[0].dtype)

    def linearised(self, at: SparseFactor, found: Quadratures) -> tuple[Array, Array]:
        """A scalar with the gradient of `log_determinant` in all that S is made of, and log|S|.

        at, found: the factor at the point, and its quadratures, which are held fixed. With
        A = L^-1 S L^-T and x = L^-T y,  y' dA y = x' dS x - 2 x' dL (A y).
        """
        roots, found = first_order_only((at.roots, found))
        fixed = replace(at, roots=roots)
        y = found.vector.reshape((-1, found.vector.shape[-1]))
        images = found.image.reshape(y.shape)
        weight = (found.weight * self._shares[:, None]).ravel()
        x = jax.vmap(fixed._unscaled)(y)
        total = weight @ jax.lax.map(jax.checkpoint(self.form), x)
        for root, here, there in zip(
            self.roots, _lanes(self.plan, x), _lanes(self.plan, images), strict=True
        ):
            total -= 2.0 * jnp.sum(root * jnp.einsum("a,ail,ajl->ijl", weight, here, there))
        known = self._known()
        return known + total, known + self._shares @ found.value

    def _known(self) -> Array:
        """The part of log|S| that needs no probes: log|D| - |E|_F^2 / 2, or log|D|."""
        logs = [jnp.sum(jnp.log(root[j, j])) for root in self.roots for j in range(len(root))]
        total = 2.0 * sum(logs[1:], logs[0])
        plan = self.plan
        if plan.unformed.patterns is None:
            return total
        edges = [
            [
                self._scaled_columns(i, _others(plan, border, i), part)
                for i, part in enumerate(_edges_of(plan, border, edge))
            ]
            for edge, (_, border) in zip(self.edges, plan.borders, strict=True)
        ]
        cells = iter(zip(plan.unformed.cells, self.block.cells, strict=True))
        two = combinations_with_replacement(range(len(plan.kept)), 2)
        for (s, t), pattern in zip(two, plan.unformed.patterns, strict=True):
            size = len(pattern.a)
            blocks = jnp.zeros((len(self.roots[s]), len(self.roots[t]), size), total.dtype)
            if pattern.cells is not None:
                cell, block = next(cells)
                turned = jnp.swapaxes(self._scaled_columns(t, cell.second, block), 0, 1)
                block = jnp.swapaxes(self._scaled_columns(s, cell.first, turned), 0, 1)
                blocks = blocks.at[:, :, pattern.cells].add(block)
            for pairs, parts in zip(pattern.products, edges, strict=True):
                blocks = blocks - _product_sums(parts[s], parts[t], pairs, size)
            # |E|_F^2 has each block twice
            total -= jnp.sum(blocks**2)
        return total

    def _scaled_columns(self, i: int, level: Array, blocks: Array) -> Array:
        """Blocks (l, k, m), whose columns are effects of a level of the i-th kept factor, L^-T."""
        turned = solve_lower(self.roots[i][:, :, level], jnp.swapaxes(blocks, 0, 1))
        return jnp.swapaxes(turned, 0, 1)

    def definite(self) -> Array:
        """Whether S is positive definite, as far as its extreme Ritz values show."""
        start = self.plan.unformed.probes[0].astype(self.roots[0].dtype)
        found = lanczos(self.scaled, start, min(_DEFINITE_STEPS, len(start)))
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(root)) for root in self.roots]))
        return finite & (jnp.linalg.eigvalsh(found.matrix)[0] > 0.0)


def _lanes(plan: Plan, vectors: Array) -> list[Array]:
    """Vectors (m, columns) as effects, per kept factor (m, k, levels)."""
    return [
        vectors[:, start:stop].reshape((len(vectors), plan.n_effects[s], plan.n_levels[s]))
        for s, start, stop in zip(plan.kept, plan.offsets, plan.offsets[1:], strict=False)
    ]


@jax.custom_jvp
def first_order_only(values):
    """The values themselves; `ArgumentError` where they are differentiated."""
    return values


@first_order_only.defjvp
def _first_order_only_jvp(primals, tangents):
    raise ArgumentError(
        "the Laplace log-likelihood of a crossed design with an S that is not formed has no second "
        "derivative by autodiff; take differences of its gradient, or give the design a larger "
        "max_corner"
    )
