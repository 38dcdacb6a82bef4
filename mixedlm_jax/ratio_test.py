"""Two nested models compared by a likelihood ratio whose distribution is simulated.

Responses are drawn from the smaller model and both are refitted to each. That needs no chi-squared
approximation, which fails for a variance of 0 (the end of its range) and for few groups. The
p-value counts the data among the draws: (1 + #{LR* >= LR}) / (1 + nsim) (Davison and Hinkley 1997,
equation 4.11).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixedlm_jax.errors import ArgumentError, FitError
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.many import refit_lanes
from mixedlm_jax.scenario import scenario_of
from mixedlm_jax.simulate import check_count, check_seed

_SAME = 1e-6  # two ratios that differ by no more are equal: both models ended at one optimum


@dataclass(frozen=True, repr=False, eq=False)
class RatioTest:
    """A likelihood ratio test by parametric bootstrap, as `PBmodcomp` returns it.

    Attributes
    ----------
    statistic
        Twice the difference of the log-likelihoods.
    df
        How many parameters the smaller model is without.
    references
        The statistic of every replicate that both models could be fitted to.
    failures
        Replicates that one of the two could not be fitted to; they are left out.
    """

    statistic: float
    df: int
    references: np.ndarray
    failures: int

    @property
    def p_value(self) -> float:
        """The share of draws, the data among them, whose ratio is no smaller."""
        as_large = int(np.sum(self.references >= self.statistic - _SAME))
        return (1 + as_large) / (1 + len(self.references))

    def __str__(self) -> str:
        failed = f", {self.failures} more could not be fitted" if self.failures else ""
        return (
            f"Likelihood ratio {self.statistic:.4f} for {self.df} parameters; parametric bootstrap "
            f"p = {self.p_value:.4g} ({len(self.references)} replicates{failed})"
        )

    __repr__ = __str__


def compare(
    model: Fitted, null: Fitted, nsim: int, seed: int | None, progress: bool | None
) -> RatioTest:
    """The test of a model against a smaller one; see `replicates.PBmodcomp`."""
    count, chosen = check_count("nsim", nsim), check_seed(seed)
    _check_pair(model, null)
    df = _parameters(model) - _parameters(null)
    y = scenario_of(null).draw(chosen, np.arange(count)).T
    larger = refit_lanes(model, y, progress=progress)
    smaller = refit_lanes(null, y, progress=progress)
    ok = larger.ok & smaller.ok
    if not np.any(ok):
        raise FitError(f"none of the {count} replicates could be fitted by both models")
    # the larger contains the smaller: a negative ratio is rounding
    references = np.maximum(2.0 * (larger.logLik - smaller.logLik)[ok], 0.0)
    statistic = max(2.0 * (model.fit.log_likelihood - null.fit.log_likelihood), 0.0)
    return RatioTest(float(statistic), df, references, int(np.sum(~ok)))


def _check_pair(model: Fitted, null: Fitted) -> None:
    same = len(model.design.y) == len(null.design.y) and all(
        np.array_equal(getattr(model.design, part), getattr(null.design, part))
        for part in ("y", "trials", "weights", "offset")
    )
    # without random effects nothing is integrated out, however many nodes the larger model has
    nodes = model.fit.nAGQ if null.design.factors else null.fit.nAGQ
    if not same or model.family != null.family or nodes != null.fit.nAGQ:
        raise ArgumentError(
            "the two models are not of the same rows, response, family and nAGQ: fit both to one "
            "frame without missing values"
        )
    if _parameters(null) >= _parameters(model):
        raise ArgumentError(
            f"the null model has {_parameters(null)} parameters and the model "
            f"{_parameters(model)}; give a null model that is the model without some of its terms"
        )


def _parameters(model: Fitted) -> int:
    return len(model.fit.theta) + len(model.fit.beta) + len(model.fit.phi)
