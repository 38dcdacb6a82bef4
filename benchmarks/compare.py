"""mixedlm_jax beside every rival that is installed, on the work of work.py.

    python benchmarks/compare.py --write        # everything: an hour or two; fills RESULTS.md
    python benchmarks/compare.py --quick        # five small models, a few minutes
    python benchmarks/compare.py --work nested --engine ours --engine glmm
    python benchmarks/compare.py --work nested --write      # that part of RESULTS.md anew

Every fit runs in a process of its own, one at a time, on the same data, pinned to `--threads`
cores where the system can do that, with the usual variables for BLAS, OpenMP and Rayon set to
match. "cold" is the first call of a process (compilation included, imports not), "warm" the median
of the calls after it; an engine that compiles nothing and took over a minute is not asked twice. A
time counts only where the log-likelihood is within the work's tolerance (1e-4) of the best:
otherwise the engine is marked "short". A rival that takes longer than `--limit` seconds for one fit
is stopped. Against a rival that was stopped or fell short an aim holds where our time is small
enough beside the time it did take, which is less than it needs; otherwise nothing is said.

The exit status is 1 when mixedlm_jax falls short, fails or misses an aim; all aims are listed,
those that could not be judged for want of a rival too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import queue
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engines import ENGINES, command, installed, obstacle
from work import WORK, Aim, NotHere, Work

HERE = Path(__file__).resolve().parent
RESULTS, FIGURES, PICTURE = HERE / "RESULTS.md", HERE / "results.json", HERE / "rows.png"
MARKS = ("<!-- compare -->\n", "<!-- end of compare -->\n")
LIMIT_OF_OURS = 1800.0
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
)

Figures = dict[str, Any]
Results = dict[str, dict[str, Figures]]  # work -> engine -> figures


# Running


def environment(threads: int) -> dict[str, str]:
    """This process's environment with so many threads, and this checkout first on the path."""
    env = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), env.get("PYTHONPATH")]))
    return env


def pinned(threads: int) -> str:
    """Pin this process and its children to so many cores; say in words what was done."""
    if not hasattr(os, "sched_setaffinity"):
        return f"{threads} threads by environment variable, not pinned"
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    return f"{len(cores)} threads, pinned to {len(cores)} cores"


