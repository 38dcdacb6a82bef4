"""Data sets from lme4, each with its source and a model to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files

import pandas as pd

__all__ = ["load_cbpp", "load_grouseticks", "load_sleepstudy", "load_verbagg"]


def load_cbpp() -> pd.DataFrame:
    """Contagious bovine pleuropneumonia in zebu cattle: 56 rows, one per herd and period.

    Columns: `herd` (15 levels), `period` (levels 1 to 4), `incidence` (new cases), `size` (animals
    at risk), `prop` (incidence / size).

    Source: `cbpp` of the R package lme4; Lesnoff, Laval, Bonnet et al. (2004), Within-herd spread
    of contagious bovine pleuropneumonia in Ethiopian highlands, Preventive Veterinary Medicine 64.

    >>> formula = "incidence / size ~ period + (1 | herd)"
    >>> model = mlm.glmer(formula, mlm.load_cbpp(), family="binomial")
    """
    return _load("cbpp", numbered=("herd", "period"))


def load_verbagg() -> pd.DataFrame:
    """Verbal aggression: 7584 answers of 316 persons to 24 items.

    Columns: `id` (person), `item`, `y` (1 for "perhaps" or "yes", 0 for "no"), `Anger` (trait anger
    score), `Gender` (levels F, M), `btype` (curse, scold, shout), `situ` (other or self to blame),
    `mode` (want, do).

    Source: `VerbAgg` of the R package lme4, y = (r2 == "Y"); Vansteelandt (2000), Formal models for
    contextualized personality psychology; De Boeck and Wilson (2004), Explanatory item response
    models, Springer.

    >>> formula = "y ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)"
    >>> model = mlm.glmer(formula, mlm.load_verbagg(), family="binomial")
    """
    return _load(
        "verbagg",
        numbered=("id",),
        appearing=("item",),
        levels={
            "Gender": ("F", "M"),
            "btype": ("curse", "scold", "shout"),
            "situ": ("other", "self"),
            "mode": ("want", "do"),
        },
    )


def load_grouseticks() -> pd.DataFrame:
    """Ticks on red grouse chicks: 403 chicks of 118 broods at 63 locations.

    Columns: `INDEX` (chick), `TICKS` (count), `BROOD`, `HEIGHT` (metres above sea level), `YEAR`
    (levels 95, 96, 97), `LOCATION`, `cHEIGHT` (HEIGHT, centred).

    Source: `grouseticks` of the R package lme4; Elston, Moss, Boulinier, Arrowsmith and Lambin
    (2001), Analysis of aggregation, a worked example: numbers of ticks on red grouse chicks,
    Parasitology 122.

    >>> formula = "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)"
    >>> model = mlm.glmer(formula, mlm.load_grouseticks(), family="poisson")
    """
    return _load("grouseticks", numbered=("INDEX", "BROOD", "YEAR", "LOCATION"))


def load_sleepstudy() -> pd.DataFrame:
    """Reaction times under sleep deprivation: 180 rows, 18 subjects on 10 days.

    Columns: `Reaction` (mean reaction time, ms), `Days` (of deprivation), `Subject`.

    Source: `sleepstudy` of the R package lme4; Belenky, Wesensten, Thorne et al. (2003), Patterns
    of performance degradation and restoration during sleep restriction and subsequent recovery: a
    sleep dose-response study, Journal of Sleep Research 12.

    >>> model = mlm.glmer("Reaction ~ Days + (Days | Subject)", mlm.load_sleepstudy())
    """
    return _load("sleepstudy", numbered=("Subject",))


def _load(
    name: str,
    *,
    numbered: Sequence[str] = (),
    appearing: Sequence[str] = (),
    levels: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Read a csv file whose categorical columns are given with the order of their levels.

    `numbered`: in numeric order; `appearing`: as they first appear; `levels`: as listed.
    """
    levels = levels or {}
    strings = dict.fromkeys((*numbered, *appearing, *levels), str)
    with files(__name__).joinpath(f"{name}.csv").open(encoding="utf-8") as file:
        frame = pd.read_csv(file, keep_default_na=False, na_values=[""], dtype=strings)
    for column in numbered:
        frame[column] = pd.Categorical(frame[column], sorted(frame[column].unique(), key=int))
    for column in appearing:
        frame[column] = pd.Categorical(frame[column], frame[column].unique())
    for column, order in levels.items():
        frame[column] = pd.Categorical(frame[column], pd.Index(order))
    return frame
