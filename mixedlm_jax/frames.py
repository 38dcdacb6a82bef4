"""What a fitted model knows as frames, in the words of lme4 and broom.mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.model_frame import model_frame
from mixedlm_jax.ranef import RanEf, check_cond_var, coefficients, mode_frames
from mixedlm_jax.robust import robust_covariance
from mixedlm_jax.tidy import (
    chosen_effects,
    component_rows,
    fixed_rows,
    mode_rows,
    of_component,
    row_columns,
    together,
)
from mixedlm_jax.uncertainty import component_errors, conditional_variances, leverages


@dataclass(frozen=True, repr=False, eq=False)
class Framed(Fitted):
    """A fitted model that hands out frames. Attributes as in `Fitted`."""

    def model_frame(self) -> pd.DataFrame:
        """The variables of the formula on the rows used, with the frame's index; R's names.

        The response comes first and as the model has it: 0 and 1 for two levels, a proportion where
        there are trials. `(weights)` and `(offset)` stand last.
        """
        return model_frame(self.call.formula, self.design, self.labels, self.call.data)

    # Estimates.

    def ranef(self, condVar: bool | str = False) -> RanEf:
        """Conditional modes per grouping factor: a frame of levels by coefficients.

        condVar: with True or "joint" the result's attribute `condVar` holds, per grouping factor,
        the covariance of each level's effects as an array (levels, k, k): given the parameters
        (True, lme4's), or with the uncertainty of the parameters in it ("joint", glmmTMB's;
        covariance parameters on their boundary count as known). Raises `ArgumentError` for another
        value.
        """
        check_cond_var(condVar)
        if not condVar:
            return mode_frames(self.labels, self.fit.b)
        variances = conditional_variances(
            self.design, self.family, self.fit, joint=condVar == "joint"
        )
        return mode_frames(self.labels, self.fit.b, variances)

    def coef(self) -> dict[str, pd.DataFrame]:
        """Fixed plus random effects of each level: per grouping factor levels by coefficients."""
        return coefficients(self.fixef(), self.ranef())

    # Uncertainty.

    def vcov(
        self,
        full: bool = False,
        component: str = "cond",
        *,
        type: str = "model",
        cluster: Any = None,
    ) -> pd.DataFrame:
        """Covariance matrix of the fixed effects of a component, or of all parameters.

        Parameters
        ----------
        full
            theta (named as lme4 names it, `herd.(Intercept)`), fixed effects and dispersion; rows
            of a covariance on its boundary are nan.
        component
            As in `fixef`.
        type
            "model": from the exact Hessian. At nAGQ = 0 the fixed effects' part is conditional on
            theta, as lme4's. Quasi families' is multiplied by the dispersion; theta's is not.
            "robust": the sandwich H^-1 (sum_c s_c s_c') H^-1 n / (n - 1) of the scores s_c of n
            clusters, which holds where the responses within a cluster depend on each other in ways
            that the model does not say.
        cluster
            For "robust": a column of the data, or a label for each row; by default the grouping
            factor that contains all others. Every level of every grouping factor must lie in one
            cluster.

        Raises
        ------
        ArgumentError
            For another type, a cluster that does not contain the grouping factors, and for "robust"
            with a quasi family or nAGQ=0.

        Warns
        -----
        MixedlmWarning
            Where there are fewer than 40 clusters: robust standard errors are then too small.
        """
        if type == "robust":
            return self.part_of(robust_covariance(self, cluster), full, component)
        if type != "model" or cluster is not None:
            raise ArgumentError(
                f'type is {type!r} and cluster is {cluster!r}; choose type="model", or '
                'type="robust", which clusters are for'
            )
        return Fitted.vcov(self, full, component)

    # With the column names of R's broom.mixed.

    def tidy(
        self,
        effects: str | Sequence[str] = "fixed",
        conf_int: bool = False,
        conf_level: float = 0.95,
        exponentiate: bool = False,
    ) -> pd.DataFrame:
        """Estimates as rows: effect, group, level, term, estimate, std.error, statistic, p.value.

        Where zeros or the dispersion have a formula, their coefficients are fixed effects too, and
        a column `component` says whose a row is: "cond" (the response's), "zi" or "disp".

        Parameters
        ----------
        effects
            "fixed"; "ran_pars", standard deviations and correlations of the random effects, with
            standard errors by the delta method; "ran_vals", conditional modes with conditional
            standard deviations; several of them; or "all".
        conf_int, conf_level
            Add conf.low and conf.high: Wald's, for ran_pars on the scale of log sd and atanh
            correlation.
        exponentiate
            Exponentiate estimates and limits of the fixed effects, and scale their standard errors.

        Raises
        ------
        ArgumentError
            For other effects, or a level outside (0, 1).
        """
        level = conf_level if conf_int else None
        rows: dict[str, Callable[[], pd.DataFrame]] = {
            "fixed": lambda: together(
                [
                    self._fixed_rows(part, level, exponentiate)
                    for part in ("cond", *self.labels.parts)
                ]
            ),
            "ran_pars": lambda: self._in_part(
                "cond",
                component_rows(
                    self.VarCorr(),
                    component_errors(self.design, self.family, self.fit),
                    level=level,
                ),
            ),
            "ran_vals": lambda: self._in_part(
                "cond", mode_rows(self.ranef(condVar=True), level=level)
            ),
        }
        return together([rows[name]() for name in chosen_effects(effects)])

    def _fixed_rows(self, part: str, level: float | None, exponentiate: bool) -> pd.DataFrame:
        effects, covariance = self.fixef(part), self.vcov(component=part).to_numpy()
        beta = np.array(list(effects.values()))
        rows = fixed_rows(list(effects), beta, covariance, level=level, exponentiate=exponentiate)
        return self._in_part(part, rows)

    def _in_part(self, part: str, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows with the name of their part, where the model has more than one."""
        return of_component(rows, part) if self.labels.parts else rows

    def glance(self) -> pd.DataFrame:
        """One row: nobs, sigma, logLik, AIC, BIC, deviance, df.residual.

        The deviance is lme4's: -2 log L of a linear model, else that of `deviance()`. There is no
        column for what a model does not have: logLik, AIC and BIC of a quasi family, sigma where
        it differs by row.
        """
        criteria = {} if self.family.is_quasi else self.criteria()
        row = {
            "nobs": self.nobs,
            **({} if self._sigma_differs else {"sigma": self.sigma}),
            **{name: value for name, value in criteria.items() if name != "-2*log(L)"},
            "deviance": self.deviance() if self.isGLMM() else criteria["-2*log(L)"],
            "df.residual": self.df_residual(),
        }
        return pd.DataFrame([row])

    def augment(self) -> pd.DataFrame:
        """The model frame with a column for each thing known about a row; rows as used.

        .fitted (linear predictor), .resid (deviance residual), .hat and .cooksd (leverage in the
        joint fit of fixed and random effects given theta, and Cook's distance from it), .fixed
        (linear predictor at b = 0), .mu, .offset, .sqrtXwt and .sqrtrwt (square roots of the
        working weight and of weight / variance), .weights, .wtres (Pearson residual), and .eta
        where it is not .mu. What needs the variance is left out where a custom family has none.
        """
        hat = leverages(self.design, self.family, self.fit)
        columns = row_columns(self.design, self.family, self.fit, hat)
        return self.model_frame().assign(**columns)
