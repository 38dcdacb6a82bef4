"""When does a GPU pay? Value, gradient and estimates, one and many, by device and precision.

    python benchmarks/devices.py                        # every device kind there is; minutes
    python benchmarks/devices.py --quick                # small sizes only
    python benchmarks/devices.py --platform cpu --dtype float64 --rows 10000 --lanes 64

Fills a markdown table of `benchmarks/RESULTS.md`: milliseconds of the second and later calls, the
fastest of `--repeats`, everything compiled and the arrays on the device; in brackets the ratio to
the CPU in float64, where that is among them. A solve in float32 ends where float32 can tell: the
table says how far from float64's estimates, in standard errors.

    grouped   binomial, a slope, n / 20 groups with correlated intercepts and slopes
    crossed   binomial, n / 25 persons x n / 250 items (at most 1,000), S formed
    lanes     as many responses of cbpp (56 rows), solved together by vmap

On a GPU: pip install "mixedlm_jax[cuda]", then the first line.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

import mixedlm_jax as mlm
from mixedlm_jax import functional as mf

ROWS, LANES = (1_000, 10_000, 100_000, 1_000_000), (64, 512, 4_096)
QUICK_ROWS, QUICK_LANES = (1_000, 10_000), (64, 512)
FORMULAS = {
    "grouped": "y ~ x + (1 + x | g)",
    "crossed": "y ~ x + (1 | person) + (1 | item)",
}
CBPP = "incidence / size ~ period + (1 | herd)"


def grouped(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    g, x = rng.permutation(n) % (n // 20), rng.normal(size=n)
    effects = rng.normal(size=(2, n // 20)) * np.array([[0.8], [0.4]])
    eta = -0.5 + 0.5 * x + effects[0, g] + effects[1, g] * x
    return pd.DataFrame({"y": rng.binomial(1, 1 / (1 + np.exp(-eta))), "x": x, "g": g})


def crossed(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    persons, items = n // 25, min(n // 250, 1_000)
    person, item = rng.integers(persons, size=n), rng.integers(items, size=n)
    x = rng.normal(size=n)
    eta = 0.3 * x + rng.normal(size=persons)[person] + 0.7 * rng.normal(size=items)[item]
    y = rng.binomial(1, 1 / (1 + np.exp(-eta)))
    return pd.DataFrame({"y": y, "x": x, "person": person, "item": item})


FRAMES: dict[str, Callable[[int], pd.DataFrame]] = {"grouped": grouped, "crossed": crossed}


def fastest(function: Callable[..., Any], arguments: tuple, repeats: int) -> tuple[Any, float]:
    """What a function returns, and the shortest of its later calls in seconds."""
    result = jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - begun)
    return result, min(seconds)


def standard_errors(problem: mf.Problem, params: mf.Params) -> np.ndarray:
    hessian = jax.jit(jax.hessian(lambda x: -mf.log_likelihood(problem.split(x), problem)))
    return np.sqrt(np.diag(np.linalg.inv(np.asarray(hessian(params.flat)))))


value = jax.jit(mf.log_likelihood)
gradient = jax.jit(jax.grad(mf.log_likelihood))
solve = jax.jit(mf.solve)


@jax.jit
def solve_lanes(y: jax.Array, problem: mf.Problem, start: mf.Params) -> mf.Optimum:
    return jax.vmap(lambda response: mf.solve(problem.replace(y=response), start))(y)


def model_rows(work: str, n: int, device: jax.Device, dtype: str, repeats: int) -> list[dict]:
    """One line each for value, gradient and solve."""
    problem = mf.make_problem(FORMULAS[work], FRAMES[work](n), "binomial")
    start = mf.init(problem)
    problem, start = jax.device_put((problem, start), device)
    lines = []
    for name, function, arguments in (
        ("value", value, (start, problem)),
        ("gradient", gradient, (start, problem)),
        ("solve", solve, (problem, start)),
    ):
        found, seconds = fastest(function, arguments, repeats)
        line = {"work": work, "size": n, "what": name, "seconds": seconds}
        if name == "solve":
            line |= {"code": int(found.code), "estimates": np.asarray(found.params.flat).tolist()}
            if dtype == "float64":
                line["errors"] = standard_errors(problem, found.params).tolist()
        lines.append(line)
    return lines


def lane_rows(lanes: int, device: jax.Device, repeats: int) -> list[dict]:
    problem = mf.make_problem(CBPP, mlm.load_cbpp(), "binomial")
    start = mf.init(problem)
    rng = np.random.default_rng(3)
    y = rng.binomial(mlm.load_cbpp()["size"], 0.15, size=(lanes, 56)).astype(problem.y.dtype)
    arguments = jax.device_put((y, problem, start), device)
    found, seconds = fastest(solve_lanes, arguments, repeats)
    ok = float(np.mean(np.asarray(found.code) >= 0))
    return [{"work": "lanes", "size": lanes, "what": "solve", "seconds": seconds, "ok": ok}]


def measured(args: argparse.Namespace) -> list[dict]:
    """Every line of the table."""
    lines = []
    for kind in args.platform:
        device = jax.devices(kind)[0]
        for dtype in args.dtype:
            with jax.enable_x64(dtype == "float64"):
                found = []
                for work in args.work:
                    if work == "lanes":
                        for lanes in args.lanes:
                            found += lane_rows(lanes, device, args.repeats)
                    else:
                        for n in args.rows:
                            found += model_rows(work, n, device, dtype, args.repeats)
            lines += [{"device": device.device_kind, "platform": kind, "dtype": dtype} | line
                      for line in found]  # fmt: skip
            jax.clear_caches()
    return lines


def distance(line: dict, reference: dict | None) -> str:
    """How far estimates are from float64's, in standard errors."""
    if "ok" in line:
        return f"{line['ok']:.1%} ok"
    if reference is None or "errors" not in reference or "estimates" not in line:
        return ""
    gap = np.abs(np.array(line["estimates"]) - np.array(reference["estimates"]))
    return f"{np.max(gap / np.array(reference['errors'])):.0e} SE, code {line['code']}"


