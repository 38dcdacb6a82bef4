"""What a fitted model prints: variance components, verdict, summary, in lme4's layout.

These types hold plain numbers, and exist to be read; nothing here prints by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from mixedlm_jax.formatting import (
    STARS_LEGEND,
    abbreviate,
    align,
    format_alike,
    format_estimates,
    format_p_values,
    stars,
)
from mixedlm_jax.inference import correlation, standard_errors
from mixedlm_jax.markup import block, paragraph, table
from mixedlm_jax.verdict import MAX_GAIN, Verdict

_COEFFICIENTS_LEFT = [True, False, False, False, False, True]
_WIDEST_CORRELATION = 12  # coefficients whose correlations are shown without being asked for


class LogLik(float):
    """A log-likelihood that knows its parameters `df` and its observations `nobs`."""

    df: int
    nobs: int

    def __new__(cls, value: float, df: int, nobs: int) -> LogLik:
        self = super().__new__(cls, value)
        self.df, self.nobs = df, nobs
        return self

    def __getnewargs__(self) -> tuple[float, int, int]:  # type: ignore[override]
        return float(self), self.df, self.nobs

    def __repr__(self) -> str:
        return f"'log Lik.' {float(self):.7g} (df={self.df})"

    __str__ = __repr__


@dataclass(frozen=True, eq=False)
class Component:
    """Covariance (k, k) of the random effects of one term; `correlated`: if that is not diagonal
    by the term's structure.
    """

    group: str
    names: tuple[str, ...]
    covariance: np.ndarray
    correlated: bool = True


@dataclass(frozen=True, repr=False, eq=False)
class VarCorr:
    """Variances and correlations of the random effects, one component per term in theta order.

    sigma: the residual standard deviation, None where the family has none. It prints as lme4's.
    """

    components: tuple[Component, ...]
    sigma: float | None

    def to_dataframe(self) -> pd.DataFrame:
        """One row per variance and covariance: grp, var1, var2, vcov, sdcor.

        `sdcor` is a standard deviation where var2 is None, else a correlation. Row "Residual" last,
        for families that have one.
        """
        rows: list[tuple[str, str | None, str | None, float, float]] = []
        for part in self.components:
            sd, corr = standard_errors(part.covariance), correlation(part.covariance)
            for i, name in enumerate(part.names):
                rows.append((part.group, name, None, float(sd[i] ** 2), float(sd[i])))
            for i, j in combinations(range(len(part.names) if part.correlated else 0), 2):
                cov, cor = float(part.covariance[i, j]), float(corr[i, j])
                rows.append((part.group, part.names[i], part.names[j], cov, cor))
        if self.sigma is not None:
            rows.append(("Residual", None, None, self.sigma**2, self.sigma))
        frame = pd.DataFrame(rows, columns=["grp", "var1", "var2", "vcov", "sdcor"], dtype=object)
        return frame.astype({"vcov": float, "sdcor": float})

    def cells(self, digits: int, *, variances: bool) -> list[list[str]]:
        """The table's texts, header first; correlations get two digits less."""
        k = max((len(part.names) for part in self.components if part.correlated), default=1)
        header = ["Groups", "Name", *["Variance"] * variances, "Std.Dev."]
        header += ["Corr", *[""] * (k - 2)] if k > 1 else []
        own = [standard_errors(part.covariance) for part in self.components]
        sd = np.concatenate([*own, [] if self.sigma is None else [self.sigma]])
        numbers = zip(
            *[_padded(format_alike(sd**2, digits))] * variances,
            _padded(format_alike(sd, digits)),
            strict=True,
        )
        rows = [header]
        for part in self.components:
            correlations = correlation(part.covariance)
            for i, name in enumerate(part.names):
                shown = correlations[i, : i if part.correlated else 0]
                known = [_format_correlation(c, max(2, digits - 2)) for c in shown]
                rows.append(["" if i else part.group, name, *next(numbers), *known])
        if self.sigma is not None:
            rows.append(["Residual", "", *next(numbers)])
        return [row + [""] * (len(header) - len(row)) for row in rows]

    def lines(self, digits: int, *, variances: bool) -> list[str]:
        """The table's lines."""
        whole = self.cells(digits, variances=variances)
        return [f" {line}" for line in align(whole, [True] * len(whole[0]))]

    def _repr_html_(self) -> str:
        return self.html(5, variances=False)

    def html(self, digits: int, *, variances: bool) -> str:
        """The table as HTML."""
        header, *rows = self.cells(digits, variances=variances)
        return table(header, rows, [True] * len(header))

    def __str__(self) -> str:
        return "\n".join(self.lines(5, variances=False))

    __repr__ = __str__


