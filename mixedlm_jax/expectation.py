"""Expected responses of rows, and what the uncertainty of all parameters does to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import jax
import numpy as np

from mixedlm_jax.buckets import filled_rows, padded, row_bucket
from mixedlm_jax.design import Design
from mixedlm_jax.dispersion import at_rows, matrices_of, slices_of
from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.families import Family
from mixedlm_jax.fit import Fit
from mixedlm_jax.inference import (
    expected_slopes,
    expected_values,
    factor_slopes,
    factors_at,
    point_of,
    with_known_boundary,
)
from mixedlm_jax.means import link, mean_slope
from mixedlm_jax.problem import Params, Problem
from mixedlm_jax.threads import single_blas_thread

_NODES = 200  # of Gauss-Hermite quadrature over a row's random effects


def _normal_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of E f(v), v ~ N(0, 1); those whose weight underflows left out."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    used = weights > 0.0
    return nodes[used], weights[used] / np.sum(weights)


@dataclass(frozen=True)
class Expected:
    """Expected responses of rows on a scale of predictions.

    value (m,). slope: total derivative in (theta, beta, unconstrained phi) (m, d). of_eta:
    derivative in a row's predictor (m,).
    """

    value: np.ndarray
    slope: np.ndarray
    of_eta: np.ndarray

    def on_link(self, family: Family) -> Expected:
        """The link of the values."""
        eta = link(family, self.value)
        back = 1.0 / mean_slope(family, eta)
        return Expected(eta, self.slope * back[:, None], self.of_eta * back)


@dataclass(frozen=True, eq=False)
class Parameters:
    """A point of the parameter space with its uncertainty, at which rows are expected.

    params: theta, beta, unconstrained phi. estimated: the covariance of all of them (d, d), nan for
    parameters on their boundary. factors: Lambda per grouping factor (k, k), on the scale of eta.
    """

    family: Family
    problem: Problem
    params: Params
    estimated: np.ndarray
    factors: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, design: Design, family: Family, fit: Fit) -> Self:
        """The estimates of a fit."""
        with single_blas_thread(), jax.enable_x64(True):
            at = point_of(padded(design), family, fit)
            return cls(
                family,
                at.problem,
                at.params,
                np.asarray(at.covariance),
                fit.factors,
            )

    @cached_property
    def factor_slopes(self) -> tuple[np.ndarray, ...]:
        """Derivative of the factors in theta, then in the unconstrained phi: (k, k, q + r) each."""
        with single_blas_thread(), jax.enable_x64(True):
            return tuple(map(np.asarray, factor_slopes(self.params, self.problem)))

    @property
    def flat(self) -> np.ndarray:
        """theta, beta and unconstrained phi in one vector (d,)."""
        return np.concatenate([np.asarray(part, float) for part in self.params])

    def moved(self, flat: np.ndarray) -> Parameters:
        """The same at other parameters (d,)."""
        q, p = len(self.params.theta), len(self.params.beta)
        params = Params(flat[:q], flat[q : q + p], flat[q + p :])
        with single_blas_thread(), jax.enable_x64(True):
            factors = tuple(map(np.asarray, factors_at(params, self.problem)))
        return replace(self, params=params, factors=factors)

    @cached_property
    def covariance(self) -> np.ndarray:
        """Of all parameters (d, d), those on their boundary counted as known.

        Raises `ArgumentError` for a fit without a covariance of its fixed effects.
        """
        q, p = len(self.params.theta), len(self.params.beta)
        if np.any(np.isnan(np.diagonal(self.estimated)[q : q + p])):
            raise ArgumentError(
                "the fit has no covariance of its fixed effects, from which errors of predictions "
                "come: see checkConv(model)"
            )
        return with_known_boundary(self.estimated)

    def fixed_slope(self, X: np.ndarray) -> np.ndarray:
        """Derivative of X beta in all parameters (m, d)."""
        q, p = len(self.params.theta), len(self.params.beta)
        slope = np.zeros((len(X), len(self.estimated)))
        slope[:, q : q + p] = X
        return slope

    def variances(self, slope: np.ndarray) -> np.ndarray:
        """J V J' of each row of J (m, d)."""
        return np.sum((slope @ self.covariance) * slope, axis=1)

    def values(
        self,
        type: str,
        eta: np.ndarray,
        parts: Mapping[str, np.ndarray],
        Z: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """Expected responses at eta (m,) on a scale of predictions, or "mean" (`on_scale`).

        parts: model matrices of the rows, as in `Design`. Z: per factor (k, m), integrated over
        the random effects; None takes eta as it is.

        Raises `DataError` where random effects lead out of the domain of a restricted link.
        """
        if not len(eta):
            return np.zeros(0)
        with jax.enable_x64(True):
            found, valid = expected_values(
                self.family, type, *self._rows(eta, parts, self._spread(Z, len(eta)))
            )
        if Z is not None and not np.all(valid):
            raise DataError(
                f"random effects lead out of the domain of the {self.family.link.name} link, so "
                "that there is no population average; take re_form='~0', or fit another link"
            )
        return np.array(found)[: len(eta)]

    def expected(
        self,
        type: str,
        eta: np.ndarray,
        slope: np.ndarray,
        parts: Mapping[str, np.ndarray],
        Z: Sequence[np.ndarray] | None = None,
    ) -> Expected:
        """`values` with their derivatives; slope: of eta in all parameters (m, d)."""
        value, m = self.values(type, eta, parts, Z), len(eta)
        if not m:
            return Expected(value, slope, value)
        sd = self._spread(Z, m)
        with jax.enable_x64(True):
            rows = self._rows(eta, parts, sd)
            found = np.array(expected_slopes(self.family, type, *rows))[:m]
        total = found[:, :1] * slope
        if Z is not None:
            total += found[:, 1:2] * self._spread_slope(Z, sd)
        first = len(self.params.theta) + len(self.params.beta)
        matrices = matrices_of(self.family, parts)
        for j, (matrix, where) in enumerate(zip(matrices, slices_of(matrices), strict=True)):
            own = found[:, 2 + j : 3 + j]
            total[:, first + where.start : first + where.stop] += (
                own if matrix is None else own * matrix
            )
        return Expected(value, total, found[:, 0])

    def population_values(
        self,
        type: str,
        eta: np.ndarray,
        parts: Mapping[str, np.ndarray],
        Z: Sequence[np.ndarray],
    ) -> np.ndarray:
        """Population averages as `predict(re_form="marginal")` has them; eta at b = 0 (m,).

        "link" is the link of the average response.
        """
        if type != "link":
            return self.values(type, eta, parts, Z)
        return link(self.family, self.values("response", eta, parts, Z))

    def population(
        self,
        type: str,
        X: np.ndarray,
        eta: np.ndarray,
        parts: Mapping[str, np.ndarray],
        Z: Sequence[np.ndarray],
    ) -> Expected:
        """`population_values` with their derivatives."""
        kind = "response" if type == "link" else type
        found = self.expected(kind, eta, self.fixed_slope(X), parts, Z)
        return found.on_link(self.family) if type == "link" else found

    def _rows(self, eta: np.ndarray, parts: Mapping[str, np.ndarray], sd: np.ndarray) -> tuple:
        """The arguments of the programs that are arrays, rows filled up to a bucket."""
        m, size = len(eta), row_bucket(len(eta))
        coordinates = at_rows(matrices_of(self.family, parts), np.asarray(self.params.phi, float))
        nodes, weights = _normal_nodes() if np.any(sd) else (np.zeros(1), np.ones(1))
        return (
            filled_rows(np.asarray(eta, float), size),
            filled_rows(sd, size),
            tuple(filled_rows(np.array(np.broadcast_to(c, m)), size) for c in coordinates),
            nodes,
            weights,
        )

    def _spread(self, Z: Sequence[np.ndarray] | None, m: int) -> np.ndarray:
        """The standard deviation of z'b in each row (m,), 0 without Z."""
        total = np.zeros(m)
        if Z is not None:
            for factor, rows in zip(self.factors, Z, strict=True):
                total += np.sum((factor.T @ rows) ** 2, axis=0)
        return np.sqrt(total)

    def _spread_slope(self, Z: Sequence[np.ndarray], sd: np.ndarray) -> np.ndarray:
        """Derivative of `_spread` in all parameters (m, d); 0 where the sd is 0."""
        q, p = len(self.params.theta), len(self.params.beta)
        found = np.zeros((len(sd), len(self.estimated)))
        moving = np.r_[0:q, q + p : found.shape[1]]
        for factor, change, rows in zip(self.factors, self.factor_slopes, Z, strict=True):
            reached = factor.T @ rows
            # d |Lambda'z|^2 / 2 = (Lambda'z)' dLambda' z
            found[:, moving] += np.einsum("am,kad,km->md", reached, change, rows, optimize=True)
        return found / np.where(sd > 0.0, sd, 1.0)[:, None] * (sd > 0.0)[:, None]
