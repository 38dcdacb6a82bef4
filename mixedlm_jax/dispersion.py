"""Dispersion parameters in each row: one number for all, or a linear predictor.

phi is flat. For each parameter that the family estimates it holds either the parameter's
unconstrained coordinate, or the coefficients of a linear predictor that is this coordinate in each
row: log of a dispersion, logit of the probability of a structural zero. What is reported is the
natural value, or the coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import ZERO, Family
from mixedlm_jax.families.base import Parameter

Matrices = tuple[Any, ...]
"""Per estimated parameter its model matrix (n, columns), None for one number."""
DISPERSION = "disp"


def part_names(family: Family) -> tuple[str | None, ...]:
    """Per estimated parameter the part of a formula that may model it.

    "zi" models the probability of a structural zero, "disp" the family's first parameter.
    """
    names = family.dispersion_names
    return tuple(
        ZERO if name == ZERO else DISPERSION if j == 0 else None for j, name in enumerate(names)
    )


def matrices_of(family: Family, parts: Mapping[str, Any]) -> Matrices:
    """The model matrices of a design's parts, in the order of the family's parameters.

    Raises `ArgumentError` for a part that none of its parameters has.
    """
    names = part_names(family)
    if DISPERSION in parts and DISPERSION not in names:
        given = ", ".join(family.parameters)
        raise ArgumentError(
            f"dispformula models a dispersion that is estimated, and {given} of the {family.name} "
            "family was given: leave the number out to model it"
            if given
            else f"dispformula models a dispersion, and the {family.name} family has none: leave "
            "it out, or take a family that has one"
        )
    return tuple(None if name is None else parts.get(name) for name in names)


def slices_of(matrices: Matrices) -> tuple[slice, ...]:
    """Where each parameter's numbers stand in phi."""
    sizes = [1 if matrix is None else matrix.shape[1] for matrix in matrices]
    ends = np.cumsum([0, *sizes])
    return tuple(slice(int(a), int(b)) for a, b in zip(ends, ends[1:], strict=False))


def at_rows(matrices: Matrices, phi: Array) -> tuple[Array, ...]:
    """Unconstrained coordinates of each parameter: a number, or one for each row (n,)."""
    return tuple(
        phi[where][0] if matrix is None else matrix @ phi[where]
        for matrix, where in zip(matrices, slices_of(matrices), strict=True)
    )


def reported(family: Family, matrices: Matrices, phi: Array) -> Array:
    """phi as it is reported: natural values, and coefficients as they are (JAX)."""
    parts = [
        family.parameters[name].natural(phi[where]) if matrix is None else phi[where]
        for name, matrix, where in _each(family, matrices)
    ]
    return jnp.concatenate(parts) if parts else phi


def coordinates(family: Family, matrices: Matrices, values: np.ndarray) -> np.ndarray:
    """The inverse of `reported` (NumPy), values (..., r); not finite for values that cannot be."""
    parts = [
        values[..., where]
        if matrix is not None
        else family.parameters[name].coordinate(values[..., where])
        for name, matrix, where in _each(family, matrices)
    ]
    return np.concatenate(parts, axis=-1) if parts else values


def coefficients(matrices: Matrices, start: np.ndarray) -> np.ndarray:
    """phi at which every row has about these coordinates, one for each parameter (NumPy)."""
    parts = [
        np.atleast_1d(value)
        if matrix is None
        else np.linalg.lstsq(np.asarray(matrix), np.full(len(matrix), value), rcond=None)[0]
        for matrix, value in zip(matrices, start, strict=True)
    ]
    return np.concatenate(parts) if parts else start


def natural_at_rows(
    family: Family, parts: Mapping[str, np.ndarray], values: np.ndarray
) -> tuple[Any, ...]:
    """Natural value of each parameter from what is reported: a number, or an array (n,) (NumPy).

    parts: model matrices of the rows, by the part of the formula.
    """
    matrices = matrices_of(family, parts)
    return tuple(
        values[where][0]
        if matrix is None
        else family.parameters[name].value(np.asarray(matrix) @ values[where])
        for name, matrix, where in _each(family, matrices)
    )


def at_limit(family: Family, matrices: Matrices, phi: np.ndarray) -> np.ndarray:
    """Which numbers of phi belong to a parameter that is at its limit in every row (bool)."""
    limited = family.at_limit(
        tuple(
            family.parameters[name].value(rows)
            for name, rows in zip(family.dispersion_names, at_rows(matrices, phi), strict=True)
        )
    )
    whole = np.zeros(len(phi), bool)
    for where, reached in zip(slices_of(matrices), limited, strict=True):
        whole[where] = reached
    return whole


def part_slice(family: Family, parts: Mapping[str, Any], name: str) -> slice:
    """Where the coefficients of a part stand in phi."""
    return slices_of(matrices_of(family, parts))[part_names(family).index(name)]


def phi_names(family: Family, columns: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Names of the reported numbers: "theta", and "zi.(Intercept)" for coefficients.

    columns: per part the names of its columns.
    """
    names: list[str] = []
    for name, part in zip(family.dispersion_names, part_names(family), strict=True):
        if part is not None and part in columns:
            names += [f"{part}.{column}" for column in columns[part]]
        else:
            names.append(name)
    return tuple(names)


def phi_parameters(family: Family, matrices: Matrices) -> tuple[Parameter | None, ...]:
    """Per number of phi the parameter whose coordinate it is, None for a coefficient."""
    found: list[Parameter | None] = []
    for name, matrix, where in _each(family, matrices):
        size = where.stop - where.start
        found += [family.parameters[name] if matrix is None else None] * size
    return tuple(found)


def _each(family: Family, matrices: Matrices) -> list[tuple[str, Any, slice]]:
    return list(zip(family.dispersion_names, matrices, slices_of(matrices), strict=True))
