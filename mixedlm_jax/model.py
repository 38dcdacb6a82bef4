"""The object a user holds: fitted arrays and their labels, whose methods delegate."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax import diagnostics
from mixedlm_jax.call import Call
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.design import Design, Labels
from mixedlm_jax.dispersion import (
    DISPERSION,
    natural_at_rows,
    part_names,
    part_slice,
    phi_names,
)
from mixedlm_jax.errors import ArgumentError, ConvergenceWarning, SingularFitWarning
from mixedlm_jax.families import Family
from mixedlm_jax.fit import Fit
from mixedlm_jax.getme import get_me
from mixedlm_jax.inference import correlation, standard_errors, wald_intervals, wald_tests
from mixedlm_jax.means import mean, on_scale
from mixedlm_jax.model_frame import model_frame
from mixedlm_jax.names import effect_names, term_names, theta_names
from mixedlm_jax.new_response import with_response
from mixedlm_jax.objective import objective_for
from mixedlm_jax.predict import check_scale, linear_predictor, spread
from mixedlm_jax.ranef import RanEf, check_cond_var, coefficients, mode_frames
from mixedlm_jax.recipe import NewRows
from mixedlm_jax.report import Component, Convergence, LogLik, Summary, VarCorr
from mixedlm_jax.tidy import (
    chosen_effects,
    component_rows,
    fixed_rows,
    mode_rows,
    row_columns,
    together,
)
from mixedlm_jax.uncertainty import component_errors, conditional_variances, leverages


@dataclass(frozen=True, repr=False, eq=False)
class GlmerResult:
    """A fitted generalized linear mixed model, as `glmer` returns it.

    What its methods hand out is NumPy, pandas or plain Python.

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
    def terms(self) -> tuple[str, ...]:
        """Terms of the fixed effects besides the intercept: ("age", "I(age^2)", "age:urban")."""
        return tuple(":".join(map(str, term)) for term in self.call.formula.fixed.terms)

    @property
    def weights(self) -> pd.Series:
        """Prior weights, times the trials where there are any, as R's; rows as in `fitted`."""
        return self._by_row(self.design.weights * self.design.trials)

    @property
    def offset(self) -> pd.Series:
        """Sum of all offsets, on the scale of the linear predictor; rows as in `fitted`."""
        return self._by_row(self.design.offset)

    def isGLMM(self) -> bool:
        """Whether this is a generalized linear mixed model, as against a linear one."""
        return not self.family.is_linear

    def model_frame(self) -> pd.DataFrame:
        """The variables of the formula on the rows used, with the frame's index; R's names.

        The response comes first and as the model has it: 0 and 1 for two levels, a proportion where
        there are trials. `(weights)` and `(offset)` stand last.
        """
        return model_frame(self.call.formula, self.design, self.labels, self.call.data)

    def getME(self, name: str) -> Any:
        """A part of the model by lme4's name: NumPy, scipy.sparse for Z, Zt, Lambda and Lambdat.

        "X", "Z", "y", "theta", "beta", "u", "b", "Lambda", "lower", "flist", "cnms", "n", "p", "q"
        and more: `mixedlm_jax.getme.PARTS` lists and explains them. Raises `ArgumentError` for a
        name that is not there.
        """
        return get_me(self.design, self.labels, self.family, self.fit, name)

    # Other models from this one.

    def refit(self, y: Any, *, verbose: int | None = None) -> GlmerResult:
        """The same model of another response, its search starting at these estimates.

        Parameters
        ----------
        y
            One value for each row of the data, or for each row used: an array, a Series or a column
            of a frame. In models with trials the successes, or two columns, successes and failures;
            of a bare proportion with weights, the proportion.
        verbose
            As in `glmer`.

        Raises
        ------
        ArgumentError
            For another shape, or a Series with another index.
        DataError
            For a response that the family cannot have, or that is missing in rows used.
        """
        design = with_response(self.design, self.labels, self.call.formula, self.family, y)
        start = {"beta": self.fit.beta, "phi": self.fit.phi}
        if not self.isSingular():  # a search cannot leave theta = 0, where it is stationary
            start["theta"] = self.fit.theta
        fit = self.call.fit(design, start=start, verbose=verbose)
        model = GlmerResult(self.call, design, self.labels, fit, refitted=True)
        announce(model)
        return model

    def update(
        self,
        formula: str | None = None,
        data: Any = None,
        *,
        start: Mapping[str, Any] | None = None,
        verbose: int | None = None,
        **arguments: Any,
    ) -> GlmerResult:
        """This model with a changed formula, other data or other arguments, fitted anew.

        Parameters
        ----------
        formula
            As in R's `update`: `". ~ . + x - (1 | g)"`, `.` standing for the old side.
        data
            A frame; by default the one this model was fitted to.
        start, verbose
            As in `glmer`.
        arguments
            Any other argument of `glmer`: family, nAGQ, weights, control, ...

        Raises
        ------
        ArgumentError
            For an unknown argument, and for a model from `refit` without data.
        FormulaError
            For a formula that cannot be read, or that takes away a term that is not there.
        """
        if self.refitted and data is None:
            raise ArgumentError(
                "this model was refitted to a response that its data do not hold: put the response "
                "into a frame and give it as data="
            )
        model = fit_call(self.call.revised(formula, data, arguments), start=start, verbose=verbose)
        announce(model)
        return model

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
    def _shapes(self) -> tuple[Any, ...]:
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
        if full:
            rest = phi_names(self.family, self.labels.parts)
            names = (*theta_names(self.design, self.labels), *self.labels.fixed, *rest)
            return _square_frame(self.fit.vcov, names)
        if component == "cond":
            return _square_frame(self._fixed_covariance, self.labels.fixed)
        names, where = self._component(component)
        of_phi = self.fit.vcov[-len(self.fit.phi) :, -len(self.fit.phi) :]
        return _square_frame(of_phi[where, where], names)

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
        return LogLik(self.fit.log_likelihood, self._n_parameters, self.nobs)

    @property
    def _n_parameters(self) -> int:
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
            self.family, design.y, design.trials, design.weights, self.fit.eta, self._shapes
        )

    def df_residual(self) -> int:
        """nobs less the number of parameters."""
        return self.nobs - self._n_parameters

    def extractAIC(self) -> tuple[int, float]:
        """Number of parameters and AIC."""
        return self.logLik().df, self.AIC()

    # As frames, with the column names of R's broom.mixed.

    def tidy(
        self,
        effects: str | Sequence[str] = "fixed",
        conf_int: bool = False,
        conf_level: float = 0.95,
        exponentiate: bool = False,
    ) -> pd.DataFrame:
        """Estimates as rows: effect, group, level, term, estimate, std.error, statistic, p.value.

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
            "fixed": lambda: fixed_rows(
                self.labels.fixed,
                self.fit.beta,
                self._fixed_covariance,
                level=level,
                exponentiate=exponentiate,
            ),
            "ran_pars": lambda: component_rows(
                self.VarCorr(), component_errors(self.design, self.family, self.fit), level=level
            ),
            "ran_vals": lambda: mode_rows(self.ranef(condVar=True), level=level),
        }
        return together([rows[name]() for name in chosen_effects(effects)])

    def glance(self) -> pd.DataFrame:
        """One row: nobs, sigma, logLik, AIC, BIC, deviance, df.residual.

        The deviance is lme4's: -2 log L of a linear model, else that of `deviance()`. There is no
        column for what a model does not have: logLik, AIC and BIC of a quasi family, sigma where
        it differs by row.
        """
        criteria = {} if self.family.is_quasi else self._criteria()
        row = {
            "nobs": self.nobs,
            **({} if self._sigma_differs else {"sigma": self.sigma}),
            **{name: value for name, value in criteria.items() if name != "-2*log(L)"},
            "deviance": self.deviance() if self.isGLMM() else criteria["-2*log(L)"],
            "df.residual": self.df_residual(),
        }
        return pd.DataFrame([row])

    def _criteria(self) -> dict[str, float]:
        """What rests on the likelihood, as glance and the summary have it."""
        log_likelihood = float(self.logLik())
        return {
            "logLik": log_likelihood,
            "AIC": self.AIC(),
            "BIC": self.BIC(),
            "-2*log(L)": -2.0 * log_likelihood,
        }

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

    # Rows.

    def fitted(self) -> pd.Series:
        """Conditional means, with the frame's index.

        Dropped rows are left out, or nan with `na_action="exclude"`.
        """
        return self._by_row(mean(self.family, self.fit.eta, self._shapes))

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
            self.family, design.y, design.trials, design.weights, self.fit.eta, self._shapes, type
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
            "response" (means, probabilities), "link" (linear predictor), "conditional" (means
            given that the response is no structural zero) or "zprob" (its probability).
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
        shapes = natural_at_rows(self.family, rows.parts, self.fit.phi)
        return spread(on_scale(self.family, eta, shapes, type), rows.complete)

    def _own_rows(self, wanted: Sequence[int]) -> NewRows:
        factors = [self.design.factors[i] for i in wanted]
        return NewRows(
            X=self.design.X,
            Z=tuple(factor.Z for factor in factors),
            levels=tuple(factor.levels for factor in factors),
            offset=self.design.offset,
            complete=self.labels.kept,
            index=self.labels.index,
            parts=self.design.parts,
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
        likelihood = "log quasi-likelihood" if self.family.is_quasi else "log-likelihood"
        return (
            f"<GlmerResult {self.formula}: {self.family}, {self.nobs} obs, "
            f"{likelihood} {self.fit.log_likelihood:.4f}>"
        )

    def _repr_html_(self) -> str:
        return self.summary().html()


def fit_call(
    call: Call, *, start: Mapping[str, Any] | None = None, verbose: int | None = None
) -> GlmerResult:
    """The model that a call describes, fitted; start and verbose as in `glmer`."""
    design, labels = call.build()
    return GlmerResult(call, design, labels, call.fit(design, start=start, verbose=verbose))


def announce(model: GlmerResult) -> None:
    """Speak up where lme4 would, at the caller of the function that calls this one."""
    found = model.convergence()
    if not found.ok:
        warnings.warn(f"{found}; see checkConv(model)", ConvergenceWarning, stacklevel=3)
    elif found.singular:
        warnings.warn(
            "boundary (singular) fit: a standard deviation is 0 or a correlation is +-1; see "
            "model.VarCorr()",
            SingularFitWarning,
            stacklevel=3,
        )


def _summarise(model: GlmerResult, show_correlation: bool | None) -> Summary:
    fit, covariance = model.fit, model.vcov().to_numpy()
    fixed = list(model.labels.fixed)
    used = model.design.weights > 0
    limits = [f"{note}." for note in model.family.limit_notes(model._shapes)]
    scaled = np.empty(0)
    if model.family.has_variance:
        scale = model.family.residual_scale(model._shapes) * np.sqrt(fit.dispersion)
        quantiles = [0.0, 0.25, 0.5, 0.75, 1.0]
        scaled = np.quantile((model._residuals("pearson") / scale)[used], quantiles)
    criteria = {} if model.family.is_quasi else model._criteria()
    order = ("AIC", "BIC", "logLik", "-2*log(L)")
    return Summary(
        method=objective_for(fit.nAGQ).label,
        family=f"{model.family.name}  ( {model.family.link.name} )",
        formula=model.formula,
        weights=model.call.described_weights,
        criteria={
            **{name: criteria[name] for name in order if name in criteria},
            "df.resid": model.df_residual(),
        },
        scaled_residuals=scaled,
        varcorr=model.VarCorr(),
        nobs=model.nobs,
        ngrps=model.ngrps(),
        coefficients=_coefficients(model, "cond"),
        parts={_title(model, name): _coefficients(model, name) for name in model.labels.parts},
        correlation=_square_frame(correlation(covariance), fixed),
        dispersion=_dispersion_table(model),
        show_correlation=show_correlation,
        convergence=model.convergence(),
        notes=(*model.labels.notes, *_notes_on_fit(fit), *limits, *_notes_on_method(model)),
        maximised="quasi-likelihood" if model.family.is_quasi else "likelihood",
    )


def _title(model: GlmerResult, part: str) -> str:
    """What a summary calls a part: the parameter it models, and on which scale."""
    names = part_names(model.family)
    parameter = model.family.dispersion_names[names.index(part)]
    scale = model.family.parameters[parameter].scale
    return f"Dispersion ({scale} of {parameter})" if part == DISPERSION else f"Zeros ({scale})"


def _coefficients(model: GlmerResult, component: str) -> pd.DataFrame:
    """Estimate, Std. Error, z value and Pr(>|z|) of the fixed effects of a component."""
    estimates = model.fixef(component)
    se = standard_errors(model.vcov(component=component).to_numpy())
    values = np.array(list(estimates.values()), float)
    columns = ("Estimate", "Std. Error", "z value", "Pr(>|z|)")
    table = (values, se, *wald_tests(values, se))
    return pd.DataFrame(dict(zip(columns, table, strict=True)), index=list(estimates))


def _dispersion_table(model: GlmerResult) -> pd.DataFrame:
    """Estimate and Std. Error of each dispersion parameter that VarCorr does not show."""
    if model.family.is_quasi:
        known = {"Estimate": model.fit.dispersion, "Std. Error": np.nan}
        return pd.DataFrame(known, index=["phi"])
    names = phi_names(model.family, model.labels.parts)
    shown = [] if model.family.has_residual_sd else list(model.dispersion)
    of_phi = standard_errors(model.fit.vcov)[len(model.fit.vcov) - len(names) :]
    errors = dict(zip(names, of_phi, strict=True))
    columns = {
        "Estimate": [model.dispersion[name] for name in shown],
        "Std. Error": [errors[name] for name in shown],
    }
    return pd.DataFrame(columns, index=shown, dtype=float)


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
    if fit.log_likelihood_error > 0.0:
        notes.append(
            "Log-likelihood by random probes for the crossed factors, Monte Carlo standard error "
            f"{fit.log_likelihood_error:.2g}"
        )
        notes.append("(GlmerControl: n_probes for a smaller one, max_corner for none).")
    return notes


def _notes_on_method(model: GlmerResult) -> list[str]:
    design = model.design
    if model.family.is_quasi:
        return [
            "Dispersion from Pearson's statistic over n less the trace of the joint hat matrix; "
            "standard errors",
            "of the fixed effects are multiplied by its square root, theta is the estimate at "
            "dispersion 1.",
        ]
    doubtful = model.fit.nAGQ == 1 and diagnostics.binary_in_small_clusters(
        model.family,
        design.y,
        design.trials,
        design.weights,
        [factor.levels for factor in design.factors],
    )
    if not doubtful:
        return []
    return ["Binary responses in small clusters: see mlm.check_laplace(model)."]
