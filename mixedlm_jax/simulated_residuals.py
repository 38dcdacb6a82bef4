"""Simulated quantile residuals, and tests by the simulations themselves.

A row's residual is the rank of its response among responses simulated from the model, ties broken
at random (Dunn and Smyth 1996, J. Comput. Graph. Stat. 5: 236; scaled as in R's DHARMa): uniform on
(0, 1) where the model is right. Rows that share random effects are ranked too high or too low
together, so that textbook tests of a uniform sample reject right models. Here a statistic of the
data is compared with the same statistic of each simulated data set, whose rows depend on each other
in the same way: p = (1 + number as extreme) / (1 + number of simulations).

With `refit` the model is fitted to every simulated response, and what is ranked is a response less
its mean in the fit to it, of the data as of the simulations (DHARMa's `refit = TRUE`): a parametric
bootstrap of residuals, which allows for the parameters, and random effects that are kept, having
been estimated from the very responses they are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError, ConvergenceWarning, FitError, warn
from mixedlm_jax.fits import Fits
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
from mixedlm_jax.lane_means import lane_means
from mixedlm_jax.lane_responses import check_responses
from mixedlm_jax.many import as_fits, fits_of
from mixedlm_jax.scenario import scenario_of
from mixedlm_jax.simulate import check_count, check_seed, draw_responses

_FEWEST = 20


@dataclass(frozen=True)
class SimulationTest:
    """A statistic of the data against those of simulated data sets.

    expected: the mean of the simulated ones. p_value: two-sided, but for `uniformity`.
    """

    statistic: float
    expected: float
    p_value: float


@dataclass(frozen=True, repr=False, eq=False)
class SimulatedResiduals:
    """Residuals of a model by simulation, as `simulate_residuals` returns them.

    Attributes
    ----------
    residuals
        One for each row used of positive weight, with the frame's index.
    y, simulated
        Responses of these rows (n,) and their simulations (nsim, n).
    fits
        With `refit` the fits to the simulations, those that failed among them; else None.
    """

    residuals: pd.Series
    y: np.ndarray
    simulated: np.ndarray
    fits: Fits | None
    _ranked: np.ndarray  # what is ranked of the data, then of every simulation (1 + nsim, n)
    _tie_breaks: np.ndarray

    def uniformity(self) -> SimulationTest:
        """Kolmogorov's distance of the residuals from uniform ones, large where they are not."""
        ranks = _ranks(self._ranked, self._tie_breaks)
        return _compared(np.array([_distance(row) for row in ranks]), two_sided=False)

    def dispersion(self) -> SimulationTest:
        """Spread of the responses around their means, over what it should be.

        Sum of (y - mean)^2 over its mean in the simulations; the mean is that of a row's response
        and simulations, or with `refit` that in the fit to the response.
        """
        # A mean of the simulations alone lies nearer to them than to the response: the ratio would
        # be 1 + 2 / nsim where the model is right.
        centre = np.mean(self._ranked, axis=0) if self.fits is None else 0.0
        found = np.sum((self._ranked - centre) ** 2, axis=1)
        unit = np.mean(found[1:])
        return _compared(found / unit if unit > 0.0 else found)

    def zero_inflation(self) -> SimulationTest:
        """Number of zeros."""
        return _compared(np.sum(np.vstack([self.y, self.simulated]) == 0.0, axis=1).astype(float))

    def outliers(self) -> SimulationTest:
        """Number of responses beyond all others that were simulated for their row."""
        whole = self._ranked
        ordered = np.sort(whole, axis=0)
        beyond = (whole > ordered[-2]) | (whole < ordered[1])
        return _compared(np.sum(beyond, axis=1).astype(float))

    def tests(self) -> pd.DataFrame:
        """All four tests, one row each: statistic, expected, p.value."""
        found = {
            "uniformity": self.uniformity(),
            "dispersion": self.dispersion(),
            "zero inflation": self.zero_inflation(),
            "outliers": self.outliers(),
        }
        rows = [(test.statistic, test.expected, test.p_value) for test in found.values()]
        return pd.DataFrame(rows, index=list(found), columns=["statistic", "expected", "p.value"])

    def __repr__(self) -> str:
        refitted = "" if self.fits is None else ", refitted"
        return (
            f"Simulated residuals of {len(self.y)} rows, {len(self.simulated)} simulations"
            f"{refitted}\n{self.tests().round(3).to_string()}"
        )


