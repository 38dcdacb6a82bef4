"""The parts of a fitted model under lme4's names, in lme4's layout.

A random-effects term with k effects and m levels owns k m columns of Z, level by level; the terms
follow each other in theta order. b = Lambda u with Lambda made of theta, so that u has variance
sigma^2 for the Gaussian family and 1 elsewhere. Matrices with few entries are scipy.sparse arrays.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.design import Design, Labels, Term
from mixedlm_jax.dispersion import natural_at_rows
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.expression import suggest
from mixedlm_jax.families import Family
from mixedlm_jax.fit import Fit
from mixedlm_jax.means import mean
from mixedlm_jax.names import effect_names, term_names


def get_me(design: Design, labels: Labels, family: Family, fit: Fit, name: str) -> Any:
    """The part that lme4's `getME` calls `name`.

    Raises `ArgumentError` for a name that is not in `PARTS`.
    """
    if not isinstance(name, str) or name not in PARTS:
        raise ArgumentError(
            f"getME has no part {name!r}{suggest(str(name), PARTS)}; it has: {', '.join(PARTS)}"
        )
    return PARTS[name](Source(design, labels, family, fit))


@dataclass(frozen=True, eq=False)
class Source:
    """What the parts are made of."""

    design: Design
    labels: Labels
    family: Family
    fit: Fit

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.design.terms

    @property
    def shapes(self) -> tuple[Any, ...]:
        """Natural values of the estimated dispersion parameters, numbers or one a row."""
        return natural_at_rows(self.family, self.design.parts, self.fit.phi)

    def levels(self, term: Term) -> int:
        """Number of levels of a term's factor."""
        return self.design.factors[term.factor].n_levels

    def sizes(self) -> np.ndarray:
        """Columns of Z that each term owns."""
        return np.array([len(term.columns) * self.levels(term) for term in self.terms], int)

    def starts(self) -> np.ndarray:
        """The first column of each term, and the number of columns."""
        return np.concatenate([[0], np.cumsum(self.sizes())])

    def blocks(self) -> list[np.ndarray]:
        """Lambda of one level of each term (k, k), relative as theta is."""
        parts = []
        for term in self.terms:
            columns = list(term.columns)
            parts.append(self.fit.factors[term.factor][np.ix_(columns, columns)] / self.fit.scale)
        return parts

    def stacked(self, effects: tuple[np.ndarray, ...]) -> np.ndarray:
        """Effects per factor (k, levels) in the order of Z's columns."""
        parts = [effects[term.factor][list(term.columns)].T.ravel() for term in self.terms]
        return np.concatenate([np.empty(0), *parts])


def _Z(source: Source) -> Any:
    rows, columns, values = [], [], []
    n = len(source.design.y)
    for term, start in zip(source.terms, source.starts(), strict=False):
        factor, k = source.design.factors[term.factor], len(term.columns)
        for j, column in enumerate(term.columns):
            rows.append(np.arange(n))
            columns.append(start + factor.levels * k + j)
            values.append(factor.Z[column])
    return _sparse(values, rows, columns, (n, source.starts()[-1]))


def _Lambda(source: Source) -> Any:
    rows, columns, values = [], [], []
    for term, start, block in zip(source.terms, source.starts(), source.blocks(), strict=False):
        i, j = _entries(term)
        first = start + np.arange(source.levels(term))[:, None] * len(block)
        rows.append((first + i).ravel())
        columns.append((first + j).ravel())
        values.append(np.tile(block[i, j], source.levels(term)))
    q = source.starts()[-1]
    return _sparse(values, rows, columns, (q, q))


def _entries(term: Term) -> tuple[np.ndarray, np.ndarray]:
    """Where a block of Lambda has entries, row by row."""
    k = len(term.columns)
    i, j = np.tril_indices(k)
    kept = (i == j) | STRUCTURES[term.structure].correlated
    return i[kept], j[kept]


def _Lind(source: Source) -> np.ndarray:
    parts, first = [], 0
    for term in source.terms:
        structure, k = STRUCTURES[term.structure], len(term.columns)
        # a structure whose entries are parameters puts the parameters 1, 2, ... where they belong
        index, again = (
            np.asarray(structure.factor(jnp.arange(float(structure.n_theta(k))) + start, k))
            for start in (1.0, 2.0)
        )
        entries = _entries(term)
        if not np.array_equal(again[entries], index[entries] + 1):
            raise ArgumentError(
                f"getME has no Lind of a {structure.name}(...) term, whose Lambda is computed from "
                "theta; ask for Lambdat"
            )
        own = index[entries].astype(int) - 1
        parts.append(np.tile(own + first, source.levels(term)))
        first += structure.n_theta(k)
    return np.concatenate(parts)


def _Tp(source: Source) -> np.ndarray:
    return np.cumsum([0, *(_n_theta(source, term) for term in source.terms)])


