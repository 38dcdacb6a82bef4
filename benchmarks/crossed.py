"""Two crossed factors, mixedlm_jax beside GPBoost: a Schur complement that is formed, and one not.

    python benchmarks/crossed.py                 # both cases, some minutes
    python benchmarks/crossed.py --case large --check
    python benchmarks/crossed.py --quick         # a tenth of the rows

Binary rows with a covariate and an intercept for each subject and each item. "small" (3,000 x
1,000 levels, 30,000 rows) is held against GPBoost's Cholesky path, "large" (30,000 x 10,000 levels,
300,000 rows) against its iterative one (`matrix_inversion_method="iterative"`, its defaults
otherwise). GPBoost maximises and stops there; our calls include standard errors and the verdict.

Every fit runs in a process of its own, one at a time, pinned to `--threads` cores; "warm" is the
median of the calls after a first one, wall and processor seconds. GPBoost's log-likelihood is the
value it reports, which on the iterative path is itself an estimate. `--check` evaluates our
log-likelihood once more at our estimates with S formed and factored (some GB, a minute); the exit
status is 1 where that differs by more than `TOLERANCE`.
Without gpboost (`pip install gpboost`) the comparison is skipped and said to be.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from compare import environment, pinned
from engines import peak_memory
from work import bernoulli

TOLERANCE = 0.1  # log-likelihood units
FORMULA = "y ~ x + (1 | subject) + (1 | item)"


@dataclass(frozen=True)
class Case:
    """Sizes, GPBoost's method, and how much of its time our call may take."""

    subjects: int
    items: int
    rows: int
    method: str
    target: float


CASES = {
    "small": Case(3_000, 1_000, 30_000, "cholesky", 0.5),
    "large": Case(30_000, 10_000, 300_000, "iterative", 0.5),
}


def data(case: Case, quick: bool) -> pd.DataFrame:
    """The rows of a case, the same in every process."""
    scale = 10 if quick else 1
    subjects, items, n = case.subjects // scale, case.items // scale, case.rows // scale
    rng = np.random.default_rng(4)
    subject, item = rng.integers(subjects, size=n), rng.integers(items, size=n)
    x = rng.normal(size=n)
    eta = 0.3 + 0.5 * x + rng.normal(size=subjects)[subject] + 0.7 * rng.normal(size=items)[item]
    return pd.DataFrame({"y": bernoulli(rng, eta), "x": x, "subject": subject, "item": item})


def fit_ours(frame: pd.DataFrame) -> tuple[float, float, Any]:
    """Log-likelihood, its Monte Carlo error, and the model."""
    import mixedlm_jax as mlm

    model = mlm.glmer(FORMULA, frame, family="binomial")
    return float(model.logLik()), model.fit.log_likelihood_error, model


def fit_gpboost(frame: pd.DataFrame, method: str) -> float:
    """GPBoost's log-likelihood."""
    import gpboost

    model = gpboost.GPModel(
        group_data=frame[["subject", "item"]].to_numpy(),
        likelihood="bernoulli_logit",
        matrix_inversion_method=method,
    )
    X = np.column_stack([np.ones(len(frame)), frame["x"]])
    model.fit(y=frame["y"].to_numpy(float), X=X)
    return -float(model.get_current_neg_log_likelihood())


def dense_log_likelihood(model: Any) -> float:
    """The Laplace log-likelihood at a model's estimates with S formed."""
    import jax

    from mixedlm_jax.likelihood import log_likelihood
    from mixedlm_jax.plan import Crossing
    from mixedlm_jax.problem import Params, make_problem
    from mixedlm_jax.threads import single_blas_thread

    fit = model.fit
    with single_blas_thread(), jax.enable_x64(True):
        problem = make_problem(model.design, model.family, crossing=Crossing(10**6))
        params = Params(fit.theta, fit.beta, fit.phi)
        return float(jax.jit(log_likelihood)(params, problem, fit.u))


def measure(engine: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Fit once cold and `repeats` times warm, in this process."""
    frame, case = data(CASES[name], args.quick), CASES[name]
    found: dict[str, Any] = {"error": 0.0}
    model = None
    wall, processor = [], []
    for _ in range(args.repeats + 1):
        begun, spent = time.perf_counter(), time.process_time()
        if engine == "ours":
            found["logLik"], found["error"], model = fit_ours(frame)
        else:
            found["logLik"] = fit_gpboost(frame, case.method)
        wall.append(time.perf_counter() - begun)
        processor.append(time.process_time() - spent)
    found |= {
        "engine": engine,
        "case": name,
        "cold_s": wall[0],
        "warm_s": statistics.median(wall[1:]),
        "processor_s": statistics.median(processor[1:]),
        "peak_MiB": peak_memory(),
    }
    if engine == "ours" and args.check:
        found["dense"] = dense_log_likelihood(model)
    return found


def run(engine: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--worker", engine, name, "--repeats", str(args.repeats)]
    command += ["--quick"] * args.quick + ["--check"] * args.check
    done = subprocess.run(
        command, env=environment(args.threads), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"engine": engine, "case": name, "failed": reason}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def row(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"  {result['engine']:8s} failed: {result['failed']}"
    return (
        f"  {result['engine']:8s} {result['logLik']:14.4f} {result['error']:8.1e}"
        f" {result['cold_s']:8.2f} {result['warm_s']:8.2f} {result['processor_s']:10.2f}"
        f" {result['peak_MiB']:9.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--check", action="store_true", help="once more with S formed")
    parser.add_argument("--case", choices=CASES, action="append", help="only these cases")
    parser.add_argument("--engine", choices=("ours", "gpboost"), action="append")
    parser.add_argument("--repeats", type=int, default=3, help="warm fits per process (3)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the raw figures to this file")
    parser.add_argument("--worker", nargs=2, metavar=("ENGINE", "CASE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.worker[0], args.worker[1], args)))
        return 0
    print(f"{pinned(args.threads)}; medians of {args.repeats} warm fits; s and MiB")
    engines = args.engine or ["ours", "gpboost"]
    if importlib.util.find_spec("gpboost") is None:
        print("gpboost is not installed: nothing to compare with, the comparison is skipped")
        engines = ["ours"]
    print(
        f"  {'engine':8s} {'logLik':>14s} {'MC error':>8s} {'cold':>8s} {'warm':>8s}"
        f" {'processor':>10s} {'peak':>9s}"
    )
    results: list[dict[str, Any]] = []
    passed = True
    for name in args.case or CASES:
        print(f"{name}: {FORMULA}")
        found = {engine: run(engine, name, args) for engine in engines}
        results += found.values()
        for result in found.values():
            print(row(result), flush=True)
        ours, other = found.get("ours", {}), found.get("gpboost", {})
        if "warm_s" in ours and "warm_s" in other:
            ratio, target = ours["warm_s"] / other["warm_s"], CASES[name].target
            print(f"  {ratio:.2f} times GPBoost's {CASES[name].method} path (target {target:g})")
        if "dense" in ours:
            apart = ours["logLik"] - ours["dense"]
            print(f"  log-likelihood with S formed {ours['dense']:.4f}, ours {apart:+.1e}")
            passed &= abs(apart) <= TOLERANCE
        passed &= "failed" not in ours
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
