"""The functions a fit minimises, one class per way of integrating out the random effects.

Each maps a flat vector x to -log L (without the base measure), its gradient and the modes that the
next evaluation starts from. Where the problem has a prior, its log-density is taken from the value.
They carry no state and are static arguments of the compiled programs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.curvature import Curvature
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.hessian import laplace_hessian
from mixedlm_jax.likelihood import (
    Evaluation,
    joint_laplace,
    laplace,
    laplace_gradient,
    laplace_pieces,
)
from mixedlm_jax.modes import JointModes
from mixedlm_jax.plan import in_smaller_blocks
from mixedlm_jax.priors import log_prior
from mixedlm_jax.problem import Params, Problem
from mixedlm_jax.quadrature import (
    nodes_at_once,
    quadrature,
    quadrature_gradient,
    quadrature_obstacle,
    quadrature_pieces,
)

# Rows x parameters that a Hessian of Laplace's approximation holds several arrays of: 128 MiB each.
_HESSIAN_TANGENTS = 2**24


class Objective:
    """Base: what a search asks of an objective. x holds the parameters that are searched over."""

    label: ClassVar[str]  # what a summary calls the method
    beta_is_conditional: ClassVar[bool] = False  # its covariance is given theta, not from x

    def check(self, problem: Problem) -> None:
        """Raise `ArgumentError` where the objective cannot be had for a problem."""

    def width(self, problem: Problem) -> int:
        """Numbers per row that one evaluation holds at once."""
        return 1

    def x_of(self, params: Params) -> Array:
        """The searched part of a point, flat (NumPy)."""
        raise NotImplementedError

    def aux_of(self, modes: JointModes) -> Any:
        """Where the search for modes starts."""
        raise NotImplementedError

    def metric_blocks(self, theta: Any, beta: Any, phi: Any) -> tuple[Any, ...]:
        """Those of the three that belong to x, in its order."""
        raise NotImplementedError

    def params_of(self, problem: Problem, x: Array, aux: Any) -> Params:
        """The whole point that x and the modes there stand for."""
        raise NotImplementedError

    def modes_of(self, aux: Any) -> Any:
        """The spherical random effects among the modes."""
        raise NotImplementedError

    def evaluate(self, problem: Problem, x: Array, aux: Any) -> tuple:
        """Value, gradient in x, and modes."""
        raise NotImplementedError

    def value(self, problem: Problem, x: Array, aux: Any) -> Array:
        """The value alone."""
        raise NotImplementedError

    def hessian(self, problem: Problem, x: Array, aux: Any, at_once: int) -> Array:
        """Hessian of the value in x (d, d), symmetric but for rounding.

        at_once: columns made together; a Hessian that is written out has no need of it.
        """
        return _hessian_by_columns(self, problem, x, aux, at_once)

    def pieces(self, problem: Problem, params: Params, aux: Any) -> Callable[[Params], Array]:
        """A function to (n,) numbers whose gradients at a point add up to the objective's.

        Those of the rows of all levels that share no row with others are these rows' own part.
        """
        raise NotImplementedError

    def covariance(
        self, searched: np.ndarray, beta_information: np.ndarray | None, phi_slope: np.ndarray
    ) -> np.ndarray:
        """Covariance of (theta, beta, phi), phi on its natural scale, from that of x.

        phi_slope: Jacobian of the natural phi in its unconstrained coordinates.
        """
        raise NotImplementedError


def _hessian_by_columns(
    objective: Objective, problem: Problem, x: Array, aux: Any, at_once: int
) -> Array:
    """`Objective.hessian` by pushing directions through the gradient's program."""

    def gradient(point: Array) -> Array:
        return objective.evaluate(problem, point, aux)[1]

    def along(direction: Array) -> Array:
        return jax.jvp(gradient, (x,), (direction,))[1]

    directions = jnp.eye(len(x), dtype=x.dtype)
    if at_once >= len(x):
        return jax.vmap(along)(directions)
    if objective.width(problem) > 1:  # a linearisation would keep what every node of a row gave
        return jax.lax.map(along, directions, batch_size=at_once)
    _, push = jax.linearize(gradient, x)
    return jax.lax.map(push, directions, batch_size=at_once)


