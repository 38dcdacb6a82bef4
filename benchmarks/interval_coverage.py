"""How often 95% intervals of a binary model contain the truth, over thousands of data sets.

    python benchmarks/interval_coverage.py                     # 4,000 data sets, some minutes
    python benchmarks/interval_coverage.py --data-sets 200     # in passing

100 groups x 10 binary responses, a covariate within groups and one between them, a standard
deviation of 1; all data sets are fitted together, by quadrature with 11 nodes and by Laplace's
approximation. Wald intervals are `confint`'s: of fixed effects as they are, of the standard
deviation on the scale of its logarithm. A profile interval contains the truth exactly where

    2 (max log L - max_{sd = truth} log L) <= 3.84 (chi2_1),

so that one maximum with the standard deviation held says whether it does, and its ends need not be
found; `--checks` of the data sets, half of them those nearest to that limit, are compared with
`confint(method="profile")`. Exit status 1 where quadrature covers less than 93.5% or more than
96.5%, or a check fails.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import mixedlm_jax as mlm
from mixedlm_jax import functional as mf

FORMULA = "~ x + z + (1 | g)"
GROUPS, ROWS = 100, 10
BETA, SD = np.array([-0.5, 0.5, 0.5]), 1.0
NODES = (11, 1)  # of the quadrature, and Laplace's
LEVEL = 0.95
AIM = (0.935, 0.965)
NAME = "sd_(Intercept)|g"

_LANES = 256  # that are evaluated in one call
_AT_ONCE = 16
_SETTLED = 1e-9  # log-likelihood units that another step promises
_MOST_STEPS = 10


class Study(NamedTuple):
    """What is found by one approximation of the likelihood.

    covered: whether each interval contains the truth, (data sets,) bool by name. ratio: twice the
    fall of the log-likelihood where the standard deviation is held at the truth (data sets,).
    failed, singular: how many fits are no optimum, and how many have a standard deviation of 0.
    """

    nAGQ: int
    covered: dict[str, np.ndarray]
    ratio: np.ndarray
    failed: int
    singular: int
    seconds: float


def design(seed: int) -> pd.DataFrame:
    """The predictors: x differs within groups, z between them."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(GROUPS), ROWS)
    return pd.DataFrame({"x": rng.normal(size=len(g)), "z": rng.normal(size=GROUPS)[g], "g": g})


def responses(data: pd.DataFrame, data_sets: int, seed: int) -> np.ndarray:
    """Simulated responses, rows x data sets."""
    drawn = mlm.simulate_formula(
        FORMULA, data, "binomial", beta=BETA, theta=[SD], nsim=data_sets, seed=seed
    )
    return drawn.to_numpy()


def study(data: pd.DataFrame, Y: np.ndarray, nAGQ: int) -> Study:
    """Fit all data sets and say which intervals contain the truth."""
    begun = time.perf_counter()
    fits = mlm.fit_many(FORMULA, data, Y, "binomial", nAGQ=nAGQ, progress=False)
    quantile = NormalDist().inv_cdf(0.5 + 0.5 * LEVEL)
    inside = np.abs(fits.beta - BETA) <= quantile * fits.se
    covered = {f"{name}, Wald": inside[:, j] for j, name in enumerate(fits.fixed)}
    held = held_log_likelihoods(data, Y, fits.beta, nAGQ)
    ratio = 2.0 * (fits.logLik - held)
    covered["sd, profile"] = ratio <= quantile**2
    covered["sd, Wald of log sd"] = _covers_by_wald(fits, quantile)
    return Study(
        nAGQ,
        covered,
        ratio,
        int(np.sum(~fits.ok)),
        int(np.sum(fits.theta == 0.0)),
        time.perf_counter() - begun,
    )


def _covers_by_wald(fits: mlm.Fits, quantile: float) -> np.ndarray:
    """No interval where the estimate is 0: not covered."""
    sd, variance = fits.theta[:, 0], fits.vcov[:, 0, 0]
    known = (sd > 0.0) & (variance > 0.0)
    sd, variance = np.where(known, sd, 1.0), np.where(known, variance, 0.0)
    return known & (np.abs(np.log(sd / SD)) <= quantile * np.sqrt(variance) / sd)


