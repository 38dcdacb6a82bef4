"""The engines: how each fits a `Work`, in a process of its own.

    python benchmarks/engines.py ENGINE WORK SCRATCH REPEATS

writes a line of JSON after each fit, so that whoever waits knows that it goes on: the first is
"cold" (compilation included, imports not), those after it are warm. R's engines read a csv file,
which is not timed. Peak memory is that of the whole process, data included.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from work import WORK, Work

# Seconds of warm fits after which no further one is begun.
ENOUGH = 60.0


@dataclass(frozen=True)
class Engine:
    """One way to fit a model.

    package: of Python's or R's. most_rows: beyond it the engine is not tried. comparable: whether
    the log-likelihood it prints is one that others may be measured by.
    """

    package: str
    language: str
    most_rows: int
    note: str = ""
    comparable: bool = True


ENGINES = {
    "ours": Engine("mixedlm_jax", "Python", 10_000_000),
    "glmm": Engine("glmm", "Python", 10_000_000, "without its likelihood-ratio refits"),
    "gpboost": Engine(
        "gpboost", "Python", 1_000_000, "standard errors of coefficients included", False
    ),
    "mixedlm": Engine("mixedlm", "Python", 100_000),
    "lme4": Engine("lme4", "R", 1_000_000),
    "glmmTMB": Engine("glmmTMB", "R", 1_000_000),
}


@cache
def installed(name: str) -> str | None:
    """The version of an engine's package, None where it is not there."""
    engine = ENGINES[name]
    if engine.language == "Python":
        if importlib.util.find_spec(engine.package) is None:
            return None
        try:
            return importlib.metadata.version(engine.package)
        except importlib.metadata.PackageNotFoundError:
            return "checkout"
    rscript = shutil.which("Rscript")
    if rscript is None:
        return None
    asked = [rscript, "-e", f'cat(as.character(packageVersion("{engine.package}")))']
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def obstacle(name: str, work: Work) -> str | None:
    """Why an engine is not tried on a work, None where it is."""
    engine = ENGINES[name]
    if installed(name) is None:
        return f"{engine.package} is not installed"
    if work.rows > engine.most_rows:
        return f"not tried beyond {engine.most_rows:,} rows"
    if work.family == "nbinom2" and name in ("lme4", "mixedlm"):
        return "its negative binomial is another procedure"
    return dict(work.without).get(name)


# Python's engines: a function that fits and returns the log-likelihood

Fitter = Callable[[pd.DataFrame], float]


def _ours(work: Work) -> Fitter:
    import mixedlm_jax as mlm

    return lambda frame: float(
        mlm.glmer(work.formula, frame, work.family, nAGQ=work.nAGQ, weights=work.weights).logLik()
    )


def _glmm(work: Work) -> Fitter:
    import glmm

    def fit(frame: pd.DataFrame) -> float:
        return float(
            glmm.fit(
                frame,
                work.formula,
                family={"nbinom2": "negativebinomial"}.get(work.family, work.family),
                weights=None if work.weights is None else frame[work.weights],
                nagq=work.nAGQ,
                anova_test="Wald",
            ).loglik
        )

    return fit


def _gpboost(work: Work) -> Fitter:
    import formulaic
    import gpboost

    left, _, right = work.formula.partition("~")
    fixed = " + ".join(term for term in right.split(" + ") if "|" not in term)
    groups = [part.partition("|")[2].strip() for part in _between(right, "(", ")")]
    likelihood = {
        "binomial": "binomial_logit" if work.weights else "bernoulli_logit",
        "nbinom2": "negative_binomial",
    }.get(work.family, work.family)

    def fit(frame: pd.DataFrame) -> float:
        X = formulaic.model_matrix(fixed, frame).to_numpy(float)
        model = gpboost.GPModel(
            likelihood=likelihood,
            group_data=frame[groups].astype(str).to_numpy(),
            matrix_inversion_method=work.solver,
            weights=None if work.weights is None else frame[work.weights].to_numpy(float),
        )
        model.fit(frame[left.strip()].to_numpy(float), X)
        model.get_coef(std_err=True)
        return -float(model.get_current_neg_log_likelihood())

    return fit


def _between(text: str, opening: str, closing: str) -> list[str]:
    return [part.partition(closing)[0] for part in text.split(opening)[1:]]


def _mixedlm(work: Work) -> Fitter:
    import mixedlm

    family = {"binomial": mixedlm.families.Binomial, "poisson": mixedlm.families.Poisson}

    def fit(frame: pd.DataFrame) -> float:
        model = mixedlm.glmer(
            work.formula, frame, family[work.family](), nAGQ=work.nAGQ, weights=work.weights
        )
        return float(model.logLik().value)

    return fit


FITTERS: dict[str, Callable[[Work], Fitter]] = {
    "ours": _ours,
    "glmm": _glmm,
    "gpboost": _gpboost,
    "mixedlm": _mixedlm,
}


