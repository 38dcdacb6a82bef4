"""The object a user holds: fitted arrays and their labels, whose methods delegate."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mixedlm_jax.all_fit import fit_by_all
from mixedlm_jax.call import Call
from mixedlm_jax.comparison import drop_terms
from mixedlm_jax.errors import ArgumentError, ConvergenceWarning, SingularFitWarning, warn
from mixedlm_jax.fits import Fits
from mixedlm_jax.frames import Framed
from mixedlm_jax.getme import get_me
from mixedlm_jax.imputed import are_frames, refit_frames
from mixedlm_jax.intervals import intervals, profile_table
from mixedlm_jax.many import refit_lanes
from mixedlm_jax.new_response import with_response
from mixedlm_jax.predictions import predict_rows
from mixedlm_jax.report import Summary
from mixedlm_jax.scenario import simulate_model
from mixedlm_jax.summarise import summarise


@dataclass(frozen=True, repr=False, eq=False)
class GlmerResult(Framed):
    """A fitted generalized linear mixed model, as `glmer` returns it.

    What its methods hand out is NumPy, pandas or plain Python. Attributes as in `Fitted`: call,
    design, labels, fit, refitted.
    """

    # The model.

    @property
    def terms(self) -> tuple[str, ...]:
        """Terms of the fixed effects besides the intercept: ("age", "I(age^2)", "age:urban")."""
        return tuple(":".join(map(str, term)) for term in self.call.formula.fixed.terms)

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

    def simulate(
        self,
        nsim: int = 1,
        seed: int | None = None,
        re_form: str | None = "~0",
        newparams: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Responses drawn from the model, rows used x nsim, columns `sim_1`, `sim_2`, ...

        Parameters
        ----------
        nsim
            Number of replicates.
        seed
            A whole number that decides what is drawn; None for fresh draws. Replicate i is the same
            however many there are.
        re_form
            Random effects to keep as they were estimated: none by default, all are drawn anew; None
            keeps all, "~(1 | g)" those.
        newparams
            Parameters in place of the estimates: any of theta, beta and phi (dispersion on its
            natural scale), arrays or dicts by name.

        Returns
        -------
        pandas.DataFrame
            Left-hand sides: successes where the formula names trials, else as the response was.

        Raises
        ------
        ArgumentError
            For arguments outside the values they may take, and for a family that cannot be drawn
            from: a quasi family, or a custom one without a sampler.

        Examples
        --------
        >>> model = mlm.glmer("y ~ trt + (1 | ID)", mlm.load_bacteria(), family="binomial")
        >>> model.simulate(3, seed=1).shape
        (220, 3)
        """
        return simulate_model(self, nsim, seed, re_form, newparams)

    def refit_many(
        self,
        Y: Any,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> Fits:
        """The same model of many responses, or data sets; fitted together, from these estimates.

        Parameters
        ----------
        Y
            Rows x fits: an array, or a frame whose columns name the fits, as `simulate` gives it.
            One row for each row of the data or for each row used; left-hand-side values, in models
            with trials the successes. nan is a missing value: that row has weight 0 in that fit.
            Or a list of frames, multiply imputed data whose predictors differ too: one fit each, of
            a model with one grouping factor, for `mlm.pool`.
        checkpoint, progress
            As in `fit_many`.

        Raises
        ------
        ArgumentError
            For another shape, for a quasi family, and for frames where there are several factors.
        DataError
            For a response that the family cannot have, and for a frame of other coefficients.

        Examples
        --------
        >>> model = mlm.glmer("y ~ trt + (1 | ID)", mlm.load_bacteria(), family="binomial")
        >>> import numpy as np
        >>> y = model.getME("y")
        >>> fits = model.refit_many(np.column_stack([y, 1 - y]))
        >>> print(fits.ok, bool(np.allclose(fits.beta[0], -fits.beta[1], atol=1e-5)))
        [ True  True] True
        """
        refit = refit_frames if are_frames(Y) else refit_lanes
        return refit(self, Y, checkpoint=checkpoint, progress=progress)

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

    # Uncertainty.

    def allFit(self, data: Any = None) -> pd.DataFrame:
        """The model fitted by every optimiser there is, each from the same start.

        The package's own quasi-Newton search, L-BFGS (optax and SciPy), SciPy's trust-exact,
        Nelder-Mead and COBYQA, and NLopt's BOBYQA where it is installed. A row for each: logLik,
        verdict, seconds (without compiling the likelihood), evaluations, largest disagreement with
        the estimates of the highest likelihood in standard errors, and the estimates.

        data: a frame to fit to; by default the one this model was fitted to.
        """
        return fit_by_all(self, data)

    def confint(
        self,
        parm: str | Sequence[str] | None = None,
        level: float = 0.95,
        method: str = "Wald",
    ) -> pd.DataFrame:
        """Confidence intervals of all parameters, columns `2.5 %` and `97.5 %` at level .95.

        Parameters
        ----------
        parm
            A name or names of parameters: standard deviations and correlations of the random
            effects (`sd_(Intercept)|herd`, `cor_Days.(Intercept)|Subject`), dispersion (`sigma`,
            `theta`, ...), fixed effects. "theta_" stands for all but the fixed effects, "beta_" for
            those. All by default.
        method
            "Wald": normal on the scale of log sd, atanh correlation and log dispersion; nan on a
            boundary. "profile": where twice the log-likelihood, all other parameters maximised,
            falls chi2_1's quantile below its maximum; it may end at a standard deviation of 0.
            "boot": percentiles of 1,000 parametric bootstrap replicates (`bootMer`). Notes below
            the table say where a number is not there or a limit is a boundary.

        Raises
        ------
        ArgumentError
            For an unknown name or method, a level outside (0, 1), and for profiles of a quasi
            family, under a prior, of nAGQ=0 and of a fit that has not converged.
        FitError
            Where profiling finds a likelihood higher than the fit's.
        """
        return intervals(self, parm, level, method)

    def profile(
        self, parm: str | Sequence[str] | None = None, level: float = 0.99
    ) -> pd.DataFrame:
        """The profile likelihood of parameters: parameter, value, zeta, logLik, a row per point.

        zeta = sign(value - estimate) sqrt(2 (logLik_max - logLik)) with all other parameters
        maximised, from one end of the interval of that level to the other; a straight line means
        that Wald's interval is as good. parm and what is raised: as in `confint`.
        """
        return profile_table(self, parm, level)

    # Comparison.

    def drop1(self, data: Any = None) -> pd.DataFrame:
        """What the model loses with each term of the fixed effects that no other one contains.

        data: a frame to fit to; by default the one this model was fitted to. A frame in lme4's
        columns, the model itself in row `<none>`: npar (parameters lost), AIC of the model without
        the term, LRT (twice the loss of log-likelihood) and Pr(Chi).

        Raises `ArgumentError` for quasi families, under a prior, for a term whose missing values
        decide which rows are used, and for a model from `refit` without data.
        """
        return drop_terms(self, data)

    # Rows.

    def predict(
        self,
        newdata: Any = None,
        type: str = "response",
        re_form: str | None = None,
        allow_new_levels: bool = False,
        *,
        se_fit: bool = False,
        interval: str | None = None,
        level: float = 0.95,
        seed: int | None = None,
    ) -> Any:
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
            such as "~(1 | g)". "marginal" averages over the groups: the random effects are
            integrated out, and newdata needs no columns of groups. Its standard errors are those
            of all parameters, its prediction intervals those of a new group.
        allow_new_levels
            Predict for levels the model was not fitted with, at b = 0; their prior variance enters
            the standard errors.
        se_fit
            Add a column `se.fit`, glmmTMB's: the uncertainty of the parameters, dispersion and
            structural zeros among them, and of the random effects conditioned on, jointly; by the
            delta method where type is not "link".
            Covariance parameters on their boundary count as known. Where crossed factors leave a
            Schur complement too large to be formed, each row costs a solution: give few rows.
        interval
            "confidence": columns `lower` and `upper`, Wald's on the scale of the linear predictor
            (of the prediction's link where it depends on more than that, the logit of zprob), then
            transformed. "prediction": limits for a new response (a share of the trials, where
            there are any) by 4000 draws of parameters, random effects and response; precision
            weights of new rows are 1.
        level, seed
            Probability of the interval, and what decides the draws.

        Returns
        -------
        numpy.ndarray or pandas.DataFrame
            A frame with the column `fit` and the frame's index where se_fit or interval ask for
            more than the predictions.

        Raises
        ------
        ArgumentError
            For another `type`, `interval` or `level`, a `re_form` that is no subset of the model's
            terms, and for standard errors of a zprob that the model does not estimate.
        DataError
            For newdata without a column that is needed, or with an unseen level; for intervals
            that leave the domain of a restricted link.

        Examples
        --------
        >>> model = mlm.glmer(
        ...     "incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), "binomial"
        ... )
        >>> new = model.call.data.head(2)
        >>> print(model.predict(new, se_fit=True, interval="confidence").round(3))
             fit  se.fit  lower  upper
        0  0.308   0.081  0.175  0.483
        1  0.142   0.052  0.066  0.277
        >>> print(model.predict(new, re_form="marginal", se_fit=True).round(3))
             fit  se.fit
        0  0.216   0.036
        1  0.097   0.027
        """
        return predict_rows(
            self,
            newdata,
            type,
            re_form,
            allow_new_levels,
            se_fit=se_fit,
            interval=interval,
            level=level,
            seed=seed,
        )

    # Pictures.

    def plot(self, ax: Any = None, *, nsim: int = 250, seed: int | None = 1) -> Any:
        """Is the model right? Panels of residuals on matplotlib Axes; see `mlm.plot_residuals`."""
        return _plots().plot_residuals(self, ax, nsim=nsim, seed=seed)

    def plot_ranef(self, ax: Any = None, **options: Any) -> Any:
        """Conditional modes with intervals, sorted; see `mlm.plot_ranef`."""
        return _plots().plot_ranef(self, ax, **options)

    def plot_qq(self, ax: Any = None, **options: Any) -> Any:
        """QQ plots of the random effects, or of residuals; see `mlm.plot_qq`."""
        return _plots().plot_qq(self, ax, **options)

    def plot_profile(self, ax: Any = None, **options: Any) -> Any:
        """Profile zeta curves with the interval they give; see `mlm.plot_profile`."""
        return _plots().plot_profile(self, ax, **options)

    def plot_effects(self, predictor: str, ax: Any = None, **options: Any) -> Any:
        """Predictions along a predictor with their band, over the data; see `mlm.plot_effects`."""
        return _plots().plot_effects(self, predictor, ax, **options)

    def plot_forest(self, ax: Any = None, **options: Any) -> Any:
        """Coefficients with intervals; see `mlm.plot_forest`, which draws several models too."""
        return _plots().plot_forest(self, ax, **options)

    # Printing.

    def summary(self, correlation: bool | None = None) -> Summary:
        """A summary whose `str` is lme4's layout; it prints nothing itself.

        correlation: show the correlations of the fixed effects; by default unless they are many.
        """
        return summarise(self, correlation)

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


def _plots() -> Any:
    """The functions that draw, imported with the first picture."""
    return importlib.import_module("mixedlm_jax.plots")


def fit_call(
    call: Call, *, start: Mapping[str, Any] | None = None, verbose: int | None = None
) -> GlmerResult:
    """The model that a call describes, fitted; start and verbose as in `glmer`."""
    return GlmerResult.of(call, start=start, verbose=verbose)


def announce(model: GlmerResult) -> None:
    """Speak up where lme4 would."""
    found = model.convergence()
    if not found.ok:
        warn(f"{found}; see checkConv(model)", ConvergenceWarning)
    elif found.singular:
        warn(
            "boundary (singular) fit: a standard deviation is 0 or a correlation is +-1; see "
            "model.VarCorr()",
            SingularFitWarning,
        )