@dataclass(frozen=True, repr=False)
class Convergence:
    """The verdict on a fit, in words.

    ok: at an optimum, the data not separated. singular: on the boundary of the random effects'
    covariances. separated: fixed effects that grow without bound, "zi.x" where they are those of
    zeros. decrement: log-likelihood units that a Newton step still promises. messages: everything
    that is to be said.
    """

    ok: bool
    singular: bool
    separated: tuple[str, ...]
    decrement: float
    messages: tuple[str, ...]

    @classmethod
    def of(cls, verdict: Verdict, names: tuple[str, ...]) -> Convergence:
        """Name what a verdict numbers: the columns of X, then the numbers of phi."""
        separated = tuple(names[j] for j in verdict.separated)
        messages = list(verdict.messages)
        if separated:
            messages[0] = f"{messages[0]} ({', '.join(separated)})"
        return cls(verdict.ok, verdict.singular, separated, verdict.decrement, tuple(messages))

    def __str__(self) -> str:
        if self.ok:
            reached = f"converged: {self.decrement:.0e} log-likelihood units from the optimum"
            return "; ".join([reached, *self.messages])
        promise = (
            f" (a Newton step promises {self.decrement:.0e} log-likelihood units)"
            if self.decrement > MAX_GAIN
            else ""
        )
        return f"not converged: {'; '.join(self.messages)}{promise}"

    def __repr__(self) -> str:
        return f"<Convergence ok={self.ok}: {self}>"


@dataclass(frozen=True, repr=False, eq=False)
class Summary:
    """A summary as data; `str` gives lme4's layout.

    criteria: AIC, BIC, logLik, -2*log(L), df.resid. scaled_residuals: minimum, quartiles and
    maximum of the Pearson residuals, divided by sigma where there is one; empty where the family
    has no variance. coefficients: a frame
    with Estimate, Std. Error, z value, Pr(>|z|). correlation: of the fixed effects. dispersion: a
    frame of its parameters with Estimate and Std. Error, empty where varcorr shows them.
    show_correlation: whether to print it, None for "unless it is wide". parts: such frames of the
    fixed effects of zeros and dispersion, by title. maximised: "likelihood" or
    "quasi-likelihood".
    """

    method: str
    family: str
    formula: str
    weights: str | None
    criteria: Mapping[str, float]
    scaled_residuals: np.ndarray
    varcorr: VarCorr
    nobs: int
    ngrps: Mapping[str, int]
    coefficients: pd.DataFrame
    parts: Mapping[str, pd.DataFrame]
    correlation: pd.DataFrame
    dispersion: pd.DataFrame
    show_correlation: bool | None
    convergence: Convergence
    notes: tuple[str, ...]
    maximised: str = "likelihood"

    def __str__(self) -> str:
        sections = [
            self._header(),
            _criteria(self.criteria),
            self._scaled_residuals(),
            self._random_effects(variances=True),
            self._dispersion(),
            self._fixed_effects(),
            self._correlations(),
            *self._parts(),
            [*self.notes, str(self.convergence)],
        ]
        return "\n\n".join("\n".join(lines) for lines in sections if lines)

    __repr__ = __str__

    def brief(self) -> str:
        """What a model prints: estimates without their uncertainty."""
        lines = [*self._header(), *_criteria(self.criteria)]
        lines += self._random_effects(variances=False)
        lines += self._dispersion()
        lines += self._fixed_estimates()
        for name, frame in self.parts.items():
            lines += [f"{name}:", *_estimates(frame)]
        if not self.convergence.ok or self.convergence.singular:
            lines.append(str(self.convergence))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.html()

    def html(self) -> str:
        """The summary as HTML."""
        names, values = _criteria_cells(self.criteria)
        parts = [paragraph(self._header()), table(names, [values], [False] * len(names))]
        counts = [self._counts()]
        if self.varcorr.components:
            parts += [paragraph(["Random effects:"]), self.varcorr.html(4, variances=True)]
        else:
            counts += self._residual_sd()
        parts.append(paragraph([*counts, *self._dispersion()]))
        if not self.coefficients.empty:
            header, *rows = _coefficient_cells(self.coefficients)
            parts += [paragraph(["Fixed effects:"]), table(header, rows, _COEFFICIENTS_LEFT)]
        for name, frame in self.parts.items():
            header, *rows = _coefficient_cells(frame)
            parts += [paragraph([f"{name}:"]), table(header, rows, _COEFFICIENTS_LEFT)]
        return block([*parts, paragraph([*self.notes, str(self.convergence)])])

    def _scaled_residuals(self) -> list[str]:
        if not len(self.scaled_residuals):
            return []
        return ["Scaled residuals:", *_quantiles(self.scaled_residuals)]

    def _header(self) -> list[str]:
        mixed = bool(self.varcorr.components)
        kind, method = ("mixed model", f" ({self.method})") if mixed else ("model", "")
        lines = [
            f"Generalized linear {kind} fit by maximum {self.maximised}{method}",
            f" Family: {self.family}",
            f"Formula: {self.formula}",
        ]
        return lines + ([f"Weights: {self.weights}"] if self.weights else [])

    def _random_effects(self, *, variances: bool) -> list[str]:
        if not self.varcorr.components:
            return [self._counts(), *self._residual_sd()]
        return ["Random effects:", *self.varcorr.lines(4, variances=variances), self._counts()]

    def _residual_sd(self) -> list[str]:
        sigma = self.varcorr.sigma
        return [] if sigma is None else [f"Residual standard deviation: {sigma:.4g}"]

    def _counts(self) -> str:
        groups = "; ".join(f"{name}, {count}" for name, count in self.ngrps.items())
        return f"Number of obs: {self.nobs}" + (f", groups:  {groups}" if groups else "")

    def _dispersion(self) -> list[str]:
        """One line per parameter; a standard error that is not known is left out."""
        family = self.family.split()[0]
        return [
            f"Dispersion parameter for {family}: {name} = {estimate:.4g}"
            + (f" (Std. Error {error:.4g})" if np.isfinite(error) else "")
            for name, (estimate, error) in zip(
                self.dispersion.index, self.dispersion.to_numpy(float), strict=True
            )
        ]

    def _fixed_effects(self) -> list[str]:
        if self.coefficients.empty:
            return ["No fixed effects"]
        cells = _coefficient_cells(self.coefficients)
        lines = ["Fixed effects:", *align(cells, _COEFFICIENTS_LEFT)]
        p_values = self.coefficients.to_numpy(float)[:, 3]
        return [*lines, "---", STARS_LEGEND] if np.any(p_values <= 0.1) else lines

    def _parts(self) -> list[list[str]]:
        return [
            [f"{name}:", *align(_coefficient_cells(frame), _COEFFICIENTS_LEFT)]
            for name, frame in self.parts.items()
        ]

    def _fixed_estimates(self) -> list[str]:
        if self.coefficients.empty:
            return ["No fixed effects"]
        return ["Fixed Effects:", *_estimates(self.coefficients)]

    def _correlations(self) -> list[str]:
        p = len(self.correlation)
        show = self.show_correlation
        if p < 2 or show is False:
            return []
        if show is None and p > _WIDEST_CORRELATION:
            return [
                f"Correlation of fixed effects not shown, as p = {p} > {_WIDEST_CORRELATION}; "
                "ask for it with summary(correlation=True)"
            ]
        names = list(self.correlation.index)
        short, values = abbreviate(names, 6), self.correlation.to_numpy(float)
        rows = [["", *short[:-1]]]
        for i, name in enumerate(abbreviate(names, 11)[1:], start=1):
            known = [_format_correlation(c, 3) for c in values[i, :i]]
            rows.append([name, *known, *[""] * (p - 1 - i)])
        return ["Correlation of Fixed Effects:", *align(rows, [True, *[False] * (p - 1)])]