def table(lines: list[dict]) -> str:
    """The lines in markdown: sizes and functions down, devices and precisions across."""
    columns = list(dict.fromkeys((line["platform"], line["dtype"]) for line in lines))
    rows = list(dict.fromkeys((line["work"], line["size"], line["what"]) for line in lines))
    by = {(line["platform"], line["dtype"], line["work"], line["size"], line["what"]): line
          for line in lines}  # fmt: skip
    heads = [f"{kind} {dtype}, ms" for kind, dtype in columns]
    out = [f"| work | size | | {' | '.join(heads)} | float32's estimates |",
           "|---" * (4 + len(columns)) + "|"]  # fmt: skip
    for row in rows:
        base = by.get(("cpu", "float64", *row))
        cells, far = [], ""
        for column in columns:
            line = by[(*column, *row)]
            cell = f"{1e3 * line['seconds']:.3g}"
            if base is not None and line is not base:
                cell += f" ({line['seconds'] / base['seconds']:.2f})"
            cells.append(cell)
            if column[1] == "float32":
                far = distance(line, base)
        out.append(f"| {row[0]} | {row[1]:,} | {row[2]} | {' | '.join(cells)} | {far} |")
    return "\n".join(out)


def main() -> int:
    kinds = list(dict.fromkeys(["cpu", jax.default_backend()]))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--platform", nargs="+", default=kinds, help="cpu, gpu (all there are)")
    parser.add_argument("--dtype", nargs="+", default=["float64", "float32"])
    parser.add_argument("--work", nargs="+", default=[*FRAMES, "lanes"])
    parser.add_argument("--rows", nargs="+", type=int)
    parser.add_argument("--lanes", nargs="+", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="the smaller sizes")
    parser.add_argument("--json", type=Path, help="where to put every figure")
    args = parser.parse_args()
    args.rows = args.rows or (QUICK_ROWS if args.quick else ROWS)
    args.lanes = args.lanes or (QUICK_LANES if args.quick else LANES)
    lines = measured(args)
    devices = [f"{kind} {jax.devices(kind)[0].device_kind}" for kind in args.platform]
    print(f"Python {platform.python_version()}, jax {jax.__version__}; {', '.join(devices)}\n")
    print(table(lines))
    if args.json:
        args.json.write_text(json.dumps(lines, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
