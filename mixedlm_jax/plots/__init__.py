"""Pictures of fitted models, by matplotlib: Axes in, Axes out.

Every function takes `ax`: None for a new figure, or the Axes to draw on, which is then returned. It
draws what other functions of the package compute: conditional modes, intervals, profiles,
predictions, simulated residuals.
"""

from __future__ import annotations

from mixedlm_jax.plots.effects import plot_effects
from mixedlm_jax.plots.forest import plot_forest
from mixedlm_jax.plots.modes import plot_ranef
from mixedlm_jax.plots.profiles import plot_profile
from mixedlm_jax.plots.residuals import plot_qq, plot_residuals

__all__ = [
    "plot_effects",
    "plot_forest",
    "plot_profile",
    "plot_qq",
    "plot_ranef",
    "plot_residuals",
]
