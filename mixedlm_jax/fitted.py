"""A fitted model as arrays with names, and the numbers that are read off them.

What compares, tests or prints models takes a `Fitted`; the object a user holds is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from mixedlm_jax import diagnostics
from mixedlm_jax.call import Call
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.design import Design, Labels
from mixedlm_jax.dispersion import DISPERSION, natural_at_rows, part_slice, phi_names
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import Family
from mixedlm_jax.fit import Fit
from mixedlm_jax.means import mean
from mixedlm_jax.names import effect_names, term_names, theta_names
from mixedlm_jax.predict import spread
from mixedlm_jax.report import Component, Convergence, LogLik, VarCorr


@dataclass(frozen=True, repr=False, eq=False)
class Fitted:
    """What was asked for, the arrays that came of it, and their names.

    Attributes
    ----------
    call
        What `glmer` was asked for, the data among it (the caller's frame itself, not a copy).
    design, labels, fit
        The model's arrays, their names, and the fitted arrays. The pure objective is
        `make_problem(model.design, model.family)` away.
    refitted
        Whether the response is not that of the data but one given to `refit`.
    """

    call: Call
    design: Design
    labels: Labels
    fit: Fit
    refitted: bool = False

    @classmethod
    def of(
        cls, call: Call, *, start: Mapping[str, Any] | None = None, verbose: int | None = None
    ) -> Self:
        """The model that a call describes, fitted; start and verbose as in `glmer`."""
        design, labels = call.build()
        return cls(call, design, labels, call.fit(design, start=start, verbose=verbose))

    # The model.

    @property
    def formula(self) -> str:
        """The formula as written."""
        return str(self.call.formula)

    @property
    def family(self) -> Family:
        """The response family with its link."""
        return self.call.family

    @property
    def weights(self) -> pd.Series:
        """Prior weights, times the trials where there are any, as R's; rows as in `fitted`."""
        return self.by_row(self.design.weights * self.design.trials)

    @property
    def offset(self) -> pd.Series:
        """Sum of all offsets, on the scale of the linear predictor; rows as in `fitted`."""
        return self.by_row(self.design.offset)

    def isGLMM(self) -> bool:
        """Whether this is a generalized linear mixed model, as against a linear one."""
        return not self.family.is_linear

    # Estimates.

    @property
    def theta(self) -> np.ndarray:
        """Covariance parameters (lme4's), relative to sigma for the Gaussian family."""
        return self.fit.theta.copy()

    @property
    def beta(self) -> np.ndarray:
        """Fixed effects (p,) on the scale of the linear predictor."""
        return self.fit.beta.copy()

    @property
    def sigma(self) -> float:
        """Residual standard deviation; 1 for families without one.

        The square root of the dispersion for quasi families, as R's. Raises `ArgumentError` where
        it differs by row.
        """
        if self._sigma_differs:
            raise ArgumentError(
                "the residual standard deviation has a dispformula and differs by row: "
                'fixef("disp") holds the coefficients of its logarithm'
            )
        return self._sigma if self._sigma is not None else float(np.sqrt(self.fit.dispersion))

    @property
    def _sigma(self) -> float | None:
        if not self.family.has_residual_sd or self._sigma_differs:
            return None
        return self.dispersion["sigma"]

    @property
    def _sigma_differs(self) -> bool:
        return self.family.has_residual_sd and DISPERSION in self.design.parts

    @property
    def shapes(self) -> tuple[Any, ...]:
        """Natural values of the estimated dispersion parameters, numbers or one a row."""
        return natural_at_rows(self.family, self.design.parts, self.fit.phi)

    @property
    def dispersion(self) -> dict[str, float]:
        """The estimated dispersion and shape parameters by name, on their natural scale.

        Gaussian sigma; Gamma shape (variance mu^2 / shape); inverse Gaussian phi (phi mu^3);
        negative binomial theta (mu + mu^2 / theta), or phi (mu (1 + phi)); beta and beta-binomial
        phi = a + b; Tweedie phi and power (phi mu^power); t sigma and df; log-normal sigma. Quasi
        families have phi (phi V(mu)) from Pearson's statistic, without a standard error.
        """
        if self.family.is_quasi:
            return {"phi": self.fit.dispersion}
        names = phi_names(self.family, self.labels.parts)
        return {
            name: float(value)
            for name, value in zip(names, self.fit.phi, strict=True)
            if name in self.family.dispersion_names
        }

    def fixef(self, component: str = "cond") -> dict[str, float]:
        """Fixed effects by name, on the scale of their linear predictor.

        component: "cond" (of the response), "zi" (logit of the probability of a structural zero)
        or "disp" (logarithm of the dispersion). Raises `ArgumentError` for one that is not there.
        """
        if component == "cond":
            return dict(zip(self.labels.fixed, map(float, self.fit.beta), strict=True))
        names, where = self._component(component)
        return dict(zip(names, map(float, self.fit.phi[where]), strict=True))

    def _component(self, name: str) -> tuple[tuple[str, ...], slice]:
        """Names of a part's coefficients and their place in phi."""
        if name not in self.labels.parts:
            there = ", ".join(("cond", *self.labels.parts))
            raise ArgumentError(f"the model has no component {name!r}; it has {there}")
        return self.labels.parts[name], part_slice(self.family, self.design.parts, name)

    def VarCorr(self) -> VarCorr:
        """Variances and correlations of the random effects; prints lme4's table."""
        names = term_names(self.design, self.labels)
        effects = effect_names(self.design, self.labels)
        parts = []
        for group, own, term in zip(names, effects, self.design.terms, strict=True):
            columns = list(term.columns)
            block = self.fit.factors[term.factor][np.ix_(columns, columns)]
            correlated = STRUCTURES[term.structure].correlated
            parts.append(Component(group, own, block @ block.T, correlated))
        return VarCorr(tuple(parts), self._sigma)

    # Uncertainty.

    def vcov(self, full: bool = False, component: str = "cond") -> pd.DataFrame:
        """Covariance matrix of the fixed effects of a component, or of all parameters.

        component: as in `fixef`.
        full: theta (named as lme4 names it, `herd.(Intercept)`), fixed effects and dispersion; rows
        of a covariance on its boundary are nan. At nAGQ = 0 the fixed effects' part is conditional
        on theta, as lme4's. Quasi families' is multiplied by the dispersion; theta's is not.
        """
        return self.part_of(self.fit.vcov, full, component)

    def part_of(self, covariance: np.ndarray, full: bool, component: str) -> pd.DataFrame:
        """The part of a covariance of (theta, beta, phi) that `vcov` shows."""
        q, p = len(self.fit.theta), len(self.fit.beta)
        if full:
            rest = phi_names(self.family, self.labels.parts)
            names = (*theta_names(self.design, self.labels), *self.labels.fixed, *rest)
            return square_frame(covariance, names)
        if component == "cond":
            return square_frame(covariance[q : q + p, q : q + p], self.labels.fixed)
        names, where = self._component(component)
        return square_frame(covariance[q + p :, q + p :][where, where], names)

    @property
    def fixed_covariance(self) -> np.ndarray:
        """Covariance of the fixed effects (p, p)."""
        first = len(self.fit.theta)
        fixed = slice(first, first + len(self.fit.beta))
        return self.fit.vcov[fixed, fixed]

    # How well it fits.

    @property
    def nobs(self) -> int:
        """Rows that were used, those of weight 0 not counted."""
        return int(np.sum(self.design.weights > 0))

    def ngrps(self) -> dict[str, int]:
        """Number of levels of each grouping factor."""
        counts = (factor.n_levels for factor in self.design.factors)
        return dict(zip(self.labels.factors, counts, strict=True))

    def logLik(self) -> LogLik:
        """The maximised log-likelihood with every constant; it has `.df` and `.nobs`.

        Raises `ArgumentError` for quasi families, as do AIC, BIC and extractAIC.
        """
        if self.family.is_quasi:
            raise ArgumentError(
                "a quasi family has a mean and a variance but no distribution, so that there is no "
                "likelihood, AIC, BIC or likelihood ratio test: compare models by Wald tests, or "
                "fit a family with a distribution"
            )
        return LogLik(self.fit.log_likelihood, self.n_parameters, self.nobs)

    @property
    def n_parameters(self) -> int:
        """Number of parameters that were estimated: theta, beta and phi."""
        return len(self.fit.theta) + len(self.fit.beta) + len(self.fit.phi)

    def AIC(self) -> float:
        """-2 log L + 2 df."""
        found = self.logLik()
        return -2.0 * float(found) + 2.0 * found.df

    def BIC(self) -> float:
        """-2 log L + log(nobs) df."""
        found = self.logLik()
        return -2.0 * float(found) + float(np.log(self.nobs)) * found.df

    def deviance(self) -> float:
        """Sum of squared deviance residuals given the conditional modes (not -2 log L)."""
        design = self.design
        return diagnostics.deviance(
            self.family, design.y, design.trials, design.weights, self.fit.eta, self.shapes
        )

    def df_residual(self) -> int:
        """nobs less the number of parameters."""
        return self.nobs - self.n_parameters

    def extractAIC(self) -> tuple[int, float]:
        """Number of parameters and AIC."""
        return self.logLik().df, self.AIC()

    def criteria(self) -> dict[str, float]:
        """What rests on the likelihood, as glance and the summary have it."""
        log_likelihood = float(self.logLik())
        return {
            "logLik": log_likelihood,
            "AIC": self.AIC(),
            "BIC": self.BIC(),
            "-2*log(L)": -2.0 * log_likelihood,
        }

    # Rows.

    def fitted(self) -> pd.Series:
        """Conditional means, with the frame's index.

        Dropped rows are left out, or nan with `na_action="exclude"`.
        """
        return self.by_row(mean(self.family, self.fit.eta, self.shapes))

    def residuals(self, type: str = "deviance") -> pd.Series:
        """Residuals given the modes, with the frame's index.

        type: "deviance", "pearson", "response" or "working", with R's definitions; prior weights
        enter as in R's glm, dispersion is not divided out. Dropped rows are left out, or nan with
        `na_action="exclude"`. Raises `ArgumentError` for another type.
        """
        return self.by_row(self.residual_rows(type))

    def residual_rows(self, type: str) -> np.ndarray:
        """`residuals` of the rows used (n,)."""
        design = self.design
        return diagnostics.residuals(
            self.family, design.y, design.trials, design.weights, self.fit.eta, self.shapes, type
        )

    def by_row(self, values: np.ndarray) -> pd.Series:
        """Values of the rows used (n,) with the frame's index, as `na_action` has it."""
        index, kept = self.labels.index, self.labels.kept
        if self.labels.na_action == "exclude":
            return pd.Series(spread(values, kept), index=index)
        return pd.Series(values, index=index[kept])

    # The verdict.

    @property
    def converged(self) -> bool:
        """Whether the fit is at an optimum of data that are not separated (`checkConv`)."""
        return self.fit.verdict.ok

    @property
    def optinfo(self) -> dict[str, Any]:
        """Which optimiser gave the answer, why, and at what cost."""
        return dict(self.fit.optinfo)

    def isSingular(self) -> bool:
        """Whether some random effect has no variance of its own."""
        return self.fit.verdict.singular

    def convergence(self) -> Convergence:
        """The verdict, with coefficients by name."""
        rest = phi_names(self.family, self.labels.parts)
        return Convergence.of(self.fit.verdict, (*self.labels.fixed, *rest))


def square_frame(matrix: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """A matrix (d, d) as a frame with the same names on both sides."""
    return pd.DataFrame(matrix.copy(), index=list(names), columns=list(names))
