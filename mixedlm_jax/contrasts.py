"""Linear contrasts of means: their names and coefficients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixedlm_jax.errors import ArgumentError


def contrast_coefficients(
    method: Any, names: list[str], less: str
) -> tuple[list[str], np.ndarray]:
    """Names and coefficients (contrasts, means) of a method of `contrast`."""
    k, one = len(names), np.eye(len(names))
    if isinstance(method, Mapping):
        return _own_coefficients(method, k)
    if k < 2:
        raise ArgumentError("contrasts need two means or more to compare, and there is one")
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    differences = {
        "pairwise": pairs,
        "revpairwise": [(j, i) for j in range(k) for i in range(j)],
        "trt.vs.ctrl": [(j, 0) for j in range(1, k)],
        "consec": [(j, j - 1) for j in range(1, k)],
    }
    if method == "eff":
        return [f"{name} effect" for name in names], one - 1.0 / k
    if not isinstance(method, str) or method not in differences:
        raise ArgumentError(
            f"contrast has no method {method!r}; choose one of {', '.join(differences)}, eff, or "
            "give a dict from names to coefficients"
        )
    chosen = differences[method]
    return (
        [f"{names[i]}{less}{names[j]}" for i, j in chosen],
        np.array([one[i] - one[j] for i, j in chosen]),
    )


def _own_coefficients(
    given: Mapping[str, Sequence[float]], k: int
) -> tuple[list[str], np.ndarray]:
    if not given:
        raise ArgumentError("the dict of contrasts is empty; give one such as {'a - b': [1, -1]}")
    rows = []
    for name, row in given.items():
        try:
            numbers = np.array(row, float)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"the contrast {name!r} is {row!r}; give numbers") from error
        if numbers.shape != (k,) or not np.all(np.isfinite(numbers)):
            raise ArgumentError(
                f"the contrast {name!r} is {row!r}; give {k} finite numbers, one for each mean"
            )
        rows.append(numbers)
    return list(map(str, given)), np.array(rows)
