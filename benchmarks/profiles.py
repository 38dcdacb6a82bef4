"""Profile intervals of all parameters of VerbAgg, beside lme4's `profile` in one run.

    python benchmarks/profiles.py [--without-lme4]

Prints seconds of the second call (everything compiled) and of lme4 1.1's `profile` of the same
model, and how far the intervals are apart in units of lme4's widths. lme4 takes minutes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

import mixedlm_jax as mlm

FORMULA = "y ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)"
SCRIPT = """
suppressMessages(library(lme4))
d <- read.csv(commandArgs(trailingOnly = TRUE)[1], stringsAsFactors = TRUE)
d$id <- factor(d$id); d$item <- factor(d$item)
m <- glmer({formula}, d, binomial)
seconds <- system.time(p <- profile(m, signames = FALSE))
found <- cbind(confint(p), cpu = seconds[1], elapsed = seconds[3])
write.csv(found, commandArgs(trailingOnly = TRUE)[2])
"""


def ours(data: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    model = mlm.glmer(FORMULA, data, "binomial")
    model.confint(method="profile")
    before = time.perf_counter()
    found = model.confint(method="profile")
    return found, time.perf_counter() - before


def lme4s(data: pd.DataFrame) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        frame, script, answer = (Path(folder) / name for name in ("d.csv", "p.R", "a.csv"))
        data.to_csv(frame, index=False)
        script.write_text(SCRIPT.format(formula=FORMULA))
        subprocess.run(["Rscript", str(script), str(frame), str(answer)], check=True)
        return pd.read_csv(StringIO(answer.read_text()), index_col=0)


def main() -> None:
    data = mlm.load_verbagg()
    found, seconds = ours(data)
    print(found.round(4))
    print(f"mixedlm_jax: {seconds:.2f} s")
    if "--without-lme4" in sys.argv or shutil.which("Rscript") is None:
        return
    theirs = lme4s(data)
    limits = theirs.iloc[:, :2].loc[found.index].to_numpy()
    apart = np.abs(found.to_numpy() - limits) / (limits[:, 1:] - limits[:, :1])
    print(f"lme4: {theirs['elapsed'].iloc[0]:.1f} s, {theirs['cpu'].iloc[0]:.1f} s of processor")
    ratio = theirs["elapsed"].iloc[0] / seconds
    print(f"ratio {ratio:.0f}; limits apart by at most {apart.max():.4f} widths")


if __name__ == "__main__":
    main()
