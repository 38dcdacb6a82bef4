"""Models beside each other: likelihood-ratio tables, and what single terms are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from mixedlm_jax.call import Call
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.formula import Formula, Product, Terms
from mixedlm_jax.hypotheses import check_unpenalised
from mixedlm_jax.inference import chi_squared_tail
from mixedlm_jax.noted import NotedFrame


def compare(models: Sequence[Fitted], names: Sequence[str] | None = None) -> NotedFrame:
    """The likelihood-ratio table of `anova`, models in the order of their parameters."""
    for first, second in combinations(models, 2):
        check_same_data(first, second)
    labels = _labels(models, names)
    order = sorted(range(len(models)), key=lambda i: models[i].n_parameters)
    rows: list[list[float]] = []
    notes = [f"{labels[i]}: {models[i].formula}" for i in order]
    for i in order:
        found = models[i].logLik()
        value = float(found)
        criteria = [models[i].AIC(), models[i].BIC(), value, -2.0 * value]
        rows.append([found.df, *criteria, np.nan, np.nan, np.nan])
        if not models[i].converged:
            notes.append(f"{labels[i]} did not converge: see checkConv.")
    for at, (i, j) in enumerate(pairwise(order), start=1):
        df = int(rows[at][0] - rows[at - 1][0])
        ratio = rows[at - 1][4] - rows[at][4]
        obstacle = _obstacle(models[i], models[j], df)
        p = np.nan if obstacle else chi_squared_tail(ratio, df)
        rows[at][5:] = [np.nan if obstacle else max(ratio, 0.0), df, p]
        if obstacle:
            notes.append(f"No test of {labels[j]} against {labels[i]}: {obstacle}.")
        elif _random_part(models[i]) != _random_part(models[j]):
            notes.append(
                f"{labels[j]} has random effects that {labels[i]} lacks: a variance of 0 is on its "
                "boundary and the p-value too large; mlm.test_random tests it."
            )
    columns = ["npar", "AIC", "BIC", "logLik", "-2*log(L)", "Chisq", "Df", "Pr(>Chisq)"]
    frame = NotedFrame.of(rows, notes, index=[labels[i] for i in order], columns=columns)
    frame["npar"] = frame["npar"].astype(int)
    return frame


def _labels(models: Sequence[Fitted], names: Sequence[str] | None) -> list[str]:
    """A label for each model: those given, or "model1", "model2", ..."""
    if names is None:
        return [f"model{i}" for i in range(1, len(models) + 1)]
    if isinstance(names, str) or len(set(names)) != len(models):
        raise ArgumentError(
            f"names are {names!r}; give a different one for each of {len(models)} models"
        )
    return [str(name) for name in names]


def check_same_data(first: Fitted, second: Fitted) -> None:
    """Raise `ArgumentError` unless two models explain the same numbers with the same weights."""
    a, b = first.design, second.design
    both = f"'{first.formula}' and '{second.formula}'"
    if len(a.y) != len(b.y) or not first.by_row(a.y).index.equals(second.by_row(b.y).index):
        raise ArgumentError(
            f"{both} were fitted to different rows ({len(a.y)} and {len(b.y)}): rows with missing "
            "values are dropped for each model by itself; fit both to one frame without them"
        )
    if not (np.array_equal(a.y, b.y) and np.array_equal(a.trials, b.trials)):
        raise ArgumentError(
            f"{both} have different responses, or code one response differently; their likelihoods "
            "are of different things and cannot be compared"
        )
    if a.weights_type != b.weights_type or not np.array_equal(a.weights, b.weights):
        raise ArgumentError(f"{both} have different weights; give both models the same")


def _obstacle(small: Fitted, large: Fitted, df: int) -> str | None:
    """Why twice the difference of two log-likelihoods is no test, or None."""
    mixed = [model for model in (small, large) if model.design.factors]
    if df == 0:
        return "they have equally many parameters"
    if len({model.fit.nAGQ for model in mixed}) > 1:
        return "their likelihoods are approximated differently (nAGQ)"
    if len({model.fit.information for model in mixed}) > 1:
        return "their likelihoods are approximated differently (information)"
    if small.call.prior is not None or large.call.prior is not None:
        return "a prior moved the estimates, so that log-likelihoods are not at their maximum"
    if small.family.name != large.family.name or small.family.link != large.family.link:
        return "their families or links differ; compare AIC"
    for name in small.family.parameters:
        held = getattr(large.family, name, None)
        if held is not None and held != getattr(small.family, name, None):
            return f"the larger model holds {name} at {held:g} and the smaller one does not"
    if not _nested(small, large):
        return "the smaller model is no special case of the larger one; compare AIC"
    return None


def _nested(small: Fitted, large: Fitted) -> bool:
    """Whether fixed and random effects of one model are among, or made of, those of another."""
    matrices = {"cond": large.design.X, **large.design.parts}
    for name, part in {"cond": small.design.X, **small.design.parts}.items():
        if name not in matrices or not _spanned(part, matrices[name]):
            return False
    moved = small.design.offset - large.design.offset
    if not _spanned(moved[:, None], large.design.X):
        return False
    there = _random_part(large)
    return all(
        effects <= there.get(group, set()) for group, effects in _random_part(small).items()
    ) and all(_covers(term, _blocks(small)) for term in _blocks(large))


def _random_part(model: Fitted) -> dict[str, set[str]]:
    named = zip(model.labels.factors, model.labels.columns, strict=True)
    return {group: set(effects) for group, effects in named}


@dataclass(frozen=True)
class _Block:
    """Effects of one grouping factor with a covariance matrix of their own."""

    group: str
    effects: frozenset[str]
    structure: str

    @property
    def independent(self) -> bool:
        return len(self.effects) == 1 or not STRUCTURES[self.structure].correlated


def _blocks(model: Fitted) -> list[_Block]:
    labels = model.labels
    return [
        _Block(
            labels.factors[term.factor],
            frozenset(labels.columns[term.factor][column] for column in term.columns),
            term.structure,
        )
        for term in model.design.terms
    ]


def _covers(large: _Block, blocks: list[_Block]) -> bool:
    """Whether a block's covariance matrix can be what smaller blocks make of its effects.

    Effects that are absent there have a standard deviation of 0, those of different blocks are
    uncorrelated.
    """
    parts = [own for own in blocks if own.group == large.group and own.effects & large.effects]
    effects = frozenset[str]().union(*(own.effects for own in parts)) & large.effects
    if not all(own.independent or own.effects <= large.effects for own in parts):
        return False  # correlated with an effect of another block
    if not parts or large.structure == "us" or len(large.effects) == 1:
        return True
    independent = all(own.independent for own in parts)
    if large.structure == "diag":
        return independent
    if large.structure == "cs":
        same = len(parts) == 1 and parts[0].structure == "cs"
        return independent or same or len(large.effects) == 2
    # one standard deviation of all effects, which no single effect can lack
    if len(parts) > 1 or effects != large.effects:
        return False
    return parts[0].structure in ("homdiag", large.structure)


def _spanned(columns: np.ndarray, by: np.ndarray) -> bool:
    """Whether every column of one matrix is a combination of those of another."""
    size = np.sqrt(np.sum(columns**2, axis=0))
    basis, _ = np.linalg.qr(by)
    rest = columns - basis @ (basis.T @ columns)
    return bool(np.all(np.sqrt(np.sum(rest**2, axis=0)) <= 1e-7 * size))


def drop_terms(model: Fitted, data: Any = None) -> NotedFrame:
    """The table of `drop1`: the model without each term that no other one contains."""
    check_unpenalised(model, "drop1")
    if model.refitted and data is None:
        raise ArgumentError(
            "this model was refitted to a response that its data do not hold: put the response "
            "into a frame and give it as data="
        )
    call = model.call if data is None else replace(model.call, data=data)
    full = model if call.data is model.call.data else Fitted.of(call)
    whole = full.logLik()
    dropped = droppable_terms(call.formula.fixed)
    rows = [[np.nan, full.AIC(), np.nan, np.nan]]
    notes = [] if full.converged else ["The full model did not converge: see checkConv."]
    if not dropped:
        notes.append("There is no term that could be dropped.")
    for term in dropped:
        smaller = _without(call, term)
        design, labels = smaller.build()
        if len(design.y) != len(full.design.y):
            raise ArgumentError(
                f"without {_name(term)} the model has {len(design.y)} rows instead of "
                f"{len(full.design.y)}, as its missing values drop no row any more: fit the model "
                "to a frame without missing values"
            )
        small = Fitted(smaller, design, labels, smaller.fit(design, start=_start(full)))
        found = small.logLik()
        df, ratio = whole.df - found.df, 2.0 * (float(whole) - float(found))
        rows.append([df, small.AIC(), max(ratio, 0.0), chi_squared_tail(ratio, df)])
        if not small.converged:
            notes.append(f"The model without {_name(term)} did not converge.")
    index = ["<none>", *map(_name, dropped)]
    columns = ["npar", "AIC", "LRT", "Pr(Chi)"]
    return NotedFrame.of(rows, notes, index=index, columns=columns)


def droppable_terms(fixed: Terms) -> list[Product]:
    """Terms that are part of no other term."""
    return [
        term for term in fixed.terms if not any(set(term) < set(other) for other in fixed.terms)
    ]


def _without(call: Call, term: Product) -> Call:
    """The call without a term of the fixed effects, and without contrasts that nothing uses."""
    kept = tuple(other for other in call.formula.fixed.terms if other != term)
    fixed = replace(call.formula.fixed, terms=kept)
    formula = call.formula.with_terms(fixed=fixed)
    contrasts = call.contrasts
    if contrasts is not None:
        used = _columns(formula)
        contrasts = {name: kind for name, kind in contrasts.items() if name in used}
    return replace(call, formula=formula, contrasts=contrasts)


def _columns(formula: Formula) -> set[str]:
    sides = (formula.fixed, *(terms for _, terms in formula.parts))
    return {name for side in sides for name in side.columns()}


def _start(model: Fitted) -> dict[str, np.ndarray]:
    """Where the search for a smaller model begins; it cannot leave theta = 0."""
    start = {"phi": model.fit.phi}
    return start if model.isSingular() else {**start, "theta": model.fit.theta}


def _name(term: Product) -> str:
    return ":".join(map(str, term))
