"""Means of the responses in many fits of one design, each with modes of its own."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.buckets import filled_rows, padded
from mixedlm_jax.compiled import program
from mixedlm_jax.dispersion import coordinates, natural_at_rows
from mixedlm_jax.elimination import predictor
from mixedlm_jax.fits import Fits
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.inference import point_of
from mixedlm_jax.lanes import batches, filled, lane_slice
from mixedlm_jax.means import mean
from mixedlm_jax.modes import conditional_modes
from mixedlm_jax.problem import (
    Params,
    Problem,
    covariance_factors,
    fixed_predictor,
    zero_effects,
)
from mixedlm_jax.threads import single_blas_thread

_ROWS = 2**15  # rows x lanes of one call


def lane_means(model: Fitted, fits: Fits, y: np.ndarray, kept: Sequence[np.ndarray]) -> np.ndarray:
    """E(y), of all trials where there are any, in fits of a model's design (fits, n).

    y: the responses fitted to (fits, n). kept: which random effects are at their modes, per factor
    (k,) bool; the others are 0.
    """
    design, family = model.design, model.family
    with single_blas_thread(), jax.enable_x64(True):
        problem = point_of(padded(design), family, model.fit).problem
        phi = coordinates(family, problem.phi_matrices, fits.phi)
        params, responses = Params(fits.theta, fits.beta, phi), filled_rows(y, len(problem.y))
        width = min(max(_ROWS // responses.shape[1], 1), len(y))
        parts = []
        for lanes in batches(len(y), width):
            own = filled(lanes, width)
            found = _predictors(problem, tuple(kept), responses[own], lane_slice(params, own))
            parts.append(np.asarray(found)[: len(lanes), : y.shape[1]])
    means = [
        mean(family, eta, natural_at_rows(family, design.parts, shapes))
        for eta, shapes in zip(np.concatenate(parts), fits.phi, strict=True)
    ]
    return np.array(means) * design.trials


@program()
def _predictors(problem: Problem, kept: tuple[Array, ...], y: Array, params: Params) -> Array:
    """eta of lanes with responses y (lanes, n) at their params: (lanes, n)."""

    def one(own: Array, at: Params) -> Array:
        lane = problem.replace(y=own)
        modes = conditional_modes(at, lane, zero_effects(lane))
        factors = covariance_factors(lane, at)
        effects = tuple(
            jnp.where(keep[:, None], factor @ u, 0.0)
            for factor, u, keep in zip(factors, modes, kept, strict=True)
        )
        return fixed_predictor(lane, at.beta) + predictor(lane.plan, lane.Z, effects)

    return jax.vmap(one)(y, params)
