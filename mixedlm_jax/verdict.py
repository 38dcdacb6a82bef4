"""Is this an optimum? Judged from gradient and exact Hessian, in log-likelihood units."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np

from mixedlm_jax.design import Term
from mixedlm_jax.errors import Code
from mixedlm_jax.problem import Problem

MAX_GAIN = 1e-6  # log-likelihood units that an optimum may still promise
MAX_CONDITION = 1e10  # of the Hessian scaled to a unit diagonal
SINGULAR = 1e-4  # of a random effect's own standard deviation, on the scale of eta


@dataclass(frozen=True)
class Verdict:
    """How near a fit is to an optimum, and what is wrong with it if anything is.

    `decrement` is the gain in log-likelihood that a Newton step predicts. `separated` numbers the
    columns of X whose coefficient grows without bound. A singular fit at its optimum is ok.
    """

    ok: bool
    singular: bool
    separated: tuple[int, ...]
    decrement: float
    code: Code
    messages: tuple[str, ...]


@dataclass(frozen=True)
class Curvature:
    """Eigenvalues of the Hessian scaled to a unit diagonal, and what follows from them."""

    scale: np.ndarray  # (d,) the diagonal scaling
    values: np.ndarray  # (d,) eigenvalues, ascending
    vectors: np.ndarray

    @classmethod
    def of(cls, hessian: np.ndarray) -> Curvature:
        """Decompose a symmetric matrix with finite entries."""
        diagonal = np.abs(np.diagonal(hessian))
        floor = 1e-12 * max(diagonal.max(initial=0.0), 1e-300)
        scale = 1.0 / np.sqrt(np.maximum(diagonal, floor))
        values, vectors = np.linalg.eigh(hessian * scale[:, None] * scale[None, :])
        return cls(scale, values, vectors)

    @property
    def indefinite(self) -> bool:
        """Whether the function goes down along some direction."""
        return bool(self.values[0] < -1e-8 * self.values[-1])

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue (inf where that is not positive)."""
        smallest = self.values[0]
        return float(self.values[-1] / smallest) if smallest > 0 else float("inf")

    def inverse(self) -> np.ndarray:
        """Pseudo-inverse: directions flat to ten digits are left out."""
        keep = self.values > self.values[-1] / MAX_CONDITION
        reciprocal = np.where(keep, 1.0 / np.where(keep, self.values, 1.0), 0.0)
        return self._rebuild(reciprocal)

    def metric(self) -> np.ndarray:
        """A positive definite inverse to step with: negative curvature counts by its size."""
        size = np.abs(self.values)
        return self._rebuild(1.0 / np.maximum(size, 1e-6 * size.max()))

    def _rebuild(self, values: np.ndarray) -> np.ndarray:
        root = self.scale[:, None] * self.vectors
        return (root * values) @ root.T


def scaled_factor(problem: Problem, factors: tuple[np.ndarray, ...], term: Term) -> np.ndarray:
    """A term's Lambda with each row times the root mean square of its covariate: on eta's scale."""
    columns = list(term.columns)
    rms = np.sqrt(np.mean(np.asarray(problem.Z[term.factor])[columns] ** 2, axis=1))
    return factors[term.factor][np.ix_(columns, columns)] * rms[:, None]


def singular_columns(problem: Problem, factors: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """Per term (k,), which random effects have no variance of their own given the ones before.

    factors: Lambda per grouping factor, relative to the Gaussian's sigma as theta is.
    """
    return [
        np.abs(np.diagonal(scaled_factor(problem, factors, term))) < SINGULAR
        for term in problem.terms
    ]


def judge(
    gradient: np.ndarray,
    hessian: np.ndarray,
    *,
    boundary: np.ndarray,
    separated: tuple[int, ...] = (),
    stopped: str = "converged",
) -> Verdict:
    """The verdict on a point from the gradient and Hessian of -log L there.

    boundary: (d,) bool, parameters of a random-effects term on its boundary, where a flat or
    vanishing curvature is no fault. stopped: how the optimiser ended.
    """
    singular = bool(np.any(boundary))
    if not (np.all(np.isfinite(hessian)) and np.all(np.isfinite(gradient))):
        code = Code.NOT_FINITE
        return Verdict(False, singular, separated, float("inf"), code, (code.message,))
    decrement = float(0.5 * gradient @ Curvature.of(hessian).metric() @ gradient)
    inside = Curvature.of(hessian[np.ix_(~boundary, ~boundary)])
    codes = []
    if separated:
        codes.append(Code.SEPARATED)
    if not decrement <= MAX_GAIN:
        codes.append(Code.EVALUATION_LIMIT if stopped == "limit" else Code.NOT_AT_OPTIMUM)
    if inside.indefinite or Curvature.of(hessian).indefinite:
        codes.append(Code.INDEFINITE)
    elif not separated and inside.condition > MAX_CONDITION:
        codes.append(Code.ILL_CONDITIONED)
    ok = not codes
    if singular:
        codes.append(Code.SINGULAR)
    code = codes[0] if codes else Code.CONVERGED
    messages = tuple(c.message for c in codes)
    return Verdict(ok, singular, separated, decrement, code, messages)


def separated_columns(problem: Problem) -> tuple[int, ...]:
    """Columns of X whose coefficient has no finite maximum-likelihood estimate.

    There is a direction along which no row's likelihood falls and some row's rises for ever: rows
    at their lower bound may only move down, rows at their upper bound up, all others not at all
    (Albert and Anderson 1984). The linear program maximises the total movement.
    """
    y, trials, X = (np.asarray(a) for a in (problem.y, problem.trials, problem.X))
    low, high = problem.family.bounds(trials)
    used = (np.asarray(problem.weights) > 0) & (trials > 0)
    sign = np.where(y >= high, 1.0, np.where(y <= low, -1.0, 0.0))
    rms = np.sqrt(np.mean(X[used] ** 2, axis=0))
    rows = np.unique(np.column_stack([sign, X / rms])[used], axis=0)
    sign, X = rows[:, 0], rows[:, 1:]
    moving = X[sign != 0] * sign[sign != 0, None]
    fixed = X[sign == 0]
    if not len(moving):
        return ()
    optimize = importlib.import_module("scipy.optimize")  # slow to import, rarely needed
    result = optimize.linprog(
        -moving.sum(axis=0),
        A_ub=-moving,
        b_ub=np.zeros(len(moving)),
        A_eq=fixed if len(fixed) else None,
        b_eq=np.zeros(len(fixed)) if len(fixed) else None,
        bounds=(-1.0, 1.0),
        method="highs",
    )
    if result.status != 0 or -result.fun < 1e-6:
        return ()
    return tuple(int(j) for j in np.flatnonzero(np.abs(result.x) > 1e-6))
