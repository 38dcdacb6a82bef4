"""Formula and data frame to a `Design` (arrays only) and its `Labels` (names, and how to rebuild).

Everything pandas ends here; the engine sees NumPy arrays.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError, DataError, DataWarning
from mixedlm_jax.expression import Expression
from mixedlm_jax.formula import Formula, RandomTerm, Terms, parse_re_form
from mixedlm_jax.grouping import Grouping, group
from mixedlm_jax.matrix import Coding, check_contrasts, independent_columns, learn
from mixedlm_jax.recipe import (
    Groups,
    NewRows,
    Recipe,
    Values,
    covariates,
    replay,
    take,
    total_offset,
)
from mixedlm_jax.response import (
    Response,
    ResponseFamily,
    check_weights,
    respond,
    response_parts,
)
from mixedlm_jax.table import Table, Value
from mixedlm_jax.variables import GROUPING, Evaluation

NA_ACTIONS = ("omit", "exclude", "raise")


@dataclass(frozen=True, eq=False)
class Factor:
    """One grouping factor with all random effects that vary by it.

    Attributes
    ----------
    levels
        Shape (n,) int32 in 0..n_levels-1: the level of each row.
    n_levels
        Number of levels.
    Z
        Shape (k, n): the covariates of the k random effects of a level.
    """

    levels: np.ndarray
    n_levels: int
    Z: np.ndarray


@dataclass(frozen=True)
class Term:
    """One `(effects | group)` with `||` and nesting written out.

    Attributes
    ----------
    factor
        Index into `Design.factors`.
    columns
        Its rows of that factor's Z.
    structure
        Key of the table of covariance structures.
    """

    factor: int
    columns: tuple[int, ...]
    structure: str = "unstructured"


@dataclass(frozen=True, eq=False)
class Design:
    """A model as arrays; rows in the frame's order without the dropped ones.

    Attributes
    ----------
    y
        Shape (n,); number of successes where the family takes trials.
    trials
        Shape (n,); ones where the family takes none.
    weights
        Shape (n,); a row of weight 0 stays in the arrays.
    offset
        Shape (n,), linear predictor.
    X
        Shape (n, p), of full column rank.
    factors
        By decreasing number of levels, ties in formula order.
    terms
        In theta order: by decreasing number of levels of the factor, ties in formula order.
    weights_type
        "prior" or "frequency".
    """

    y: np.ndarray
    trials: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    X: np.ndarray
    factors: tuple[Factor, ...]
    terms: tuple[Term, ...]
    weights_type: str


@dataclass(frozen=True, eq=False)
class Labels:
    """Names for a design's arrays, and the way back from rows of a frame to arrays.

    Attributes
    ----------
    fixed
        Names of X's columns, as R names them.
    dropped
        Columns of a rank-deficient X that were left out.
    factors
        Names of the grouping factors: "herd", "district:urban".
    levels
        Per factor the labels of its levels (objects), in level order.
    columns
        Per factor the names of Z's rows: "(Intercept)", "Days".
    response
        The left-hand side as written.
    index
        The whole frame's index.
    kept
        Shape (rows of the frame,) bool: the rows that entered the design.
    na_action
        "omit", "exclude" or "raise".
    notes
        Sentences for the summary.
    recipe
        What `rebuild` replays.
    """

    fixed: tuple[str, ...]
    dropped: tuple[str, ...]
    factors: tuple[str, ...]
    levels: tuple[np.ndarray, ...]
    columns: tuple[tuple[str, ...], ...]
    response: str
    index: pd.Index
    kept: np.ndarray
    na_action: str
    notes: tuple[str, ...]
    recipe: Recipe

    def rebuild(
        self,
        newdata: Any,
        *,
        allow_new_levels: bool = False,
        factors: Iterable[int] | None = None,
    ) -> NewRows:
        """The rows of another frame as arrays, with the coding and the transforms of the fit.

        Parameters
        ----------
        newdata
            A frame with the columns of the fixed effects, the offset and the factors asked for.
        allow_new_levels
            Give unseen levels of a grouping factor the code -1 instead of raising.
        factors
            Indices of the grouping factors to build; all by default.

        Raises
        ------
        DataError
            For a missing column, an unseen level, an infinite value, or a column of another kind.
        ArgumentError
            Where the model's offset was an array, which new rows do not have.
        """
        wanted = range(len(self.factors)) if factors is None else tuple(factors)
        return replay(self.recipe, Table(newdata, "newdata"), tuple(wanted), allow_new_levels)

    def condition_on(self, re_form: str | None) -> tuple[np.ndarray, ...]:
        """Which random effects a prediction with this `re_form` uses.

        Returns
        -------
        tuple of arrays
            Per factor a bool array of shape (k,) over the rows of Z.

        Raises
        ------
        ArgumentError
            For a `re_form` with a factor or an effect that the model does not have.
        """
        wanted = parse_re_form(re_form)
        masks = tuple(np.full(len(names), wanted is None) for names in self.columns)
        for term in wanted or ():
            if term.name not in self.factors:
                raise ArgumentError(
                    f"re_form names the grouping factor '{term.name}', which is none of the "
                    f"model's: "
                    f"{', '.join(self.factors)}"
                )
            factor = self.factors.index(term.name)
            for part in term.effects.parts():
                chosen = self._rows_of(factor, set(part))
                if not chosen.any():
                    effect = ":".join(str(node) for node in part) or "intercept"
                    raise ArgumentError(
                        f"re_form asks for the effect '{effect}' by '{term.name}', which the model "
                        f"does not have; it has: {', '.join(self.columns[factor])}"
                    )
                masks[factor][chosen] = True
        return masks

    def _rows_of(self, factor: int, part: set[Expression]) -> np.ndarray:
        """The rows of Z that stem from one term of a left-hand side, shape (k,) bool."""
        return np.array(
            [
                set(coding.terms[i]) == part
                for _, coding in self.recipe.effects[factor]
                for i in coding.assign
            ]
        )


def build(
    formula: Formula,
    data: Any,
    family: ResponseFamily,
    *,
    weights: Any = None,
    weights_type: str = "prior",
    offset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, str] | None = None,
) -> tuple[Design, Labels]:
    """Evaluate a formula on a data frame.

    Parameters
    ----------
    formula
        From `parse`.
    data
        A pandas frame, or any eager frame narwhals reads.
    family
        Says whether the response has trials and what it may be.
    weights, offset
        A column's name, or one number a row; `offset` adds to the formula's.
    weights_type
        "prior" (R's meaning) or "frequency" (every log-density is multiplied).
    na_action
        "omit" or "exclude" drop rows with a missing value, "raise" refuses them.
    contrasts
        Per column of a fixed-effect factor "treatment" (default), "sum", "helmert" or "poly".

    Raises
    ------
    DataError
        For data the formula or the family cannot be fitted to; the message names column and row.
    ArgumentError
        For arguments outside the values they may take.
    """
    table = Table(data)
    contrasts = check_contrasts(contrasts)
    if na_action not in NA_ACTIONS:
        raise ArgumentError(f"na_action is {na_action!r}; expected one of {', '.join(NA_ACTIONS)}")
    if len(table) == 0:
        raise DataError("the data have no rows: expected at least two")
    evaluation = Evaluation(table)
    parts = response_parts(formula.response, family, evaluation)
    values, groups = _evaluate(formula, evaluation)
    weight, added = table.argument("weights", weights), table.argument("offset", offset)
    check_weights(weight, weights_type)

    sources: dict[str, np.ndarray] = {str(formula.response): _any_missing(parts)}
    sources |= {str(node): value.missing for node, value in chain(values.items(), groups.items())}
    sources |= {
        name: np.isnan(array)
        for name, array in (("weights", weight), ("offset", added))
        if array is not None
    }
    kept, notes = _keep_complete(sources, na_action, len(table))
    values, groups = take(values, kept), take(groups, kept)
    weight, added = (None if a is None else a[kept] for a in (weight, added))
    response = respond(
        formula.response,
        tuple(take(dict(enumerate(parts)), kept).values()),
        family,
        weight,
        weights_type,
    )
    n = len(response.y)

    fixed = learn(formula.fixed, _of(formula.fixed, values), contrasts)
    columns = fixed.columns(values, n)
    X = np.stack(columns, axis=1) if columns else np.empty((n, 0))
    counted = response.weights > 0
    full_rank = independent_columns(X if counted.all() else X[counted])
    X = X if full_rank.all() else np.ascontiguousarray(X[:, full_rank])
    dropped = tuple(name for name, keep in zip(fixed.names, full_rank, strict=True) if not keep)
    if dropped:
        notes.append(
            "The fixed-effect model matrix is rank deficient: "
            f"dropped {len(dropped)} column{'s' * (len(dropped) > 1)}, {', '.join(dropped)}."
        )

    factors, terms, groupings, effects = _random_effects(formula.random, values, groups, n)
    for factor, grouping in zip(factors, groupings, strict=True):
        _check_rows_per_level(factor, grouping.name, response, family)
    notes += [*response.notes, *_notes_on_split(formula.random, values)]
    design = Design(
        y=response.y,
        trials=response.trials,
        weights=response.weights,
        offset=total_offset(formula.offsets, values, added, n),
        X=X,
        factors=factors,
        terms=terms,
        weights_type=weights_type,
    )
    recipe = Recipe(
        fixed,
        full_rank,
        groupings,
        effects,
        formula.offsets,
        None if offset is None else (offset if isinstance(offset, str) else ""),
        evaluation.states,
        evaluation.kinds,
    )
    labels = Labels(
        fixed=tuple(name for name, keep in zip(fixed.names, full_rank, strict=True) if keep),
        dropped=dropped,
        factors=tuple(grouping.name for grouping in groupings),
        levels=tuple(grouping.labels for grouping in groupings),
        columns=tuple(
            tuple(name for _, coding in of_factor for name in coding.names) for of_factor in effects
        ),
        response=formula.left,
        index=table.index,
        kept=kept,
        na_action=na_action,
        notes=tuple(notes),
        recipe=recipe,
    )
    return design, labels


def _evaluate(formula: Formula, evaluation: Evaluation) -> tuple[Values, Groups]:
    """All variables of the right-hand side, and all variables of grouping factors."""
    sides = (formula.fixed, *(term.effects for term in formula.random))
    groups = {
        node: evaluation.variable(node, GROUPING).as_category()
        for term in formula.random
        for node in term.group
    }
    nodes = dict.fromkeys(node for side in sides for term in side.terms for node in term)
    values = {node: evaluation.variable(node) for node in (*nodes, *formula.offsets)}
    return values, groups


def _of(terms: Terms, values: Values) -> Values:
    return {node: values[node] for term in terms.terms for node in term}


def _any_missing(parts: Sequence[Value]) -> np.ndarray:
    return np.any([part.missing for part in parts], axis=0)


def _keep_complete(
    sources: Mapping[str, np.ndarray], na_action: str, n: int
) -> tuple[np.ndarray, list[str]]:
    """The rows without a missing value, and a note on the others."""
    incomplete = {name: int(missing.sum()) for name, missing in sources.items() if missing.any()}
    if not incomplete:
        return np.ones(n, dtype=bool), []
    kept = ~np.any(list(sources.values()), axis=0)
    causes = ", ".join(f"{name} in {count}" for name, count in incomplete.items())
    lost = n - int(kept.sum())
    if na_action == "raise":
        raise DataError(
            f"{lost} of {n} rows have missing values ({causes}) and na_action is 'raise': fill or "
            "drop them, or use na_action='omit'"
        )
    if lost == n:
        raise DataError(f"all {n} rows have missing values ({causes}): nothing is left to fit")
    return kept, [f"{lost} of {n} rows dropped for missing values ({causes})."]


def _random_effects(
    random: Sequence[RandomTerm], values: Values, groups: Groups, n: int
) -> tuple[
    tuple[Factor, ...],
    tuple[Term, ...],
    tuple[Grouping, ...],
    tuple[tuple[tuple[RandomTerm, Coding], ...], ...],
]:
    """Merge the terms that share a grouping factor, and put factors and terms in order."""
    learnt: dict[str, tuple[Grouping, np.ndarray]] = {}
    effects: dict[str, list[tuple[RandomTerm, Coding]]] = {}
    for term in random:
        if term.name not in learnt:
            learnt[term.name] = group(term.name, [groups[node] for node in term.group])
        coding = learn(term.effects, _of(term.effects, values), {})
        effects.setdefault(term.name, []).append((term, coding))
    names = sorted(learnt, key=lambda name: -len(learnt[name][0].labels))
    factors = tuple(
        Factor(
            levels=learnt[name][1],
            n_levels=len(learnt[name][0].labels),
            Z=covariates([coding for _, coding in effects[name]], values, n),
        )
        for name in names
    )
    terms = []
    filled = dict.fromkeys(names, 0)
    for term in random:
        coding = next(c for t, c in effects[term.name] if t is term)
        first = filled[term.name]
        filled[term.name] += len(coding.names)
        columns = tuple(range(first, filled[term.name]))
        terms.append(Term(names.index(term.name), columns, term.structure))
    terms.sort(key=lambda term: -factors[term.factor].n_levels)
    return (
        factors,
        tuple(terms),
        tuple(learnt[name][0] for name in names),
        tuple(tuple(effects[name]) for name in names),
    )


def _check_rows_per_level(
    factor: Factor, name: str, response: Response, family: ResponseFamily
) -> None:
    counted = response.weights > 0
    if factor.n_levels < counted.sum():
        return
    verdict = family.one_row_per_level(response.trials[counted])
    message = (
        f"grouping factor '{name}' has {factor.n_levels} levels for {counted.sum()} rows, one "
        f"row a level; with the {family.name} family its variance"
    )
    if verdict == "refuse":
        raise DataError(f"{message} cannot be told from the noise: leave the term out")
    if verdict == "warn":
        warnings.warn(
            f"{message} and the dispersion describe the same thing: one of them may be superfluous",
            DataWarning,
            stacklevel=3,
        )


def _notes_on_split(random: Sequence[RandomTerm], values: Values) -> list[str]:
    """`||` cannot take a factor's dummies apart, as in lme4."""
    return [
        f"'||' keeps the levels of the factor in '{term}' correlated, as in lme4."
        for term in random
        if term.split
        and any(values[node].is_factor for part in term.effects.terms for node in part)
    ]
