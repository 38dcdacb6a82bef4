"""Profile likelihood of one quantity: all other parameters maximised while it is held.

    zeta(v) = sign(v - v_hat) sqrt(2 (log L_hat - max_{v held} log L))

is a standard normal pivot to first order (Bates and Watts 1988, ch. 6). Each point is a search in
the other coordinates of a `Chart`, by quasi-Newton steps with the exact gradient, from where the
last points lead and with the metric they left. Its slope comes with it: the derivative of the
maximum is the derivative along w alone, d(-log L)/dw at fixed tau, so that zeta' = that / zeta, and
limits are found by Hermite interpolation in very few points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mixedlm_jax.curvature import Curvature
from mixedlm_jax.errors import FitError
from mixedlm_jax.inference.charts import Chart, Ground

# Log-likelihood units that a step may still promise at a point of the curve, and beyond which the
# point counts as not found; and by how much a limit may miss its zeta.
_SETTLED = 1e-9
_FAILED = 1e-4
_CLOSE = 2e-6
# A likelihood higher than the fit's by more says that the fit is not at its optimum.
_HIGHER = 1e-5
_MAX_EVALUATIONS = 80
_MAX_POINTS = 40
_SUFFICIENT = 1e-4  # Armijo's fraction of the predicted decrease
_SLACK = 1e-11  # rounding of the objective, relative to its size


@dataclass(frozen=True)
class Spot:
    """A point of the curve. zeta: without its sign. slope: d zeta / d w away from the estimate."""

    w: float
    zeta: float
    slope: float
    tau: np.ndarray
    aux: Any
    metric: np.ndarray


@dataclass(frozen=True)
class Limit:
    """Where zeta reaches a value: w, and whether that is a bound where it is not yet reached.

    at_bound: zeta there, without its sign; None where the limit is inside. w is nan where the
    search failed, infinite where the likelihood never falls so far.
    """

    w: float
    at_bound: float | None = None


class Curve:
    """The profile of one quantity, point by point on either side of its estimate."""

    def __init__(self, ground: Ground, chart: Chart) -> None:
        self._ground, self._chart = ground, chart
        self.evaluations = 0
        x = np.asarray(ground.here.x)
        tau, w = chart.split(x)
        slopes = chart.slopes(tau, w)
        hessian = slopes.T @ ground.hessian @ slopes
        free, cross = hessian[:-1, :-1], hessian[:-1, -1]
        metric = Curvature.of(free).metric() if np.all(np.isfinite(free)) else np.eye(len(tau))
        own = slopes.T @ np.asarray(ground.here.gradient)
        gain = 0.5 * float(own[:-1] @ metric @ own[:-1])
        if gain > _HIGHER:
            raise _above(gain)
        self._drift = -metric @ cross  # d tau / d w at the estimate
        curvature = float(hessian[-1, -1] + cross @ self._drift)
        self._step = 1.0 / np.sqrt(curvature) if curvature > 0.0 else np.inf
        self._lift = np.delete(ground.lift, chart.index)
        self.top = Spot(w, 0.0, 1.0 / self._step, tau, ground.here.aux, metric)
        self.spots: dict[int, list[Spot]] = {-1: [], 1: []}

    @property
    def points(self) -> list[tuple[float, float]]:
        """The quantity and its signed zeta at all points, in order of w."""
        found = [(self.top.w, 0.0)]
        found += [(spot.w, side * spot.zeta) for side in (-1, 1) for spot in self.spots[side]]
        return [(self._chart.natural(w), zeta) for w, zeta in sorted(found)]

    def interval(self, lower: Limit, upper: Limit) -> tuple[float, float]:
        """The quantity between two limits."""
        ends = sorted(self._chart.natural(limit.w) for limit in (lower, upper))
        if lower.w < 0.0 < upper.w and self._chart.even:
            ends[0] = self._chart.natural(0.0)
        return ends[0], ends[1]

    def limit(self, side: int, target: float) -> Limit:
        """Where zeta is `target` below (-1) or above (1) the estimate."""
        bound = self._bound(side)
        if side * (bound - self.top.w) <= 0.0:
            return Limit(bound, at_bound=0.0)
        for _ in range(_MAX_POINTS):
            inner, outer = self._around(side, target)
            spot = outer if outer is not None and outer.zeta - target < _CLOSE else inner
            if abs(spot.zeta - target) < _CLOSE:
                return Limit(spot.w)
            if outer is None and inner.w == bound:
                return Limit(bound, at_bound=inner.zeta)
            w = self._next(side, target, inner, outer)
            if not np.isfinite(w):
                return Limit(side * np.inf)
            if abs(w - inner.w) < 1e-12 * (1.0 + abs(w)):  # as near as w can tell
                return Limit(w)
            if self._settle(side, w) is None:
                return Limit(np.nan)
        return Limit(np.nan)

    def march(self, side: int, target: float, steps: int) -> None:
        """Points from the estimate to where zeta is `target`, at about equal steps of zeta."""
        self.limit(side, target)
        reached = max([target * 1e-3, *(spot.zeta for spot in self.spots[side])])
        for zeta in np.linspace(0.0, reached, steps + 1)[1:-1]:
            inner, outer = self._around(side, float(zeta))
            if outer is None or min(zeta - inner.zeta, outer.zeta - zeta) < 0.25 * reached / steps:
                continue
            self._settle(side, self._next(side, float(zeta), inner, outer))

    def _bound(self, side: int) -> float:
        return self._chart.high if side > 0 else self._chart.low

    def _around(self, side: int, target: float) -> tuple[Spot, Spot | None]:
        """The last point below a zeta and the first one at or above it."""
        inner: Spot = self.top
        for spot in self.spots[side]:
            if spot.zeta >= target:
                return inner, spot
            inner = spot
        return inner, None

    def _next(self, side: int, target: float, inner: Spot, outer: Spot | None) -> float:
        """Where to look for a zeta: Newton's step from inside, or within a bracket."""
        bound = self._bound(side)
        if outer is not None:
            return _crossing(inner, outer, target, side)
        travelled = abs(inner.w - self.top.w)
        step = (target - inner.zeta) / inner.slope if inner.slope > 0.0 else np.inf
        if not np.isfinite(step) or not travelled:
            step = min(step, target * self._first_step(side))
        if travelled:
            step = float(np.clip(step, 0.1 * travelled, 2.0 * travelled))
        w = inner.w + side * step
        if side * (w - bound) > -0.1 * step:  # a bound that is near is looked at
            return bound
        # a logarithm or logit that has gone so far goes on for ever
        return w if abs(w - self.top.w) < 1e8 * self._first_step(side) else side * np.inf

    def _first_step(self, side: int) -> float:
        """About one unit of zeta in w."""
        if np.isfinite(self._step):
            return self._step
        scale = self._ground.lift[self._chart.index]
        return 10.0 * float(scale) if scale > 0.0 else 1.0

    def _settle(self, side: int, w: float) -> Spot | None:
        """The point of the curve at w; None where the search for it fails."""
        chart, ground = self._chart, self._ground
        near = self._neighbours(side, w)
        last = near[0]
        tau = last.tau + self._direction(near) * (w - last.w)
        small = np.abs(tau) < self._lift
        tau = np.where(small, self._lift, tau)
        metric, aux = last.metric, last.aux

        def look(point: np.ndarray, aux: Any) -> tuple[float, np.ndarray, Any]:
            self.evaluations += 1
            found = ground.at(chart.place(point, w), aux)
            return float(found.value), np.asarray(found.gradient), found.aux

        value, gradient, aux = look(tau, aux)
        if not np.isfinite(value):
            tau = last.tau.copy()
            value, gradient, aux = look(tau, last.aux)
        length = 1.0
        slopes = chart.slopes(tau, w)
        own = slopes.T @ gradient
        for _ in range(_MAX_EVALUATIONS):
            step = -metric @ own[:-1]
            gain = -0.5 * float(own[:-1] @ step)
            if not gain > _SETTLED or length < 1e-8:
                break
            trial = tau + length * step
            new_value, new_gradient, new_aux = look(trial, aux)
            fall = 2.0 * gain * length
            slack = _SLACK * (1.0 + abs(value))
            if not new_value <= value - _SUFFICIENT * fall + slack:
                rise = new_value - value + fall
                shorter = 0.5 * fall / rise if np.isfinite(rise) and rise > 0.0 else 0.1
                length *= float(np.clip(shorter, 0.1, 0.5))
                continue
            new_own = chart.slopes(trial, w).T @ new_gradient
            metric = _updated(metric, length * step, new_own[:-1] - own[:-1])
            tau, value, aux, own, length = trial, new_value, new_aux, new_own, 1.0
        if not np.isfinite(value) or not 0.5 * own[:-1] @ metric @ own[:-1] < _FAILED:
            return None
        rise = value - float(ground.here.value)
        if rise < -_HIGHER:
            raise _above(-rise)
        zeta = float(np.sqrt(max(2.0 * rise, 0.0)))
        slope = side * float(own[-1]) / zeta if zeta > 0.0 else 0.0
        spot = Spot(w, zeta, slope, tau, aux, metric)
        self.spots[side] = sorted([*self.spots[side], spot], key=lambda s: abs(s.w - self.top.w))
        return spot

    def _neighbours(self, side: int, w: float) -> list[Spot]:
        """The points of a side, the nearest first."""
        return sorted([self.top, *self.spots[side]], key=lambda spot: abs(spot.w - w))

    def _direction(self, near: list[Spot]) -> np.ndarray:
        """d tau / d w near the first of some points."""
        if near[0] is self.top or len(near) < 2:
            return self._drift
        first, second = near[:2]
        return (first.tau - second.tau) / (first.w - second.w)


