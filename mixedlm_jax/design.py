"""Formula and data frame to a `Design` (arrays only) and its `Labels` (names, and how to rebuild).

Everything pandas ends here; the engine sees NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError, DataError, DataWarning, warn
from mixedlm_jax.expression import Expression, Name, suggest
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
    structure: str = "us"


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
    parts
        Model matrices of other parameters of the distribution, (n, columns) each, of full column
        rank; keyed as in `Formula.parts`.
    """

    y: np.ndarray
    trials: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    X: np.ndarray
    factors: tuple[Factor, ...]
    terms: tuple[Term, ...]
    weights_type: str
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)


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
    parts
        Per part of the design the names of its columns.
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
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def rebuild(
        self,
        newdata: Any,
        *,
        allow_new_levels: bool = False,
        factors: Iterable[int] | None = None,
        ungrouped: bool = False,
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
        ungrouped
            The frame needs no columns of grouping factors, and its rows belong to no level.

        Raises
        ------
        DataError
            For a missing column, an unseen level, an infinite value, or a column of another kind.
        ArgumentError
            Where the model's offset was an array, which new rows do not have.
        """
        wanted = range(len(self.factors)) if factors is None else tuple(factors)
        return replay(
            self.recipe,
            Table(newdata, "newdata"),
            tuple(wanted),
            allow_new_levels,
            ungrouped=ungrouped,
        )

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
    contrasts = check_contrasts(contrasts)
    if na_action not in NA_ACTIONS:
        raise ArgumentError(f"na_action is {na_action!r}; expected one of {', '.join(NA_ACTIONS)}")
    evaluation = Evaluation(Table(data))
    rows = _used_rows(formula, evaluation, family, weights, weights_type, offset, na_action)
    response = respond(formula.response, rows.response, family, rows.weights, weights_type)
    n = len(response.y)
    fixed = learn(formula.fixed, _of(formula.fixed, rows.values), contrasts)
    counted = response.weights > 0
    X, independent = _fixed_effects(fixed, rows.values, counted)
    parts = {name: _part(terms, rows.values, contrasts, counted) for name, terms in formula.parts}
    _check_contrasted([fixed, *(part.coding for part in parts.values())], contrasts)
    random = _random_effects(formula.random, rows.values, rows.groups, n)
    for factor, grouping in zip(random.factors, random.groupings, strict=True):
        _check_rows_per_level(factor, grouping.name, response, family)

    names = np.array(fixed.names, dtype=object)
    dropped = tuple(names[~independent])
    design = Design(
        y=np.array(response.y),
        trials=np.array(response.trials),
        weights=np.array(response.weights),
        offset=total_offset(formula.offsets, rows.values, rows.offset, n),
        X=X,
        factors=random.factors,
        terms=random.terms,
        weights_type=weights_type,
        parts={name: part.X for name, part in parts.items()},
    )
    labels = Labels(
        fixed=tuple(names[independent]),
        dropped=dropped,
        factors=tuple(grouping.name for grouping in random.groupings),
        levels=tuple(grouping.labels for grouping in random.groupings),
        columns=tuple(
            tuple(name for _, coding in of_factor for name in coding.names)
            for of_factor in random.effects
        ),
        response=formula.left,
        index=evaluation.table.index,
        kept=rows.kept,
        na_action=na_action,
        notes=(
            *rows.notes,
            *_notes_on_rank("fixed-effect", dropped),
            *(note for name, part in parts.items() for note in _notes_on_rank(name, part.dropped)),
            *response.notes,
            *_notes_on_split(formula.random, rows.values),
        ),
        recipe=Recipe(
            fixed=fixed,
            kept=independent,
            groupings=random.groupings,
            effects=random.effects,
            offsets=formula.offsets,
            offset_argument=offset if offset is None or isinstance(offset, str) else "",
            states=evaluation.states,
            kinds=evaluation.kinds,
            parts={name: (part.coding, part.kept) for name, part in parts.items()},
        ),
        parts={name: part.names for name, part in parts.items()},
    )
    return design, labels


@dataclass(frozen=True)
class _UsedRows:
    """Everything evaluated, on the rows without a missing value."""

    response: tuple[Value, ...]
    values: Values
    groups: Groups
    weights: np.ndarray | None
    offset: np.ndarray | None
    kept: np.ndarray
    notes: tuple[str, ...]


def _used_rows(
    formula: Formula,
    evaluation: Evaluation,
    family: ResponseFamily,
    weights: Any,
    weights_type: str,
    offset: Any,
    na_action: str,
) -> _UsedRows:
    table = evaluation.table
    if len(table) == 0:
        raise DataError("the data have no rows: expected at least two")
    response = dict(enumerate(response_parts(formula.response, family, evaluation)))
    values, groups = _evaluate(formula, evaluation)
    arrays = {"weights": table.argument("weights", weights)}
    arrays["offset"] = table.argument("offset", offset)
    check_weights(arrays["weights"], weights_type)

    missing = {str(formula.response): np.any([p.missing for p in response.values()], axis=0)}
    missing |= {str(node): value.missing for node, value in chain(values.items(), groups.items())}
    missing |= {name: np.isnan(array) for name, array in arrays.items() if array is not None}
    kept, notes = _keep_complete(missing, na_action, len(table))
    taken = {name: None if array is None else array[kept] for name, array in arrays.items()}
    return _UsedRows(
        tuple(take(response, kept).values()),
        take(values, kept),
        take(groups, kept),
        taken["weights"],
        taken["offset"],
        kept,
        notes,
    )


def _evaluate(formula: Formula, evaluation: Evaluation) -> tuple[Values, Groups]:
    """All variables of the right-hand side, and all variables of grouping factors."""
    groups = {
        node: evaluation.variable(node, GROUPING).as_category()
        for term in formula.random
        for node in term.group
    }
    nodes = dict.fromkeys(node for side in formula.sides() for term in side.terms for node in term)
    values = {node: evaluation.variable(node) for node in (*nodes, *formula.offsets)}
    return values, groups


def _of(terms: Terms, values: Values) -> Values:
    return {node: values[node] for term in terms.terms for node in term}


def _keep_complete(
    sources: Mapping[str, np.ndarray], na_action: str, n: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The rows without a missing value, and a note on the others."""
    incomplete = {name: int(missing.sum()) for name, missing in sources.items() if missing.any()}
    if not incomplete:
        return np.ones(n, dtype=bool), ()
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
    return kept, (f"{lost} of {n} rows dropped for missing values ({causes}).",)


def _fixed_effects(
    fixed: Coding, values: Values, counted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """X without its dependent columns, and which columns are independent in the rows counted."""
    columns = fixed.columns(values, len(counted))
    X = np.stack(columns, axis=1) if columns else np.empty((len(counted), 0))
    independent = independent_columns(X if counted.all() else X[counted])
    return X if independent.all() else np.ascontiguousarray(X[:, independent]), independent


@dataclass(frozen=True, eq=False)
class _Part:
    """The model matrix of another parameter of the distribution, with what it learnt."""

    X: np.ndarray
    coding: Coding
    kept: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(np.array(self.coding.names, dtype=object)[self.kept])

    @property
    def dropped(self) -> tuple[str, ...]:
        return tuple(np.array(self.coding.names, dtype=object)[~self.kept])


def _part(terms: Terms, values: Values, contrasts: Mapping[str, str], counted: np.ndarray) -> _Part:
    coding = learn(terms, _of(terms, values), contrasts)
    X, kept = _fixed_effects(coding, values, counted)
    return _Part(X, coding, kept)


def _check_contrasted(codings: Sequence[Coding], contrasts: Mapping[str, str]) -> None:
    """Contrasts are for the columns that are factors of the fixed effects, and no others."""
    variables = [coded for coding in codings for coded in coding.variables().values()]
    factors = [str(v.node) for v in variables if isinstance(v.node, Name) and v.levels is not None]
    for column in contrasts:
        if str(Name(column)) not in factors:
            raise ArgumentError(
                f"contrasts name '{column}', which is no factor of the fixed effects"
                f"{suggest(column, factors)}; factors: {', '.join(factors) or 'none'}"
            )


def _notes_on_rank(part: str, dropped: Sequence[str]) -> list[str]:
    if not dropped:
        return []
    count = f"{len(dropped)} column{'s' * (len(dropped) > 1)}"
    listed = ", ".join(dropped)
    return [f"The {part} model matrix is rank deficient: dropped {count}, {listed}."]


@dataclass(frozen=True)
class _RandomEffects:
    """The random part of a design with what it learnt; fields as in `Design` and `Recipe`."""

    factors: tuple[Factor, ...]
    terms: tuple[Term, ...]
    groupings: tuple[Grouping, ...]
    effects: tuple[tuple[tuple[RandomTerm, Coding], ...], ...]


def _random_effects(
    random: Sequence[RandomTerm], values: Values, groups: Groups, n: int
) -> _RandomEffects:
    """Merge the terms that share a grouping factor, and put factors and terms in order."""
    learnt: dict[tuple[Expression, ...], tuple[Grouping, np.ndarray]] = {}
    effects: dict[tuple[Expression, ...], list[tuple[RandomTerm, Coding]]] = {}
    columns: list[tuple[RandomTerm, tuple[int, ...]]] = []
    for term in random:
        if term.group not in learnt:
            learnt[term.group] = group(term.name, [groups[node] for node in term.group])
        coding = learn(term.effects, _of(term.effects, values), {})
        if term.structure == "ar1":
            _check_times(coding)
        of_factor = effects.setdefault(term.group, [])
        first = sum(len(earlier.names) for _, earlier in of_factor)
        columns.append((term, tuple(range(first, first + len(coding.names)))))
        of_factor.append((term, coding))
    given = [grouping.name for grouping, _ in learnt.values()]
    for name in given:
        if given.count(name) > 1:
            raise DataError(
                f"two grouping factors are called '{name}', a column and an interaction: rename "
                "the column"
            )
    size = {key: len(grouping.labels) for key, (grouping, _) in learnt.items()}
    order = sorted(learnt, key=lambda key: -size[key])
    return _RandomEffects(
        factors=tuple(
            Factor(learnt[key][1], size[key], covariates(effects[key], values, n)) for key in order
        ),
        terms=tuple(
            Term(order.index(term.group), rows, term.structure)
            for term, rows in sorted(columns, key=lambda pair: -size[pair[0].group])
        ),
        groupings=tuple(learnt[key][0] for key in order),
        effects=tuple(tuple(effects[key]) for key in order),
    )


def _check_times(coding: Coding) -> None:
    """The levels of an autoregressive term are times in order, all equally far apart."""
    (coded,) = coding.variables().values()
    if coded.levels is None or len(coded.levels) < 2:
        raise DataError(
            f"ar1 needs a factor of at least two times, and '{coded.node}' is not one: give "
            "an ordered pd.Categorical of the times"
        )
    try:
        steps = np.diff([float(level) for level in coded.levels])
    except ValueError:
        return  # names of times, in the order of the factor
    if np.any(steps <= 0) or not np.allclose(steps, steps[0]):
        raise DataError(
            f"ar1 counts the levels of '{coded.node}' as times that follow each other, and they "
            f"are {', '.join(coded.levels)}: give a pd.Categorical with every time as a category, "
            "in order"
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
        warn(
            f"{message} and the dispersion describe the same thing: one of them may be superfluous",
            DataWarning,
        )


def _notes_on_split(random: Sequence[RandomTerm], values: Values) -> list[str]:
    """`||` cannot take a factor's dummies apart, as in lme4."""
    return [
        f"'||' keeps the levels of the factor in '{term}' correlated, as in lme4."
        for term in random
        if term.split
        and any(values[node].is_factor for part in term.effects.terms for node in part)
    ]
