"""The data sets and models that the engines are compared on.

Frames are the same in every process: shipped data sets, lme4's InstEval (written by R into the
scratch folder of a run), or simulated from a seed, rows in no order.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

Frame = pd.DataFrame
Simulate = Callable[[np.random.Generator], Frame]


class NotHere(Exception):
    """A data set that this machine cannot make; the message says why."""


@dataclass(frozen=True)
class Aim:
    """A limit on one figure of mixedlm_jax.

    figure: a key of its measurements. over: whose warm time it is divided by, an engine's or that
    of mixedlm_jax on another work; None for no one's.
    """

    figure: str
    most: float
    over: str | None = None

    def words(self) -> str:
        subject = {
            "warm_s": "whole call",
            "arrays_s": "from arrays",
            "peak_MiB": "peak memory, MiB",
            "design_share": "data to design, share of the call",
        }[self.figure]
        seconds = " s" if self.over is None and self.figure.endswith("_s") else ""
        return f"{subject} at most {self.most:g}" + (f" x {self.over}" if self.over else seconds)


@dataclass(frozen=True)
class Work:
    """One model of one data set.

    formula: as ours and R have it, `rival_formula` where PyPI's engines spell it differently.
    family: "binomial", "poisson" or "nbinom2". tolerance: log-likelihood units within which a
    time counts. solver: GPBoost's `matrix_inversion_method`. series: the line it belongs to in the
    picture. without: engines that cannot have it, with the reason.
    """

    title: str
    formula: str
    family: str
    frame: Callable[[Path], Frame]
    rows: int
    nAGQ: int = 1
    weights: str | None = None
    tolerance: float = 1e-4
    solver: str = "default"
    series: str | None = None
    aims: tuple[Aim, ...] = ()
    quick: bool = False
    without: tuple[tuple[str, str], ...] = ()


# Shipped data sets


def _shipped(name: str) -> Callable[[Path], Frame]:
    def load(_: Path) -> Frame:
        import mixedlm_jax as mlm

        return getattr(mlm, f"load_{name}")()

    return load


def _contraception(scratch: Path) -> Frame:
    frame = _shipped("contraception")(scratch)
    return frame.assign(age2=frame["age"] ** 2)


# lme4's InstEval, 73,421 lectures

_INSTEVAL = """
library(lme4)
given <- commandArgs(trailingOnly = TRUE)
write.csv(data.frame(
  y = as.integer(InstEval$y >= 4), service = as.character(InstEval$service),
  s = as.character(InstEval$s), d = as.character(InstEval$d),
  ds = paste(InstEval$dept, InstEval$service, sep = ":")
), given[1], row.names = FALSE)
"""


def _insteval(scratch: Path) -> Frame:
    path = scratch / "InstEval.csv"
    if not path.exists():
        rscript = shutil.which("Rscript")
        if rscript is None:
            raise NotHere("InstEval comes with R's lme4, and there is no Rscript")
        done = subprocess.run(
            [rscript, "-e", _INSTEVAL, str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotHere(f"R could not write InstEval: {done.stderr.strip()[-200:]}")
    text = {"service": str, "s": str, "d": str, "ds": str}
    return pd.read_csv(path, dtype=text).astype(dict.fromkeys(text, "category"))


# Simulated


def _simulated(seed: int, simulate: Simulate) -> Callable[[Path], Frame]:
    return lambda _: simulate(np.random.default_rng(seed))


def bernoulli(rng: np.random.Generator, eta: np.ndarray) -> np.ndarray:
    return (rng.random(eta.size) < 1 / (1 + np.exp(-eta))).astype(np.int64)


def _single(n: int) -> Simulate:
    """n binary rows, 20 a group, three covariates."""

    def simulate(rng: np.random.Generator) -> Frame:
        groups = n // 20
        g = rng.integers(groups, size=n)
        x1, x2, x3 = rng.normal(size=(3, n))
        eta = -0.5 + 0.4 * x1 - 0.3 * x2 + 0.2 * x3 + 0.8 * rng.normal(size=groups)[g]
        return Frame({"y": bernoulli(rng, eta), "x1": x1, "x2": x2, "x3": x3, "g": g})

    return simulate


def _nested(rng: np.random.Generator) -> Frame:
    """1,000,000 binary rows: 1,000 regions of 10 schools of 10 rooms."""
    n, regions, schools, rooms = 1_000_000, 1_000, 10, 10
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
    return Frame(
        {"y": bernoulli(rng, eta), "x": x, "region": region, "school": school, "room": room}
    )


def _crossed(subjects: int, items: int) -> Simulate:
    """Binary rows of subjects crossed with items, about ten a subject."""

    def simulate(rng: np.random.Generator) -> Frame:
        n = 10 * subjects
        subject, item = rng.integers(subjects, size=n), rng.integers(items, size=n)
        x = rng.normal(size=n)
        own, asked = rng.normal(size=subjects), 0.7 * rng.normal(size=items)
        eta = 0.3 + 0.5 * x + own[subject] + asked[item]
        return Frame({"y": bernoulli(rng, eta), "x": x, "subject": subject, "item": item})

    return simulate


def _wide(rng: np.random.Generator) -> Frame:
    """2,000 binary rows in 100 groups, 29 covariates."""
    n, groups, p = 2_000, 100, 29
    X = rng.normal(size=(n, p))
    g = rng.integers(groups, size=n)
    eta = X @ (0.2 * rng.normal(size=p)) + 0.8 * rng.normal(size=groups)[g]
    frame = Frame(X, columns=[f"x{j}" for j in range(p)])
    return frame.assign(g=g, y=bernoulli(rng, eta))


def _unbalanced(rng: np.random.Generator) -> Frame:
    """Counts in 5,000 groups of 1 to some hundred rows."""
    sizes = np.ceil(rng.lognormal(mean=1.5, sigma=1.0, size=5_000)).astype(int)
    g = rng.permutation(np.repeat(np.arange(5_000), sizes))
    x = rng.normal(size=len(g))
    eta = 0.2 + 0.3 * x + 0.7 * rng.normal(size=5_000)[g]
    return Frame({"y": rng.poisson(np.exp(eta)), "x": x, "g": g})


_SECONDS = Aim("warm_s", 0.08)
_SMALL = (Aim("arrays_s", 1.0, "glmm"), _SECONDS)
_UNCORRELATED = ("gpboost", "its random slopes are independent of the intercepts")
_NO_NAGQ = (("gpboost", "no quadrature"), ("glmmTMB", "no quadrature"))
_SIZES = {4: 10_000, 5: 100_000, 6: 1_000_000, 7: 10_000_000}
_SINGLE_AIMS = {
    6: (
        Aim("warm_s", 0.4, "glmm"),
        Aim("warm_s", 0.2, "gpboost"),
        Aim("design_share", 0.2),
    ),
    7: (Aim("peak_MiB", 8192.0), Aim("warm_s", 12.0, "single-1e6")),
}

WORK: dict[str, Work] = {
    "cbpp": Work(
        "cbpp",
        "prop ~ period + (1 | herd)",
        "binomial",
        _shipped("cbpp"),
        56,
        weights="size",
        quick=True,
    ),
    "verbagg": Work(
        "VerbAgg, crossed 316 x 24",
        "y ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)",
        "binomial",
        _shipped("verbagg"),
        7_584,
        aims=_SMALL,
        quick=True,
    ),
    "contraception": Work(
        "Contraception with a slope",
        "use ~ age + age2 + urban + livch + (1 + urban | district)",
        "binomial",
        _contraception,
        1_934,
        aims=_SMALL,
        quick=True,
        without=(_UNCORRELATED,),
    ),
    "grouseticks": Work(
        "grouseticks, three factors",
        "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)",
        "poisson",
        _shipped("grouseticks"),
        403,
        aims=_SMALL,
        quick=True,
    ),
    "wide": Work(
        "30 fixed effects, 2,000 rows",
        "y ~ " + " + ".join(f"x{j}" for j in range(29)) + " + (1 | g)",
        "binomial",
        _simulated(11, _wide),
        2_000,
        aims=_SMALL,
    ),
    "unbalanced": Work(
        "5,000 unbalanced groups, Poisson",
        "y ~ x + (1 | g)",
        "poisson",
        _simulated(12, _unbalanced),
        38_000,
    ),
    "insteval": Work(
        "InstEval binary, crossed 2,972 x 1,128",
        "y ~ service + (1 | s) + (1 | d)",
        "binomial",
        _insteval,
        73_421,
        aims=(Aim("warm_s", 0.3, "glmm"),),
    ),
    "insteval-three": Work(
        "InstEval binary, with department by service",
        "y ~ service + (1 | s) + (1 | d) + (1 | ds)",
        "binomial",
        _insteval,
        73_421,
        aims=(Aim("warm_s", 0.1, "glmmTMB"),),
    ),
    **{
        f"single-1e{power}": Work(
            f"one factor, {n:,} rows, {n // 20:,} groups",
            "y ~ x1 + x2 + x3 + (1 | g)",
            "binomial",
            _simulated(20 + power, _single(n)),
            n,
            series="one factor",
            aims=_SINGLE_AIMS.get(power, ()),
            quick=power == 4,
        )
        for power, n in _SIZES.items()
    },
    "nested": Work(
        "nested three deep, 1,000,000 rows",
        "y ~ x + (1 | room) + (1 | school) + (1 | region)",
        "binomial",
        _simulated(31, _nested),
        1_000_000,
        aims=(Aim("warm_s", 0.4, "glmm"),),
    ),
    "crossed-3000": Work(
        "crossed 3,000 x 1,000, 30,000 rows",
        "y ~ x + (1 | subject) + (1 | item)",
        "binomial",
        _simulated(32, _crossed(3_000, 1_000)),
        30_000,
        solver="cholesky",
        series="crossed",
        aims=(Aim("warm_s", 0.5, "gpboost"),),
    ),
    "crossed-30000": Work(
        "crossed 30,000 x 10,000, 300,000 rows",
        "y ~ x + (1 | subject) + (1 | item)",
        "binomial",
        _simulated(33, _crossed(30_000, 10_000)),
        300_000,
        tolerance=math.inf,  # log-determinants estimated from probes
        solver="iterative",
        series="crossed",
        aims=(Aim("warm_s", 0.5, "gpboost"),),
    ),
    "salamanders": Work(
        "salamanders, negative binomial",
        "count ~ spp + mined + (1 | site)",
        "nbinom2",
        _shipped("salamanders"),
        644,
    ),
    "epil": Work(
        "epil, negative binomial",
        "y ~ lbase * trt + lage + V4 + (1 | subject)",
        "nbinom2",
        _shipped("epil"),
        236,
    ),
    "toenail-agq": Work(
        "toenail, 25 nodes",
        "y ~ treatment * time + (1 | patientID)",
        "binomial",
        _shipped("toenail"),
        1_908,
        nAGQ=25,
        # with its default inner tolerance lme4 prints 1e-4 too much; at tolPwrss = 1e-12 it agrees
        tolerance=1e-3,
        aims=(Aim("warm_s", 0.2, "lme4"),),
        without=_NO_NAGQ,
    ),
    "contraception-agq": Work(
        "Contraception with a slope, 11 x 11 nodes",
        "use ~ age + age2 + urban + livch + (1 + urban | district)",
        "binomial",
        _contraception,
        1_934,
        nAGQ=11,
        aims=(Aim("warm_s", 0.5, "glmm"),),
        without=(
            *_NO_NAGQ,
            ("lme4", "one random effect a level"),
            ("mixedlm", "one random effect a level"),
        ),
    ),
}
