"""`glmer_nb` beside glmmTMB: negative binomial fits with an estimated shape.

    python benchmarks/counts.py

Whole calls, warm: the median of `--repeats` calls after a first one that does not count, glmmTMB in
a process of its own, both on one BLAS thread. A ratio is printed only where the log-likelihoods
agree to 1e-6. Without `Rscript` and glmmTMB the comparison is skipped and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORK = {
    "salamanders": "count ~ spp + mined + (1 | site)",
    "epil": "y ~ lbase * trt + lage + V4 + (1 | subject)",
}
TOLERANCE = 1e-6
R = """
suppressMessages(library(glmmTMB))
arguments <- commandArgs(trailingOnly = TRUE)
data <- read.csv(arguments[1], stringsAsFactors = TRUE)
for (name in c("site", "subject")) if (name %in% names(data)) data[[name]] <- factor(data[[name]])
formula <- as.formula(arguments[2])
seconds <- numeric(0)
for (i in 0:as.integer(arguments[3])) {
  begun <- proc.time()[["elapsed"]]
  model <- glmmTMB(formula, data, family = nbinom2)
  if (i > 0) seconds <- c(seconds, proc.time()[["elapsed"]] - begun)
}
cat(sprintf("[%.10f, %.6f]", as.numeric(logLik(model)), median(seconds)))
"""


def ours(name: str, repeats: int) -> tuple[float, float]:
    """Log-likelihood and median seconds, in this process."""
    import mixedlm_jax as mlm

    data = getattr(mlm, f"load_{name}")()
    model = mlm.glmer_nb(WORK[name], data)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        model = mlm.glmer_nb(WORK[name], data)
        seconds.append(time.perf_counter() - begun)
    return float(model.logLik()), statistics.median(seconds)


def theirs(rscript: str, name: str, repeats: int) -> tuple[float, float]:
    """Log-likelihood and median seconds of glmmTMB on the same rows."""
    import mixedlm_jax as mlm

    with tempfile.TemporaryDirectory() as scratch:
        data, script = Path(scratch, "data.csv"), Path(scratch, "fit.R")
        getattr(mlm, f"load_{name}")().to_csv(data, index=False)
        script.write_text(R)
        command = [rscript, str(script), str(data), WORK[name], str(repeats)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    value, seconds = json.loads(done.stdout)
    return value, seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    rscript = shutil.which("Rscript")
    short = False
    print(f"{'work':14}{'ours, s':>10}{'glmmTMB, s':>12}{'times':>8}{'log-likelihoods apart':>24}")
    for name in WORK:
        value, seconds = ours(name, repeats)
        if rscript is None:
            print(f"{name:14}{seconds:10.4f}   glmmTMB was not measured: there is no Rscript")
            continue
        other, its = theirs(rscript, name, repeats)
        apart = value - other
        short |= apart < -TOLERANCE
        times = f"{its / seconds:8.1f}" if abs(apart) < TOLERANCE else f"{'-':>8}"
        print(f"{name:14}{seconds:10.4f}{its:12.4f}{times}{apart:24.1e}")
    return int(short)


if __name__ == "__main__":
    sys.exit(main())
