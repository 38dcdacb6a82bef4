"""Generalized linear mixed models by maximum likelihood, in JAX.

`glmer` fits a model from an lme4 formula and a data frame:

    import mixedlm_jax as mlm

    cbpp = mlm.load_cbpp()
    model = mlm.glmer("incidence / size ~ period + (1 | herd)", cbpp, family="binomial")
    print(model.summary())

Everything that is public is imported here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mixedlm_jax import datasets, families, priors
from mixedlm_jax.anova import anova
from mixedlm_jax.api import glm, glmer, glmer_nb
from mixedlm_jax.collinearity import vif
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.datasets import (
    load_bacteria,
    load_cake,
    load_cbpp,
    load_contraception,
    load_epil,
    load_grouseticks,
    load_pastes,
    load_salamanders,
    load_sleepstudy,
    load_toenail,
    load_verbagg,
)
from mixedlm_jax.errors import (
    ArgumentError,
    ConvergenceWarning,
    DataError,
    DataWarning,
    FitError,
    FormulaError,
    MissingPackageError,
    MixedlmError,
    MixedlmWarning,
    SingularFitWarning,
    StoreWarning,
)
from mixedlm_jax.fits import Fits
from mixedlm_jax.hypotheses import linear_hypothesis
from mixedlm_jax.influence import influence
from mixedlm_jax.model import GlmerResult
from mixedlm_jax.modular import glFormula, mkGlmerDevfun, mkGlmerMod, optimizeGlmer
from mixedlm_jax.variance_tests import test_random

if TYPE_CHECKING:  # what `_LATER` imports on first use, for editors and type checkers
    from mixedlm_jax import functional
    from mixedlm_jax.checks import (
        check_laplace,
        check_overdispersion,
        check_zero_inflation,
        checkConv,
    )
    from mixedlm_jax.estimated_means import emmeans
    from mixedlm_jax.explained import icc, r2_nakagawa
    from mixedlm_jax.marginaleffects import for_marginaleffects
    from mixedlm_jax.margins import avg_comparisons, avg_slopes
    from mixedlm_jax.plots import (
        plot_effects,
        plot_forest,
        plot_profile,
        plot_qq,
        plot_ranef,
        plot_residuals,
    )
    from mixedlm_jax.replicates import (
        PBmodcomp,
        bootMer,
        extend,
        fit_many,
        pool,
        powerCurve,
        powerSim,
        simulate_formula,
    )
    from mixedlm_jax.simulated_residuals import simulate_residuals

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ConvergenceWarning",
    "DataError",
    "DataWarning",
    "FitError",
    "Fits",
    "FormulaError",
    "GlmerControl",
    "GlmerResult",
    "MissingPackageError",
    "MixedlmError",
    "MixedlmWarning",
    "PBmodcomp",
    "SingularFitWarning",
    "StoreWarning",
    "anova",
    "avg_comparisons",
    "avg_slopes",
    "bootMer",
    "checkConv",
    "check_laplace",
    "check_overdispersion",
    "check_zero_inflation",
    "datasets",
    "emmeans",
    "extend",
    "families",
    "fit_many",
    "for_marginaleffects",
    "functional",
    "glFormula",
    "glm",
    "glmer",
    "glmer_nb",
    "icc",
    "influence",
    "linear_hypothesis",
    "load_bacteria",
    "load_cake",
    "load_cbpp",
    "load_contraception",
    "load_epil",
    "load_grouseticks",
    "load_pastes",
    "load_salamanders",
    "load_sleepstudy",
    "load_toenail",
    "load_verbagg",
    "mkGlmerDevfun",
    "mkGlmerMod",
    "optimizeGlmer",
    "plot_effects",
    "plot_forest",
    "plot_profile",
    "plot_qq",
    "plot_ranef",
    "plot_residuals",
    "pool",
    "powerCurve",
    "powerSim",
    "priors",
    "r2_nakagawa",
    "simulate_formula",
    "simulate_residuals",
    "test_random",
    "vif",
]

# What few runs need is imported on first use: every run would wait for it.
_LATER = {
    "PBmodcomp": ("mixedlm_jax.replicates", "PBmodcomp"),
    "avg_comparisons": ("mixedlm_jax.margins", "avg_comparisons"),
    "avg_slopes": ("mixedlm_jax.margins", "avg_slopes"),
    "bootMer": ("mixedlm_jax.replicates", "bootMer"),
    "checkConv": ("mixedlm_jax.checks", "checkConv"),
    "check_laplace": ("mixedlm_jax.checks", "check_laplace"),
    "check_overdispersion": ("mixedlm_jax.checks", "check_overdispersion"),
    "check_zero_inflation": ("mixedlm_jax.checks", "check_zero_inflation"),
    "emmeans": ("mixedlm_jax.estimated_means", "emmeans"),
    "extend": ("mixedlm_jax.replicates", "extend"),
    "fit_many": ("mixedlm_jax.replicates", "fit_many"),
    "for_marginaleffects": ("mixedlm_jax.marginaleffects", "for_marginaleffects"),
    "functional": ("mixedlm_jax.functional", None),
    "icc": ("mixedlm_jax.explained", "icc"),
    "plot_effects": ("mixedlm_jax.plots", "plot_effects"),
    "plot_forest": ("mixedlm_jax.plots", "plot_forest"),
    "plot_profile": ("mixedlm_jax.plots", "plot_profile"),
    "plot_qq": ("mixedlm_jax.plots", "plot_qq"),
    "plot_ranef": ("mixedlm_jax.plots", "plot_ranef"),
    "plot_residuals": ("mixedlm_jax.plots", "plot_residuals"),
    "pool": ("mixedlm_jax.replicates", "pool"),
    "powerCurve": ("mixedlm_jax.replicates", "powerCurve"),
    "powerSim": ("mixedlm_jax.replicates", "powerSim"),
    "r2_nakagawa": ("mixedlm_jax.explained", "r2_nakagawa"),
    "simulate_formula": ("mixedlm_jax.replicates", "simulate_formula"),
    "simulate_residuals": ("mixedlm_jax.simulated_residuals", "simulate_residuals"),
}


def __getattr__(name: str) -> Any:
    """A module or function of `_LATER`."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, part = _LATER[name]
    found = importlib.import_module(module)
    return found if part is None else getattr(found, part)
