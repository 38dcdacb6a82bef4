"""Data sets of well-known models, each with its source and a model to try; `list()` names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files

import pandas as pd

__all__ = [
    "list",
    "load_bacteria",
    "load_cake",
    "load_cbpp",
    "load_contraception",
    "load_epil",
    "load_grouseticks",
    "load_pastes",
    "load_salamanders",
    "load_sleepstudy",
    "load_toenail",
    "load_verbagg",
]


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


def load_contraception() -> pd.DataFrame:
    """Use of contraception by 1934 women in 60 districts of Bangladesh.

    Columns: `district` (60 levels, of 1 to 61), `use` (1 for users), `age` (years, centred),
    `urban` (levels N, Y), `livch` (living children: 0, 1, 2, 3+).

    Source: `Contraception` of the R package mlmRev, use = (use == "Y"); 1988 Bangladesh Fertility
    Survey, Huq and Cleland (1990), National Institute of Population Research and Training, Dhaka.

    A model to try, family binomial:

        use ~ age + I(age^2) + urban + livch + (urban | district)
    """
    return _load(
        "contraception",
        numbered=("district",),
        levels={"urban": ("N", "Y"), "livch": ("0", "1", "2", "3+")},
    )


def load_toenail() -> pd.DataFrame:
    """Toenail infection under two treatments: 1908 visits of 294 patients, up to 7 each.

    Columns: `patientID`, `y` (1 for moderate or severe separation of the nail), `treatment`
    (itraconazole, terbinafine), `time` (months since the start), `visit` (1 to 7).

    Source: `toenail` of the R package HSAUR3, y = (outcome == "moderate or severe"); De Backer, De
    Vroey, Lesaffre, Scheys and De Keyser (1998), Twelve weeks of continuous oral therapy for
    toenail onychomycosis caused by dermatophytes, J. of the American Academy of Dermatology 38.

    A model to try, family binomial; its random intercepts have a standard deviation above 4, for
    which Laplace's approximation is a rough one:

        y ~ treatment * time + (1 | patientID)
    """
    return _load(
        "toenail",
        numbered=("patientID",),
        levels={"treatment": ("itraconazole", "terbinafine")},
    )


def load_bacteria() -> pd.DataFrame:
    """H. influenzae in children with otitis media: 220 tests of 50 children over 11 weeks.

    Columns: `ID` (child), `y` (1 where the bacteria were present), `trt` (placebo, drug, drug+:
    with encouragement to take it), `week` (0, 2, 4, 6, 11), `late` (1 after week 2).

    Source: `bacteria` of the R package MASS, y = (y == "y"), late = (week > 2); Venables and Ripley
    (2002), Modern Applied Statistics with S, fourth edition, Springer.

    A model to try, family binomial:

        y ~ trt + late + (1 | ID)
    """
    return _load("bacteria", appearing=("ID",), levels={"trt": ("placebo", "drug", "drug+")})


def load_epil() -> pd.DataFrame:
    """Seizures of epileptics: 236 counts, 59 patients in four periods of two weeks.

    Columns: `subject`, `y` (seizures), `trt` (placebo, progabide), `lbase` and `lage` (log of the
    count before treatment and log of age, centred), `V4` (1 in period 4), `period` (1 to 4),
    `cperiod` (period - 2.5).

    Source: `epil` of the R package MASS; Thall and Vail (1990), Some covariance models for
    longitudinal count data with overdispersion, Biometrics 46.

    A model to try, family poisson:

        y ~ lbase * trt + lage + V4 + (1 | subject)
    """
    return _load("epil", numbered=("subject",), levels={"trt": ("placebo", "progabide")})


def load_salamanders() -> pd.DataFrame:
    """Salamanders in streams below mountaintop mines: 644 counts at 23 sites, 7 species, 4 visits.

    Columns: `site`, `mined` (levels yes, no), `cover` (objects to hide under), `sample` (visit, 1
    to 4), `DOP` (days since rain), `Wtemp` (water temperature), `DOY` (day of the year), all scaled
    but the visit; `spp` (species and stage of life), `count`.

    Source: `Salamanders` of the R package glmmTMB; Price, Muncy, Bonner, Drayer and Barton (2016),
    Effects of mountaintop removal mining and valley filling on the occupancy and abundance of
    stream salamanders, Journal of Applied Ecology 53.

    A model to try, family poisson:

        count ~ spp + mined + (1 | site)
    """
    streams = [f"{kind}-{i}" for kind, last in (("R", 12), ("VF", 11)) for i in range(1, last + 1)]
    return _load(
        "salamanders", appearing=("spp",), levels={"site": streams, "mined": ("yes", "no")}
    )


def load_cake() -> pd.DataFrame:
    """Breakage of chocolate cakes: 270 cakes, 15 replicates of 3 recipes at 6 temperatures.

    Columns: `replicate`, `recipe` (A, B, C), `ctemp` (baking temperature, (Fahrenheit - 200) / 10),
    `angle` (at which the cake broke, degrees).

    Source: `cake` of the R package lme4, ctemp = (temp - 200) / 10; Cook (1938), Chocolate cake: I.
    Optimum baking temperature, master's thesis, Iowa State College; Cochran and Cox (1957),
    Experimental Designs, second edition, Wiley.

    A model to try, family gaussian:

        angle ~ recipe + ctemp + (1 | replicate/recipe)
    """
    return _load("cake", numbered=("replicate",), levels={"recipe": ("A", "B", "C")})


def load_pastes() -> pd.DataFrame:
    """Strength of a chemical paste: 60 tests, 2 of each of 3 casks in 10 batches.

    Columns: `strength`, `batch` (A to J), `cask` (a, b, c: within its batch), `sample` (batch and
    cask, 30 levels).

    Source: `Pastes` of the R package lme4; Davies and Goldsmith (1972), Statistical Methods in
    Research and Production, fourth edition, Oliver and Boyd.

    A model to try, family gaussian:

        strength ~ 1 + (1 | batch/cask)
    """
    return _load("pastes", appearing=("batch", "cask", "sample"))


_CATALOGUE: Mapping[Callable[[], pd.DataFrame], tuple[str, str, str]] = {
    load_bacteria: ("MASS", "binomial", "y ~ trt + late + (1 | ID)"),
    load_cake: ("lme4", "gaussian", "angle ~ recipe + ctemp + (1 | replicate/recipe)"),
    load_cbpp: ("lme4", "binomial", "incidence / size ~ period + (1 | herd)"),
    load_contraception: (
        "mlmRev",
        "binomial",
        "use ~ age + I(age^2) + urban + livch + (urban | district)",
    ),
    load_epil: ("MASS", "poisson", "y ~ lbase * trt + lage + V4 + (1 | subject)"),
    load_grouseticks: (
        "lme4",
        "poisson",
        "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)",
    ),
    load_pastes: ("lme4", "gaussian", "strength ~ 1 + (1 | batch/cask)"),
    load_salamanders: ("glmmTMB", "poisson", "count ~ spp + mined + (1 | site)"),
    load_sleepstudy: ("lme4", "gaussian", "Reaction ~ Days + (Days | Subject)"),
    load_toenail: ("HSAUR3", "binomial", "y ~ treatment * time + (1 | patientID)"),
    load_verbagg: (
        "lme4",
        "binomial",
        "y ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)",
    ),
}
"""Per loader the R package the data are from, and family and formula of a model to try."""


def list() -> pd.DataFrame:
    """The data sets: name, rows, columns, source (an R package), family and model to try.

    `load_<name>()` loads one; its docstring says what it holds and where it was published.
    """
    rows = []
    for loader, (package, family, formula) in _CATALOGUE.items():
        count, width = loader().shape
        name = loader.__name__.removeprefix("load_")
        rows.append((name, count, width, f"R package {package}", family, formula))
    return pd.DataFrame(rows, columns=["name", "rows", "columns", "source", "family", "model"])


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