def _criteria_cells(criteria: Mapping[str, float]) -> tuple[list[str], list[str]]:
    values = [f"{v:.4f}" if name != "df.resid" else f"{v:.0f}" for name, v in criteria.items()]
    return list(criteria), values


def _coefficient_cells(frame: pd.DataFrame) -> list[list[str]]:
    """The texts of a table of fixed effects, header first."""
    values = frame.to_numpy(float)
    p_values = values[:, 3]
    columns = zip(
        frame.index,
        format_estimates(values[:, :2], 4),
        format_alike(np.round(values[:, 2], 3), 4),
        format_p_values(p_values),
        map(stars, p_values),
        strict=True,
    )
    rows = [["", *frame.columns, ""]]
    return rows + [[name, *estimate, z, p, mark] for name, estimate, z, p, mark in columns]


def _estimates(frame: pd.DataFrame) -> list[str]:
    """Names over estimates, as many a line as fit."""
    names = list(frame.index)
    values = format_alike(frame["Estimate"].to_numpy(float), 4)
    width = max(map(len, [*names, *values]))
    lines = []
    for some in _chunks(len(names), max(1, 80 // (width + 2))):
        lines += ["  ".join(text.rjust(width) for text in row[some]) for row in (names, values)]
    return lines


def _criteria(criteria: Mapping[str, float]) -> list[str]:
    return align(_criteria_cells(criteria), [False] * len(criteria))


def _quantiles(values: np.ndarray) -> list[str]:
    largest = float(np.max(np.abs(values)))
    decimals = 5 - int(np.ceil(np.log10(largest))) if largest > 0 else 0
    texts = format_alike(np.round(values, max(decimals, 0)), 4)
    return align([["Min", "1Q", "Median", "3Q", "Max"], texts], [False] * 5)


def _format_correlation(value: float, decimals: int) -> str:
    """A correlation with room for its sign; one that rounds to zero has none."""
    return f"{np.round(value, decimals) + 0.0: .{decimals}f}" if np.isfinite(value) else " NaN"


def _padded(texts: list[str]) -> list[str]:
    width = max(map(len, texts), default=0)
    return [text.rjust(width) for text in texts]


def _chunks(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, start + step)
