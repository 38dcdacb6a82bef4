"""Many fits at once beside a loop over PyPI's glmm, glmmTMB's, and one over single fits.

    python benchmarks/many.py            # the sizes of the table, minutes
    python benchmarks/many.py --quick    # a tenth of the lanes
    python benchmarks/many.py --case cbpp --case genes

Prints a markdown table of fits a second and ratios. Warm: a first call on as many lanes compiles
and does not count; the best of `--repeats` calls is taken. Everything runs on the same cores, one
at a time. Rivals fit a sample of the lanes, whose time is scaled up; a ratio is printed only where
their log-likelihoods and ours agree to the tolerance that the line names.

    cbpp        parametric refits with standard errors and verdicts; glmm's loop warm-started,
                without standard errors, 500 sampled lanes and all flagged ones against single fits
    genes       2,000 genes x 300 cells of 20 donors, negative binomial with offset; glmmTMB's loop
    verbagg     parametric refits of 7,584 crossed rows; glmm's loop
    powercurve  cbpp, 6 effect sizes x 1,000 simulations, whole call in a new process with the
                compiled programs kept by an earlier one
Without glmm, or Rscript with glmmTMB, that comparison is skipped and said to be.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

CBPP = "incidence / size ~ period + (1 | herd)"
VERBAGG = "y ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)"
GENES = "~ treated + offset(log_depth) + (1 | donor)"
SAMPLE = 50  # lanes that a rival fits
SINGLE = 500  # lanes of cbpp that are fitted one by one

GLMMTMB = """
suppressMessages(library(glmmTMB))
arguments <- commandArgs(trailingOnly = TRUE)
data <- read.csv(arguments[1])
data$donor <- factor(data$donor)
genes <- as.matrix(read.csv(arguments[2]))
fit <- function(y) {
  data$y <- y
  suppressWarnings(glmmTMB(y ~ treated + offset(log_depth) + (1 | donor), data, family = nbinom2))
}
invisible(fit(genes[, 1]))
begun <- proc.time()[["elapsed"]]
values <- apply(genes, 2, function(y) as.numeric(logLik(fit(y))))
seconds <- proc.time()[["elapsed"]] - begun
values[is.na(values)] <- -1e300
cat(sprintf("{\\"seconds\\": %.6f, \\"logLik\\": [%s]}", seconds,
            paste(sprintf("%.10f", values), collapse = ",")))
"""

POWER = f"""
import time
begun = time.perf_counter()
import mixedlm_jax as mlm
model = mlm.glmer("{CBPP}", mlm.load_cbpp(), "binomial")
ready = time.perf_counter()
curve = mlm.powerCurve(model, "effect_size", [0.0, -0.2, -0.4, -0.6, -0.8, -1.0], "period2",
                       nsim=NSIM, seed=1, progress=False)
print(ready - begun, time.perf_counter() - ready)
"""


class Row(NamedTuple):
    """A line of the table."""

    work: str
    lanes: int
    seconds: float
    rival: str
    ratio: str
    checked: str


def best(function: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result of a function and its shortest time, a first call not counted."""
    result, seconds = function(), []
    for _ in range(repeats):
        begun = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - begun)
    return result, min(seconds)