def held_log_likelihoods(data: pd.DataFrame, Y: np.ndarray, beta: np.ndarray, nAGQ: int) -> Any:
    """The largest log-likelihood of each data set with the standard deviation at the truth.

    By Newton's method in the fixed effects, from `beta` (data sets, 3). Raises `RuntimeError` where
    a search does not arrive.
    """
    beta, lanes, values = beta.copy(), np.arange(Y.shape[1]), np.full(Y.shape[1], np.nan)
    with jax.enable_x64(True):
        problem = mf.make_problem(f"y {FORMULA}", data.assign(y=Y[:, 0]), "binomial", nAGQ=nAGQ)

        def step(lane: tuple[Any, Any]) -> tuple[Any, Any, Any]:
            """The value at a point, Newton's step from there, and what it promises."""
            point, y = lane

            def value(point: Any) -> Any:
                params = mf.Params(np.array([SD]), point, np.zeros(0))
                return mf.log_likelihood(params, problem.replace(y=y))

            here, slope = jax.value_and_grad(value)(point)
            forth = jnp.linalg.solve(-jax.hessian(value)(point), slope)
            return here, forth, 0.5 * slope @ forth

        newton = jax.jit(lambda points, y: jax.lax.map(step, (points, y), batch_size=_AT_ONCE))
        for _ in range(_MOST_STEPS):
            found = []
            for first in range(0, len(lanes), _LANES):
                some = lanes[first : first + _LANES]
                filled = np.resize(some, _LANES)
                parts = newton(beta[filled], Y.T[filled])
                found.append([np.asarray(part)[: len(some)] for part in parts])
            values[lanes], forth, gain = map(np.concatenate, zip(*found, strict=True))
            beta[lanes] += forth
            lanes = lanes[~((gain >= 0.0) & (gain < _SETTLED))]
            if not len(lanes):
                return values
    raise RuntimeError(f"{len(lanes)} searches with the standard deviation held did not arrive")


def checked(data: pd.DataFrame, Y: np.ndarray, found: Study, count: int) -> int:
    """Of how many data sets `confint` says the same; half of them nearest to the limit."""
    limit = NormalDist().inv_cdf(0.5 + 0.5 * LEVEL) ** 2
    nearest = np.argsort(np.abs(found.ratio - limit))
    chosen = [*nearest[: count - count // 2], *nearest[:: -max(len(nearest) // count, 1)]]
    agreed = 0
    for lane in chosen[:count]:
        model = mlm.glmer(f"y {FORMULA}", data.assign(y=Y[:, lane]), "binomial", nAGQ=found.nAGQ)
        low, high = model.confint(NAME, LEVEL, method="profile").to_numpy()[0]
        agreed += bool(low <= SD <= high) == bool(found.covered["sd, profile"][lane])
    return agreed


def table(studies: list[Study]) -> str:
    """Coverage in percent, a row for each interval."""
    methods = ["Laplace" if one.nAGQ == 1 else f"nAGQ={one.nAGQ}" for one in studies]
    lines = [f"| interval | {' | '.join(methods)} |", "|---" * (1 + len(studies)) + "|"]
    for name in studies[0].covered:
        shares = [f"{100.0 * np.mean(one.covered[name]):.2f}" for one in studies]
        lines.append(f"| {name} | {' | '.join(shares)} |")
    return "\n".join(lines)


def as_json(studies: list[Study], data_sets: int, seed: int) -> dict[str, Any]:
    """All figures of a run."""
    return {
        "data_sets": data_sets,
        "seed": seed,
        "studies": [
            {
                "nAGQ": one.nAGQ,
                "coverage": {name: float(np.mean(own)) for name, own in one.covered.items()},
                "failed": one.failed,
                "singular": one.singular,
                "seconds": one.seconds,
            }
            for one in studies
        ],
    }


def within_aim(found: Study) -> bool:
    """Whether all intervals that the aim is about cover as often as it says."""
    shares = [np.mean(own) for name, own in found.covered.items() if name != "sd, Wald of log sd"]
    return all(AIM[0] <= share <= AIM[1] for share in shares)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-sets", type=int, default=4000, help="how many (4000)")
    parser.add_argument("--seed", type=int, default=1, help="decides all that is drawn (1)")
    parser.add_argument("--checks", type=int, default=20, help="compared with confint (20)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    data = design(args.seed)
    Y = responses(data, args.data_sets, args.seed)
    studies = [study(data, Y, nAGQ) for nAGQ in NODES]
    print(f"{args.data_sets:,} data sets, {GROUPS} groups x {ROWS} rows, seed {args.seed}\n")
    print(table(studies))
    print()
    for one in studies:
        verdicts = f"{one.failed} fits not ok, {one.singular} singular"
        print(f"nAGQ={one.nAGQ}: {one.seconds:.0f} s; {verdicts}")
    agreed = checked(data, Y, studies[0], args.checks)
    print(f"confint(method='profile') says the same of {agreed} of {args.checks} data sets")
    if args.json is not None:
        args.json.write_text(json.dumps(as_json(studies, args.data_sets, args.seed), indent=1))
    return int(not (within_aim(studies[0]) and agreed == args.checks))


if __name__ == "__main__":
    sys.exit(main())
