"""Cold start: what a new process takes to import, load cbpp, fit it and print the summary.

    python benchmarks/cold.py

Three ways of doing that take turns, `--rounds` of them, one process at a time: mixedlm_jax with an
empty folder for compiled programs, mixedlm_jax with a filled one, and `Rscript` with lme4 (skipped
and said to be where there is none). A round before the first fills the system's file cache and is
not counted. All three must reach the same log-likelihood. The time is that of the whole process;
the stages are clocked inside it.
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

FIT = """
import json, sys, time
clock = time.perf_counter
times = [clock()]
import jax, pandas
times.append(clock())
import mixedlm_jax as mlm
times.append(clock())
data = mlm.load_cbpp()
times.append(clock())
model = mlm.glmer("incidence / size ~ period + (1 | herd)", data, family="binomial")
times.append(clock())
print(model.summary())
times.append(clock())
stages = [later - earlier for earlier, later in zip(times, times[1:])]
print(json.dumps([float(model.logLik()), *stages]), file=sys.stderr)
"""
LME4 = """
suppressPackageStartupMessages(library(lme4))
model <- glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, binomial)
print(summary(model))
cat(as.numeric(logLik(model)), file = stderr())
"""
STAGES = ("jax and pandas", "mixedlm_jax", "data", "fit", "summary")
TOLERANCE = 1e-3  # lme4 stops 3e-4 short of the optimum


def timed(command: list[str], folder: Path | None) -> tuple[float, str]:
    """Seconds of a whole process, and what it wrote to its standard error."""
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # byte code is kept, as pip installs it
    if folder is not None:
        environment["MIXEDLM_JAX_CACHE"] = str(folder)
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return time.perf_counter() - begun, done.stderr


def ours(folder: Path) -> tuple[float, list[float]]:
    """Seconds, log-likelihood and stages."""
    seconds, said = timed([sys.executable, "-c", FIT], folder)
    return seconds, json.loads(said.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds

    rscript = shutil.which("Rscript")
    whole: dict[str, list[float]] = {}
    stages: dict[str, list[list[float]]] = {}
    reached: set[float] = set()
    with tempfile.TemporaryDirectory() as scratch:
        filled = Path(scratch, "filled")
        for number in range(rounds + 1):
            empty = Path(scratch, f"empty{number}")
            for name, folder in (("nothing kept", empty), ("programs kept", filled)):
                seconds, (value, *parts) = ours(folder)
                reached.add(value)
                if number:
                    whole.setdefault(name, []).append(seconds)
                    stages.setdefault(name, []).append(parts)
            if rscript:
                seconds, said = timed([rscript, "-e", LME4], None)
                reached.add(float(said.split()[-1]))
                if number:
                    whole.setdefault("lme4", []).append(seconds)

    if max(reached) - min(reached) > TOLERANCE:
        print(f"the log-likelihoods differ: {sorted(reached)}")
        return 1
    unit = statistics.median(whole.get("lme4", [1.0]))
    print(f"{'':14}{'seconds':>9}" + (f"{'/ lme4':>9}" if rscript else ""))
    for name, values in whole.items():
        middle = statistics.median(values)
        print(f"{name:14}{middle:9.2f}" + (f"{middle / unit:9.2f}" if rscript else ""))
    if not rscript:
        print("lme4 was not measured: there is no Rscript")
    print(f"\n{'seconds':14}" + "".join(f"{stage:>16}" for stage in STAGES))
    for name, lists in stages.items():
        middles = [statistics.median(column) for column in zip(*lists, strict=True)]
        print(f"{name:14}" + "".join(f"{middle:16.3f}" for middle in middles))
    ratios = [(parts[0] + parts[1]) / parts[0] for parts in stages["programs kept"]]
    print(f"\nimport of mixedlm_jax / import of jax and pandas: {statistics.median(ratios):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
