"""Simulated quantile residuals, and tests by the simulations themselves.

A row's residual is the rank of its response among responses simulated from the model, ties broken
at random (Dunn and Smyth 1996, J. Comput. Graph. Stat. 5: 236; scaled as in R's DHARMa): uniform on
(0, 1) where the model is right. Rows that share random effects are ranked too high or too low
together, so that textbook tests of a uniform sample reject right models. Here a statistic of the
data is compared with the same statistic of each simulated data set, whose rows depend on each other
in the same way: p = (1 + number as extreme) / (1 + number of simulations).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_fitted
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
    """

    residuals: pd.Series
    y: np.ndarray
    simulated: np.ndarray
    _tie_breaks: np.ndarray = field(repr=False)

    def uniformity(self) -> SimulationTest:
        """Kolmogorov's distance of the residuals from uniform ones, large where they are not."""
        ranks = _ranks(np.vstack([self.y, self.simulated]), self._tie_breaks)
        return _compared(np.array([_distance(row) for row in ranks]), two_sided=False)

    def dispersion(self) -> SimulationTest:
        """Spread of the responses around their simulated means, over what it should be.

        Sum of (y - mean)^2 over its mean in the simulations.
        """
        centre = np.mean(self.simulated, axis=0)
        found = self._each(lambda y: float(np.sum((y - centre) ** 2)))
        unit = np.mean(found[1:])
        return _compared(found / unit if unit > 0.0 else found)

    def zero_inflation(self) -> SimulationTest:
        """Number of zeros."""
        return _compared(self._each(lambda y: float(np.sum(y == 0.0))))

    def outliers(self) -> SimulationTest:
        """Number of responses beyond all others that were simulated for their row."""
        whole = np.vstack([self.y, self.simulated])
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

    def _each(self, statistic: Callable[[np.ndarray], float]) -> np.ndarray:
        """A statistic of the data, then of every simulation (1 + nsim,)."""
        return np.array([statistic(y) for y in (self.y, *self.simulated)])

    def __repr__(self) -> str:
        return (
            f"Simulated residuals of {len(self.y)} rows, {len(self.simulated)} simulations\n"
            f"{self.tests().round(3).to_string()}"
        )


def simulate_residuals(
    model: Fitted, nsim: int = 250, seed: int | None = None, re_form: str | None = "~0"
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

    Returns
    -------
    SimulatedResiduals
        With `residuals` and the tests `uniformity()`, `dispersion()`, `zero_inflation()`,
        `outliers()`, together `tests()`.

    Raises
    ------
    ArgumentError
        For fewer simulations, and for a family that cannot be drawn from.

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
    simulated = draw_responses(
        design,
        model.family,
        scenario_of(model).params,
        chosen,
        np.arange(nsim),
        b=model.fit.b,
        kept=labels.condition_on(re_form),
    )
    used = design.weights > 0
    y, simulated = design.y[used], simulated[:, used]
    breaks = np.random.default_rng([chosen, nsim]).random((nsim + 1, len(y)))
    residuals = _ranks(np.vstack([y, simulated]), breaks, rows=1)[0]
    index = labels.index[labels.kept][used]
    return SimulatedResiduals(pd.Series(residuals, index=index), y, simulated, breaks)


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
