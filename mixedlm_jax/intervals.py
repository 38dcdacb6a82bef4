"""Confidence intervals of all parameters: Wald's, by the profile likelihood, by bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import NormalDist

import jax
import numpy as np

from mixedlm_jax.bootstrap import boot
from mixedlm_jax.buckets import padded
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families.base import Parameter
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.hypotheses import check_unpenalised
from mixedlm_jax.inference import Curve, Limit, Survey, check_level, point_of, wald_intervals
from mixedlm_jax.noted import NotedFrame
from mixedlm_jax.objective import objective_for
from mixedlm_jax.parameters import Estimate, chosen, estimates
from mixedlm_jax.threads import single_blas_thread

METHODS = ("Wald", "profile", "boot")
_STEPS = 6  # of zeta on either side of a profile
_REPLICATES = 1000
_SEED = 1  # the same table every time


def intervals(
    model: Fitted, parm: str | Sequence[str] | None, level: float, method: str
) -> NotedFrame:
    """The table of `confint`."""
    check_level(level)
    if method not in METHODS:
        raise ArgumentError(f"confint has no method {method!r}; choose one of {', '.join(METHODS)}")
    parts = chosen(parm, estimates(model))
    of_method: dict[str, Callable[..., tuple[np.ndarray, list[str]]]] = {
        "Wald": _by_wald,
        "profile": _by_profile,
        "boot": _by_bootstrap,
    }
    limits, notes = of_method[method](model, parts, level)
    tail = 50.0 * (1.0 - level)
    columns = [f"{tail:.10g} %", f"{100.0 - tail:.10g} %"]
    return NotedFrame.of(limits, notes, index=[part.name for part in parts], columns=columns)


def _by_bootstrap(
    model: Fitted, parts: list[Estimate], level: float
) -> tuple[np.ndarray, list[str]]:
    """Percentile intervals of `_REPLICATES` refits to responses simulated from the model."""
    found = boot(model, None, _REPLICATES, _SEED, "parametric", None)
    limits = found.confint(level).loc[[part.name for part in parts]].to_numpy()
    lost = f"; {found.failures} fits failed and are left out" if found.failures else ""
    return limits, [
        f"Percentiles of {_REPLICATES} parametric bootstrap replicates{lost}; mlm.bootMer has "
        "other intervals, numbers and seeds."
    ]


# Wald


def _by_wald(
    model: Fitted, parts: list[Estimate], level: float
) -> tuple[np.ndarray, list[str]]:
    limits = [_wald_limits(part, level) for part in parts]
    unknown = [part.name for part in parts if not np.isfinite(part.se)]
    notes = []
    if unknown:
        notes.append(
            f"{', '.join(unknown)}: on a boundary or at a limit, where an estimate is not normal "
            'and there is no Wald interval (nan); method="profile" has one.'
        )
    return np.array(limits, float).reshape((-1, 2)), notes


def _wald_limits(part: Estimate, level: float) -> np.ndarray:
    """On the scale of log sd, atanh correlation and a dispersion's coordinate, taken back."""
    if not np.isfinite(part.se):
        return np.full(2, np.nan)
    kind, value, se = part.quantity.kind, np.array([part.value]), np.array([part.se])
    if kind == "sd":
        return np.exp(wald_intervals(np.log(value), se / value, level)[0])
    if kind == "cor":
        return np.tanh(wald_intervals(np.arctanh(value), se / (1.0 - value**2), level)[0])
    if part.parameter is None:
        return wald_intervals(value, se, level)[0]
    se = se * _coordinate_slope(part.parameter, part.value)
    return part.parameter.value(wald_intervals(part.parameter.coordinate(value), se, level)[0])


def _coordinate_slope(parameter: Parameter, value: float) -> float:
    """Derivative of a parameter's unconstrained coordinate in its value."""
    slope = 1.0 / (value - parameter.low) if np.isfinite(parameter.low) else 1.0
    return slope + 1.0 / (parameter.high - value) if np.isfinite(parameter.high) else slope


# Profile likelihood


