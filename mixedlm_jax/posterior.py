"""The log-posterior in unconstrained coordinates, to hand to a sampler.

    log p(psi | y)    = log L(psi) + log p(psi)           marginal: random effects integrated out
    log p(psi, u | y) = log f(y, u | psi) + log p(psi)    joint

up to a constant. A position holds z, beta, phi and u: theta's diagonals (standard deviations) are
exp(z), its other entries z itself; beta, the unconstrained phi and the spherical u stand as they
are. The prior is a density of standard deviations (on the scale of eta), correlation matrices, beta
and phi: without one all are flat, correlation matrices uniform. The Jacobian to z is in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.elimination import Effects
from mixedlm_jax.modes import dot
from mixedlm_jax.objective import Objective
from mixedlm_jax.priors import log_prior, standard_variances
from mixedlm_jax.problem import Params, Problem, row_log_density, rows_at, zero_effects

_SMALLEST = 1e-3  # where a standard deviation of 0 is put


class Position(NamedTuple):
    """Coordinates of a sampler: (n_theta,), (p,), (n_phi,), and per grouping factor (k, levels)."""

    z: Array
    beta: Array
    phi: Array
    u: Effects = ()  # () where the random effects are integrated out


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Posterior:
    """The log-posterior of a problem: a function of a `Position`, and the way there and back.

    A pytree like the problem it holds. `joint` says whether the random effects are sampled too.
    """

    problem: Problem
    objective: Objective = field(metadata={"static": True})
    joint: bool = field(default=False, metadata={"static": True})

    def __call__(self, position: Position) -> Array:
        """The log-posterior density up to a constant (scalar)."""
        problem, params = self.problem, self.constrain(position)
        total = log_prior(params, problem) + self._log_volume(params, position)
        if self.joint:
            _, eta = rows_at(problem, params, position.u)
            rows = row_log_density(problem, eta, params.phi)
            return total + jnp.sum(rows) - 0.5 * dot(position.u, position.u)
        likelihood = self.objective.value(
            problem.replace(prior=None), params.flat, zero_effects(problem)
        )
        return total - likelihood

    def _log_volume(self, params: Params, position: Position) -> Array:
        """log |d(standard deviations, correlations) / dz|."""
        total = jnp.sum(jnp.where(self._logarithmic, position.z, 0.0))
        for term, where in zip(self.problem.terms, self.problem.theta_slices, strict=True):
            structure = STRUCTURES[term.structure]
            total += structure.log_volume(params.theta[where], len(term.columns))
        number = len(standard_variances(params, self.problem))
        return total + number * jnp.log(self.problem.ranef_scale(params.phi))

    @property
    def _logarithmic(self) -> np.ndarray:
        """Which entries of z are logarithms (n_theta,)."""
        lower = [
            STRUCTURES[term.structure].lower(len(term.columns)) for term in self.problem.terms
        ]
        return np.isfinite(np.concatenate(lower))

    def constrain(self, position: Position) -> Params:
        """The parameters at a position."""
        log = self._logarithmic
        theta = jnp.where(log, jnp.exp(jnp.where(log, position.z, 0.0)), position.z)
        return Params(theta, position.beta, position.phi)

    def unconstrain(self, params: Params, u: Effects | None = None) -> Position:
        """The position of parameters, such as those of `solve`, to start a chain at.

        u: spherical random effects for a joint posterior, by default 0. Standard deviations below
        1e-3 are put there: those of a singular fit have no logarithm.
        """
        log, theta = self._logarithmic, jnp.asarray(params.theta)
        size = jnp.log(jnp.maximum(jnp.abs(theta), _SMALLEST))
        effects: Effects = ()
        if self.joint:
            effects = tuple(map(jnp.asarray, zero_effects(self.problem) if u is None else u))
        beta, phi = jnp.asarray(params.beta), jnp.asarray(params.phi)
        return Position(jnp.where(log, size, theta), beta, phi, effects)

    def named(self, positions: Position) -> dict[str, np.ndarray]:
        """Draws by the names of the parameters, for `arviz.from_dict`: theta, beta, natural phi.

        positions: draws stacked along leading axes, (chains, draws, ...). Returns NumPy arrays
        of these axes.
        """
        lead = np.shape(positions.beta)[:-1]
        plain = positions._replace(u=())
        count = int(np.prod(lead))
        flat = jax.tree.map(lambda part: jnp.reshape(part, (count, part.shape[-1])), plain)

        def natural(position: Position) -> Array:
            params = self.constrain(position)
            return params._replace(phi=self.problem.reported_phi(params.phi)).flat

        values = np.asarray(jax.vmap(natural)(flat)).reshape((*lead, -1))
        names: Any = self.problem.names  # type: ignore[attr-defined]
        return {name: values[..., j] for j, name in enumerate(names.flat)}
