"""Power by simulation: how often a test rejects when a scenario's parameters are the truth.

A fit that failed (separated, or no optimum) rejects nothing and is counted. Intervals are Wilson's
(1927): (k + z^2 / 2 +- z sqrt(k (n - k) / n + z^2 / 4)) / (n + z^2) for k rejections out of n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.bootstrap import OneFit, each
from mixedlm_jax.canvas import single
from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.fits import Fits
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.inference import check_level, chi_squared_tails
from mixedlm_jax.many import refit_lanes
from mixedlm_jax.scenario import Scenario, extended, fitted_scenario, scenario_of
from mixedlm_jax.simulate import check_count, check_seed
from mixedlm_jax.table import Table, with_columns

METHODS = ("Wald", "LRT")
ALONG = ("n_groups", "n_per_group", "effect_size")
Test = str | Callable[[OneFit], float]


@dataclass(frozen=True, repr=False, eq=False)
class Power:
    """The power of a test, as `powerSim` returns it.

    Attributes
    ----------
    test, alpha
        What was tested, and the level.
    p_values
        One a simulation; nan where the fit failed.
    failures
        Simulations whose fit failed; they count as not rejected.
    """

    test: str
    alpha: float
    p_values: np.ndarray
    failures: int

    @property
    def nsim(self) -> int:
        """Number of simulations."""
        return len(self.p_values)

    @property
    def rejections(self) -> int:
        """Simulations with a p-value below alpha."""
        return int(np.sum(self.p_values < self.alpha))

    @property
    def power(self) -> float:
        """The share of rejections."""
        return self.rejections / self.nsim

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Wilson's interval of the power; `ArgumentError` for a level outside (0, 1)."""
        check_level(level)
        return wilson(self.rejections, self.nsim, level)

    def __str__(self) -> str:
        low, high = self.interval()
        failed = f", {self.failures} fits failed and count as not rejected" if self.failures else ""
        return (
            f"Power of {self.test} at level {self.alpha:g}: {100 * self.power:.1f}% "
            f"(95% interval {100 * low:.1f} to {100 * high:.1f}), "
            f"{self.rejections} of {self.nsim} simulations{failed}"
        )

    __repr__ = __str__


@dataclass(frozen=True, repr=False, eq=False)
class PowerCurve:
    """Power along a number of groups, of rows a group, or an effect's size.

    Attributes
    ----------
    along
        "n_groups", "n_per_group" or "effect_size".
    values
        What was tried.
    powers
        A `Power` for each.
    """

    along: str
    values: tuple[float, ...]
    powers: tuple[Power, ...]

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each value: power, its Wilson interval, rejections, nsim and failures."""
        rows = []
        for value, power in zip(self.values, self.powers, strict=True):
            low, high = power.interval()
            rows.append(
                {
                    self.along: value,
                    "power": power.power,
                    "lower": low,
                    "upper": high,
                    "rejections": power.rejections,
                    "nsim": power.nsim,
                    "failures": power.failures,
                }
            )
        return pd.DataFrame(rows)

    def plot(self, ax: Any = None) -> Any:
        """The curve with its intervals on matplotlib Axes, which are returned; new ones for None.

        Raises `MissingPackageError` without matplotlib.
        """
        ax = single(ax, "plot")
        table = self.to_dataframe()
        x, power = table[self.along].to_numpy(), table["power"].to_numpy()
        spread = np.stack([power - table["lower"], table["upper"] - power])
        ax.errorbar(x, power, yerr=spread, marker="o", capsize=3)
        ax.axhline(0.8, linestyle=":", linewidth=1, color="grey")
        words = {
            "n_groups": "number of groups",
            "n_per_group": "rows a group",
            "effect_size": "effect on the scale of the linear predictor",
        }
        ax.set_xlabel(words[self.along])
        ax.set_ylabel(f"power of {self.powers[0].test}")
        ax.set_ylim(-0.02, 1.02)
        return ax

    def __str__(self) -> str:
        first = self.powers[0]
        table = self.to_dataframe().round(3).to_string(index=False)
        return f"Power of {first.test} at level {first.alpha:g}\n{table}"

    __repr__ = __str__


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion."""
    z = NormalDist().inv_cdf(0.5 + 0.5 * level)
    centre = successes + 0.5 * z**2
    half = z * np.sqrt(successes * (n - successes) / n + 0.25 * z**2)
    low, high = (centre - half) / (n + z**2), (centre + half) / (n + z**2)
    # rounding may leave the ends a hair outside
    return float(max(low, 0.0)), float(min(high, 1.0))


