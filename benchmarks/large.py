"""Three large simulated fits, mixedlm_jax beside PyPI's glmm.

    python benchmarks/large.py                 # the full sizes, a few minutes
    python benchmarks/large.py --quick         # a tenth of the rows
    python benchmarks/large.py --json out.json # the raw figures as well

Every fit runs in a process of its own, one at a time, on the same pandas DataFrame, so that its
peak memory (`ru_maxrss`, the data and the imports included) is its own. "cold" is the first
`glmer()` call of that process, compilation included and imports left out; "warm" the median of
the calls after it. Both engines get the same cores: the process is pinned to `--threads` of them
where the system can do that, and the usual variables for BLAS, OpenMP and Rayon are set to match.

A time counts only where the log-likelihood is within `TOLERANCE` of the better of the two; the
exit status is 1 when mixedlm_jax falls short, fails, or takes more than `MEMORY_LIMIT`.
Without glmm (`pip install "glmm==0.6.*"`) the comparison is skipped and said to be.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TOLERANCE = 1e-3  # log-likelihood units
MEMORY_LIMIT = 2 * 1024.0  # MiB
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
PACKAGES = {"ours": "mixedlm_jax", "glmm": "glmm"}


# ----------------------------------------------------------------------------------------------
# Data


def bernoulli(rng: np.random.Generator, eta: np.ndarray) -> np.ndarray:
    return (rng.random(eta.size) < 1 / (1 + np.exp(-eta))).astype(np.int64)


def nested(rng: np.random.Generator, scale: int) -> pd.DataFrame:
    """100,000 binary rows: 100 regions of 10 schools of 10 rooms, uneven and unsorted."""
    regions, schools, rooms = 100 // scale, 10, 10
    n = 100_000 // scale
    room = rng.integers(regions * schools * rooms, size=n)
    school = room // rooms
    region = school // schools
    x = rng.normal(size=n)
    eta = (
        -0.4
        + 0.7 * x
        + 0.4 * rng.normal(size=regions)[region]
        + 0.6 * rng.normal(size=regions * schools)[school]
        + 0.8 * rng.normal(size=regions * schools * rooms)[room]
    )
    return pd.DataFrame(
        {"y": bernoulli(rng, eta), "x": x, "region": region, "school": school, "room": room}
    )


def crossed(rng: np.random.Generator, scale: int) -> pd.DataFrame:
    """30,000 binary rows: 3,000 subjects crossed with 1,000 items, ten rows a subject."""
    subjects, items, n = 3_000 // scale, 1_000 // scale, 30_000 // scale
    subject = rng.integers(subjects, size=n)
    item = rng.integers(items, size=n)
    x = rng.normal(size=n)
    eta = (
        0.3
        + 0.5 * x
        + 1.0 * rng.normal(size=subjects)[subject]
        + 0.7 * rng.normal(size=items)[item]
    )
    return pd.DataFrame({"y": bernoulli(rng, eta), "x": x, "subject": subject, "item": item})


def long(rng: np.random.Generator, scale: int) -> pd.DataFrame:
    """1,000,000 binary rows in 50,000 groups, three covariates, rows in no order."""
    groups, n = 50_000 // scale, 1_000_000 // scale
    g = rng.integers(groups, size=n)
    x1, x2, x3 = rng.normal(size=(3, n))
    eta = -0.5 + 0.4 * x1 - 0.3 * x2 + 0.2 * x3 + 0.8 * rng.normal(size=groups)[g]
    return pd.DataFrame({"y": bernoulli(rng, eta), "x1": x1, "x2": x2, "x3": x3, "g": g})


@dataclass(frozen=True)
class Case:
    """One simulated data set, its model, and how much slower than glmm it may be."""

    formula: str
    family: str
    simulate: Callable[[np.random.Generator, int], pd.DataFrame]
    target: float


CASES = {
    "nested": Case("y ~ x + (1 | room) + (1 | school) + (1 | region)", "binomial", nested, 3.0),
    "crossed": Case("y ~ x + (1 | subject) + (1 | item)", "binomial", crossed, 3.0),
    "long": Case("y ~ x1 + x2 + x3 + (1 | g)", "binomial", long, 1.0),
}


def data(name: str, quick: bool) -> pd.DataFrame:
    """The data set `name`, the same in every process."""
    seed = 1 + list(CASES).index(name)
    return CASES[name].simulate(np.random.default_rng(seed), 10 if quick else 1)


# ----------------------------------------------------------------------------------------------
# One engine on one data set, in a process of its own


def fitter(engine: str, case: Case) -> Callable[[pd.DataFrame], float]:
    """A function that fits the case with `engine` and returns the log-likelihood."""
    if engine == "ours":
        import mixedlm_jax as mlm

        return lambda frame: float(mlm.glmer(case.formula, frame, family=case.family).logLik())
    import glmm

    # Only the fit and its standard errors: no refits for likelihood-ratio tables.
    return lambda frame: float(
        glmm.fit(frame, case.formula, family=case.family, anova_test="Wald").loglik
    )


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "checkout"


def peak_memory() -> float:
    """Largest resident set of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0**2 if sys.platform == "darwin" else 1024.0)