def _above(gain: float) -> FitError:
    return FitError(
        f"profiling found a log-likelihood {gain:.2g} above the fit's, which is then not the "
        "highest there is: fit again from another start with start="
    )


def _crossing(inner: Spot, outer: Spot, target: float, side: int) -> float:
    """Where the cubic through two points and their slopes has a zeta; the middle where nowhere."""
    width = abs(outer.w - inner.w)
    rise, goal = outer.zeta - inner.zeta, target - inner.zeta
    a, b = inner.slope * width, outer.slope * width
    if np.isfinite(a) and np.isfinite(b):
        cubic = np.array([a + b - 2.0 * rise, 3.0 * rise - 2.0 * a - b, a, -goal])
        roots = np.roots(cubic)
        real = roots[np.abs(roots.imag) < 1e-9].real
        inside = real[(real > 0.0) & (real < 1.0)]
        if len(inside):
            return inner.w + side * width * float(inside[0])
    return inner.w + 0.5 * side * width


def _updated(inverse: np.ndarray, step: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The BFGS update of an inverse Hessian; unchanged where the curvature is not positive."""
    curvature = float(step @ change)
    if not curvature > 1e-12 * np.sqrt((step @ step) * (change @ change)):
        return inverse
    image, rho = inverse @ change, 1.0 / curvature
    outer = np.outer(step, image)
    along = (1.0 + rho * float(change @ image)) * rho * np.outer(step, step)
    return inverse + along - rho * (outer + outer.T)
