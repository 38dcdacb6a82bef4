"""Coordinates in which one quantity of a model is held while all others move.

A chart writes the searched parameters x (d,) as a smooth function of w, a monotone function of the
quantity, and of d - 1 free numbers tau. A fixed effect or a dispersion parameter is a coordinate of
x already. So is the standard deviation of the first effect of a term, the first entry of Lambda: an
effect that is not the first is made so by exchanging rows of Z, which leaves the model as it is.
The correlation of the first two is the sine of an angle, (Lambda_21, Lambda_22) = s (sin w, cos w).
A standard deviation of 0 and a correlation of +-1 are points like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.compiled import program
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.dispersion import phi_parameters
from mixedlm_jax.fit import conditioned
from mixedlm_jax.inference.point import Point
from mixedlm_jax.objective import Objective
from mixedlm_jax.optimize import Search, begin
from mixedlm_jax.problem import Problem, zero_effects
from mixedlm_jax.programs import evaluated, hessian_at


class Quantity(NamedTuple):
    """What is held: kind "sd" (effect i of a term), "cor" (effects i > j), "phi" or "fixed" (i)."""

    kind: str
    i: int
    j: int = -1
    term: int = -1


@dataclass(frozen=True, eq=False)
class Ground:
    """A problem in coordinates that suit one quantity, and its optimum there.

    here: the optimum evaluated. hessian: of -log L in x, (d, d). lift: where a standard deviation
    on its boundary starts from when it might leave it, 0 for all other coordinates (d,).
    """

    objective: Objective
    problem: Problem
    here: Search
    hessian: np.ndarray
    lift: np.ndarray

    def at(self, x: np.ndarray, aux: Any) -> Search:
        """Value, gradient and modes at x; the value is inf where it is not finite."""
        return evaluated(self.objective, self.problem, begin(x, aux, np.zeros((len(x),) * 2)))


@dataclass(frozen=True)
class Chart:
    """x as a function of (tau, w).

    low, high: bounds of w, at which the likelihood is even in it (a fold) where they are finite.
    natural: the quantity at w. index: the coordinate of x that is no part of tau. pair: for a
    correlation the places of Lambda_21 and Lambda_22, the second being `index`. unit: for a
    standard deviation what x is relative to, as a function of phi with its gradient; `logarithmic`
    where x and w are logarithms.
    """

    index: int
    natural: Callable[[float], float]
    low: float = -np.inf
    high: float = np.inf
    pair: tuple[int, int] | None = None
    unit: Callable[[np.ndarray], tuple[float, np.ndarray]] | None = None
    n_phi: int = 0
    logarithmic: bool = False

    @property
    def even(self) -> bool:
        """Whether w and -w stand for one value of the quantity."""
        return self.natural(1.0) == self.natural(-1.0)

    def place(self, tau: np.ndarray, w: float) -> np.ndarray:
        """x (d,)."""
        x = np.insert(tau, self.index, w)
        if self.pair is not None:
            a, b = self.pair
            x[a], x[b] = x[a] * np.sin(w), x[a] * np.cos(w)
        elif self.unit is not None:
            scale, _ = self.unit(x[len(x) - self.n_phi :])
            x[self.index] = w - np.log(scale) if self.logarithmic else w / scale
        return x

    def split(self, x: np.ndarray) -> tuple[np.ndarray, float]:
        """The inverse of `place`."""
        tau, w = np.delete(x, self.index), float(x[self.index])
        if self.pair is not None:
            a, b = self.pair
            tau[a], w = np.hypot(x[a], x[b]), float(np.arctan2(x[a], x[b]))
        elif self.unit is not None:
            scale, _ = self.unit(x[len(x) - self.n_phi :])
            w = w + float(np.log(scale)) if self.logarithmic else w * scale
        return tau, w

    def slopes(self, tau: np.ndarray, w: float) -> np.ndarray:
        """Jacobian of x in (tau, w), w last (d, d)."""
        d = len(tau) + 1
        jacobian = np.zeros((d, d))
        jacobian[np.arange(d) != self.index, :-1] = np.eye(d - 1)
        jacobian[self.index, -1] = 1.0
        if self.pair is not None:
            a, b = self.pair
            sine, cosine = np.sin(w), np.cos(w)
            jacobian[a, a], jacobian[b, a] = sine, cosine
            jacobian[a, -1], jacobian[b, -1] = tau[a] * cosine, -tau[a] * sine
        elif self.unit is not None:
            scale, gradient = self.unit(tau[d - 1 - self.n_phi :])
            slope, along = 1.0 / scale, -w / scale**2
            if self.logarithmic:
                slope, along = 1.0, -1.0 / scale
            jacobian[self.index, -1] = slope
            jacobian[self.index, d - 1 - self.n_phi : d - 1] = along * gradient
        return jacobian


class Survey:
    """The grounds and charts of a fit's quantities; grounds that several share are made once."""

    def __init__(self, objective: Objective, point: Point) -> None:
        self._objective, self._point = objective, point
        self._problem = jax.device_put(point.problem)
        self._collinear = conditioned(point.problem)[0] is not point.problem
        self._ground = cache(self._make_ground)

    def of(self, quantity: Quantity) -> tuple[Ground, Chart]:
        """Where a quantity is held, and how."""
        problem = self._point.problem
        q, p, r = problem.n_theta, problem.X.shape[1], problem.n_phi
        if quantity.kind == "fixed":
            last = quantity.i if self._collinear else None
            ground, back = self._ground(None, (), last)
            if last is None:
                return ground, Chart(q + quantity.i, float)
            factor = float(back[-1, -1])
            return ground, Chart(q + p - 1, lambda w: factor * w)
        if quantity.kind == "phi":
            parameter = phi_parameters(problem.family, problem.phi_matrices)[quantity.i]
            natural = float if parameter is None else lambda w: float(parameter.value(w))
            return self._ground(None, (), None)[0], Chart(q + p + quantity.i, natural)
        return self._of_component(quantity, r)

    def _of_component(self, quantity: Quantity, n_phi: int) -> tuple[Ground, Chart]:
        problem, (_, i, j, number) = self._point.problem, quantity
        term, first = problem.terms[number], problem.theta_slices[number].start
        k = len(term.columns)
        held = STRUCTURES[term.structure].held(k, i, j)
        order: tuple[int, ...] = ()
        if held.first and k > 1:
            front = [i] if quantity.kind == "sd" else [j, i]
            order = (*front, *(e for e in range(k) if e not in front))
        ground, _ = self._ground(number, order, None) if order else self._ground(None, (), None)
        if quantity.kind == "cor":
            if held.pair is None:
                return ground, Chart(first + held.place, held.natural)
            a, b = (first + place for place in held.pair)
            half = 0.5 * np.pi
            return ground, Chart(b, lambda w: float(np.sin(w)), -half, half, pair=(a, b))
        chart = Chart(
            first + held.place,
            held.natural,
            low=-np.inf if held.logarithmic else 0.0,
            unit=lambda phi: _unit(self._problem, phi),
            n_phi=n_phi,
            logarithmic=held.logarithmic,
        )
        return ground, chart

    def _make_ground(
        self, number: int | None, order: tuple[int, ...], last: int | None
    ) -> tuple[Ground, np.ndarray]:
        """The fit with the effects of a term in another order, or with a column of X put last."""
        problem, params = self._problem, self._point.params
        theta, beta = np.array(params.theta), np.array(params.beta)
        if number is not None:
            problem, theta = _reordered(problem, theta, number, order)
        if last is not None:
            columns = [*(c for c in range(len(beta)) if c != last), last]
            problem, beta = problem.replace(X=np.asarray(problem.X)[:, columns]), beta[columns]
        back = np.eye(len(beta))
        if self._collinear:
            problem, back = conditioned(problem)
        problem = jax.device_put(problem)
        x = np.concatenate([theta, np.linalg.solve(back, beta), params.phi])
        start = begin(x, zero_effects(problem), np.zeros((len(x),) * 2))
        here = evaluated(self._objective, problem, start)
        hessian = hessian_at(self._objective, problem, here)
        return Ground(self._objective, problem, here, hessian, _lift(problem, params.phi)), back


