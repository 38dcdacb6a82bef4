"""Library minimisers beside the package's own, all driven from the host in scaled coordinates."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from mixedlm_jax.optimize import derivative_free, has_nlopt

_MEMORY = 10  # steps that L-BFGS remembers
_GRADIENT = 1e-7  # in units of one standard deviation of the metric
_STEP = 1e-7


@dataclass
class Target:
    """A function to minimise from x0; x = x0 + scale @ t should make it vary alike in all of t.

    look: value and gradient in x. bend: Hessian in x. value: the value alone. evaluations: how
    often any of them was asked for.
    """

    x0: np.ndarray
    scale: np.ndarray
    look: Callable[[np.ndarray], tuple[float, np.ndarray]]
    bend: Callable[[np.ndarray], np.ndarray]
    value: Callable[[np.ndarray], float]
    maxfun: int
    evaluations: int = field(default=0)

    def x(self, t: np.ndarray) -> np.ndarray:
        """The parameters at search coordinates t."""
        return self.x0 + self.scale @ t

    def value_and_gradient(self, t: np.ndarray) -> tuple[float, np.ndarray]:
        """In search coordinates; a value that is not finite counts as very large."""
        self.evaluations += 1
        value, gradient = self.look(self.x(t))
        if not np.isfinite(value):
            return 1e100, np.zeros(len(t))
        return float(value), self.scale.T @ np.asarray(gradient, float)

    def hessian(self, t: np.ndarray) -> np.ndarray:
        """In search coordinates."""
        self.evaluations += 1
        return self.scale.T @ self.bend(self.x(t)) @ self.scale

    def value_at(self, x: np.ndarray) -> float:
        """The value at parameters x."""
        self.evaluations += 1
        return float(self.value(x))


def _optax_lbfgs(target: Target) -> np.ndarray:
    """optax's L-BFGS direction, its step halved until the value falls.

    Without a search for the curvature's sign a direction may go up: its memory is then forgotten.
    """
    optax = importlib.import_module("optax")  # needed here alone
    memory = optax.scale_by_lbfgs(memory_size=_MEMORY)
    update = jax.jit(memory.update)
    t = np.zeros(len(target.x0))
    state = memory.init(t)
    value, gradient = target.value_and_gradient(t)
    fresh = True
    while target.evaluations < target.maxfun and np.max(np.abs(gradient)) > _GRADIENT:
        direction, state = update(gradient, state, t)
        step = -np.asarray(direction, float)
        slope = float(gradient @ step)
        found = _shortened(target, t, value, step, slope) if slope < 0.0 else None
        if found is None:
            if fresh:
                break
            state, fresh = memory.init(t), True
            continue
        t, value, gradient = found
        fresh = False
    return target.x(t)


def _shortened(
    target: Target, t: np.ndarray, value: float, step: np.ndarray, slope: float
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """The first point along a step, halved again and again, that is low enough; None without."""
    length = 1.0
    while length > 1e-10 and target.evaluations < target.maxfun:
        trial = t + length * step
        new_value, new_gradient = target.value_and_gradient(trial)
        if new_value <= value + 1e-4 * length * slope + 1e-11 * (1.0 + abs(value)):
            return trial, new_value, new_gradient
        length *= 0.5
    return None


def _scipy(method: str, *, hessian: bool = False, **options: Any) -> Callable[[Target], np.ndarray]:
    def minimise(target: Target) -> np.ndarray:
        optimize = importlib.import_module("scipy.optimize")  # slow to import, rarely needed
        found = optimize.minimize(
            target.value_and_gradient,
            np.zeros(len(target.x0)),
            method=method,
            jac=True,
            hess=target.hessian if hessian else None,
            options=options | ({"maxfun": target.maxfun} if method == "L-BFGS-B" else {}),
        )
        return target.x(found.x)

    return minimise


def _nelder_mead(target: Target) -> np.ndarray:
    optimize = importlib.import_module("scipy.optimize")  # slow to import, rarely needed
    found = optimize.minimize(
        lambda t: target.value_at(target.x(t)),
        np.zeros(len(target.x0)),
        method="Nelder-Mead",
        options={"maxfev": target.maxfun, "xatol": 1e-6, "fatol": 1e-9, "adaptive": True},
    )
    return target.x(found.x)


def _without_derivatives(nlopt: bool) -> Callable[[Target], np.ndarray]:
    def minimise(target: Target) -> np.ndarray:
        found = derivative_free(
            target.value_at, target.x0, target.scale, maxfun=target.maxfun, tol=_STEP, nlopt=nlopt
        )
        return found.x

    return minimise


MINIMISERS: Mapping[str, Callable[[Target], np.ndarray]] = MappingProxyType(
    {
        "optax L-BFGS": _optax_lbfgs,
        "SciPy L-BFGS-B": _scipy("L-BFGS-B", maxcor=_MEMORY, ftol=1e-14, gtol=_GRADIENT),
        "SciPy trust-exact": _scipy("trust-exact", hessian=True, gtol=_GRADIENT),
        "SciPy Nelder-Mead": _nelder_mead,
        "SciPy COBYQA": _without_derivatives(False),
        "NLopt BOBYQA": _without_derivatives(True),
    }
)
"""Functions from a target to the parameters they end at, by name."""


def available() -> dict[str, Callable[[Target], np.ndarray]]:
    """The minimisers whose libraries are installed."""
    return {n: f for n, f in MINIMISERS.items() if has_nlopt() or not n.startswith("NLopt")}
