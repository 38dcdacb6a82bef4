"""Whether a fit's family suits its data, in words and numbers that exist to be read."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from math import erfc, sqrt

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.design import Design
from mixedlm_jax.dispersion import at_rows, coordinates, matrices_of
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import ZERO, Family
from mixedlm_jax.fit import Fit
from mixedlm_jax.formatting import align
from mixedlm_jax.pearson import Pearson, pearson

LEVEL = 0.05  # of the tests


@dataclass(frozen=True, repr=False)
class OverdispersionCheck:
    """Whether responses vary more than their family says, as `check_overdispersion` returns it.

    Attributes
    ----------
    ok
        Whether there is no sign of overdispersion: p_value is at least .05.
    verdict
        The same in one line.
    ratio
        statistic / df, about 1 where the family's variance is right.
    statistic, df
        Pearson's statistic, and n less the trace of the joint hat matrix of fixed and random
        effects (not a whole number).
    p_value
        The chance of a statistic as large from chi-squared with df degrees of freedom.
    """

    ok: bool
    verdict: str
    ratio: float
    statistic: float
    df: float
    p_value: float

    @classmethod
    def of(cls, found: Pearson, *, advice: str) -> OverdispersionCheck:
        """The verdict on Pearson's statistic; advice: what follows where it is too large."""
        special = importlib.import_module("scipy.special")  # slow to import, rarely needed
        p_value = float(special.chdtrc(found.df, found.statistic))
        if p_value < LEVEL:
            verdict = f"overdispersed: the variance is {found.ratio:.2f} times the family's; "
            verdict += advice
        elif p_value > 1.0 - LEVEL:
            verdict = f"no overdispersion: the variance is {found.ratio:.2f} times the family's, "
            verdict += "less than it should be"
        else:
            verdict = "no overdispersion detected"
        return cls(p_value >= LEVEL, verdict, found.ratio, found.statistic, found.df, p_value)

    def __str__(self) -> str:
        rows = {
            "Dispersion ratio": f"{self.ratio:.3f}",
            "Pearson's statistic": f"{self.statistic:.2f}",
            "Degrees of freedom": f"{self.df:.2f}",
            "Pr(>chisq)": f"{self.p_value:.3g}",
        }
        return "\n".join([*_table(rows), self.verdict])

    __repr__ = __str__


@dataclass(frozen=True, repr=False)
class ZeroInflationCheck:
    """Whether a count is 0 more often than expected, as `check_zero_inflation` returns it.

    Attributes
    ----------
    ok
        Whether there is no sign of zero inflation: p_value is at least .05.
    verdict
        The same in one line.
    observed, expected
        Numbers of zeros, counted and by the model at the conditional modes.
    ratio
        observed / expected.
    z, p_value
        (observed - expected) / sd, and the chance of one as large.
    """

    ok: bool
    verdict: str
    observed: float
    expected: float
    ratio: float
    z: float
    p_value: float

    @classmethod
    def of(cls, observed: float, chances: np.ndarray, counts: np.ndarray) -> ZeroInflationCheck:
        """The verdict on a number of zeros, from each row's chance of 0 and how often it counts.

        The sum of independent Bernoulli variables has mean sum p_i and variance
        sum p_i (1 - p_i), and is taken as normal.
        """
        expected = float(np.sum(counts * chances))
        sd = float(np.sqrt(np.sum(counts * chances * (1.0 - chances))))
        z = (observed - expected) / sd if sd > 0 else 0.0
        p_value = 0.5 * erfc(z / sqrt(2.0))
        if p_value < LEVEL:
            verdict = (
                f"zero-inflated: {observed:.0f} zeros where the model expects {expected:.1f}; try "
                "a family with more spread, or ziformula='~ 1'"
            )
        elif p_value > 1.0 - LEVEL:
            verdict = (
                f"fewer zeros than expected: {observed:.0f} where the model expects {expected:.1f}"
            )
        else:
            verdict = "no zero inflation detected"
        ratio = observed / expected if expected > 0 else float("inf" if observed else 1.0)
        return cls(p_value >= LEVEL, verdict, observed, expected, ratio, z, p_value)

    def __str__(self) -> str:
        rows = {
            "Observed zeros": f"{self.observed:.0f}",
            "Expected zeros": f"{self.expected:.2f}",
            "Ratio": f"{self.ratio:.3f}",
            "z": f"{self.z:.3f}",
            "Pr(>z)": f"{self.p_value:.3g}",
        }
        return "\n".join([*_table(rows), self.verdict])

    __repr__ = __str__


def _table(rows: dict[str, str]) -> list[str]:
    return align([[name, text] for name, text in rows.items()], [True, False])


def overdispersion(design: Design, family: Family, fit: Fit) -> OverdispersionCheck:
    """Pearson's statistic against its degrees of freedom.

    Raises `ArgumentError` where the ratio would say nothing, or there is no variance.
    """
    estimated = [name for name in family.dispersion_names if name != ZERO]
    if estimated:
        raise ArgumentError(
            f"the {family.name} family estimates its dispersion ({', '.join(estimated)}) from "
            "these data, so that the ratio is near 1 whatever they are; check_overdispersion is "
            "for families whose mean fixes their variance: poisson, binomial"
        )
    used = design.weights > 0
    if family.takes_trials and not family.is_quasi and np.all(design.trials[used] <= 1.0):
        raise ArgumentError(
            "responses of 0 and 1 cannot be overdispersed: their mean fixes their variance; "
            "check_overdispersion needs counts, or successes out of several trials"
        )
    return OverdispersionCheck.of(pearson(design, family, fit), advice=_advice(family))


def _advice(family: Family) -> str:
    """What follows from overdispersion, and what to fit."""
    if family.is_quasi:
        return "standard errors of the fixed effects are multiplied by its square root"
    given = [name for name in family.parameters if name != ZERO]
    if given:
        instead = f"leaving out {', '.join(given)}, to have it estimated"
    else:
        more = "families.BetaBinomial()" if family.takes_trials else "families.NegativeBinomial()"
        instead = f"{more}, a QuasiFamily, or a random intercept for each row"
    return f"standard errors are too small: try {instead}"


def zero_inflation(design: Design, family: Family, fit: Fit) -> ZeroInflationCheck:
    """Zeros against the sum of the rows' chances of 0.

    Raises `ArgumentError` for a family that is no count, or has no zeros.
    """
    if not family.counts_zeros:
        raise ArgumentError(
            f"check_zero_inflation compares numbers of zeros, and the {family.name} family is not "
            "one of counts that may be 0: fit such as poisson, nbinom2 or nbinom1"
        )
    used = design.weights > 0
    frequencies = design.weights_type == "frequency"
    counts = np.where(used, design.weights if frequencies else 1.0, 0.0)
    observed = float(np.sum(counts[design.y == 0]))
    return ZeroInflationCheck.of(observed, zero_chances(design, family, fit), counts)


def zero_chances(design: Design, family: Family, fit: Fit) -> np.ndarray:
    """P(y = 0) of each row at the conditional modes (n,)."""
    with jax.enable_x64(True):
        eta = jnp.asarray(fit.eta)
        none, one = jnp.zeros_like(eta), jnp.ones_like(eta)
        matrices = matrices_of(family, design.parts)
        shapes = at_rows(matrices, coordinates(family, matrices, fit.phi))
        log_chance = family.log_density(none, eta, shapes, one, one)
        return np.asarray(jnp.exp(log_chance + family.log_base_measure(none, one)))
