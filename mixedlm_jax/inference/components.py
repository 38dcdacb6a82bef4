"""Standard deviations and correlations of the random effects as functions of the parameters."""

from __future__ import annotations

from itertools import combinations_with_replacement

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.compiled import program
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.problem import Params, Problem, covariance_factors


def component_order(k: int, correlated: bool = True) -> list[tuple[int, int]]:
    """The entries of one term's covariance, lower triangle by columns: (0, 0), (1, 0), ..., (1, 1).

    A pair (i, i) stands for a standard deviation, (i, j) for a correlation, of which there are none
    where the effects are not `correlated`.
    """
    pairs = [(row, column) for column, row in combinations_with_replacement(range(k), 2)]
    return [(i, j) for i, j in pairs if correlated or i == j]


@program()
def component_slopes(params: Params, problem: Problem) -> Array:
    """Jacobian of standard deviations and correlations in (theta, beta, unconstrained phi).

    Rows run over the terms in theta order, within each in `component_order`; nan where a standard
    deviation is 0.
    """

    def components(flat):
        factors = covariance_factors(problem, problem.split(flat))
        parts = []
        for term in problem.terms:
            columns = np.array(term.columns)
            block = factors[term.factor][columns[:, None], columns[None, :]]
            covariance = block @ block.T
            sd = jnp.sqrt(jnp.diagonal(covariance))
            for i, j in component_order(len(columns), STRUCTURES[term.structure].correlated):
                parts.append(sd[i] if i == j else covariance[i, j] / (sd[i] * sd[j]))
        return jnp.array(parts, flat.dtype) if not parts else jnp.stack(parts)

    return jax.jacfwd(components)(params.flat)