def power_of(
    model: Fitted | Scenario,
    test: Test | None,
    nsim: int,
    alpha: float,
    method: str,
    seed: int | None,
    progress: bool | None,
) -> Power:
    """The power of one scenario; see `replicates.powerSim`."""
    count, chosen = check_count("nsim", nsim), check_seed(seed)
    scenario = model if isinstance(model, Scenario) else scenario_of(model)
    ground = fitted_scenario(model) if isinstance(model, Scenario) else model
    tested = _tested(ground, test, method)
    p = tested.p_values(ground, scenario.draw(chosen, np.arange(count)), progress)
    return _power(tested, check_alpha(alpha), p)


def curve_of(
    model: Fitted,
    along: str,
    values: Sequence[float],
    test: Test | None,
    group: str | None,
    effect: str | None,
    nsim: int,
    alpha: float,
    method: str,
    seed: int | None,
    progress: bool | None,
) -> PowerCurve:
    """Power along values; see `replicates.powerCurve`."""
    if along not in ALONG:
        raise ArgumentError(f"along is {along!r}; choose one of {', '.join(ALONG)}")
    if isinstance(values, str) or not np.iterable(values):
        raise ArgumentError(f"values is {values!r}; give a list of what is tried")
    if not len(values):
        raise ArgumentError("values is empty; give the values that power is wanted at")
    if along == "effect_size" and group is not None:
        raise ArgumentError("group is of n_groups and n_per_group: leave it out for effect_size")
    if along != "effect_size" and effect is not None:
        raise ArgumentError(f"effect is of effect_size: leave it out for {along}")
    tested, level = _tested(model, test, method), check_alpha(alpha)
    count, chosen = check_count("nsim", nsim), check_seed(seed)
    # every value has replicates of its own
    numbers = [np.arange(count) + count * j for j in range(len(values))]
    if along == "effect_size":
        ground, name = model, _effect(model, tested, effect)
        beta = dict(zip(model.labels.fixed, model.fit.beta, strict=True))
        tried: list[float] = [_number(value) for value in values]
        scenarios = [scenario_of(model, {"beta": beta | {name: value}}) for value in tried]
        y = [own.draw(chosen, number) for own, number in zip(scenarios, numbers, strict=True)]
    else:
        sizes = [check_count("each of values", _whole(value)) for value in values]
        tried = [*sizes]
        largest = extended(model, along, max(sizes), group)
        ground = fitted_scenario(largest)
        y = [
            _cut(largest, along, size, largest.draw(chosen, number))
            for size, number in zip(sizes, numbers, strict=True)
        ]
    # one design: the fits of all values are one batch
    parts = np.split(tested.p_values(ground, np.concatenate(y), progress), len(values))
    powers = tuple(_power(tested, level, part) for part in parts)
    return PowerCurve(along, tuple(tried), powers)


def _cut(largest: Scenario, along: str, size: int, y: np.ndarray) -> np.ndarray:
    """Responses (replicates, n) of a smaller design: the rows that it lacks are missing."""
    there = largest.first <= size
    X = largest.design.X[there]
    if np.linalg.matrix_rank(X) < X.shape[1]:
        raise DataError(
            f"a design of {along}={size} cannot tell all fixed effects apart: give a larger number"
        )
    return np.where(there, y, np.nan)


def check_alpha(alpha: float) -> float:
    """The level of a test; `ArgumentError` outside (0, 1)."""
    number = isinstance(alpha, Real) and not isinstance(alpha, bool)
    if not number or not 0.0 < alpha < 1.0:
        raise ArgumentError(f"alpha is {alpha!r}; it must lie between 0 and 1, for example 0.05")
    return float(alpha)


def _whole(value: Any) -> Any:
    """A number such as 20.0 as an integer; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(value: Any) -> float:
    if not isinstance(value, Real) or not np.isfinite(float(value)):
        raise ArgumentError(f"values holds {value!r}; give finite numbers")
    return float(value)


def _power(tested: _Tested, alpha: float, p: np.ndarray) -> Power:
    return Power(tested.described, alpha, p, int(np.sum(np.isnan(p))))


@dataclass(frozen=True)
class _Tested:
    """A test: its name, the columns of X it is about, and how a p-value is found."""

    described: str
    columns: tuple[str, ...]
    user: Callable[[OneFit], float] | None = None
    dropped: str | None = None  # the term that the null model of a likelihood ratio is without

    def p_values(self, model: Fitted, y: np.ndarray, progress: bool | None) -> np.ndarray:
        """One a response (replicates, n); nan where a fit failed."""
        fits = refit_lanes(model, y.T, progress=progress)
        if self.user is not None:
            own = self.user
            return np.array([_p_value(own(one)) if one.ok else np.nan for one in each(fits)])
        if self.dropped is None:
            columns = [model.labels.fixed.index(name) for name in self.columns]
            return np.where(fits.ok, _wald(fits, columns), np.nan)
        null = without_term(model, self.dropped)
        smaller = refit_lanes(null, y.T, progress=progress)
        statistic = 2.0 * (fits.logLik - smaller.logLik)
        df = fits.beta.shape[1] - smaller.beta.shape[1]
        return np.where(fits.ok & smaller.ok, chi_squared_tails(statistic, df), np.nan)


def _p_value(given: Any) -> float:
    """What a user's test gave for a fit; nan counts as a failure."""
    try:
        p = float(given)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"the test gave {given!r}; it must give a p-value") from error
    if p < 0.0 or p > 1.0:
        raise ArgumentError(f"the test gave {p:g}; a p-value lies between 0 and 1")
    return p