def simulate_residuals(
    model: Fitted,
    nsim: int = 250,
    seed: int | None = None,
    re_form: str | None = "~0",
    refit: bool = False,
) -> SimulatedResiduals:
    """Simulated quantile residuals of a model, uniform on (0, 1) where the model is right.

    Parameters
    ----------
    model
        A fitted model of a family that can be drawn from.
    nsim
        Number of simulated data sets, at least 20.
    seed
        A whole number that decides simulations and tie breaks; None for fresh ones.
    re_form
        Random effects to keep as they were estimated: none by default, all are drawn anew, which
        tests the whole model; None keeps all, whose shrinkage makes residuals a little too central;
        "~(1 | g)" those.
    refit
        Whether to fit the model to every simulated response, `nsim` fits together, and to rank
        responses less their means in the fits to them, at the random effects that are kept: slower,
        and exact where parameters or kept random effects take much of the data for themselves.

    Returns
    -------
    SimulatedResiduals
        With `residuals` and the tests `uniformity()`, `dispersion()`, `zero_inflation()`,
        `outliers()`, together `tests()`.

    Raises
    ------
    ArgumentError
        For fewer simulations, and for a family that cannot be drawn from.
    FitError
        With `refit`, where fewer than 20 of the refits are at an optimum. Fewer that fail are left
        out, and a warning counts them.

    Examples
    --------
    >>> model = mlm.glmer("y ~ lbase * trt + (1 | subject)", mlm.load_epil(), "poisson")
    >>> found = mlm.simulate_residuals(model, seed=1, re_form=None)
    >>> print(found.dispersion().p_value < 0.01)
    True
    """
    check_fitted(model, "simulate_residuals")
    if check_count("nsim", nsim) < _FEWEST:
        raise ArgumentError(
            f"nsim is {nsim}; ranks among so few say little: give {_FEWEST} or more"
        )
    chosen = check_seed(seed)
    design, labels = model.design, model.labels
    kept = labels.condition_on(re_form)
    simulated = draw_responses(
        design,
        model.family,
        scenario_of(model).params,
        chosen,
        np.arange(nsim),
        b=model.fit.b,
        kept=kept,
    )
    fits, ranked = None, np.vstack([design.y, simulated])
    if refit:
        fits = _refits(model, simulated)
        own = lane_means(model, as_fits(model), design.y[None], kept)
        means = lane_means(model, fits, simulated, kept)
        ranked = np.vstack([design.y - own, (simulated - means)[fits.ok]])
        simulated = simulated[fits.ok]
    used = design.weights > 0
    ranked = ranked[:, used]
    breaks = np.random.default_rng([chosen, nsim]).random(ranked.shape)
    residuals = _ranks(ranked, breaks, rows=1)[0]
    index = labels.index[labels.kept][used]
    return SimulatedResiduals(
        pd.Series(residuals, index=index),
        design.y[used],
        simulated[:, used],
        fits,
        ranked,
        breaks,
    )


def _refits(model: Fitted, y: np.ndarray) -> Fits:
    """The model fitted to responses (nsim, n); `FitError` where too few of the fits are sound."""
    lanes = check_responses(model.design, model.family, y, np.arange(len(y)))
    fits = fits_of(model, lanes, progress=False)
    failed = int(np.sum(~fits.ok))
    if len(fits) - failed < _FEWEST:
        raise FitError(
            f"{failed} of {len(fits)} fits to simulated responses failed, and {_FEWEST} are "
            "needed: see model.refit_many(model.simulate(100)).code, or leave out refit=True"
        )
    if failed:
        warn(
            f"{failed} of {len(fits)} fits to simulated responses failed and are left out: see "
            ".fits.code",
            ConvergenceWarning,
        )
    return fits


def _ranks(values: np.ndarray, breaks: np.ndarray, rows: int | None = None) -> np.ndarray:
    """Ranks (rows, n) of the first rows of values (r, n) in their columns, as shares of r.

    (number below + breaks x (number equal, itself among them)) / r: uniform on (0, 1) for
    exchangeable values, breaks (r, n) being uniform.
    """
    ordered = np.sort(values, axis=0)
    below, upto = np.empty((2, *values[:rows].shape))
    for j, column in enumerate(ordered.T):
        wanted = values[:rows, j]
        below[:, j] = np.searchsorted(column, wanted, side="left")
        upto[:, j] = np.searchsorted(column, wanted, side="right")
    return (below + breaks[:rows] * (upto - below)) / len(values)


def _distance(residuals: np.ndarray) -> float:
    """sup |F_n(x) - x| of residuals (n,)."""
    ordered, n = np.sort(residuals), len(residuals)
    steps = np.arange(n + 1) / n
    return float(max(np.max(steps[1:] - ordered), np.max(ordered - steps[:-1])))


def _compared(statistics: np.ndarray, two_sided: bool = True) -> SimulationTest:
    """The first statistic among the others (1 + nsim,)."""
    own, others = statistics[0], statistics[1:]
    above = (1.0 + np.sum(others >= own)) / len(statistics)
    below = (1.0 + np.sum(others <= own)) / len(statistics)
    p_value = min(1.0, 2.0 * min(above, below)) if two_sided else above
    return SimulationTest(float(own), float(np.mean(others)), float(p_value))
