"""The bootstrap: a statistic of refits to simulated responses, or to resampled groups.

Intervals as Davison and Hinkley (1997, Bootstrap Methods and their Application, chapter 5) define
them, with t the statistic of the model and t* those of its replicates:

    percentile  quantiles of t*
    basic       2 t - quantiles of t*
    BCa         quantiles of t* at Phi(z0 + (z0 + z) / (1 - a (z0 + z))), z0 the normal score of the
                share of t* below t, a = sum d^3 / (6 (sum d^2)^1.5), d the deviations of the
                jackknife over groups
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError, FitError
from mixedlm_jax.fits import Fits
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.inference import check_level
from mixedlm_jax.many import as_fits, fits_of, refit_lanes
from mixedlm_jax.resampling import leave_out_groups, resample_groups
from mixedlm_jax.scenario import scenario_of
from mixedlm_jax.simulate import check_count, check_seed

TYPES = ("parametric", "cluster")
INTERVALS = ("perc", "basic", "bca")
_MOST_GROUPS = 200  # of the jackknife; more levels are left out several at a time


@dataclass(frozen=True, eq=False)
class OneFit:
    """What a statistic is computed from: the estimates of one fit, in NumPy.

    theta: relative to sigma for the Gaussian. phi: dispersion parameters on their natural scale.
    components: standard deviations and correlations of the random effects. vcov: of (theta, beta,
    phi). names: of beta, phi and components.
    """

    theta: np.ndarray
    beta: np.ndarray
    phi: np.ndarray
    components: np.ndarray
    vcov: np.ndarray
    logLik: float
    ok: bool
    names: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]

    @property
    def estimates(self) -> dict[str, float]:
        """Fixed effects, standard deviations and correlations, and dispersion parameters."""
        fixed, phi, components = self.names
        values = np.concatenate([self.beta, self.components, self.phi])
        return dict(zip((*fixed, *components, *phi), map(float, values), strict=True))

    def fixef(self) -> dict[str, float]:
        """Fixed effects by name."""
        return dict(zip(self.names[0], map(float, self.beta), strict=True))


def each(fits: Fits) -> list[OneFit]:
    """The fits one by one."""
    names = (fits.fixed, fits.phi_names, fits.component_names)
    return [
        OneFit(
            fits.theta[i],
            fits.beta[i],
            fits.phi[i],
            fits.components[i],
            fits.vcov[i],
            float(fits.logLik[i]),
            bool(fits.ok[i]),
            names,
        )
        for i in range(len(fits))
    ]


Statistic = Callable[[OneFit], Any]


@dataclass(frozen=True, repr=False, eq=False)
class Bootstrap:
    """A bootstrapped statistic, as `bootMer` returns it.

    Attributes
    ----------
    t0
        The statistic of the model, by name.
    t
        Its replicates, one row each; those of fits that failed are left out.
    fits
        All fits of the bootstrap, failed ones with their codes.
    type
        "parametric" or "cluster".
    """

    t0: pd.Series
    t: pd.DataFrame
    fits: Fits
    type: str
    _leave_one_out: Callable[[], pd.DataFrame]

    @property
    def failures(self) -> int:
        """Replicates whose fit is not ok."""
        return int(np.sum(~self.fits.ok))

    @cached_property
    def acceleration(self) -> pd.Series:
        """BCa's a of each statistic, by the jackknife over groups."""
        left_out = self._leave_one_out()
        away = (left_out.mean() - left_out).to_numpy()
        squares = np.sum(away**2, axis=0)
        cubes = np.sum(away**3, axis=0)
        steep = np.where(squares > 0, squares, 1.0) ** 1.5
        return pd.Series(cubes / (6.0 * steep), index=self.t0.index)

    def confint(self, level: float = 0.95, type: str = "perc") -> pd.DataFrame:
        """Intervals of every statistic: "perc", "basic" or "bca", columns `2.5 %` and `97.5 %`.

        Raises `ArgumentError` for another type or a level outside (0, 1), `FitError` where fewer
        than 2 replicates could be fitted.
        """
        check_level(level)
        if type not in INTERVALS:
            raise ArgumentError(
                f"there is no interval of type {type!r}; choose one of {', '.join(INTERVALS)}"
            )
        if len(self.t) < 2:
            raise FitError(
                f"intervals need at least 2 replicates, and there are {len(self.t)}: "
                f"{self.failures} of {len(self.fits)} could not be fitted; give a larger nsim"
            )
        tails = np.array([0.5 - 0.5 * level, 0.5 + 0.5 * level])
        t, limits = self.t.to_numpy(), []
        for j, estimate in enumerate(self.t0):
            values = t[:, j][np.isfinite(t[:, j])]
            if len(values) < 2:
                limits.append([np.nan, np.nan])
                continue
            if type == "bca":
                own = _bca_tails(values, estimate, self.acceleration.iloc[j], tails)
                limits.append(np.quantile(values, own))
            elif type == "basic":
                limits.append(2.0 * estimate - np.quantile(values, tails[::-1]))
            else:
                limits.append(np.quantile(values, tails))
        names = [f"{100.0 * tail:.10g} %" for tail in tails]
        return pd.DataFrame(limits, index=self.t0.index, columns=names)

    def __str__(self) -> str:
        table = pd.DataFrame(
            {
                "estimate": self.t0,
                "bias": self.t.mean() - self.t0,
                "std.error": self.t.std(),
            }
        )
        intervals = len(self.t) >= 2
        if intervals:
            table = table.join(self.confint())
        failed = f", {self.failures} not ok and left out" if self.failures else ""
        return (
            f"{self.type.capitalize()} bootstrap, {len(self.fits)} replicates{failed}"
            f"{'; percentile intervals' * intervals}\n{table.round(4).to_string()}"
        )

    __repr__ = __str__