def glmm_loop(
    data: pd.DataFrame,
    formula: str,
    columns: Callable[[np.ndarray], dict[str, np.ndarray]],
    Y: np.ndarray,
    start: dict[str, Any],
    wald_se: str,
) -> tuple[np.ndarray, float]:
    """Log-likelihoods and seconds of glmm's fits of the columns of Y, each begun at `start`."""
    import glmm

    def fit(y: np.ndarray) -> float:
        own = data.assign(**columns(y))
        return float(
            glmm.fit(
                own,
                formula,
                family="binomial",
                warm_start=start,
                wald_se=wald_se,
                anova_test="Wald",
            ).loglik
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(Y[:, 0])
        begun = time.perf_counter()
        values = [fit(y) for y in Y.T]
    return np.array(values), time.perf_counter() - begun


def agreement(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> tuple[str, bool]:
    """Log-likelihoods compared in words, and whether ours are nowhere below."""
    apart = ours - theirs
    short = int(np.sum(apart < -tolerance))
    above = int(np.sum(apart > tolerance))
    words = f"{len(apart)} logLik, {np.sum(np.abs(apart) <= tolerance)} within {tolerance:g}"
    words += f", ours higher in {above}" if above else ""
    words += f", LOWER in {short}" if short else ""
    return words, short == 0


def scaled(seconds: float, lanes: int, sample: int) -> float:
    return seconds * lanes / sample


def cbpp(quick: bool, repeats: int) -> list[Row]:
    """Parametric refits beside glmm's loop, checked against the path of a single fit."""
    import mixedlm_jax as mlm

    lanes = 1_000 if quick else 10_000
    data = mlm.load_cbpp()
    model = mlm.glmer(CBPP, data, "binomial")
    Y = model.simulate(lanes, seed=1).to_numpy()
    fits, seconds = best(lambda: model.refit_many(Y, progress=False), repeats)
    chosen = np.union1d(
        np.random.default_rng(1).choice(lanes, SINGLE // (10 if quick else 1), replace=False),
        np.flatnonzero(fits.code != 0),
    )
    apart = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlm.MixedlmWarning)
        for lane in chosen:
            # a separated lane has no optimum: where a search gives up is its own affair
            if fits.code[lane] != -1:
                single = model.refit(Y[:, lane])
                apart.append(abs(float(single.logLik()) - fits.logLik[lane]))
    failed = int(np.sum(~fits.ok & (fits.code != -1)))
    singular, separated = int(np.sum(fits.code == 1)), int(np.sum(fits.code == -1))
    checked = (
        f"{len(apart)} single fits within {max(apart):.0e}; {singular} singular, "
        f"{separated} separated, {failed} failed"
    )
    work = "cbpp, parametric refits with SEs and verdicts"
    if importlib.util.find_spec("glmm") is None:
        return [Row(work, lanes, seconds, "glmm is not installed", "-", checked)]
    theirs = data.assign(herd=data["herd"].astype(str), failures=data["size"] - data["incidence"])
    size = data["size"].to_numpy(float)
    rows = []
    for wald_se, what in (("rx", "without exact SEs"), ("hessian", "with SEs")):
        values, loop = glmm_loop(
            theirs,
            "cbind(incidence, failures) ~ period + (1 | herd)",
            lambda y: {"incidence": y, "failures": size - y},
            Y[:, : 10 * SAMPLE],
            {"beta": list(model.fit.beta), "theta": list(model.fit.theta)},
            wald_se,
        )
        # glmm reports the full log-likelihood of trials, as we do
        words, _ = agreement(fits.logLik[: 10 * SAMPLE], values, 1e-4)
        ratio = scaled(loop, lanes, 10 * SAMPLE) / seconds
        rows.append(
            Row(
                work,
                lanes,
                seconds,
                f"glmm, warm-started, {what}",
                f"{ratio:.1f}",
                f"{checked}; glmm: {words}",
            )
        )
    return rows


def genes(quick: bool, repeats: int) -> list[Row]:
    """Negative binomial with offset and an estimated shape beside glmmTMB's loop."""
    import mixedlm_jax as mlm

    lanes, cells, donors = (200 if quick else 2_000), 300, 20
    rng = np.random.default_rng(2)
    donor = np.repeat(np.arange(donors), cells // donors)
    data = pd.DataFrame(
        {"donor": donor, "treated": donor % 2, "log_depth": rng.normal(0.0, 0.3, size=cells)}
    )
    effect = np.where(rng.random(lanes) < 0.1, rng.normal(0.0, 0.8, size=lanes), 0.0)
    eta = (
        rng.normal(1.0, 0.8, size=lanes)[None, :]
        + data["treated"].to_numpy()[:, None] * effect[None, :]
        + data["log_depth"].to_numpy()[:, None]
        + (rng.normal(size=(donors, lanes)) * rng.uniform(0.2, 0.6, size=lanes))[donor]
    )
    shape = rng.uniform(1.0, 8.0, size=lanes)
    Y = rng.poisson(np.exp(eta) * rng.gamma(shape, size=(cells, lanes)) / shape).astype(float)
    fits, seconds = best(lambda: mlm.fit_many(GENES, data, Y, "nbinom2", progress=False), repeats)
    work = f"{lanes} genes x {cells} cells of {donors} donors, negative binomial with offset"
    verdicts = f"{int(np.sum(~fits.ok))} not ok, {int(np.sum(fits.rescued))} rescued"
    rscript = shutil.which("Rscript")
    if rscript is None:
        return [Row(work, lanes, seconds, "there is no Rscript", "-", verdicts)]
    sample = min(SAMPLE, lanes)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data.to_csv(folder / "data.csv", index=False)
        pd.DataFrame(Y[:, :sample]).to_csv(folder / "genes.csv", index=False)
        (folder / "fit.R").write_text(GLMMTMB)
        command = [rscript, *(str(folder / name) for name in ("fit.R", "data.csv", "genes.csv"))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return [Row(work, lanes, seconds, "glmmTMB failed or is not there", "-", verdicts)]
    found = json.loads(done.stdout)
    words, _ = agreement(fits.logLik[:sample], np.array(found["logLik"]), 1e-5)
    ratio = scaled(found["seconds"], lanes, sample) / seconds
    return [Row(work, lanes, seconds, "glmmTMB", f"{ratio:.1f}", f"{words}; {verdicts}")]


def verbagg(quick: bool, repeats: int) -> list[Row]:
    """Refits of crossed binary data beside glmm's loop."""
    import mixedlm_jax as mlm

    lanes = 20 if quick else 200
    data = mlm.load_verbagg()
    model = mlm.glmer(VERBAGG, data, "binomial")
    Y = model.simulate(lanes, seed=3).to_numpy()
    fits, seconds = best(lambda: model.refit_many(Y, progress=False), repeats)
    work = f"VerbAgg, {len(data)} rows, 316 x 24 crossed"
    verdicts = f"{int(np.sum(~fits.ok))} not ok"
    if importlib.util.find_spec("glmm") is None:
        return [Row(work, lanes, seconds, "glmm is not installed", "-", verdicts)]
    theirs = data.assign(id=data["id"].astype(str), item=data["item"].astype(str))
    sample = 5 if quick else 20
    values, loop = glmm_loop(
        theirs,
        VERBAGG,
        lambda y: {"y": y},
        Y[:, :sample],
        {"beta": list(model.fit.beta), "theta": list(model.fit.theta)},
        "hessian",
    )
    words, _ = agreement(fits.logLik[:sample], values, 1e-3)
    ratio = scaled(loop, lanes, sample) / seconds
    return [Row(work, lanes, seconds, "glmm", f"{ratio:.1f}", f"{words}; {verdicts}")]


def powercurve(quick: bool, repeats: int) -> list[Row]:
    """A whole power curve in a new process, with and without programs kept from an earlier one."""
    import mixedlm_jax as mlm

    nsim = 100 if quick else 1_000
    root = str(Path(mlm.__file__).parents[1])
    spent = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": root, "MIXEDLM_JAX_CACHE": folder}
        for _ in range(2):
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", POWER.replace("NSIM", str(nsim))],
                check=True,
                capture_output=True,
                env=environment,
            )
            spent.append(time.perf_counter() - begun)
    work = "powerCurve of cbpp, 6 effect sizes, a new process, import included"
    return [
        Row(work, 6 * nsim, spent[1], "itself with nothing kept", f"{spent[0] / spent[1]:.1f}", "-")
    ]


CASES: dict[str, Callable[[bool, int], list[Row]]] = {
    "cbpp": cbpp,
    "genes": genes,
    "verbagg": verbagg,
    "powercurve": powercurve,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the lanes")
    parser.add_argument("--case", choices=CASES, action="append", help="only these")
    parser.add_argument("--repeats", type=int, default=3, help="warm calls, the best counts (3)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    import jax

    device = jax.devices()[0]
    print(f"{args.threads} threads, {len(jax.local_devices())} x {device.device_kind}\n")
    print("| work | fits | seconds | fits/s | beside | ratio | checked |")
    print("|---|---|---|---|---|---|---|")
    short = False
    for name in args.case or CASES:
        for row in CASES[name](args.quick, args.repeats):
            short |= "LOWER" in row.checked
            print(
                f"| {row.work} | {row.lanes:,} | {row.seconds:.2f} | "
                f"{row.lanes / row.seconds:,.0f} | {row.rival} | {row.ratio} | {row.checked} |",
                flush=True,
            )
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