def parts_of_ours(work: Work, frame: pd.DataFrame, repeats: int) -> dict[str, float]:
    """Median seconds from the frame to the design, and from prepared arrays to the whole fit.

    The fit from arrays is start values, optimum, modes and exact Hessian.
    """
    import jax

    from mixedlm_jax.buckets import padded, row_order
    from mixedlm_jax.call import Call
    from mixedlm_jax.families import resolve
    from mixedlm_jax.fit import fit_problem
    from mixedlm_jax.formula import parse
    from mixedlm_jax.threads import single_blas_thread

    family = resolve(work.family)
    call = Call(parse(work.formula), frame, family, nAGQ=work.nAGQ, weights=work.weights)
    clock = time.perf_counter
    design_s, arrays_s = [], []
    with single_blas_thread(), jax.enable_x64(True):
        for _ in range(repeats):
            begun = clock()
            design, _ = call.build()
            given = call.problem(padded(design, row_order(design)))
            problem = jax.block_until_ready(jax.device_put(given))
            built = clock()
            fit_problem(problem, nAGQ=work.nAGQ)
            design_s.append(built - begun)
            arrays_s.append(clock() - built)
    return {"design_s": statistics.median(design_s), "arrays_s": statistics.median(arrays_s)}


def say(**figures: Any) -> None:
    """A line of JSON."""
    print(json.dumps(figures), flush=True)


def peak_memory() -> float:
    """Largest resident set of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0**2 if sys.platform == "darwin" else 1024.0)


def measure(name: str, work: Work, scratch: Path, repeats: int) -> None:
    """Fit once cold and up to `repeats` times warm."""
    frame = work.frame(scratch)
    begun = time.perf_counter()
    fit = FITTERS[name](work)
    imported = time.perf_counter()
    say(rows=len(frame), import_s=imported - begun)
    value = fit(frame)
    cold = time.perf_counter() - imported
    say(cold_s=cold, logLik=value, peak_MiB=peak_memory())
    if name != "ours" and cold > ENOUGH:  # nothing is compiled at the first call
        return
    first = time.perf_counter()
    for _ in range(repeats):
        begun = time.perf_counter()
        fit(frame)
        say(warm_s=time.perf_counter() - begun, peak_MiB=peak_memory())
        if time.perf_counter() - first > ENOUGH:
            break
    if name == "ours":
        say(**parts_of_ours(work, frame, min(repeats, 3) if work.rows > 10**6 else repeats))


# R's engines

R = """
given <- commandArgs(trailingOnly = TRUE)
engine <- given[1]
suppressMessages(suppressWarnings(library(engine, character.only = TRUE)))
say <- function(...) {
  figures <- c(...)
  parts <- paste0('"', names(figures), '": ', sprintf("%.9f", figures), collapse = ", ")
  cat("{", parts, "}\\n", sep = "")
  flush(stdout())
}
peak <- function() {
  status <- tryCatch(readLines("/proc/self/status"), error = function(e) character(0))
  line <- grep("^VmHWM", status, value = TRUE)
  if (length(line)) as.numeric(gsub("[^0-9]", "", line)) / 1024 else NaN
}
data <- readRDS(given[2])
formula <- as.formula(given[3])
family <- given[4]
nAGQ <- as.integer(given[5])
repeats <- as.integer(given[6])
w <- if (given[7] == "") rep(1, nrow(data)) else data[[given[7]]]
data$.w <- w
fit <- function() suppressWarnings(suppressMessages(if (engine == "lme4")
  glmer(formula, data, family, nAGQ = nAGQ, weights = .w)
  else glmmTMB(formula, data, family = family, weights = .w)))
seconds <- function() system.time(model <<- fit())[["elapsed"]]
say(rows = nrow(data))
cold <- seconds()
say(cold_s = cold, logLik = as.numeric(logLik(model)), peak_MiB = peak())
spent <- 0
while (repeats > 0 && cold < 60 && spent < 60) {
  warm <- seconds()
  say(warm_s = warm, peak_MiB = peak())
  spent <- spent + warm
  repeats <- repeats - 1
}
"""
R_FRAME = """
given <- commandArgs(trailingOnly = TRUE)
data <- read.csv(given[1], stringsAsFactors = TRUE)
for (name in strsplit(given[3], ",")[[1]]) data[[name]] <- factor(data[[name]])
saveRDS(data, given[2], compress = FALSE)
"""


def r_frame(name: str, work: Work, scratch: Path) -> Path:
    """The frame of a work as R's, written once a run."""
    path = scratch / f"{name}.rds"
    if not path.exists():
        csv = scratch / f"{name}.csv"
        frame = work.frame(scratch)
        groups = [part.partition("|")[2].strip() for part in _between(work.formula, "(", ")")]
        categories = [c for c in frame.columns if frame[c].dtype == "category"]
        frame.to_csv(csv, index=False)
        factors = ",".join(dict.fromkeys([*groups, *categories]))
        command = ["Rscript", "-e", R_FRAME, str(csv), str(path), factors]
        subprocess.run(command, capture_output=True, check=True)
        csv.unlink()
    return path


def command(name: str, key: str, scratch: Path, repeats: int) -> list[str]:
    """What fits `WORK[key]` by an engine in a new process."""
    work = WORK[key]
    if ENGINES[name].language == "Python":
        return [sys.executable, str(Path(__file__)), name, key, str(scratch), str(repeats)]
    script = scratch / "fit.R"
    script.write_text(R)
    return [
        "Rscript",
        str(script),
        name,
        str(r_frame(key, work, scratch)),
        work.formula,
        work.family,
        str(work.nAGQ),
        str(repeats),
        work.weights or "",
    ]


if __name__ == "__main__":
    engine, key, folder, times = sys.argv[1:]
    measure(engine, WORK[key], Path(folder), int(times))
