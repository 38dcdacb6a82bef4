"""Tests that a random effect has no variance."""

from __future__ import annotations

from dataclasses import replace

from mixedlm_jax.call import Call
from mixedlm_jax.design import Design, Labels
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.formula import Product, RandomTerm, parse_re_form
from mixedlm_jax.hypotheses import check_fitted, check_unpenalised
from mixedlm_jax.inference import mixture_tail
from mixedlm_jax.noted import NotedFrame
from mixedlm_jax.ratio_test import compare

MANY_LEVELS = 200  # from which the mixture of chi-squared distributions is near the truth
METHODS = ("bootstrap", "mixture")


def test_random(  # no test of pytest's
    model: Fitted,
    term: str,
    method: str | None = None,  # noqa: PT028
    nsim: int = 1000,  # noqa: PT028
    seed: int | None = None,  # noqa: PT028
) -> NotedFrame:
    """Likelihood-ratio test that a random effect has no variance.

    The variance is on its boundary, so that the ratio is not chi-squared: with q covariances that
    vanish with it, it is half chi2_q + half chi2_{q+1} where there are many groups (Self and Liang
    1987). Where there are few the ratio is 0 more often, and the mixture rejects too rarely.

    Parameters
    ----------
    model
        A fitted model.
    term
        The effect to leave out with its group: `"(1 | herd)"`, `"(0 + Days | Subject)"` for the
        slope of `(Days | Subject)`; the name of a grouping factor with one effect will do.
    method
        "mixture", or "bootstrap" of the ratio; by default that of the two which suits the number of
        groups, the mixture from 200 on.
    nsim, seed
        Of the bootstrap: both models are refitted to so many responses simulated without the
        effect, and the p-value is (1 + ratios as large) / (1 + nsim); fits that fail are left out.

    Returns
    -------
    DataFrame
        One row: logLik of the model without the effect and with it, LRT, and Pr(>LRT).

    Raises
    ------
    ArgumentError
        For an effect that the model does not have, for a model with a prior, for the mixture with
        several variances at once, and with a structure whose variances are no parameters of their
        own.

    Examples
    --------
    >>> cbpp = mlm.load_cbpp()
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", cbpp, "binomial")
    >>> print(mlm.test_random(model, "(1 | herd)", method="mixture").round(5))
                logLik null    logLik       LRT  Pr(>LRT)
    (1 | herd)     -99.0292 -92.02628  14.00584   0.00009
    Half chi-squared with 0, half with 1 degrees of freedom; 15 levels.
    """
    check_fitted(model, "test_random")
    check_unpenalised(model, "test_random")
    if method is not None and method not in METHODS:
        raise ArgumentError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    group, dropped = _effects(model, term)
    levels = model.ngrps()[group]
    if method is None:
        method = "mixture" if levels >= MANY_LEVELS else "bootstrap"
    call = without_effects(model, group, dropped)
    design, labels = _rows_of(model, call)
    lost = _effects_of_a_level(model.labels) - _effects_of_a_level(labels)
    if method == "mixture" and (lost != 1 or not _own_parameters(model, group)):
        raise ArgumentError(
            f"the mixture is for one variance that is a parameter of its own, and {term!r} stands "
            f"for {lost} random effects of a level; leave out one effect at a time, such as "
            f"'(0 + x | {group})', or use method='bootstrap'"
        )
    large = float(model.logLik())
    start = {"beta": model.fit.beta, "phi": model.fit.phi}
    null = Fitted(call, design, labels, call.fit(design, start=start))
    small = float(null.logLik())
    ratio = max(2.0 * (large - small), 0.0)
    if method == "bootstrap":
        found = compare(model, null, nsim, seed, progress=False)
        p, note = found.p_value, f"{found}."
    else:
        q = len(model.fit.theta) - len(null.fit.theta) - 1
        p = mixture_tail(ratio, q)
        note = f"Half chi-squared with {q}, half with {q + 1} degrees of freedom; {levels} levels."
    row = {"logLik null": small, "logLik": large, "LRT": ratio, "Pr(>LRT)": p}
    return NotedFrame.of([row], [note], index=[term])


test_random.__test__ = False  # type: ignore[attr-defined]  # it is no test of pytest's


def without_effects(model: Fitted, group: str, dropped: tuple[Product, ...]) -> Call:
    """The call of a model without some random effects of a grouping factor."""
    formula = model.call.formula
    kept: list[RandomTerm] = []
    for term in formula.random:
        rest: RandomTerm | None = term
        for part in dropped if term.name == group else ():
            rest = None if rest is None else rest.without(part)
        kept += [] if rest is None else [rest]
    call = replace(model.call, formula=formula.with_terms(random=tuple(kept)))
    return call if kept else replace(call, nAGQ=1)  # nothing to integrate out


def _rows_of(model: Fitted, call: Call) -> tuple[Design, Labels]:
    """The design of a call with the rows and the response of a model."""
    design, labels = call.build()
    if len(design.y) != len(model.design.y):
        raise ArgumentError(
            f"without the effect the model has {len(design.y)} rows instead of "
            f"{len(model.design.y)}, as its missing values drop no row any more: fit the model to "
            "a frame without missing values"
        )
    return replace(design, y=model.design.y, trials=model.design.trials), labels


def _effects(model: Fitted, text: str) -> tuple[str, tuple[Product, ...]]:
    """The grouping factor and the effects that a text names."""
    if isinstance(text, str) and text.strip() in model.labels.factors:
        name = text.strip()
        found = [part for term in _terms(model, name) for part in term.effects.parts()]
        return name, tuple(found)
    wanted = parse_re_form(f"~ {text}" if isinstance(text, str) else text)
    if wanted is None or len(wanted) != 1:
        raise ArgumentError(f"term is {text!r}; give one random effect such as '(1 | herd)'")
    (term,) = wanted
    there = {frozenset(part) for own in _terms(model, term.name) for part in own.effects.parts()}
    absent = [part for part in term.effects.parts() if frozenset(part) not in there]
    if absent:
        raise ArgumentError(
            f"the model has no random effect {text!r}; its random terms are "
            f"{' + '.join(map(str, model.call.formula.random)) or 'none'}"
        )
    return term.name, term.effects.parts()


def _terms(model: Fitted, group: str) -> list[RandomTerm]:
    return [term for term in model.call.formula.random if term.name == group]


def _effects_of_a_level(labels: Labels) -> int:
    """Number of random effects of a level of each factor, together."""
    return sum(len(names) for names in labels.columns)


def _own_parameters(model: Fitted, group: str) -> bool:
    """Whether the variances of a factor's effects are parameters of their own."""
    structures = {term.structure for term in _terms(model, group)}
    return structures <= {"us", "diag"} or _effects_of_a_level(model.labels) == 1
