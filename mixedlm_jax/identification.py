"""Random effects that no response to a design can tell apart."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.design import Design, Labels
from mixedlm_jax.errors import DataError
from mixedlm_jax.families import Family


def check_identified(design: Design, labels: Labels, family: Family) -> None:
    """Raise `DataError` for two factors of the same groups, or as many effects as rows.

    The latter counts where the family has a dispersion that the effects would be told from.
    """
    rows = int(np.sum(design.weights > 0))
    for i, (factor, name, columns) in enumerate(
        zip(design.factors, labels.factors, labels.columns, strict=True)
    ):
        k, effects = len(columns), len(columns) * factor.n_levels
        absorbing = any(
            STRUCTURES[term.structure].absorbs_noise for term in design.terms if term.factor == i
        )
        if k > 1 and absorbing and family.dispersion_names and effects >= rows:
            raise DataError(
                f"grouping factor '{name}' has {factor.n_levels} levels of {k} random effects, "
                f"{effects} for {rows} rows; with the {family.name} family they cannot be told "
                "from the noise: take fewer effects"
            )
        for j in range(i):
            shared = [column for column in columns if column in labels.columns[j]]
            if shared and _same_groups(design, i, j):
                raise DataError(
                    f"'{labels.factors[j]}' and '{name}' make the same groups, so their variances "
                    f"of {', '.join(shared)} cannot be told apart: leave one of them out"
                )


def _same_groups(design: Design, i: int, j: int) -> bool:
    """Whether two factors are relabellings of each other."""
    first, second = design.factors[i], design.factors[j]
    if first.n_levels != second.n_levels:
        return False
    pairs = first.levels.astype(np.int64) * second.n_levels + second.levels
    return len(pd.unique(pairs)) == first.n_levels
