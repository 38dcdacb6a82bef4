"""What each group does to the fixed effects: the model refitted without it, theta free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError, ConvergenceWarning, warn
from mixedlm_jax.fits import Fits
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.many import fits_of
from mixedlm_jax.resampling import leave_out_groups

MOST_GROUPS = 2000  # each is a refit


@dataclass(frozen=True, repr=False, eq=False)
class Influence:
    """Influence of the groups, as `influence` returns it.

    Attributes
    ----------
    cooks_distance
        Per group (b - b_g)' V^-1 (b - b_g) / p: b of all groups with covariance V, b_g without one.
    dfbetas
        Groups x fixed effects: (b - b_g) / se(b_g).
    fits
        The refits, without one group each, with their components and verdicts.

    Groups whose refit failed have nan.
    """

    cooks_distance: pd.Series
    dfbetas: pd.DataFrame
    fits: Fits

    def to_dataframe(self) -> pd.DataFrame:
        """One row a group, the most influential first: cooks.distance, dfbetas by name, ok."""
        frame = self.dfbetas.add_prefix("dfbetas.")
        frame.insert(0, "cooks.distance", self.cooks_distance)
        frame["ok"] = self.fits.ok
        return frame.sort_values("cooks.distance", ascending=False)

    def __repr__(self) -> str:
        shown = self.to_dataframe().head(10).round(4).to_string()
        return f"Influence of {len(self.fits)} groups on the fixed effects\n{shown}"


def influence(model: Fitted, group: str | None = None) -> Influence:
    """Cook's distances and dfbetas of the groups, by refits of all parameters without each.

    Parameters
    ----------
    model
        A fitted model.
    group
        Name of a grouping factor ("herd", "district:urban"); it may be left out where there is one.

    Returns
    -------
    Influence

    Raises
    ------
    ArgumentError
        For a name that is no grouping factor, more than 2,000 groups, and quasi families.

    Examples
    --------
    >>> model = mlm.glmer("y ~ trt + (1 | ID)", mlm.load_bacteria(), family="binomial")
    >>> found = mlm.influence(model)
    >>> print(found.cooks_distance.idxmax(), round(found.cooks_distance.max(), 2))
    X07 0.08
    """
    check_fitted(model, "influence")
    names = model.labels.factors
    chosen = names[0] if group is None and len(names) == 1 else group
    if chosen not in names:
        raise ArgumentError(
            f"group is {group!r}; name the grouping factor whose levels are left out, one of "
            f"{', '.join(names)}"
        )
    place = names.index(chosen)
    levels = model.labels.levels[place]
    if len(levels) > MOST_GROUPS:
        raise ArgumentError(
            f"{chosen} has {len(levels)} groups, each of which is a refit: influence takes "
            f"{MOST_GROUPS} at most; name a factor of fewer levels"
        )
    fits = fits_of(model, leave_out_groups(model, len(levels), place), progress=False)
    index = pd.Index(levels, name=chosen)
    change = np.where(fits.ok[:, None], model.fit.beta - fits.beta, np.nan)
    inverse = np.linalg.inv(model.fixed_covariance)
    distance = np.sum((change @ inverse) * change, axis=1) / len(inverse)
    if not np.all(fits.ok):
        warn(
            f"{np.sum(~fits.ok)} of {len(fits)} refits without a group failed, and have nan: "
            f"{', '.join(map(str, levels[~fits.ok][:5]))}; see influence(model).fits.code",
            ConvergenceWarning,
        )
    return Influence(
        pd.Series(distance, index=index, name="cooks.distance"),
        pd.DataFrame(change / fits.se, index=index, columns=list(fits.fixed)),
        fits,
    )