def _reordered(
    problem: Problem, theta: np.ndarray, number: int, order: tuple[int, ...]
) -> tuple[Problem, np.ndarray]:
    """The problem with the effects of an unstructured term in another order, and its theta."""
    term, where = problem.terms[number], problem.theta_slices[number]
    columns = np.array(term.columns)
    Z = np.array(problem.Z[term.factor])
    Z[columns] = Z[columns[list(order)]]
    k = len(order)
    column, row = np.triu_indices(k)
    factor = np.zeros((k, k))
    factor[row, column] = theta[where]
    triangle = np.asarray(np.linalg.qr(factor[list(order)].T, mode="r")).T
    triangle *= np.where(np.diagonal(triangle) < 0.0, -1.0, 1.0)
    moved = theta.copy()
    moved[where] = triangle[row, column]
    parts = (*problem.Z[: term.factor], Z, *problem.Z[term.factor + 1 :])
    return problem.replace(Z=parts), moved


def _lift(problem: Problem, phi: np.ndarray) -> np.ndarray:
    """A tenth of the standard deviation that a search would start from, where it may be 0 (d,)."""
    lift = np.zeros(problem.n_theta + problem.X.shape[1] + problem.n_phi)
    unit = float(jnp.asarray(problem.effect_unit(phi) / problem.ranef_scale(phi)))
    for term, where in zip(problem.terms, problem.theta_slices, strict=True):
        structure, rms = STRUCTURES[term.structure], problem.effect_sizes(term)
        size = 0.1 * unit / np.where(rms > 0.0, rms, 1.0)
        bounded = structure.lower(len(rms)) == 0.0
        lift[where][bounded] = structure.start(size)[bounded]
    return lift


def _unit(problem: Problem, phi: np.ndarray) -> tuple[float, np.ndarray]:
    scale, gradient = _unit_slope(problem, phi)
    return float(scale), np.asarray(gradient)


@program()
def _unit_slope(problem: Problem, phi: Array) -> tuple[Array, Array]:
    """What theta is relative to, and its gradient."""

    def scale(point):
        return jnp.asarray(problem.ranef_scale(point), point.dtype)

    return jax.value_and_grad(scale)(phi)
