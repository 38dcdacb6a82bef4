"""The object a user holds: fitted arrays and their labels, whose methods delegate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax import diagnostics
from mixedlm_jax.design import Design, Labels
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import Family
from mixedlm_jax.fit import Fit
from mixedlm_jax.inference import correlation, standard_errors, wald_intervals, wald_tests
from mixedlm_jax.objective import OBJECTIVES
from mixedlm_jax.predict import check_scale, linear_predictor, mean, spread
from mixedlm_jax.recipe import NewRows
from mixedlm_jax.report import Component, Convergence, LogLik, Summary, VarCorr


@dataclass(frozen=True, repr=False, eq=False)
class GlmerResult:
    """A fitted generalized linear mixed model, as `glmer` returns it.

    What its methods hand out is NumPy, pandas or plain Python.

    Attributes
    ----------
    formula
        The formula as written.
    family
        The response family with its link.
    design, labels, fit
        The model's arrays, their names, and the fitted arrays. The pure objective is
        `make_problem(model.design, model.family)` away.
    weights
        Name and type of the weights, None where none were given.
    """

    formula: str
    family: Family
    design: Design
    labels: Labels
    fit: Fit
    weights: str | None = None

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
        """Residual standard deviation; 1 for families without one."""
        return self._sigma if self._sigma is not None else 1.0

    @property
    def _sigma(self) -> float | None:
        value = dict(zip(self.fit.phi_names, self.fit.phi, strict=True)).get("sigma")
        return None if value is None else float(value)

    def fixef(self) -> dict[str, float]:
        """Fixed effects by name, on the scale of the linear predictor."""
        return dict(zip(self.labels.fixed, map(float, self.fit.beta), strict=True))

    def ranef(self) -> dict[str, pd.DataFrame]:
        """Conditional modes per grouping factor: a frame of levels by coefficients."""
        return {
            name: pd.DataFrame(b.T.copy(), index=pd.Index(levels, name=name), columns=list(columns))
            for name, b, levels, columns in zip(
                self.labels.factors,
                self.fit.b,
                self.labels.levels,
                self.labels.columns,
                strict=True,
            )
        }

    def VarCorr(self) -> VarCorr:
        """Variances and correlations of the random effects; prints lme4's table."""
        parts = []
        used: dict[str, int] = {}
        for term in self.design.terms:
            group, columns = self.labels.factors[term.factor], list(term.columns)
            names = self.labels.columns[term.factor]
            block = self.fit.factors[term.factor][np.ix_(columns, columns)]
            repeated = used.get(group, 0)
            used[group] = repeated + 1
            parts.append(
                Component(
                    f"{group}.{repeated}" if repeated else group,
                    tuple(names[j] for j in columns),
                    block @ block.T,
                )
            )
        return VarCorr(tuple(parts), self._sigma)

    # Uncertainty.

    def vcov(self, full: bool = False) -> pd.DataFrame:
        """Covariance matrix of the fixed effects, or of all parameters.

        full: theta (named as lme4 names it, `herd.(Intercept)`), fixed effects and dispersion; rows
        of a covariance on its boundary are nan. At nAGQ = 0 the fixed effects' part is conditional
        on theta, as lme4's.
        """
        if not full:
            return _square_frame(self._fixed_covariance, self.labels.fixed)
        names = (*self._theta_names(), *self.labels.fixed, *self.fit.phi_names)
        return _square_frame(self.fit.vcov, names)

    def confint(
        self,
        parm: str | Sequence[str] | None = None,
        level: float = 0.95,
        method: str = "Wald",
    ) -> pd.DataFrame:
        """Wald intervals of the fixed effects, columns `2.5 %` and `97.5 %` at level .95.

        parm: a name or names of fixed effects, all by default. Raises `ArgumentError` for an
        unknown name, a level outside (0, 1), or a method other than "Wald".
        """
        if method != "Wald":
            raise ArgumentError(f"confint has no method {method!r}; the one there is is 'Wald'")
        named = self.labels.fixed if parm is None else parm
        wanted = list(named) if isinstance(named, (list, tuple, pd.Index)) else [named]
        unknown = [name for name in wanted if name not in self.labels.fixed]
        if unknown:
            raise ArgumentError(
                f"parm names {unknown[0]!r}, which is no fixed effect of the model; it has "
                f"{', '.join(self.labels.fixed)}"
            )
        limits = wald_intervals(self.fit.beta, standard_errors(self._fixed_covariance), level)
        tail = 50.0 * (1.0 - level)
        names = [f"{tail:.10g} %", f"{100.0 - tail:.10g} %"]
        return pd.DataFrame(limits, index=list(self.labels.fixed), columns=names).loc[wanted]

    @property
    def _fixed_covariance(self) -> np.ndarray:
        first = len(self.fit.theta)
        fixed = slice(first, first + len(self.fit.beta))
        return self.fit.vcov[fixed, fixed]

    def _theta_names(self) -> list[str]:
        names = []
        for term in self.design.terms:
            group = self.labels.factors[term.factor]
            effects = [self.labels.columns[term.factor][j] for j in term.columns]
            for column, row in zip(*np.triu_indices(len(effects)), strict=True):
                pair = dict.fromkeys((effects[row], effects[column]))
                names.append(".".join([group, *pair]))
        return names

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
        """The maximised log-likelihood with every constant; it has `.df` and `.nobs`."""
        df = len(self.fit.theta) + len(self.fit.beta) + len(self.fit.phi)
        return LogLik(self.fit.log_likelihood, df, self.nobs)

    def AIC(self) -> float:
        """-2 log L + 2 df."""
        return -2.0 * self.fit.log_likelihood + 2.0 * self.logLik().df

    def BIC(self) -> float:
        """-2 log L + log(nobs) df."""
        return -2.0 * self.fit.log_likelihood + float(np.log(self.nobs)) * self.logLik().df

    def deviance(self) -> float:
        """Sum of squared deviance residuals given the conditional modes (not -2 log L)."""
        design = self.design
        return diagnostics.deviance(
            self.family, design.y, design.trials, design.weights, self.fit.eta
        )

    def df_residual(self) -> int:
        """nobs less the number of parameters."""
        return self.nobs - self.logLik().df

    # Rows.

    def fitted(self) -> pd.Series:
        """Conditional means, with the frame's index.

        Dropped rows are left out, or nan with `na_action="exclude"`.
        """
        return self._by_row(mean(self.family, self.fit.eta))

    def residuals(self, type: str = "deviance") -> pd.Series:
        """Residuals given the modes, with the frame's index.

        type: "deviance", "pearson", "response" or "working", with R's definitions; prior weights
        enter as in R's glm, dispersion is not divided out. Dropped rows are left out, or nan with
        `na_action="exclude"`. Raises `ArgumentError` for another type.
        """
        return self._by_row(self._residuals(type))

    def _residuals(self, type: str) -> np.ndarray:
        design = self.design
        return diagnostics.residuals(
            self.family, design.y, design.trials, design.weights, self.fit.eta, type
        )

    def _by_row(self, values: np.ndarray) -> pd.Series:
        index, kept = self.labels.index, self.labels.kept
        if self.labels.na_action == "exclude":
            return pd.Series(spread(values, kept), index=index)
        return pd.Series(values, index=index[kept])

    def predict(
        self,
        newdata: Any = None,
        type: str = "response",
        re_form: str | None = None,
        allow_new_levels: bool = False,
    ) -> np.ndarray:
        """Predictions, one value per row of the frame; nan where a value is missing.

        Parameters
        ----------
        newdata
            A frame with the model's predictors; the model's own rows by default.
        type
            "response" (means, probabilities) or "link" (linear predictor).
        re_form
            Which random effects to condition on: all (None), none ("~0" or "NA": the typical
            group, b = 0, which is not the average over groups), or some of the model's terms
            such as "~(1 | g)".
        allow_new_levels
            Predict for levels the model was not fitted with, at b = 0.

        Raises
        ------
        ArgumentError
            For another `type`, or a `re_form` that is no subset of the model's terms.
        DataError
            For newdata without a column that is needed, or with an unseen level.
        """
        check_scale(type)
        used = self.labels.condition_on(re_form)
        wanted = [i for i, columns in enumerate(used) if np.any(columns)]
        rows = self._own_rows(wanted)
        if newdata is not None:
            rows = self.labels.rebuild(newdata, allow_new_levels=allow_new_levels, factors=wanted)
        b = [self.fit.b[i] * used[i][:, None] for i in wanted]
        eta = linear_predictor(rows.X, self.fit.beta, rows.offset, rows.Z, rows.levels, b)
        values = eta if type == "link" else mean(self.family, eta)
        return spread(values, rows.complete)

    def _own_rows(self, wanted: Sequence[int]) -> NewRows:
        factors = [self.design.factors[i] for i in wanted]
        return NewRows(
            X=self.design.X,
            Z=tuple(factor.Z for factor in factors),
            levels=tuple(factor.levels for factor in factors),
            offset=self.design.offset,
            complete=self.labels.kept,
            index=self.labels.index,
        )

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
        return Convergence.of(self.fit.verdict, self.labels.fixed)

    # Printing.

    def summary(self, correlation: bool | None = None) -> Summary:
        """A summary whose `str` is lme4's layout; it prints nothing itself.

        correlation: show the correlations of the fixed effects; by default unless they are many.
        """
        return _summarise(self, correlation)

    def __str__(self) -> str:
        return self.summary().brief()

    def __repr__(self) -> str:
        return (
            f"<GlmerResult {self.formula}: {self.family}, {self.nobs} obs, "
            f"log-likelihood {self.fit.log_likelihood:.4f}>"
        )