def run(name: str, key: str, scratch: Path, args: argparse.Namespace) -> Figures:
    """One engine on one work: its figures, or why there are none."""
    reason = obstacle(name, WORK[key])
    if reason is not None:
        return {"skipped": reason}
    try:
        started = command(name, key, scratch, args.repeats)
    except NotHere as error:
        return {"skipped": str(error)}
    limit = LIMIT_OF_OURS if name == "ours" else args.limit
    process = subprocess.Popen(
        started,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(args.threads) | {"MIXEDLM_JAX_CACHE": str(scratch / "programs" / key)},
        start_new_session=True,
    )
    found: Figures = {"version": installed(name), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    warm: list[float] = []
    lines: queue.Queue[str | None] = queue.Queue()
    errors: list[str] = []
    readers = [
        threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True),
        threading.Thread(target=lambda: errors.extend(process.stderr or ()), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        while (line := lines.get(timeout=limit)) is not None:
            said = _figures_in(line)
            warm += [said.pop("warm_s")] if "warm_s" in said else []
            found |= said
    except queue.Empty:
        found |= {"stopped": f"more than {limit:g} s for one fit", "limit_s": limit}
    finally:
        if process.poll() is None:
            if "stopped" in found:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    readers[1].join(timeout=5.0)
    if process.returncode and "stopped" not in found:
        found["error"] = (_last(errors) or f"exit status {process.returncode}")[:200]
    if warm or "cold_s" in found:
        found["warm_all_s"] = warm
        found["warm_s"] = statistics.median(warm) if warm else found["cold_s"]
    if "design_s" in found:
        found["design_share"] = found["design_s"] / found["warm_s"]
    return found


def _forward(stream: Any, lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _figures_in(line: str) -> Figures:
    """The figures of a line of JSON; an engine may print other things."""
    if not line.startswith("{"):
        return {}
    return dict(json.loads(line))


def _last(errors: list[str]) -> str:
    told = [line.strip() for line in errors if line.strip()]
    return told[-1] if told else ""


# Judging


def best_of(found: dict[str, Figures]) -> float:
    """The highest log-likelihood reached, of the engines that print a comparable one.

    GPBoost's is estimated where its solver is iterative, and on grouseticks it prints 1.6 more than
    four engines agree is the maximum.
    """
    reached = [f["logLik"] for n, f in found.items() if "logLik" in f and ENGINES[n].comparable]
    return max(reached, default=-math.inf)


def is_short(figures: Figures, best: float, tolerance: float) -> bool:
    """Whether a time does not count, for a log-likelihood below the best."""
    return "logLik" in figures and not figures["logLik"] >= best - tolerance


def judge(aim: Aim, key: str, results: Results) -> tuple[float | None, bool | None]:
    """The figure an aim is about, and whether it holds; None for what cannot be said."""
    work, found = WORK[key], results[key]
    ours = found.get("ours", {})
    if aim.figure not in ours:
        return None, False if ours and "skipped" not in ours else None
    best = best_of(found)
    if is_short(ours, best, work.tolerance):
        return None, False
    figure = float(ours[aim.figure])
    if aim.over is None:
        return figure, figure <= aim.most
    other = results.get(aim.over, {}).get("ours", {})
    if aim.over in ENGINES:
        other = found.get(aim.over, {})
    # what a rival that was stopped or fell short took is less than it needs
    most_of_it = other.get("warm_s", other.get("limit_s"))
    if most_of_it is None:
        return None, None
    ratio = figure / float(most_of_it)
    holds = ratio <= aim.most
    if "stopped" in other or (aim.over in ENGINES and is_short(other, best, work.tolerance)):
        return ratio, holds or None
    return ratio, holds


def aims_of(results: Results) -> list[tuple[str, Aim, float | None, bool | None]]:
    """Every aim of the works that were run, with its figure and whether it holds."""
    return [(key, aim, *judge(aim, key, results)) for key in results for aim in WORK[key].aims]


# Telling


def describe(name: str, figures: Figures, found: dict[str, Figures], work: Work) -> list[str]:
    """The cells of an engine's row: engine, cold, warm, ratio, log-likelihood, memory, remark."""
    remark = figures.get("skipped") or figures.get("stopped") or figures.get("error") or ""
    if "logLik" not in figures:
        return [name, "", "", "", "", "", remark]
    best = best_of(found)
    short = is_short(figures, best, work.tolerance)
    base = found.get("ours", {}).get("warm_s")
    ratio = "" if short or base is None else f"{base / figures['warm_s']:.3g}"
    below = best - figures["logLik"]
    words = [f"short by {below:.2g}" if short else "", remark]
    if -below > work.tolerance:
        words.append(f"prints {-below:.2g} more than the maximum")
    if not figures["warm_all_s"] and not remark:
        words.append("one fit")
    return [
        name,
        f"{figures['cold_s']:.3g}",
        f"{figures['warm_s']:.3g}",
        ratio,
        f"{figures['logLik']:.6f}",
        f"{figures['peak_MiB']:.0f}",
        ", ".join(filter(None, words)),
    ]


HEADER = ("engine", "cold, s", "warm, s", "ours / it", "log-likelihood", "peak, MiB", "")


def verdict(holds: bool | None) -> str:
    """Pass, FAIL, or that it could not be judged."""
    return {True: "pass", False: "FAIL", None: "not judged"}[holds]


def table(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def document(results: Results, setting: list[str]) -> str:
    """The results in Markdown: setting, aims, and a table for each work."""
    lines = [*setting, "", "### Aims", ""]
    rows = [
        [WORK[key].title, aim.words(), "" if figure is None else f"{figure:.3g}", verdict(holds)]
        for key, aim, figure, holds in aims_of(results)
    ]
    lines += table(("work", "aim", "found", ""), rows)
    for key, found in results.items():
        work = WORK[key]
        dates = sorted({str(f["date"]) for f in found.values() if "date" in f})
        lines += ["", f"### {work.title}", "", ", ".join([f"`{work.formula}`", *dates]), ""]
        lines += table(HEADER, [describe(n, f, found, work) for n, f in found.items()])
        parts = found.get("ours", {})
        if "arrays_s" in parts:
            lines += [
                "",
                f"From prepared arrays {parts['arrays_s']:.3g} s; "
                f"data to design {100 * parts['design_share']:.0f}% of the whole call.",
            ]
    return "\n".join(lines) + "\n"


def picture(results: Results, path: Path) -> None:
    """Rows against warm seconds of one grouping factor, log-log, a line an engine."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.6), layout="constrained")
    for name in ENGINES:
        points = [
            (found[name]["rows"], found[name]["warm_s"])
            for key, found in results.items()
            if WORK[key].series == "one factor" and "warm_s" in found.get(name, {})
        ]
        if points:
            label = "mixedlm_jax" if name == "ours" else name
            axes.loglog(*zip(*sorted(points), strict=True), marker="o", label=label)
    axes.set(xlabel="rows", ylabel="seconds, warm", title="one grouping factor, 20 rows a group")
    axes.legend()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def filled(page: str, text: str) -> str:
    """The page with the text between the two marks."""
    first, last = map(re.escape, MARKS)
    return re.sub(f"({first}).*({last})", lambda m: m[1] + text + m[2], page, flags=re.DOTALL)


def setting(threads: str, args: argparse.Namespace) -> list[str]:
    """When, where and with what."""
    there = [f"{name} {installed(name)}" for name in ENGINES if installed(name)]
    missing = [name for name in ENGINES if not installed(name)]
    notes = [f"{name} {engine.note}" for name, engine in ENGINES.items() if engine.note]
    lines = [
        f"`python benchmarks/compare.py --write`: {threads}, "
        f"{platform.machine()}, Python {platform.python_version()}; median of up to "
        f"{args.repeats} warm fits. mixedlm_jax limits BLAS to one thread during a fit.",
        f"Engines: {', '.join(there).replace('ours', 'ours: mixedlm_jax')} ({'; '.join(notes)}).",
    ]
    if missing:
        lines.append(f"Not installed, and skipped: {', '.join(missing)}.")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small models only")
    parser.add_argument("--work", choices=WORK, action="append", help="only these")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="only these")
    parser.add_argument("--repeats", type=int, default=7, help="warm fits a process (7)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds a rival's fit may take")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, help="write the raw figures to this file")
    parser.add_argument("--write", action="store_true", help="fill RESULTS.md, json and picture")
    args = parser.parse_args()

    threads = pinned(args.threads)
    said = setting(threads, args)
    print("\n".join(said))
    results: Results = {}
    with tempfile.TemporaryDirectory() as folder:
        for key in args.work or [key for key, work in WORK.items() if work.quick or not args.quick]:
            print(f"\n{WORK[key].title}: {WORK[key].formula}", flush=True)
            found = results[key] = {}
            for name in args.engine or ENGINES:
                found[name] = run(name, key, Path(folder), args)
            for name, figures in found.items():
                cells = describe(name, figures, found, WORK[key])
                print("  " + " ".join(f"{c:>10}" for c in cells), flush=True)
            (Path(folder) / f"{key}.rds").unlink(missing_ok=True)
    print()
    fallen = False
    for key, aim, figure, holds in aims_of(results):
        shown = "" if figure is None else f": {figure:.3g}"
        print(f"{verdict(holds):>10}  {WORK[key].title}, {aim.words()}{shown}")
        fallen |= holds is False
    for key, found in results.items():
        ours = found.get("ours", {})
        if "error" in ours or "stopped" in ours or _short_of_best(key, found):
            print(f"      FAIL  {WORK[key].title}: mixedlm_jax failed or fell short")
            fallen = True
    if args.json:
        args.json.write_text(as_json(said, results))
    if args.write:
        results = with_earlier(results)
        FIGURES.write_text(as_json(said, results) + "\n")
        picture(results, PICTURE)
        text = document(results, said) + f"\n![rows against seconds]({PICTURE.name})\n"
        RESULTS.write_text(filled(RESULTS.read_text("utf-8"), text), "utf-8")
    return int(fallen)


def as_json(said: list[str], results: Results) -> str:
    """The raw figures."""
    return json.dumps({"setting": said, "results": results}, indent=1)


def with_earlier(results: Results) -> Results:
    """The results in the order of `WORK`, works that were not run now as they were written last."""
    earlier = json.loads(FIGURES.read_text())["results"] if FIGURES.exists() else {}
    known = earlier | results
    return {key: known[key] for key in WORK if key in known}


def _short_of_best(key: str, found: dict[str, Figures]) -> bool:
    return is_short(found.get("ours", {}), best_of(found), WORK[key].tolerance)


if __name__ == "__main__":
    sys.exit(main())
