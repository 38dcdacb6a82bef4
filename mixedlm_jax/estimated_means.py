"""Estimated marginal means and their contrasts, as in R's emmeans (Lenth).

Predictions on a reference grid are averaged with equal weights over the variables that are not
asked for (Searle, Speed and Milliken 1980, The American Statistician 34):

    m = L h(psi),   Var(m) = L J V J' L',   J = dh / dpsi

h holds the linear predictor of each grid row at b = 0, or the link of its population average; V is
the covariance of all parameters psi = (theta, beta, phi).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.adjustment import adjusted_tests, check_adjustment, critical_value
from mixedlm_jax.averages import (
    average_notes,
    cell_any,
    cell_means,
    expected_rows,
    is_population,
    parameters_of,
    rows_of,
)
from mixedlm_jax.contrasts import contrast_coefficients
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.expression import suggest
from mixedlm_jax.families import ZERO, Family
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.inference import check_level, standard_errors, wald_intervals
from mixedlm_jax.means import link_mean, mean_slope
from mixedlm_jax.noted import NotedFrame
from mixedlm_jax.reference_grid import ReferenceGrid, not_estimable, reference_grid

TYPES = ("link", "response")
_RATIOS = {"logit": "odds ratios", "log": "ratios"}


@dataclass(frozen=True, repr=False, eq=False)
class EstimatedMeans:
    """Estimated marginal means, as `emmeans` returns them.

    Attributes
    ----------
    levels
        What each mean is of: a column for each variable asked for, those of `by` last.
    estimate, covariance
        The means (r,) and their covariance (r, r), on the scale they were averaged on.
    by
        Variables within whose levels means are compared.
    family
        Whose link the means are transformed back by for `type="response"`.
    type
        "link" or "response".
    averaged_on
        "link" or "response": the scale of `estimate`.
    level
        Probability of the intervals.
    notes
        Sentences on what the means are.
    """

    levels: pd.DataFrame
    estimate: np.ndarray
    covariance: np.ndarray
    by: tuple[str, ...]
    family: Family
    type: str
    averaged_on: str
    level: float
    notes: tuple[str, ...]

    @property
    def _transformed(self) -> bool:
        return self.type == "response" and self.averaged_on == "link"

    def to_dataframe(self) -> NotedFrame:
        """One row a mean: its levels, estimate, std.error, conf.low and conf.high (Wald's)."""
        estimate, se = self.estimate, standard_errors(self.covariance)
        ends = wald_intervals(estimate, se, self.level).T
        if self._transformed:
            se = np.abs(mean_slope(self.family, estimate)) * se
            estimate = link_mean(self.family, estimate)
            ends = np.sort([link_mean(self.family, end) for end in ends], axis=0)
        columns = {
            "estimate": estimate,
            "std.error": se,
            "conf.low": ends[0],
            "conf.high": ends[1],
        }
        return NotedFrame.of(
            self.levels.assign(**columns), (*self.notes, f"Intervals have level {self.level:g}.")
        )

    def pairs(self, adjust: str = "tukey", reverse: bool = False) -> NotedFrame:
        """All pairwise differences: `contrast("pairwise")`, or `"revpairwise"`."""
        return self.contrast("revpairwise" if reverse else "pairwise", adjust)

    def contrast(
        self,
        method: str | Mapping[str, Sequence[float]] = "pairwise",
        adjust: str | None = None,
    ) -> NotedFrame:
        """Linear contrasts of the means, within each combination of `by`, with z tests.

        Parameters
        ----------
        method
            "pairwise" (earlier less later), "revpairwise", "trt.vs.ctrl" (each less the first),
            "consec" (each less the one before), "eff" (each less the average); or a dict from names
            to coefficients, one a mean.
        adjust
            For the number of contrasts in each combination of `by`: "tukey" (pairwise ones, for
            which it is the default), "holm" (the default of other methods), "sidak", "bonferroni",
            "hochberg", "fdr", "none" (the default of a dict). Limits are adjusted too, by
            Bonferroni where the method has none of its own.

        Returns
        -------
        DataFrame
            contrast, the columns of `by`, estimate, std.error, statistic, p.value, conf.low,
            conf.high. With `type="response"` under a log or logit link contrasts are transformed
            too, to ratios and odds ratios, and tested on the scale of the link.

        Raises
        ------
        ArgumentError
            For a method or an adjustment that is not there, and coefficients of another number.
        """
        pairwise = isinstance(method, str) and method in ("pairwise", "revpairwise")
        if adjust is None:
            adjust = "tukey" if pairwise else "holm" if isinstance(method, str) else "none"
        check_adjustment(adjust, pairwise)
        ratio = self._transformed and self.family.link.name in _RATIOS
        blocks = [
            self._contrasted(rows, method, adjust, ratio) for rows in self._groups()
        ]
        counts = sorted({len(block) for block in blocks})
        sizes = sorted({len(rows) for rows in self._groups()})
        notes = [*self.notes, *self._scale_notes(ratio)]
        if adjust != "none" and counts[-1] > 1:
            among = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
            means = " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
            notes.append(
                f"P values and limits are adjusted for {among} contrasts of {means} means by "
                f"{adjust}{' (limits by bonferroni)' * (adjust in ('holm', 'hochberg', 'fdr'))}."
            )
        frame = pd.concat(blocks, ignore_index=True)
        return NotedFrame.of(frame, (*notes, f"Intervals have level {self.level:g}."))

    def _groups(self) -> list[np.ndarray]:
        """Rows of each combination of `by`."""
        keys = [tuple(row) for row in self.levels[list(self.by)].to_numpy(object)]
        return [
            np.array([i for i, own in enumerate(keys) if own == key]) for key in dict.fromkeys(keys)
        ]

    def _contrasted(
        self, rows: np.ndarray, method: Any, adjust: str, ratio: bool
    ) -> pd.DataFrame:
        names = self._names(rows)
        labels, coefficients = contrast_coefficients(method, names, " / " if ratio else " - ")
        estimate, se = _combined(
            coefficients, self.estimate[rows], self.covariance[np.ix_(rows, rows)]
        )
        z, p = adjusted_tests(estimate, se, adjust, len(rows))
        half = critical_value(self.level, adjust, len(labels), len(rows)) * se
        low, high = estimate - half, estimate + half
        if ratio:
            estimate, low, high = np.exp(estimate), np.exp(low), np.exp(high)
            se = estimate * se
        own = {name: [self.levels[name].iloc[rows[0]]] * len(labels) for name in self.by}
        return pd.DataFrame(
            {
                "contrast": labels,
                **own,
                "estimate": estimate,
                "std.error": se,
                "statistic": z,
                "p.value": p,
                "conf.low": low,
                "conf.high": high,
            }
        )

    def _names(self, rows: np.ndarray) -> list[str]:
        """What contrasts call the means: their levels, a number with its variable's name."""
        parts = []
        for name in self.levels.columns:
            if name not in self.by:
                shown = [_shown(value) for value in self.levels[name].iloc[rows]]
                numbered = all(map(_is_number, shown))
                parts.append([f"{name}{value}" if numbered else value for value in shown])
        names = [" ".join(part) for part in zip(*parts, strict=True)]
        return [f"({name})" if any(mark in name for mark in "+-*/") else name for name in names]

    def _scale_notes(self, ratio: bool) -> list[str]:
        if ratio:
            kind = _RATIOS[self.family.link.name]
            return [f"Contrasts are {kind}, tested on the {self.family.link.name} scale."]
        if self._transformed and self.family.link.name != "identity":
            return [f"Contrasts stay on the {self.family.link.name} scale."]
        return []

    def __repr__(self) -> str:
        return repr(self.to_dataframe())

    def _repr_html_(self) -> str:
        return self.to_dataframe()._repr_html_()


def emmeans(
    model: Fitted,
    specs: str | Sequence[str],
    *,
    by: str | Sequence[str] | None = None,
    at: Mapping[str, Any] | None = None,
    type: str = "link",
    regrid: bool = False,
    re_form: str = "~0",
    vcov: Any = None,
    level: float = 0.95,
) -> EstimatedMeans:
    """Estimated marginal means: predictions at the levels of some variables, averaged over others.

    Parameters
    ----------
    model
        A fitted model.
    specs
        The variables whose combinations have a mean each: "period", or ["urban", "livch"].
    by
        Further variables, within whose combinations means are compared.
    at
        Values of variables in the reference grid, `{"age": [0, 10]}`, in place of all levels of a
        factor, both values of a number that has two, and the mean of another number.
    type
        "link": on the scale of the linear predictor. "response": transformed back from there, with
        standard errors by the delta method and transformed intervals.
    regrid
        Average on the scale of the response, so that contrasts are differences there: of
        probabilities, of expected counts (zero parts and truncation included). type makes no
        difference then: the response's scale is that of both.
    re_form
        "~0" (or "NA"): the typical group, b = 0. "marginal": population averages, the random
        effects integrated out; the link scale is then the link of the average.
    vcov
        Covariance of all parameters in place of the model's own, such as
        `model.vcov(type="robust", full=True)`.
    level
        Probability of the intervals.

    Returns
    -------
    EstimatedMeans
        `.to_dataframe()`, `.pairs(adjust=)`, `.contrast(method, adjust=)`. Tests and intervals are
        normal (infinite degrees of freedom).

    Raises
    ------
    ArgumentError
        For a variable, level, type or re_form that is not there, a vcov of another shape, and a
        fit without a covariance.
    DataError
        Where random effects lead out of the domain of a restricted link.

    Examples
    --------
    >>> cbpp = mlm.load_cbpp()
    >>> model = mlm.glmer("incidence / size ~ period + (1 | herd)", cbpp, "binomial")
    >>> means = mlm.emmeans(model, "period", type="response")
    >>> print(means.to_dataframe()["estimate"].round(3).tolist())
    [0.198, 0.084, 0.074, 0.048]
    >>> print(means.pairs()[["contrast", "estimate", "p.value"]].head(2).round(3))
                contrast  estimate  p.value
    0  period1 / period2     2.698    0.007
    1  period1 / period3     3.092    0.003
    Of the typical group: random effects at 0, which is not the population average.
    Averages on the logit scale, transformed back.
    Contrasts are odds ratios, tested on the logit scale.
    P values and limits are adjusted for 6 contrasts of 4 means by tukey.
    Intervals have level 0.95.
    """
    check_fitted(model, "emmeans")
    check_level(level)
    marginal = is_population(re_form)
    if type not in TYPES:
        raise ArgumentError(f"type is {type!r}; choose 'link' or 'response'")
    groups, wanted = _names_of(by, "by"), _names_of(specs, "specs")
    wanted = [name for name in wanted if name not in groups]
    grid = reference_grid(model, at, random=marginal)
    for name in (*wanted, *groups):
        if name not in grid.levels:
            raise ArgumentError(
                f"emmeans has no variable {name!r}{suggest(str(name), grid.levels)}; the model "
                f"depends on {', '.join(grid.levels) or 'none'}"
            )
    if not wanted:
        raise ArgumentError("specs names no variable besides those of by; give one or more")
    averaged_on = "response" if regrid else "link"
    parameters = parameters_of(model, vcov)
    rows = rows_of(model, grid.frame, marginal)
    if averaged_on == "response":
        found = expected_rows(parameters, rows, "response", marginal)
    elif marginal:  # the means whose link is eta at b = 0: before structural zeros and truncation
        found = expected_rows(parameters, rows, "mean", marginal).on_link(model.family)
    else:
        found = expected_rows(parameters, rows, "link", marginal)
    cells, number = _cells(grid, [*wanted, *groups])
    levels = pd.DataFrame(
        {
            name: _as_levels(grid, name, _first_of(grid.codes[name], cells, number))
            for name in (*wanted, *groups)
        }
    )
    estimate, slope = cell_means(found, cells, number)
    unknown = cell_any(not_estimable(model, grid.frame), cells, number)
    estimate[unknown], slope[unknown] = np.nan, np.nan
    notes = [*average_notes(model, marginal), *_grid_notes(grid, [*wanted, *groups])]
    notes += _unit_notes(model, regrid, type)
    if np.any(unknown):
        notes.append(
            f"{np.sum(unknown)} means cannot be estimated (nan): the data have no rows that tell "
            f"the columns {', '.join(model.labels.dropped)} from others."
        )
    return EstimatedMeans(
        levels,
        estimate,
        slope @ parameters.covariance @ slope.T,
        tuple(groups),
        model.family,
        "response" if regrid else type,
        averaged_on,
        level,
        tuple(notes),
    )


def _combined(
    coefficients: np.ndarray, estimate: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Linear combinations and their standard errors, nan where they need a mean that is nan."""
    known = np.isfinite(estimate)
    of_known = coefficients[:, known]
    value = of_known @ estimate[known]
    se = standard_errors(of_known @ covariance[np.ix_(known, known)] @ of_known.T)
    touched = np.any(coefficients[:, ~known] != 0.0, axis=1)
    return np.where(touched, np.nan, value), np.where(touched, np.nan, se)


def _cells(grid: ReferenceGrid, names: Sequence[str]) -> tuple[np.ndarray, int]:
    """The combination of these variables that each row of the grid has, the first one fastest."""
    cells, step = np.zeros(len(grid.frame), int), 1
    for name in names:
        cells = cells + step * grid.codes[name]
        step *= len(grid.levels[name])
    return cells, step


def _first_of(codes: np.ndarray, cells: np.ndarray, number: int) -> np.ndarray:
    """The code of each cell."""
    found = np.zeros(number, int)
    found[cells] = codes
    return found


def _as_levels(grid: ReferenceGrid, name: str, codes: np.ndarray) -> Any:
    shown = grid.levels[name]
    if all(isinstance(value, str) for value in shown):
        return pd.Categorical.from_codes(codes, pd.Index(shown))
    return np.array(shown, float)[codes]


def _names_of(given: Any, argument: str) -> list[str]:
    names = [given] if isinstance(given, str) else list(given or ())
    if not all(isinstance(name, str) for name in names):
        raise ArgumentError(f"{argument} is {given!r}; give the name of a variable, or several")
    return list(dict.fromkeys(names))


def _grid_notes(grid: ReferenceGrid, shown: Sequence[str]) -> list[str]:
    rest = [name for name in grid.levels if name not in shown]
    over = [name for name in rest if len(grid.levels[name]) > 1]
    fixed = [name for name in rest if len(grid.levels[name]) == 1]
    fixed += [name for name in shown if name in grid.means]
    notes = []
    if over:
        notes.append(f"Averaged with equal weights over the levels of {', '.join(over)}.")
    if fixed:
        listed = ", ".join(f"{name} = {_shown(grid.levels[name][0])}" for name in fixed)
        notes.append(f"At {listed}.")
    return notes


def _unit_notes(model: Fitted, regrid: bool, type: str) -> list[str]:
    family, name = model.family, model.family.link.name
    if regrid:
        return ["Averages of expected responses, on their scale."]
    notes = []
    if name != "identity":
        notes.append(
            f"Averages on the {name} scale{', transformed back' * (type == 'response')}."
        )
    if ZERO in family.dispersion_names or family.zeros == "hurdle":
        notes.append(
            "Of means before structural zeros and truncation; regrid=True has those of responses."
        )
    return notes


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
