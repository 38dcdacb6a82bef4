"""Covariance structures: theta -> Lambda, the k x k factor of one random-effects term.

A term's random effects are b = Lambda u with u ~ N(0, I) (times sigma for the Gaussian family), so
their covariance is Lambda Lambda'. A new structure is one class and one row of `STRUCTURES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Held(NamedTuple):
    """How a standard deviation or correlation of a term is held while its other theta move.

    It is theta[place], through `natural`, or for a `pair` of entries of Lambda their angle.
    first: the effects concerned must come first among the term's. logarithmic: theta is the
    logarithm of a standard deviation.
    """

    place: int
    natural: Callable[[float], float] = float
    pair: tuple[int, int] | None = None
    first: bool = False
    logarithmic: bool = False


class Structure:
    """How theta parametrises the covariance factor of a term with k effects a level."""

    name: ClassVar[str]  # as glmmTMB spells it: `cs(x | g)`
    correlated: ClassVar[bool] = True  # whether the effects of a level may be correlated
    # whether a multiple of I can be added to the covariance: residual noise, where an effect has
    # but one row, cannot be told from the effects
    absorbs_noise: ClassVar[bool] = True

    def n_theta(self, k: int) -> int:
        """Number of parameters of a term with k effects."""
        raise NotImplementedError

    def factor(self, theta: jax.Array, k: int) -> jax.Array:
        """Lambda (k, k), lower triangular."""
        raise NotImplementedError

    def variances(self, theta: jax.Array, k: int) -> jax.Array:
        """The variances that theta gives its effects: one for each that is free of the others."""
        return jnp.sum(self.factor(theta, k) ** 2, axis=1)

    def log_volume(self, theta: jax.Array, k: int) -> jax.Array:
        """log |d(standard deviations, correlations) / d theta| (scalar), up to a constant.

        Correlation matrices are measured so that a density of 1 makes them uniform.
        """
        raise NotImplementedError

    def lower(self, k: int) -> np.ndarray:
        """Lower bounds of theta as reported (n_theta,): 0 on the diagonal of Lambda."""
        raise NotImplementedError

    def start(self, scale: np.ndarray) -> np.ndarray:
        """theta of independent effects with about the given standard deviations (k,)."""
        raise NotImplementedError

    def columns(self, k: int) -> np.ndarray:
        """The column of Lambda that each parameter belongs to, -1 for none (n_theta,).

        A column may change its sign, or be set to zero, with its parameters and nothing else.
        """
        raise NotImplementedError

    def names(self, effects: Sequence[str]) -> list[str]:
        """Names of the parameters of a term with these effects."""
        raise NotImplementedError

    def held(self, k: int, i: int, j: int) -> Held:
        """How the standard deviation of effect i is held, or its correlation with j (-1: none)."""
        raise NotImplementedError


class Unstructured(Structure):
    """Any covariance matrix: theta is Lambda's lower triangle by columns (lme4's order)."""

    name = "us"

    def n_theta(self, k):
        return k * (k + 1) // 2

    def factor(self, theta, k):
        columns, rows = np.triu_indices(k)
        return jnp.zeros((k, k), theta.dtype).at[rows, columns].set(theta)

    def log_volume(self, theta, k):
        # Row j of Lambda is sd_j times a row l of the correlations' Cholesky factor, whose entries
        # left of l_jj have the density l_jj^(k - j) where those matrices are uniform (Lewandowski,
        # Kurowicka and Joe 2009), and d theta_j. = sd_j^(j - 1) / l_jj d sd_j dl; j = 1, ..., k.
        factor, j = self.factor(theta, k), np.arange(1, k + 1)
        log_sd = 0.5 * jnp.log(jnp.sum(factor**2, axis=1))
        log_l = jnp.log(jnp.abs(jnp.diagonal(factor))) - log_sd
        return jnp.sum((k - j + 1) * log_l - (j - 1) * log_sd)

    def lower(self, k):
        columns, rows = np.triu_indices(k)
        return np.where(rows == columns, 0.0, -np.inf)

    def start(self, scale):
        columns, rows = np.triu_indices(len(scale))
        return np.where(rows == columns, scale[columns], 0.0)

    def columns(self, k):
        return np.triu_indices(k)[0]

    def names(self, effects):
        pairs = zip(*np.triu_indices(len(effects)), strict=True)
        return [".".join(dict.fromkeys((effects[row], effects[column]))) for column, row in pairs]

    def held(self, k, i, j):
        return Held(0, first=True) if j < 0 else Held(k, pair=(1, k), first=True)


class Diagonal(Structure):
    """Independent effects: theta holds their standard deviations."""

    name = "diag"
    correlated = False

    def n_theta(self, k):
        return k

    def factor(self, theta, k):
        return jnp.diag(theta)

    def log_volume(self, theta, k):
        return jnp.zeros((), theta.dtype)

    def lower(self, k):
        return np.zeros(k)

    def start(self, scale):
        return scale

    def columns(self, k):
        return np.arange(k)

    def names(self, effects):
        return list(effects)

    def held(self, k, i, j):
        return Held(i)


class HomogeneousDiagonal(Structure):
    """Independent effects of one standard deviation, which is theta."""

    name = "homdiag"
    correlated = False

    def n_theta(self, k):
        return 1

    def factor(self, theta, k):
        return theta[0] * jnp.eye(k, dtype=theta.dtype)

    def variances(self, theta, k):
        return theta**2

    def log_volume(self, theta, k):
        return jnp.zeros((), theta.dtype)

    def lower(self, k):
        return np.zeros(1)

    def start(self, scale):
        return np.sqrt(np.mean(scale**2, keepdims=True))

    def columns(self, k):
        return np.zeros(1, int)  # all columns change their sign together

    def names(self, effects):
        return ["sd"]

    def held(self, k, i, j):
        return Held(0)


class CompoundSymmetry(Structure):
    """One correlation rho between all effects, a standard deviation for each.

    theta holds k log standard deviations and, from two effects on, t with
    rho = a + (1 - a) / (1 + exp(-t)), a = -1 / (k - 1) the smallest correlation there can be.
    """

    name = "cs"
    absorbs_noise = False

    def n_theta(self, k):
        return k + (k > 1)

    def factor(self, theta, k):
        sd = jnp.exp(theta[:k])
        if k == 1:
            return sd[:, None]
        lowest = -1.0 / (k - 1)
        rho = lowest + (1.0 - lowest) * jax.nn.sigmoid(theta[k])
        # column j of the Cholesky factor is one number below its diagonal, as the matrix is
        below = jnp.zeros((), theta.dtype)  # sum of squares of a row left of column j
        rows = [[jnp.zeros((), theta.dtype)] * k for _ in range(k)]
        for j in range(k):
            rows[j][j] = jnp.sqrt(1.0 - below)
            entry = (rho - below) / rows[j][j]
            for i in range(j + 1, k):
                rows[i][j] = entry
            below = below + entry**2
        return sd[:, None] * jnp.stack([jnp.stack(row) for row in rows])

    def log_volume(self, theta, k):
        # d sd = sd d theta, and d rho is proportional to s (1 - s) dt, s = 1 / (1 + exp(-t))
        t = theta[k:]
        return jnp.sum(theta[:k]) + jnp.sum(jax.nn.log_sigmoid(t) + jax.nn.log_sigmoid(-t))

    def lower(self, k):
        return np.full(self.n_theta(k), -np.inf)

    def start(self, scale):
        k = len(scale)
        return np.append(np.log(scale), [-np.log(k - 1.0)] if k > 1 else [])  # rho = 0

    def columns(self, k):
        return np.full(self.n_theta(k), -1)

    def names(self, effects):
        return [*(f"log sd.{effect}" for effect in effects), *["cor"] * (len(effects) > 1)]

    def held(self, k, i, j):
        if j < 0:
            return Held(i, lambda w: float(np.exp(w)), logarithmic=True)
        lowest = -1.0 / (k - 1)
        return Held(k, lambda w: float(lowest + (1.0 - lowest) * (0.5 + 0.5 * np.tanh(0.5 * w))))


class Autoregressive(Structure):
    """A stationary series of first order: cov_ij = sd^2 rho^|i - j| over equidistant effects.

    theta holds the standard deviation and t with rho = t / sqrt(1 + t^2).
    """

    name = "ar1"
    absorbs_noise = False

    def n_theta(self, k):
        return 2

    def factor(self, theta, k):
        sd, t = theta[0], theta[1]
        scale = jax.lax.rsqrt(1.0 + t**2)  # sqrt(1 - rho^2)
        powers = [jnp.ones((), theta.dtype)]
        for _ in range(k - 1):
            powers.append(powers[-1] * t * scale)
        lags = jnp.stack(powers)
        i, j = np.tril_indices(k)
        entries = lags[i - j] * jnp.where(j > 0, scale, 1.0)
        return sd * jnp.zeros((k, k), theta.dtype).at[i, j].set(entries)

    def variances(self, theta, k):
        return theta[:1] ** 2

    def log_volume(self, theta, k):
        return -1.5 * jnp.log1p(theta[1] ** 2)  # d rho = (1 + t^2)^(-3/2) dt

    def lower(self, k):
        return np.array([0.0, -np.inf])

    def start(self, scale):
        return np.array([np.sqrt(np.mean(scale**2)), 0.0])

    def columns(self, k):
        return np.array([0, -1])  # all columns change their sign together

    def names(self, effects):
        return ["sd", "cor"]

    def held(self, k, i, j):
        if j < 0:
            return Held(0)
        lag = i - j
        return Held(1, lambda w: float(np.sin(np.arctan(w)) ** lag))


STRUCTURES: Mapping[str, Structure] = MappingProxyType(
    {
        structure.name: structure
        for structure in (
            Unstructured(),
            Diagonal(),
            HomogeneousDiagonal(),
            CompoundSymmetry(),
            Autoregressive(),
        )
    }
)
"""Every structure by the word that a formula calls it by. Read-only: compiled programs know a
structure by that word."""


def column_signs(factor: np.ndarray) -> np.ndarray:
    """The +-1 per column (k,) that makes the diagonal of a factor Lambda non-negative.

    Changing a column's sign with that of its spherical effect leaves the model as it is; a column
    whose diagonal is zero goes by its first entry that is not.
    """
    leading = [column[np.flatnonzero(column)[:1]] for column in factor.T]
    return np.array([-1.0 if len(first) and first[0] < 0 else 1.0 for first in leading])