def _summarise(model: GlmerResult, show_correlation: bool | None) -> Summary:
    fit, covariance = model.fit, model.vcov().to_numpy()
    se = standard_errors(covariance)
    fixed = list(model.labels.fixed)
    columns = ("Estimate", "Std. Error", "z value", "Pr(>|z|)")
    table = (fit.beta, se, *wald_tests(fit.beta, se))
    used = model.design.weights > 0
    scaled = model._residuals("pearson")[used] / model.sigma
    return Summary(
        method=OBJECTIVES[fit.nAGQ].label,
        family=f"{model.family.name}  ( {model.family.link.name} )",
        formula=model.formula,
        weights=model.weights,
        criteria={
            "AIC": model.AIC(),
            "BIC": model.BIC(),
            "logLik": float(model.logLik()),
            "-2*log(L)": -2.0 * float(model.logLik()),
            "df.resid": model.df_residual(),
        },
        scaled_residuals=np.quantile(scaled, [0.0, 0.25, 0.5, 0.75, 1.0]),
        varcorr=model.VarCorr(),
        nobs=model.nobs,
        ngrps=model.ngrps(),
        coefficients=pd.DataFrame(dict(zip(columns, table, strict=True)), index=fixed),
        correlation=_square_frame(correlation(covariance), fixed),
        show_correlation=show_correlation,
        convergence=model.convergence(),
        notes=(*model.labels.notes, *_notes_on_fit(fit)),
    )


def _square_frame(matrix: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(matrix.copy(), index=list(names), columns=list(names))


def _notes_on_fit(fit: Fit) -> list[str]:
    notes = []
    if fit.nAGQ == 0:
        notes.append("Standard errors of the fixed effects are conditional on theta (nAGQ = 0).")
    if fit.information == "expected":
        notes.append("The Laplace determinant uses the expected information, as lme4's does.")
    if fit.verdict.singular:
        notes.append("Covariance parameters on their boundary have no standard errors (nan).")
    return notes