class LaplaceObjective(Objective):
    """nAGQ = 1: x is (theta, beta, phi)."""

    label = "Laplace Approximation"

    def x_of(self, params):
        return np.concatenate(params, axis=-1)

    def aux_of(self, modes):
        return modes.u

    def metric_blocks(self, theta, beta, phi):
        return theta, beta, phi

    def params_of(self, problem, x, aux):
        return problem.split(x)

    def modes_of(self, aux):
        return aux

    def evaluate(self, problem, x, aux):
        return _with_prior(laplace_gradient(problem.split(x), problem, aux), problem, x)

    def value(self, problem, x, aux):
        params = problem.split(x)
        return laplace(params, problem, aux) - log_prior(params, problem)

    def hessian(self, problem, x, aux, at_once):
        plan = in_smaller_blocks(problem.plan, _HESSIAN_TANGENTS // max(len(x), 1))
        tangents = len(problem.y) // max(plan.blocks, 1) * len(x)
        if plan.unformed is not None or tangents > _HESSIAN_TANGENTS:
            return _hessian_by_columns(self, problem, x, aux, at_once)
        found = laplace_hessian(problem.split(x), problem.replace(plan=plan), aux)
        if problem.prior is not None:
            found -= jax.hessian(lambda x: log_prior(problem.split(x), problem))(x)
        return found

    def pieces(self, problem, params, aux):
        return laplace_pieces(params, problem, aux)

    def covariance(self, searched, beta_information, phi_slope):
        jacobian = np.eye(len(searched))
        at = len(searched) - len(phi_slope)
        jacobian[at:, at:] = phi_slope
        return jacobian @ searched @ jacobian.T


@dataclass(frozen=True)
class QuadratureObjective(LaplaceObjective):
    """nAGQ > 1: x is (theta, beta, phi), one grouping factor."""

    nAGQ: int

    @property
    def label(self) -> str:  # type: ignore[override]
        return f"Adaptive Gauss-Hermite Quadrature, nAGQ = {self.nAGQ}"

    def check(self, problem):
        obstacle = quadrature_obstacle(problem, self.nAGQ)
        if obstacle is not None:
            raise ArgumentError(obstacle)

    def width(self, problem):
        return nodes_at_once(problem, self.nAGQ)

    def evaluate(self, problem, x, aux):
        found = quadrature_gradient(problem.split(x), problem, aux, self.nAGQ)
        return _with_prior(found, problem, x)

    def value(self, problem, x, aux):
        params = problem.split(x)
        return quadrature(params, problem, aux, self.nAGQ) - log_prior(params, problem)

    def hessian(self, problem, x, aux, at_once):
        return _hessian_by_columns(self, problem, x, aux, at_once)

    def pieces(self, problem, params, aux):
        return quadrature_pieces(params, problem, aux, self.nAGQ)


def _with_prior(found: Evaluation, problem: Problem, x: Array) -> tuple[Array, Array, Any]:
    """Value, gradient in x, and modes, the prior's part taken from the first two."""
    value, gradient = found.value, found.gradient.flat
    if problem.prior is not None:
        density, slope = jax.value_and_grad(lambda x: log_prior(problem.split(x), problem))(x)
        value, gradient = value - density, gradient - slope
    return value, gradient, found.u


class JointObjective(Objective):
    """nAGQ = 0: x is (theta, phi), and beta is found with the modes."""

    label = "Adaptive Gauss-Hermite Quadrature, nAGQ = 0"

    beta_is_conditional = True

    def check(self, problem):
        if problem.prior is not None:
            raise ArgumentError(
                "nAGQ is 0, which finds the fixed effects with the modes and knows no prior; fit "
                "with nAGQ=1"
            )

    def x_of(self, params):
        return np.concatenate([params.theta, params.phi], axis=-1)

    def aux_of(self, modes):
        return modes

    def metric_blocks(self, theta, beta, phi):
        return theta, phi

    def params_of(self, problem, x, aux):
        theta, phi = self._split(problem, x)
        return Params(theta, aux.beta, phi)

    def modes_of(self, aux):
        return aux.u

    def evaluate(self, problem, x, aux):
        def value(point):
            theta, phi = self._split(problem, point)
            total, modes = joint_laplace(theta, phi, problem, aux)
            return total, (total, modes)

        # a handful of parameters: forward mode through the implicit derivative of (u, beta)
        gradient, (total, modes) = jax.jacfwd(value, has_aux=True)(x)
        return total, gradient, modes

    def value(self, problem, x, aux):
        theta, phi = self._split(problem, x)
        return joint_laplace(theta, phi, problem, aux)[0]

    def covariance(self, searched, beta_information, phi_slope):
        # beta's part is conditional on theta: lme4's choice at nAGQ = 0
        r, p = len(phi_slope), len(beta_information)
        q = len(searched) - r
        jacobian = np.eye(q + r)
        jacobian[q:, q:] = phi_slope
        outer = jacobian @ searched @ jacobian.T
        whole = np.zeros((q + p + r, q + p + r))
        whole[q : q + p, q : q + p] = np.nan
        if np.all(np.isfinite(beta_information)):
            whole[q : q + p, q : q + p] = Curvature.of(beta_information).inverse()
        rest = np.r_[0:q, q + p : q + p + r]
        whole[np.ix_(rest, rest)] = outer
        return whole

    @staticmethod
    def _split(problem: Problem, x: Array) -> tuple[Array, Array]:
        return x[: problem.n_theta], x[problem.n_theta :]


OBJECTIVES: dict[int, Objective] = {0: JointObjective(), 1: LaplaceObjective()}


def objective_for(nAGQ: int) -> Objective:
    """The objective of a number of quadrature nodes: 0 and 1 are those of `OBJECTIVES`."""
    return OBJECTIVES.get(nAGQ) or QuadratureObjective(nAGQ)