def profile_table(
    model: Fitted, parm: str | Sequence[str] | None, level: float, steps: int = _STEPS
) -> NotedFrame:
    """The zeta curves of `profile`."""
    check_level(level)
    target = NormalDist().inv_cdf(0.5 + 0.5 * level)
    rows: list[dict[str, object]] = []
    notes: list[str] = []
    parts = chosen(parm, estimates(model))
    with _survey(model) as survey:
        for part in parts:
            if _undefined(part):
                notes.append(_no_profile(part))
                continue
            curve = Curve(*survey.of(part.quantity))
            for side in (-1, 1):
                curve.march(side, target, steps)
            rows += [
                {
                    "parameter": part.name,
                    "value": value,
                    "zeta": zeta,
                    "logLik": model.fit.log_likelihood - 0.5 * zeta**2,
                }
                for value, zeta in curve.points
                if abs(zeta) < 1.001 * target
            ]
    return NotedFrame.of(rows, notes, columns=["parameter", "value", "zeta", "logLik"])


def _by_profile(
    model: Fitted, parts: list[Estimate], level: float
) -> tuple[np.ndarray, list[str]]:
    target = NormalDist().inv_cdf(0.5 + 0.5 * level)
    limits = np.full((len(parts), 2), np.nan)
    notes: list[str] = []
    with _survey(model) as survey:
        for row, part in enumerate(parts):
            if _undefined(part):
                notes.append(_no_profile(part))
                continue
            curve = Curve(*survey.of(part.quantity))
            found = [curve.limit(side, target) for side in (-1, 1)]
            limits[row] = curve.interval(*found)
            notes += _notes_on_limits(part, found, level)
    return limits, notes


@contextmanager
def _survey(model: Fitted) -> Iterator[Survey]:
    """What curves are made from; `ArgumentError` for a model that has none."""
    model.logLik()  # says why a quasi family has no likelihood
    check_unpenalised(model, "a profile")
    if model.fit.nAGQ == 0:
        raise ArgumentError(
            "at nAGQ=0 the fixed effects are no parameters of the likelihood that is maximised: "
            "refit with nAGQ=1 for its profile"
        )
    if model.fit.optinfo["differentiation"] != "automatic":
        raise ArgumentError(
            "the family's gradient failed in this fit, and profiles are searched by gradients"
        )
    if not model.converged:
        raise ArgumentError(
            f"a profile starts at an optimum, and the fit is none: {model.convergence()}"
        )
    with single_blas_thread(), jax.enable_x64(True):
        point = point_of(padded(model.design), model.family, model.fit)
        yield Survey(objective_for(model.fit.nAGQ), point)


def _undefined(part: Estimate) -> bool:
    """Whether there is nothing to profile: a dispersion at its limit, a correlation with no sd."""
    kind = part.quantity.kind
    return bool(np.isnan(part.value)) or (kind == "phi" and not np.isfinite(part.se))


def _no_profile(part: Estimate) -> str:
    why = "of an effect without variance" if part.quantity.kind == "cor" else "at its limit"
    return f"{part.name}: {why}, where the likelihood does not depend on it (nan)."


def _notes_on_limits(part: Estimate, found: Sequence[Limit], level: float) -> list[str]:
    notes = []
    if any(np.isnan(limit.w) for limit in found):
        notes.append(f"{part.name}: the search for a limit failed (nan).")
    lower, upper = found
    if part.quantity.kind == "sd" and lower.at_bound is not None:
        ratio = lower.at_bound**2
        cut = NormalDist().inv_cdf(level) ** 2 if level > 0.5 else 0.0
        usual = NormalDist().inv_cdf(0.5 + 0.5 * level) ** 2
        side = "above" if ratio > cut else "below"
        notes.append(
            f"{part.name}: 0 is in the interval, at a likelihood ratio of {ratio:.2f}. All limits "
            f"are where that is {usual:.2f} (chi2_1); at 0 its distribution is half chi2_0, half "
            f"chi2_1, with cut-off {cut:.2f}, and the ratio is {side} it."
        )
    elif lower.at_bound is not None or upper.at_bound is not None:
        notes.append(f"{part.name}: a limit is the end of its range.")
    return notes
