"""The record of many fits: arrays with one row a fit, and their names."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mixedlm_jax.errors import Code

MESSAGES: dict[int, str] = {int(code): code.message for code in Code}
"""What each number in `Fits.code` means."""


@dataclass(frozen=True, repr=False, eq=False)
class Fits:
    """Fits of one design to many responses, as `fit_many` and `refit_many` return them.

    Attributes
    ----------
    index
        What the fits are called: the columns of a frame of responses, or numbers from 0.
    fixed, theta_names, phi_names, component_names
        Names of the columns of beta, theta, phi and components.
    beta
        (fits, p) fixed effects, on the scale of the linear predictor.
    theta
        (fits, q) covariance parameters as `GlmerResult.theta`: relative to sigma for the Gaussian.
    phi
        (fits, r) dispersion parameters on their natural scale, or coefficients of their predictors.
    components
        (fits, m) standard deviations and correlations of the random effects, on the scale of the
        linear predictor; a correlation with an effect of standard deviation 0 is nan.
    vcov
        (fits, d, d) covariance of (theta, beta, phi) from the exact Hessian; nan for parameters on
        their boundary or at their limit.
    logLik
        (fits,) log-likelihood with every constant.
    ok
        (fits,) bool: at an optimum of data that are not separated. A singular fit may be.
    code
        (fits,) int8; `MESSAGES` says what the numbers mean.
    separated
        (fits, p) bool, fixed effects that grow without bound.
    rescued
        (fits,) bool, fitted once more by the path of a single fit.
    nobs
        (fits,) rows that were used.

    Estimates of a fit whose response is constant are nan, and its code says so.
    """

    index: pd.Index
    fixed: tuple[str, ...]
    theta_names: tuple[str, ...]
    phi_names: tuple[str, ...]
    component_names: tuple[str, ...]
    beta: np.ndarray
    theta: np.ndarray
    phi: np.ndarray
    components: np.ndarray
    vcov: np.ndarray
    logLik: np.ndarray
    ok: np.ndarray
    code: np.ndarray
    separated: np.ndarray
    rescued: np.ndarray
    nobs: np.ndarray

    @property
    def se(self) -> np.ndarray:
        """Standard errors of the fixed effects (fits, p)."""
        variances = np.diagonal(self.beta_vcov, axis1=1, axis2=2)
        return np.sqrt(np.where(variances >= 0.0, variances, np.nan))

    @property
    def beta_vcov(self) -> np.ndarray:
        """Covariance of the fixed effects (fits, p, p)."""
        q = self.theta.shape[1]
        fixed = slice(q, q + self.beta.shape[1])
        return self.vcov[:, fixed, fixed]

    def __len__(self) -> int:
        return len(self.logLik)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a fit: fixed effects and `se.<name>`, sd and cor, dispersion, logLik, verdict."""
        columns: dict[str, np.ndarray] = dict(zip(self.fixed, self.beta.T, strict=True))
        columns |= {f"se.{name}": se for name, se in zip(self.fixed, self.se.T, strict=True)}
        columns |= dict(zip(self.component_names, self.components.T, strict=True))
        columns |= dict(zip(self.phi_names, self.phi.T, strict=True))
        columns |= {"logLik": self.logLik, "ok": self.ok, "code": self.code}
        frame = pd.DataFrame(columns, index=self.index)
        frame["message"] = [MESSAGES[int(code)] for code in self.code]
        return frame

    def __repr__(self) -> str:
        counts = Counter(MESSAGES[int(code)] for code in self.code if code != Code.CONVERGED)
        others = "".join(f"; {count} {message}" for message, count in counts.most_common())
        return f"<Fits: {len(self)} fits, {int(self.ok.sum())} ok{others}>"
