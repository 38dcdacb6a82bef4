"""Names of a model's random-effects terms and of its covariance parameters, as lme4 has them."""

from __future__ import annotations

from itertools import combinations_with_replacement

from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.design import Design, Labels


def term_names(design: Design, labels: Labels) -> list[str]:
    """One name per term: its grouping factor, numbered from the second term of a factor on.

    `(x || g)` gives "g" and "g.1".
    """
    names: list[str] = []
    used: dict[str, int] = {}
    for term in design.terms:
        group = labels.factors[term.factor]
        repeated = used.get(group, 0)
        used[group] = repeated + 1
        names.append(f"{group}.{repeated}" if repeated else group)
    return names


def effect_names(design: Design, labels: Labels) -> list[tuple[str, ...]]:
    """Per term the names of its effects: ("(Intercept)", "Days")."""
    return [tuple(labels.columns[term.factor][j] for j in term.columns) for term in design.terms]


def theta_names(design: Design, labels: Labels) -> list[str]:
    """One name per covariance parameter: "Subject.Days.(Intercept)"."""
    return [
        f"{labels.factors[term.factor]}.{name}"
        for term, effects in zip(design.terms, effect_names(design, labels), strict=True)
        for name in STRUCTURES[term.structure].names(effects)
    ]


def component_names(design: Design, labels: Labels) -> list[str]:
    """One name per standard deviation and correlation of the random effects, as lme4's `confint`.

    "sd_(Intercept)|herd", "cor_Days.(Intercept)|Subject": the lower triangle of each term by
    columns, without correlations where a term has none.
    """
    names = []
    for term, effects in zip(design.terms, effect_names(design, labels), strict=True):
        group = labels.factors[term.factor]
        for j, i in combinations_with_replacement(range(len(effects)), 2):
            if i == j:
                names.append(f"sd_{effects[i]}|{group}")
            elif STRUCTURES[term.structure].correlated:
                names.append(f"cor_{effects[i]}.{effects[j]}|{group}")
    return names