def _Ztlist(source: Source) -> dict[str, Any]:
    Zt, found = _Z(source).T.tocsr(), {}
    for (name, effects), start, end in zip(
        _cnms(source).items(), source.starts(), source.starts()[1:], strict=False
    ):
        for j, effect in enumerate(effects):
            found[f"{name}.{effect}"] = Zt[start + j : end : len(effects)].tocsc()
    return found


def _sparse(
    values: list[np.ndarray],
    rows: list[np.ndarray],
    columns: list[np.ndarray],
    shape: tuple[int, int],
) -> Any:
    sparse = importlib.import_module("scipy.sparse")  # slow to import, rarely needed
    nothing = np.empty(0, int)
    where = (np.concatenate([nothing, *rows]), np.concatenate([nothing, *columns]))
    return sparse.csc_array((np.concatenate([np.empty(0), *values]), where), shape=shape)


def _flist(source: Source) -> pd.DataFrame:
    labels = source.labels
    named = zip(labels.factors, source.design.factors, labels.levels, strict=True)
    columns = {
        name: pd.Categorical.from_codes(factor.levels, pd.Index(levels))
        for name, factor, levels in named
    }
    return pd.DataFrame(columns, index=labels.index[labels.kept])


def _cnms(source: Source) -> dict[str, tuple[str, ...]]:
    names = term_names(source.design, source.labels)
    return dict(zip(names, effect_names(source.design, source.labels), strict=True))


def _lower(source: Source) -> np.ndarray:
    structures = [(STRUCTURES[term.structure], len(term.columns)) for term in source.terms]
    return np.concatenate([np.empty(0), *(kind.lower(k) for kind, k in structures)])


def _per_term(count: Callable[[Source, Term], int]) -> Callable[[Source], np.ndarray]:
    return lambda source: np.array([count(source, term) for term in source.terms])


def _n_theta(source: Source, term: Term) -> int:
    return STRUCTURES[term.structure].n_theta(len(term.columns))


PARTS: dict[str, Callable[[Source], Any]] = {
    "X": lambda source: source.design.X.copy(),
    "Z": _Z,
    "Zt": lambda source: _Z(source).T.tocsc(),
    "Lambda": _Lambda,
    "Lambdat": lambda source: _Lambda(source).T.tocsc(),
    "A": lambda source: (_Lambda(source).T @ _Z(source).T).tocsc(),
    "Ztlist": _Ztlist,
    "Lind": _Lind,
    "Tp": _Tp,
    "y": lambda source: source.design.y / source.design.trials,
    "mu": lambda source: mean(source.family, source.fit.eta, source.shapes),
    "offset": lambda source: source.design.offset.copy(),
    "u": lambda source: source.stacked(source.fit.u) * source.fit.scale,
    "b": lambda source: source.stacked(source.fit.b),
    "theta": lambda source: source.fit.theta.copy(),
    "beta": lambda source: source.fit.beta.copy(),
    "fixef": lambda source: source.fit.beta.copy(),
    "sigma": lambda source: source.fit.scale,
    "lower": _lower,
    "flist": _flist,
    "cnms": _cnms,
    "Gp": lambda source: source.starts(),
    "n": lambda source: len(source.design.y),
    "p": lambda source: source.design.X.shape[1],
    "q": lambda source: int(source.starts()[-1]),
    "n_rtrms": lambda source: len(source.terms),
    "n_rfacs": lambda source: len(source.design.factors),
    "k": lambda source: len(source.terms),
    "m": lambda source: len(source.fit.theta),
    "p_i": _per_term(lambda source, term: len(term.columns)),
    "l_i": lambda source: np.array([factor.n_levels for factor in source.design.factors]),
    "q_i": lambda source: source.sizes(),
    "m_i": _per_term(_n_theta),
    "REML": lambda source: 0,
    "is_REML": lambda source: False,
}
"""What `getME` gives, by lme4's names.

X (n, p); Z (n, q) and Lambda (q, q), sparse, Zt and Lambdat their transposes; A (q, n) = Lambdat
Zt; Ztlist: the rows of Zt per effect, "herd.(Intercept)"; Lind: which theta each entry of Lambdat
is (Lambdat.data = theta[Lind]: from 0, in R from 1); Tp: where each term's theta starts; y (n,), a
proportion where there are trials; mu (n,), their means at the modes, structural zeros included;
offset (n,); u and b (q,); theta, beta (fixef), sigma; lower: bounds of theta; flist: frame of the
grouping factors; cnms: per term its effects' names; Gp: where each term's columns of Z start, and
q; n, p, q; n_rtrms and k: random-effects terms; n_rfacs: grouping factors; m: length of theta; p_i,
q_i, m_i: effects, columns of Z and thetas per term; l_i: levels per factor.
"""