def _bca_tails(values: np.ndarray, estimate: float, a: float, tails: np.ndarray) -> np.ndarray:
    """The shares of the replicates at which BCa's limits lie."""
    normal = NormalDist()
    below = (np.sum(values < estimate) + 0.5 * np.sum(values == estimate)) / len(values)
    z0 = normal.inv_cdf(float(np.clip(below, 0.5 / len(values), 1.0 - 0.5 / len(values))))
    moved = [z0 + normal.inv_cdf(float(tail)) for tail in tails]
    return np.array([normal.cdf(z0 + part / (1.0 - a * part)) for part in moved])


def boot(
    model: Fitted,
    FUN: Statistic | None,
    nsim: int,
    seed: int | None,
    type: str,
    progress: bool | None,
) -> Bootstrap:
    """The bootstrap of a model; see `replicates.bootMer`."""
    if type not in TYPES:
        raise ArgumentError(f"there is no bootstrap of type {type!r}; choose {' or '.join(TYPES)}")
    if FUN is not None and not callable(FUN):
        raise ArgumentError(
            f"FUN is {FUN!r}; give a function of one fit, such as lambda fit: fit.fixef(), or None "
            "for all estimates"
        )
    count, chosen = check_count("nsim", nsim), check_seed(seed)
    statistic = _named(FUN)
    t0 = statistic(each(as_fits(model))[0])  # first: a statistic that fails costs no refits
    if type == "parametric":
        y = scenario_of(model).draw(chosen, np.arange(count))
        fits = refit_lanes(model, y.T, progress=progress)
    else:
        fits = fits_of(model, resample_groups(model, count, chosen), progress=progress)

    def left_out() -> pd.DataFrame:
        found = fits_of(model, leave_out_groups(model, _MOST_GROUPS), progress=False)
        return _table(statistic, found, t0.index)

    return Bootstrap(t0, _table(statistic, fits, t0.index), fits, type, left_out)


def _named(FUN: Statistic | None) -> Callable[[OneFit], pd.Series]:
    """A statistic as a series of floats: what FUN gives, with the names it gives them."""

    def statistic(fit: OneFit) -> pd.Series:
        value = fit.estimates if FUN is None else FUN(fit)
        try:
            if isinstance(value, (dict, pd.Series)):
                return pd.Series(value, dtype=float)
            array = np.atleast_1d(np.asarray(value, float))
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"FUN gave {value!r}; it must give a number, an array or a dict of numbers"
            ) from error
        return pd.Series(array.ravel(), index=[f"t{j}" for j in range(1, array.size + 1)])

    return statistic


def _table(statistic: Callable[[OneFit], pd.Series], fits: Fits, names: pd.Index) -> pd.DataFrame:
    """The statistic of every fit that is ok, a row each."""
    rows = [statistic(one) for one in each(fits) if one.ok]
    for row in rows:
        if not row.index.equals(names):
            raise ArgumentError(
                f"FUN gave {len(names)} numbers ({', '.join(names)}) for the model and "
                f"{len(row)} ({', '.join(row.index)}) for a replicate; give the same ones always"
            )
    values = np.array([row.to_numpy() for row in rows]).reshape((-1, len(names)))
    return pd.DataFrame(values, columns=names, index=fits.index[fits.ok])