def measure(engine: str, name: str, quick: bool, repeats: int) -> dict[str, Any]:
    """Fit once cold and `repeats` times warm; times in seconds, memory in MiB."""
    frame = data(name, quick)
    start = time.perf_counter()
    fit = fitter(engine, CASES[name])
    imported = time.perf_counter()
    loglik = fit(frame)
    cold = time.perf_counter() - imported
    warm = []
    for _ in range(repeats):
        begin = time.perf_counter()
        fit(frame)
        warm.append(time.perf_counter() - begin)
    return {
        "engine": engine,
        "version": version(PACKAGES[engine]),
        "case": name,
        "rows": len(frame),
        "logLik": loglik,
        "import_s": imported - start,
        "cold_s": cold,
        "warm_s": warm,
        "warm_median_s": statistics.median(warm),
        "peak_MiB": peak_memory(),
    }


def environment(threads: int) -> dict[str, str]:
    """This process's environment with `threads` threads and no compilation cache on disk."""
    env = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    root = str(Path(__file__).resolve().parent.parent)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    return env


def pinned(threads: int) -> str:
    """Pin this process and its children to `threads` cores; say in words what was done."""
    if not hasattr(os, "sched_setaffinity"):
        return f"{threads} threads by environment variable, not pinned"
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    return f"{len(cores)} threads, pinned to {len(cores)} cores"


def run(engine: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--worker", engine, name, "--repeats", str(args.repeats)]
    command += ["--quick"] if args.quick else []
    done = subprocess.run(
        command, env=environment(args.threads), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"engine": engine, "case": name, "error": reason}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


# ----------------------------------------------------------------------------------------------
# The table


def compare(ours: dict[str, Any], other: dict[str, Any] | None, target: float) -> tuple[str, bool]:
    """The verdict on one case in words, and whether it is a pass."""
    if "error" in ours:
        return f"mixedlm_jax failed: {ours['error']}", False
    if ours["peak_MiB"] > MEMORY_LIMIT:
        return f"{ours['peak_MiB']:.0f} MiB, more than {MEMORY_LIMIT:.0f}", False
    if other is None:
        return "not compared", True
    if "error" in other:
        return f"glmm failed: {other['error']}", True
    gain = ours["logLik"] - other["logLik"]
    if gain < -TOLERANCE:
        return f"log-likelihood {-gain:.4g} below glmm's: the time does not count", False
    ratio = ours["warm_median_s"] / other["warm_median_s"]
    aim = f"target {target:g}" if math.isfinite(target) else "no target"
    words = f"{ratio:.2f} times glmm's warm time ({aim}), logLik {gain:+.1e}"
    if gain > TOLERANCE:
        words += ", glmm stops short"
    return words, ratio <= target


def row(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"  {result['engine']:6s} failed: {result['error']}"
    return (
        f"  {result['engine']:6s} {result['logLik']:16.6f} {result['import_s']:8.2f} "
        f"{result['cold_s']:8.2f} {result['warm_median_s']:8.3f} {result['peak_MiB']:9.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--case", choices=CASES, action="append", help="only these data sets")
    parser.add_argument("--engine", choices=PACKAGES, action="append", help="only these engines")
    parser.add_argument("--repeats", type=int, default=5, help="warm fits per process (5)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, help="write the raw figures to this file")
    parser.add_argument("--worker", nargs=2, metavar=("ENGINE", "CASE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        engine, name = args.worker
        print(json.dumps(measure(engine, name, args.quick, args.repeats)))
        return 0

    threads = pinned(args.threads)
    engines = [e for e in args.engine or PACKAGES if e == "ours" or importlib.util.find_spec(e)]
    print(f"{threads}; median of {args.repeats} warm fits; times in s, memory in MiB")
    if importlib.util.find_spec("glmm") is None:
        print("glmm is not installed: nothing to compare with, the comparison is skipped")
    print(f"  {'engine':6s} {'logLik':>16s} {'import':>8s} {'cold':>8s} {'warm':>8s} {'peak':>9s}")

    results: list[dict[str, Any]] = []
    passed = True
    for name in args.case or CASES:
        case = CASES[name]
        print(f"{name}: {case.formula}")
        # A tenth of the rows measures the fixed costs of a call: nothing to hold anyone to.
        target = math.inf if args.quick else case.target
        found = {}
        for engine in engines:
            found[engine] = run(engine, name, args)
            print(row(found[engine]), flush=True)
        results += found.values()
        if "ours" in found:
            words, ok = compare(found["ours"], found.get("glmm"), target)
            print(f"  {'pass' if ok else 'FAIL'}: {words}", flush=True)
            passed &= ok
    if args.json:
        args.json.write_text(json.dumps({"threads": threads, "results": results}, indent=1))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
