"""Model matrices as R builds them: which factor is coded how, what each column is called.

A `Coding` is learnt from the rows a model is fitted to and then makes columns from any table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.expression import Call, Expression, Name
from mixedlm_jax.formula import Product, Terms
from mixedlm_jax.table import Numeric, Value

_ORDINAL_SUFFIXES = (".L", ".Q", ".C")


def _treatment(levels: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    return np.eye(len(levels))[:, 1:], levels[1:]


def _sum_to_zero(levels: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    n = len(levels)
    return np.vstack([np.eye(n - 1), -np.ones((1, n - 1))]), _numbered(n - 1)


def _helmert(levels: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    n = len(levels)
    below = np.diag(np.arange(1.0, n), -1)[:, :-1]
    return below - np.triu(np.ones((n, n - 1))), _numbered(n - 1)


def _polynomial(levels: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    n = len(levels)
    scores = np.arange(n) - (n - 1) / 2
    basis, triangle = np.linalg.qr(np.vander(scores, n, increasing=True))
    names = _ORDINAL_SUFFIXES + tuple(f"^{degree}" for degree in range(4, n))
    return (basis * np.sign(np.diag(triangle)))[:, 1:], names[: n - 1]


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(str(i) for i in range(1, count + 1))


CONTRASTS = {
    "treatment": _treatment,
    "sum": _sum_to_zero,
    "helmert": _helmert,
    "poly": _polynomial,
}
"""R's contrasts: levels -> (matrix with a row per level, suffixes of the coefficients' names)."""


def check_contrasts(contrasts: Mapping[str, str] | None) -> dict[str, str]:
    """The argument `contrasts=`, names without R's `contr.`.

    Raises `ArgumentError` for names that `CONTRASTS` does not list, and for what is no mapping.
    """
    if contrasts is not None and not isinstance(contrasts, Mapping):
        raise ArgumentError(
            f"contrasts are {contrasts!r}; give a dict from columns to names, such as "
            "{'period': 'sum'}"
        )
    given = {} if contrasts is None else dict(contrasts)
    checked = {column: str(name).removeprefix("contr.") for column, name in given.items()}
    for column, name in checked.items():
        if name not in CONTRASTS:
            raise ArgumentError(
                f"contrasts for '{column}' are {given[column]!r}; expected one of "
                f"{', '.join(CONTRASTS)}"
            )
    return checked


@dataclass(frozen=True, eq=False)
class Coded:
    """One variable in one term: how its values become columns.

    Attributes
    ----------
    node
        The variable.
    suffixes
        What follows the variable's name in the names of its columns.
    levels
        A factor's levels; None for numbers.
    coding
        A factor's coding matrix, shape (levels, columns); None for a dummy per level.
    """

    node: Expression
    suffixes: tuple[str, ...]
    levels: tuple[str, ...] | None = None
    coding: np.ndarray | None = None

    def names(self) -> list[str]:
        return [f"{self.node}{suffix}" for suffix in self.suffixes]

    def columns(self, value: Value) -> list[np.ndarray]:
        """One array per suffix, shape (n,). Levels must have been checked."""
        if self.levels is None:
            values = value.numbers(str(self.node))
            return list(values.T) if values.ndim == 2 else [values]
        codes = value.as_category().recode(self.levels)
        coding = np.eye(len(self.levels)) if self.coding is None else self.coding
        return [column[codes] for column in coding.T]

    def check_levels(self, value: Value, noun: str) -> None:
        """Raise `DataError` for a level that was not there when the model was fitted."""
        if self.levels is None:
            return
        for level in value.as_category().used().levels:
            if level not in self.levels:
                raise DataError(
                    f"'{self.node}' has the level '{level}' in {noun}, which the model was not "
                    f"fitted with; its levels are: {', '.join(self.levels)}"
                )


@dataclass(frozen=True, eq=False)
class Coding:
    """All columns of one side, `coded[i]` the variables of term i (none for the intercept).

    Attributes
    ----------
    terms
        The terms, `()` the intercept.
    coded
        Per term its variables as coded.
    names
        R's name of every column.
    assign
        Per column the index of its term.
    """

    terms: tuple[Product, ...]
    coded: tuple[tuple[Coded, ...], ...]
    names: tuple[str, ...]
    assign: tuple[int, ...]

    def variables(self) -> dict[Expression, Coded]:
        return {coded.node: coded for term in self.coded for coded in term}

    def columns(self, values: Mapping[Expression, Value], n: int) -> list[np.ndarray]:
        """The columns for n rows, each of shape (n,), from the values of all variables."""
        result: list[np.ndarray] = []
        for term in self.coded:
            if not term:
                result.append(np.ones(n))
                continue
            first, *others = (coded.columns(values[coded.node]) for coded in term)
            for columns in others:
                first = [a * b for b in columns for a in first]
            result += first
        return result


def learn(terms: Terms, values: Mapping[Expression, Value], contrasts: Mapping[str, str]) -> Coding:
    """Decide the coding of every variable from the rows that are used.

    Raises
    ------
    DataError
        For a factor with a single level that would have to be contrasted.
    """
    parts = terms.parts()
    used = {
        node: value if isinstance(value, Numeric) else value.used()
        for node, value in values.items()
    }
    full = _full_dummies(terms, {node for node, value in used.items() if value.is_factor})
    coded = tuple(
        tuple(
            _code(node, used[node], (part, node) in full, _contrast_of(node, contrasts))
            for node in part
        )
        for part in parts
    )
    names: list[str] = []
    assign: list[int] = []
    for i, term in enumerate(coded):
        labels = [":".join(name) for name in _name_products([c.names() for c in term])]
        names += labels if term else ["(Intercept)"]
        assign += [i] * (len(labels) if term else 1)
    return Coding(parts, coded, tuple(names), tuple(assign))


def independent_columns(X: np.ndarray, tolerance: float = 1e-7) -> np.ndarray:
    """Which columns of X to keep so that they are linearly independent; earlier ones win, as in R.

    A column is dropped where what the kept ones before it leave of it is shorter than `tolerance`
    times its length. Returns a bool array of shape (p,).
    """
    p = X.shape[1]
    lengths = np.sqrt(np.einsum("ij,ij->j", X, X))
    if p == 0 or (lengths.all() and _clearly_independent(X, lengths)):
        return np.ones(p, dtype=bool)
    triangle = np.asarray(np.linalg.qr(X / np.where(lengths > 0, lengths, 1.0), mode="r"))
    keep = np.zeros(p, dtype=bool)
    basis = np.zeros((triangle.shape[0], 0))
    for j in range(p):
        rest = triangle[:, j]
        for _ in range(2):
            rest = rest - basis @ (basis.T @ rest)
        length = np.linalg.norm(rest)
        keep[j] = lengths[j] > 0 and length > tolerance
        if keep[j]:
            basis = np.column_stack([basis, rest / length])
    return keep


def _clearly_independent(X: np.ndarray, lengths: np.ndarray) -> bool:
    """A cheap sufficient test: the Gram matrix of the scaled columns is far from singular."""
    gram = (X.T @ X) / np.outer(lengths, lengths)
    return bool(np.linalg.eigvalsh(gram)[0] > 1e-6)


def _name_products(names: list[list[str]]) -> list[tuple[str, ...]]:
    """Combinations with the first variable varying fastest."""
    return reduce(lambda left, right: [(*a, b) for b in right for a in left], names, [()])


def _full_dummies(terms: Terms, factors: set[Expression]) -> set[tuple[Product, Expression]]:
    """Which factor in which term gets a dummy for every level.

    R's rule: contrasts where the term without the factor is contained in a term before it; and
    without an intercept, the first factor of the first term that has one gets all its dummies.
    """
    full = set()
    for i, term in enumerate(terms.terms):
        for node in term:
            rest = set(term) - {node}
            covered = not rest or any(rest <= set(earlier) for earlier in terms.terms[:i])
            if node in factors and not covered:
                full.add((term, node))
    if not terms.intercept:
        first = next(((t, node) for t in terms.terms for node in t if node in factors), None)
        full |= {first} if first else set()
    return full


def _contrast_of(node: Expression, contrasts: Mapping[str, str]) -> str:
    if isinstance(node, Name):
        return contrasts.get(node.name, "treatment")
    if isinstance(node, Call):
        return str(dict(node.constants).get("contrasts", "treatment")).removeprefix("contr.")
    return "treatment"


def _code(node: Expression, value: Value, full: bool, contrast: str) -> Coded:
    if isinstance(value, Numeric):
        basis = value.values.ndim == 2
        return Coded(node, _numbered(value.values.shape[1]) if basis else ("",))
    levels = value.levels
    if full:
        return Coded(node, levels, levels)
    if len(levels) < 2:
        found = f"only the level '{levels[0]}'" if levels else "no level"
        raise DataError(
            f"'{node}' has {found} in the rows used, expected two or more: leave it out"
        )
    coding, suffixes = CONTRASTS[contrast](levels)
    return Coded(node, suffixes, levels, coding)
