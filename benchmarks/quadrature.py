"""Two fits by adaptive quadrature, mixedlm_jax beside lme4 and PyPI's glmm.

    python benchmarks/quadrature.py                 # about a minute
    python benchmarks/quadrature.py --json out.json # the raw figures as well

toenail has one random effect a level and 25 nodes, and is compared with lme4 (Rscript with the
lme4 package); Contraception has two, 11 x 11 nodes, which lme4 does not offer, and is compared with
glmm. As in large.py every fit runs in a process of its own on the same data frame (R reads it from
a csv file, which is not timed), pinned to the same cores; "cold" is the first call, compilation
included, "warm" the median of the calls after it. All three print the full log-likelihood of these
models, as responses are 0 and 1.

A time counts only where our log-likelihood is at least the other's, to `TOLERANCE`; the exit status
is 1 when mixedlm_jax falls short, fails, or misses a target. An engine that is not there is skipped
and said to be.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from large import environment, peak_memory, pinned, row

# Log-likelihood units. With its default inner tolerance lme4 prints 1e-4 too much on toenail: at
# tolPwrss = 1e-12 it prints what we do, to 1e-7.
TOLERANCE = 1e-3

LME4 = """
library(lme4)
given <- commandArgs(trailingOnly = TRUE)
data <- read.csv(given[1], stringsAsFactors = TRUE)
fit <- function() glmer(as.formula(given[2]), data, binomial, nAGQ = as.integer(given[3]))
seconds <- function() system.time(model <<- fit())[["elapsed"]]
cold <- seconds()
warm <- replicate(as.integer(given[4]), seconds())
cat(sprintf('{"logLik": %.9f, "cold_s": %.6f, "warm_s": [%s], "version": "%s"}',
            as.numeric(logLik(model)), cold, paste(sprintf("%.6f", warm), collapse = ", "),
            packageVersion("lme4")))
"""


@dataclass(frozen=True)
class Case:
    """One data set, its model, whom it is compared with, and how much of their time it may take."""

    formula: str
    nAGQ: int
    frame: Callable[[], pd.DataFrame]
    rival: str
    target: float


def toenail() -> pd.DataFrame:
    """1,908 visits of 294 patients."""
    import mixedlm_jax as mlm

    return mlm.load_toenail()[["y", "treatment", "time", "patientID"]]


def contraception() -> pd.DataFrame:
    """1,934 women in 60 districts."""
    import mixedlm_jax as mlm

    frame = mlm.load_contraception()
    return frame.assign(age2=frame["age"] ** 2)


CASES = {
    "toenail": Case("y ~ treatment * time + (1 | patientID)", 25, toenail, "lme4", 1 / 5),
    "contraception": Case(
        "use ~ age + age2 + urban + livch + (1 + urban | district)",
        11,
        contraception,
        "glmm",
        1 / 2,
    ),
}


def fitter(engine: str, case: Case) -> Callable[[pd.DataFrame], float]:
    """A function that fits the case with `engine` and returns the log-likelihood."""
    if engine == "ours":
        import mixedlm_jax as mlm

        return lambda frame: float(
            mlm.glmer(case.formula, frame, family="binomial", nAGQ=case.nAGQ).logLik()
        )
    import glmm

    # Only the fit and its standard errors: no refits for likelihood-ratio tables.
    return lambda frame: float(
        glmm.fit(frame, case.formula, family="binomial", nagq=case.nAGQ, anova_test="Wald").loglik
    )


def measure(engine: str, case: Case, repeats: int) -> dict[str, Any]:
    """Fit once cold and `repeats` times warm; times in seconds, memory in MiB."""
    frame = case.frame()
    start = time.perf_counter()
    fit = fitter(engine, case)
    imported = time.perf_counter()
    loglik = fit(frame)
    cold, warm = time.perf_counter() - imported, []
    for _ in range(repeats):
        begin = time.perf_counter()
        fit(frame)
        warm.append(time.perf_counter() - begin)
    return {
        "logLik": loglik,
        "import_s": imported - start,
        "cold_s": cold,
        "warm_s": warm,
        "peak_MiB": peak_memory(),
    }


def child(command: list[str], threads: int) -> subprocess.CompletedProcess[str]:
    """Run a command on so many threads."""
    env = environment(threads)
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def run(engine: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One engine on one case in a fresh process."""
    ours = [sys.executable, __file__, "--repeats", str(args.repeats), "--worker"]
    with tempfile.TemporaryDirectory() as folder:
        command = [*ours, engine, name]
        if engine == "lme4":
            path, case = Path(folder) / "data.csv", CASES[name]
            path.write_text(child([*ours, "csv", name], args.threads).stdout)
            command = ["Rscript", "-e", LME4, str(path), case.formula]
            command += [str(case.nAGQ), str(args.repeats)]
        done = child(command, args.threads)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"engine": engine, "case": name, "error": reason}
    found = {"import_s": float("nan"), "peak_MiB": float("nan")}
    found |= json.loads(done.stdout.strip().splitlines()[-1])
    warm = statistics.median(found["warm_s"])  # type: ignore[arg-type]
    return {"engine": engine, "case": name, "warm_median_s": warm, **found}


def compare(ours: dict[str, Any], other: dict[str, Any] | None, case: Case) -> tuple[str, bool]:
    """The verdict on one case in words, and whether it is a pass."""
    if "error" in ours:
        return f"mixedlm_jax failed: {ours['error']}", False
    if other is None:
        return "not compared", True
    if "error" in other:
        return f"{case.rival} failed: {other['error']}", True
    gain = ours["logLik"] - other["logLik"]
    if gain < -TOLERANCE:
        return f"log-likelihood {-gain:.4g} below {case.rival}'s: the time does not count", False
    ratio = ours["warm_median_s"] / other["warm_median_s"]
    words = f"{ratio:.3f} times {case.rival}'s warm time (target {case.target:g})"
    return f"{words}, logLik {gain:+.1e}", ratio <= case.target


def available(engine: str) -> bool:
    if engine == "lme4":
        return shutil.which("Rscript") is not None
    return engine == "ours" or importlib.util.find_spec(engine) is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append", help="only these models")
    parser.add_argument("--repeats", type=int, default=9, help="warm fits per process (9)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, help="write the raw figures to this file")
    parser.add_argument("--worker", nargs=2, metavar=("ENGINE", "CASE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        engine, name = args.worker
        if engine == "csv":
            print(CASES[name].frame().to_csv(index=False), end="")
            return 0
        print(json.dumps(measure(engine, CASES[name], args.repeats)))
        return 0

    threads = pinned(args.threads)
    print(f"{threads}; median of {args.repeats} warm fits; times in s, memory in MiB")
    print(f"  {'engine':6s} {'logLik':>16s} {'import':>8s} {'cold':>8s} {'warm':>8s} {'peak':>9s}")
    results: list[dict[str, Any]] = []
    passed = True
    for name in args.case or CASES:
        case = CASES[name]
        print(f"{name}: {case.formula}, nAGQ = {case.nAGQ}")
        found = {}
        for engine in ("ours", case.rival):
            if not available(engine):
                print(f"  {engine} is not installed: the comparison is skipped")
                continue
            found[engine] = run(engine, name, args)
            print(row(found[engine]), flush=True)
        results += found.values()
        words, ok = compare(found["ours"], found.get(case.rival), case)
        print(f"  {'pass' if ok else 'FAIL'}: {words}", flush=True)
        passed &= ok
    if args.json:
        args.json.write_text(json.dumps({"threads": threads, "results": results}, indent=1))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