def _wald(fits: Fits, columns: Sequence[int]) -> np.ndarray:
    """p-values of beta = 0 in some columns, jointly (fits,)."""
    beta = fits.beta[:, columns]
    covariance = fits.beta_vcov[:, columns][:, :, columns]
    known = np.all(np.isfinite(covariance), axis=(1, 2)) & fits.ok
    safe = np.where(known[:, None, None], covariance, np.eye(len(columns)))
    solved = np.linalg.solve(safe, beta[..., None])[..., 0]
    statistic = np.sum(beta * solved, axis=1)
    return np.where(known, chi_squared_tails(statistic, len(columns)), np.nan)


def without_term(model: Fitted, term: str) -> Fitted:
    """The model without a fixed term, fitted to the rows that it was fitted to."""
    frame = with_columns(Table(model.call.data), {}).loc[model.labels.kept]
    call = model.call.revised(f". ~ . - {term}", frame, _cut_arguments(model))
    design, labels = call.build()
    return Fitted(call, design, labels, call.fit(design))


def _cut_arguments(model: Fitted) -> dict[str, np.ndarray]:
    """Weights and offset that were given as arrays, for the rows used."""
    given = {"weights": model.call.weights, "offset": model.call.offset}
    return {
        name: np.asarray(values)[model.labels.kept]
        for name, values in given.items()
        if values is not None and not isinstance(values, str)
    }


def _tested(model: Fitted, test: Test | None, method: str) -> _Tested:
    """The test that is meant; `ArgumentError` where there is none such."""
    if method not in METHODS:
        raise ArgumentError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    if callable(test):
        if method != METHODS[0]:
            raise ArgumentError(f"method={method!r} is of named tests: leave it out for a function")
        return _Tested(getattr(test, "__name__", "the test"), (), user=test)
    terms = term_columns(model)
    others = [name for name in model.labels.fixed if name != "(Intercept)"]
    if test is None:
        if len(others) != 1:
            raise ArgumentError(
                f"test is missing: name a term ({', '.join(terms)}), a fixed effect "
                f"({', '.join(others)}), or give a function of a fit that returns a p-value"
            )
        test = others[0] if method == "Wald" else next(iter(terms))
    if method == "LRT":
        if test not in terms:
            raise ArgumentError(
                f"a likelihood ratio test leaves out a term, and {test!r} is none; the model has "
                f"{', '.join(terms)}"
            )
        return _Tested(f"{test} (likelihood ratio)", terms[test], dropped=test)
    columns = terms.get(test, (test,))
    if not set(columns) <= set(model.labels.fixed):
        raise ArgumentError(
            f"test is {test!r}, which is neither a term ({', '.join(terms)}) nor a fixed effect "
            f"({', '.join(model.labels.fixed)})"
        )
    return _Tested(f"{test} (Wald)", columns)


def term_columns(model: Fitted) -> dict[str, tuple[str, ...]]:
    """The columns of X that each fixed term has, by the term's name."""
    coding, kept = model.labels.recipe.fixed, model.labels.recipe.kept
    assign = [part for part, keep in zip(coding.assign, kept, strict=True) if keep]
    found: dict[str, tuple[str, ...]] = {}
    for name, i in zip(model.labels.fixed, assign, strict=True):
        term = ":".join(map(str, coding.terms[i]))
        if term:
            found[term] = (*found.get(term, ()), name)
    return found


def _effect(model: Fitted, tested: _Tested, effect: str | None) -> str:
    """The coefficient whose size is varied."""
    if effect is None and len(tested.columns) == 1:
        return tested.columns[0]
    if effect not in model.labels.fixed:
        raise ArgumentError(
            f"effect is {effect!r}; name the fixed effect whose size is varied, one of "
            f"{', '.join(model.labels.fixed)}"
        )
    return effect
