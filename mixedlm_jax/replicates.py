"""The entry points for many fits: `fit_many`, bootstrap, power, and what is made of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from mixedlm_jax.bootstrap import Bootstrap, OneFit, boot
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import Family, resolve
from mixedlm_jax.fits import Fits
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.many import fit_lanes_of
from mixedlm_jax.model import GlmerResult
from mixedlm_jax.pooling import pooled
from mixedlm_jax.power import Power, PowerCurve, curve_of, power_of
from mixedlm_jax.ratio_test import RatioTest, compare
from mixedlm_jax.scenario import Scenario, extended, simulate_design
from mixedlm_jax.simulate import check_count


def fit_many(
    formula: str,
    data: Any,
    responses: Any,
    family: Family | type[Family] | str = "gaussian",
    *,
    trials: Any = None,
    nAGQ: int = 1,
    weights: Any = None,
    weights_type: str = "prior",
    offset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, str] | None = None,
    ziformula: str | None = None,
    dispformula: str | None = None,
    control: GlmerControl | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Fits:
    """Fit one design to many responses at once: simulations, genes, imputations.

    All fits take their steps together, on every core and device there is; each ends with its exact
    Hessian and a verdict of its own. Memory is bounded by blocks of lanes, each of about 32,768
    rows x fits a core, besides the responses themselves.

    Parameters
    ----------
    formula
        One-sided, `"~ period + (1 | herd)"`.
    data
        A pandas or polars frame with the predictors.
    responses
        Rows x fits: an array, or a frame whose columns name the fits (genes). Numbers: successes
        where there are trials. nan is a missing value: that row has weight 0 in that fit.
    trials
        A column's name, or one number a row: what successes are out of.
    checkpoint
        A folder in which finished blocks are kept, so that a killed run goes on where it stood.
    progress
        Show a bar with fits a second: True, False, or None for on a terminal only.
    family, nAGQ, weights, weights_type, offset, na_action, contrasts, ziformula, dispformula
        As in `glmer`.
    control
        As in `glmer`; its optimizer, tol and maxfun are those of fits that failed in lockstep and
        are made anew by the path of a single fit.

    Returns
    -------
    Fits
        Arrays with one row a fit: beta, theta, phi, se, logLik, ok, code.

    Raises
    ------
    FormulaError, DataError, ArgumentError
        As `glmer`; and `ArgumentError` for responses of another shape, a quasi family, or a
        checkpoint of another run.

    Examples
    --------
    >>> import numpy as np
    >>> cbpp = mlm.load_cbpp()
    >>> Y = np.column_stack([cbpp["incidence"], cbpp["size"] - cbpp["incidence"]])
    >>> fits = mlm.fit_many("~ period + (1 | herd)", cbpp, Y, "binomial", trials="size")
    >>> print(fits.ok, fits.logLik.round(4))
    [ True  True] [-92.0263 -92.0263]
    """
    arguments = {
        "family": resolve(family),
        "nAGQ": nAGQ,
        "weights": weights,
        "weights_type": weights_type,
        "offset": offset,
        "na_action": na_action,
        "contrasts": contrasts,
        "ziformula": ziformula,
        "dispformula": dispformula,
        "control": control,
    }
    return fit_lanes_of(
        formula, data, responses, trials, arguments, checkpoint=checkpoint, progress=progress
    )


def simulate_formula(
    formula: str,
    data: Any,
    family: Family | type[Family] | str = "gaussian",
    *,
    beta: Any,
    theta: Any,
    sigma: float | None = None,
    phi: Any = None,
    trials: Any = None,
    nsim: int = 1,
    seed: int | None = None,
    weights: Any = None,
    weights_type: str = "prior",
    offset: Any = None,
    contrasts: Mapping[str, str] | None = None,
    ziformula: str | None = None,
    dispformula: str | None = None,
) -> pd.DataFrame:
    """Responses simulated from a formula and parameters, without a fit.

    Parameters
    ----------
    formula
        One-sided, or with a left-hand side, of which only the trials of `successes / trials` count.
    data
        A pandas or polars frame with the predictors.
    family
        As in `glmer`.
    beta, theta
        Fixed effects and covariance parameters (lme4's: relative to sigma for the Gaussian), arrays
        or dicts by name.
    sigma, phi
        The residual standard deviation of the Gaussian; or all dispersion parameters on their
        natural scale, an array or a dict by name.
    trials
        A column's name, or one number a row.
    nsim, seed
        Number of replicates, and a whole number that decides what is drawn; None for fresh draws.
        Replicate i is the same however many there are.
    weights, weights_type, offset, contrasts, ziformula, dispformula
        As in `glmer`.

    Returns
    -------
    pandas.DataFrame
        Rows used x nsim, columns `sim_1`, `sim_2`, ...: successes where there are trials.

    Raises
    ------
    FormulaError, DataError, ArgumentError
        As `glmer`; and `ArgumentError` for parameters of another number than the model has.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"x": np.tile([0.0, 1.0], 30), "g": np.repeat(np.arange(20), 3)})
    >>> formula, beta = "~ x + (1 | g)", [1.0, 0.5]
    >>> y = mlm.simulate_formula(formula, frame, "poisson", beta=beta, theta=[0.3], seed=1)
    >>> print(y.shape, bool((y >= 0).all().all()))
    (60, 1) True
    """
    if sigma is not None:
        if phi is not None:
            raise ArgumentError("sigma and phi are both given, which are one: give one of them")
        phi = {"sigma": sigma}
    given = {"beta": beta, "theta": theta} | ({} if phi is None else {"phi": phi})
    arguments = {
        "weights": weights,
        "weights_type": weights_type,
        "offset": offset,
        "contrasts": contrasts,
        "ziformula": ziformula,
        "dispformula": dispformula,
    }
    return simulate_design(formula, data, resolve(family), trials, given, arguments, nsim, seed)


def bootMer(
    model: GlmerResult,
    FUN: Callable[[OneFit], Any] | None = None,
    nsim: int = 1000,
    *,
    seed: int | None = None,
    type: str = "parametric",
    progress: bool | None = None,
) -> Bootstrap:
    """Bootstrap a statistic of a model by refits to simulated responses, all fitted together.

    Parameters
    ----------
    model
        A fit.
    FUN
        A function of one fit (`.beta`, `.theta`, `.phi`, `.components`, `.vcov`, `.logLik`,
        `.fixef()`, `.estimates`) that gives a number, an array or a dict of numbers, NumPy's or
        JAX's. By default all estimates: fixed effects, standard deviations and correlations,
        dispersion.
    nsim, seed, progress
        As in `simulate_formula` and `fit_many`.
    type
        "parametric": responses simulated with new random effects. "cluster": groups drawn with
        replacement, for models with one grouping factor.

    Returns
    -------
    Bootstrap
        `.t0`, `.t`, `.confint(level, type="perc" | "basic" | "bca")`. Fits that are not ok are left
        out and counted.

    Raises
    ------
    ArgumentError
        For arguments outside the values they may take, and for a family that cannot be simulated.

    Examples
    --------
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), "binomial")
    >>> found = mlm.bootMer(model, lambda fit: fit.fixef(), nsim=200, seed=1)
    >>> print(found.t.shape, bool((found.confint().loc["period2"] < 0).all()))
    (200, 4) True
    """
    check_fitted(model, "bootMer")
    return boot(model, FUN, nsim, seed, type, progress)


def powerSim(
    model: GlmerResult | Scenario,
    test: str | Callable[[OneFit], float] | None = None,
    nsim: int = 1000,
    alpha: float = 0.05,
    *,
    method: str = "Wald",
    seed: int | None = None,
    progress: bool | None = None,
) -> Power:
    """The power of a test where a model's estimates are the truth, by simulation.

    Parameters
    ----------
    model
        A fit, or what `extend` returned.
    test
        A fixed effect ("period2"), a term ("period", all its columns jointly), or a function of one
        fit (as in `bootMer`) that returns a p-value. By default the only fixed effect there is.
    nsim, seed, progress
        As in `bootMer`.
    alpha
        The level of the test.
    method
        "Wald", or "LRT", the likelihood ratio with the model without the term.

    Returns
    -------
    Power
        `.power`, `.interval()` (Wilson's), `.p_values`, `.failures`: fits that are not ok count as
        not rejected.

    Raises
    ------
    ArgumentError
        For a test that the model does not have, or arguments outside the values they may take.

    Examples
    --------
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), "binomial")
    >>> found = mlm.powerSim(model, "period", nsim=200, seed=1)
    >>> print(found.power > 0.95, found.failures < 5)
    True True
    """
    if not isinstance(model, Scenario):
        check_fitted(model, "powerSim")
    return power_of(model, test, nsim, alpha, method, seed, progress)


def powerCurve(
    model: GlmerResult,
    along: str,
    values: Sequence[float],
    test: str | Callable[[OneFit], float] | None = None,
    nsim: int = 1000,
    alpha: float = 0.05,
    *,
    group: str | None = None,
    effect: str | None = None,
    method: str = "Wald",
    seed: int | None = None,
    progress: bool | None = None,
) -> PowerCurve:
    """Power at several sizes of a study or of an effect.

    Parameters
    ----------
    along
        "n_groups" or "n_per_group", the levels of a grouping column and their rows (`extend`), or
        "effect_size", the value of a fixed effect.
    values
        What is tried. All effect sizes are fitted as one batch.
    group
        The grouping column, where there are several.
    effect
        The fixed effect whose size varies; by default the one that is tested.
    model, test, nsim, alpha, method, seed, progress
        As in `powerSim`; nsim simulations for each value.

    Returns
    -------
    PowerCurve
        `.to_dataframe()`, `.plot()`, and a `Power` for each value in `.powers`.

    Raises
    ------
    ArgumentError
        As `powerSim`, and for a column or an effect that the model does not have.
    """
    check_fitted(model, "powerCurve")
    return curve_of(model, along, values, test, group, effect, nsim, alpha, method, seed, progress)


def PBmodcomp(
    model: GlmerResult,
    null: GlmerResult | str,
    nsim: int = 1000,
    *,
    seed: int | None = None,
    progress: bool | None = None,
) -> RatioTest:
    """Likelihood ratio test of nested models by parametric bootstrap: of a variance, say.

    Parameters
    ----------
    model
        A fit.
    null
        The smaller model, or what makes it of the model: `". ~ . - (1 | batch)"`.
    nsim, seed, progress
        As in `bootMer`; responses are drawn from the null model.

    Returns
    -------
    RatioTest
        `.statistic`, `.df`, `.p_value`, `.references` (the simulated ratios), `.failures`.

    Raises
    ------
    ArgumentError
        For models of different rows, and a null model that is not smaller.
    FitError
        Where no replicate could be fitted by both models.

    Examples
    --------
    >>> pastes = mlm.load_pastes()
    >>> model = mlm.glmer("strength ~ 1 + (1 | sample) + (1 | batch)", pastes, "gaussian")
    >>> found = mlm.PBmodcomp(model, ". ~ . - (1 | sample)", nsim=99, seed=1)
    >>> print(found.df, found.p_value)
    1 0.01
    """
    check_fitted(model, "PBmodcomp")
    smaller = model.update(null) if isinstance(null, str) else null
    check_fitted(smaller, "PBmodcomp")
    return compare(model, smaller, nsim, seed, progress)


def extend(model: GlmerResult, along: str, n: int, group: str | None = None) -> Scenario:
    """A model's parameters with a design of another size, for `powerSim`.

    Parameters
    ----------
    along
        "n_groups": n levels of the grouping column, those of the data in order and then over again
        under new names, with all their rows. "n_per_group": n rows for each level, likewise.
    group
        The grouping column, where there are several. Columns of groups inside it get new names too.

    Raises
    ------
    ArgumentError
        For another `along`, or a column that makes no groups.
    DataError
        For a design that has lost a fixed effect.

    Examples
    --------
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), "binomial")
    >>> mlm.extend(model, "n_groups", 40).design.factors[0].n_levels
    40
    """
    check_fitted(model, "extend")
    return extended(model, along, check_count("n", n), group)


def pool(fits: Fits | Sequence[GlmerResult]) -> pd.DataFrame:
    """Fixed effects of multiply imputed data put together by Rubin's rules.

    fits: what `fit_many` returned for imputed responses or `model.refit_many([frame, ...])` for
    imputed predictors, or a list of models. Returns a row a fixed effect: estimate, std.error,
    statistic (t), df, p.value, riv (relative increase in variance) and fmi (fraction of missing
    information). Raises `ArgumentError` for fewer than two fits, fits that are not ok, and models
    of different fixed effects or families.

    Examples
    --------
    >>> import numpy as np
    >>> data, rng = mlm.load_contraception(), np.random.default_rng(1)
    >>> lost = rng.random(len(data)) < 0.1
    >>> frames = [data.assign(age=data["age"].where(~lost, rng.normal(0, 9, len(data))))
    ...           for _ in range(5)]
    >>> model = mlm.glmer("use ~ age + (1 | district)", frames[0], "binomial")
    >>> table = mlm.pool(model.refit_many(frames, progress=False))
    >>> print(bool((table.loc["age", ["riv", "fmi"]] > 0).all()))
    True
    """
    return pooled(fits)
