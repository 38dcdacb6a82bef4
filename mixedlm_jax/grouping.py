"""Grouping factors: which level of which factor each row belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixedlm_jax.errors import DataError
from mixedlm_jax.table import Category, distinct


@dataclass(frozen=True, eq=False)
class Grouping:
    """The levels of one grouping factor, learnt from the rows a model is fitted to.

    Attributes
    ----------
    name
        As lme4 prints it: "herd", "b:a".
    parts
        Per variable of the interaction its levels.
    combinations
        Shape (levels,) int64, increasing: the mixed-radix code of each level's parts, the first
        variable varying slowest.
    labels
        Shape (levels,), objects: the parts' labels joined with ":".
    """

    name: str
    parts: tuple[tuple[str, ...], ...]
    combinations: np.ndarray
    labels: np.ndarray

    def locate(self, categories: Sequence[Category]) -> np.ndarray:
        """Level of each row, shape (n,) int32; -1 for a level the model was not fitted with."""
        codes = [c.recode(levels) for c, levels in zip(categories, self.parts, strict=True)]
        known = np.all([code >= 0 for code in codes], axis=0)
        combined = _combine([np.maximum(code, 0) for code in codes], self._sizes())
        place = np.minimum(np.searchsorted(self.combinations, combined), len(self.labels) - 1)
        known &= self.combinations[place] == combined
        return np.where(known, place, -1).astype(np.int32)

    def _sizes(self) -> list[int]:
        return [len(levels) for levels in self.parts]


def group(name: str, categories: Sequence[Category]) -> tuple[Grouping, np.ndarray]:
    """Learn a factor's levels (only combinations that occur) and each row's level.

    Parameters
    ----------
    categories
        One per variable of the interaction, rows without missing values.

    Raises
    ------
    DataError
        For a factor with fewer than two levels.
    """
    sizes = [len(category.levels) for category in categories]
    if math.prod(sizes) >= 2**62:
        raise DataError(
            f"grouping factor '{name}' crosses too many levels ({' x '.join(map(str, sizes))}): "
            "make one column of its combinations"
        )
    combined = _combine([category.codes for category in categories], sizes)
    combinations, levels = distinct(combined, math.prod(sizes))
    parts = tuple(category.levels for category in categories)
    codes = np.unravel_index(combinations, sizes)
    columns = [np.array(part, dtype=object)[code] for part, code in zip(parts, codes, strict=True)]
    labels = columns[0]
    for column in columns[1:]:
        labels = labels + ":" + column
    if len(labels) < 2:
        raise DataError(
            f"grouping factor '{name}' has one level, '{labels[0]}', in the rows used, expected "
            "two or more: leave its random term out"
        )
    return Grouping(name, parts, combinations, labels), levels


def _combine(codes: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    combined = codes[0].astype(np.int64)
    for code, size in zip(codes[1:], sizes[1:], strict=True):
        combined = combined * size + code
    return combined
