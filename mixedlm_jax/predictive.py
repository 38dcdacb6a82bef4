"""New responses drawn at predicted rows, the uncertainty of the prediction in them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.buckets import filled_rows, row_bucket
from mixedlm_jax.compiled import program
from mixedlm_jax.dispersion import Matrices, at_rows, coordinates, matrices_of
from mixedlm_jax.errors import DataError
from mixedlm_jax.families import Family
from mixedlm_jax.uncertainty import PredictorUncertainty

DRAWS = 4000
# Rows that are drawn for together: draws x rows numbers are held at once.
_ROWS = 4096


def response_limits(
    family: Family,
    eta: np.ndarray,
    found: PredictorUncertainty,
    phi: np.ndarray,
    parts: dict[str, np.ndarray],
    trials: np.ndarray,
    precision: np.ndarray,
    level: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Limits between which a new response of each row lies with this probability (m,) each.

    Quantiles of `DRAWS` draws: the parameters from N(psi_hat, V); eta with them along its total
    derivative, and with what the random effects vary given the parameters; y from the family.

    Parameters
    ----------
    eta
        Predicted linear predictor (m,).
    phi
        As reported.
    trials, precision
        As in `Family.sample`, (m,). Where the family takes trials the limits are shares of them.

    Raises
    ------
    DataError
        Where draws lead out of the domain of a restricted link.
    """
    tails = (0.5 - 0.5 * level, 0.5 + 0.5 * level)
    limits = []
    for start in range(0, len(eta), _ROWS):
        rows = slice(start, start + _ROWS)
        own = {name: matrix[rows] for name, matrix in parts.items()}
        piece = PredictorUncertainty(found.own[rows], found.slope[rows], found.covariance)
        y = draw_predicted(
            family, eta[rows], piece, phi, own, trials[rows], precision[rows], seed + start
        )
        if np.any(np.isnan(y)):
            raise DataError(
                f"{np.mean(np.isnan(y)):.1%} of the draws for prediction intervals lead out of the "
                f"domain of the {family.link.name} link: ask for interval='confidence', or use "
                "another link"
            )
        # a quantile of counts is a count: the smallest that so many draws do not exceed
        limits.append(np.quantile(y, tails, axis=0, method="inverted_cdf") / trials[rows])
    low, high = np.concatenate(limits, axis=1) if limits else np.empty((2, 0))
    return low, high


def draw_predicted(
    family: Family,
    eta: np.ndarray,
    found: PredictorUncertainty,
    phi: np.ndarray,
    parts: dict[str, np.ndarray],
    trials: np.ndarray,
    precision: np.ndarray,
    seed: int,
) -> np.ndarray:
    """`DRAWS` responses of each row (DRAWS, m); see `response_limits`."""
    values, vectors = np.linalg.eigh(found.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    size = row_bucket(len(eta))

    def filled(rows: np.ndarray) -> np.ndarray:
        return filled_rows(rows.T, size).T

    with jax.enable_x64(True):
        matrices = matrices_of(family, {name: filled(part) for name, part in parts.items()})
        key = np.asarray(jax.random.key_data(jax.random.key(seed)))
        y = _draw(
            family,
            key,
            filled(eta),
            filled(np.sqrt(np.maximum(found.own, 0.0))),
            filled(found.slope @ root),
            root[len(root) - len(phi) :],
            np.asarray(coordinates(family, matrices, np.asarray(phi, float))),
            matrices,
            filled(trials),
            filled(precision),
        )
        return np.array(y)[:, : len(eta)]


@program("family")
def _draw(
    family: Family,
    key: Array,
    eta: Array,
    sd: Array,
    slope: Array,
    of_phi: Array,
    phi: Array,
    matrices: Matrices,
    trials: Array,
    precision: Array,
) -> Any:
    """Draws (DRAWS, m); slope (m, d) and of_phi (r, d) in parameters that are N(0, I)."""

    def one(key):
        of_parameters, of_effects, of_rows = jax.random.split(key, 3)
        moved = jax.random.normal(of_parameters, (slope.shape[1],), eta.dtype)
        point = eta + slope @ moved + sd * jax.random.normal(of_effects, eta.shape, eta.dtype)
        valid = family.in_domain(point)
        inside = jnp.where(valid, point, family.link.interior)
        shapes = at_rows(matrices, phi + of_phi @ moved)
        y = family.sample(of_rows, inside, shapes, trials, precision)
        return jnp.where(valid, y, jnp.nan)

    return jax.lax.map(one, jax.random.split(jax.random.wrap_key_data(key), DRAWS))
