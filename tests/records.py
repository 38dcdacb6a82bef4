"""The reference fits of `tests/reference/models.json`, the frames and the arrays they belong to.

`reference/CONVENTIONS.md` says how to read them. Loaded on import: a missing file stops the run.
"""

from __future__ import annotations

import json
import runpy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import oracle
import pandas as pd

FOLDER = Path(__file__).parent / "reference"
MODELS: dict[str, dict[str, Any]] = {
    model["id"]: model for model in json.loads((FOLDER / "models.json").read_text("utf-8"))
}
"""Every recorded fit by its id."""


def script(name: str) -> Any:
    """What a script under `reference/` defines, by name, without running it."""
    return SimpleNamespace(**runpy.run_path(str(FOLDER / f"{name}.py")))


def select(*families: str, nAGQ: tuple[int, ...] = (1,)) -> list[str]:
    """Ids of the fits of these families and quadrature orders, zero inflation left out."""
    return [
        name
        for name, model in MODELS.items()
        if model["family"] in families and model["nAGQ"] in nAGQ and model["ziformula"] is None
    ]


@cache
def _read(dataset: str, factors: tuple[str, ...]) -> pd.DataFrame:
    return pd.read_csv(
        FOLDER / "data" / dataset,
        keep_default_na=False,
        na_values=[""],
        dtype=dict.fromkeys(factors, str),
    )


def frame(model: dict[str, Any]) -> pd.DataFrame:
    """A fresh copy of the data a recorded fit read, its factors categorical in recorded order."""
    factors: dict[str, list[str]] = model["factors"]
    data = _read(model["dataset"], tuple(factors)).copy()
    for column, levels in factors.items():
        unknown = set(data[column].dropna()) - set(levels)
        assert not unknown, f"{model['id']}: {column} has levels {unknown} that are not recorded"
        data[column] = pd.Categorical(data[column], categories=levels)
    return data


def column(data: pd.DataFrame, name: str) -> np.ndarray:
    """The model-matrix column that R calls `name`: `period2`, `I(age^2)`, `lbase:trtprogabide`."""
    values = np.ones(len(data))
    for part in name.split(":"):
        if part == "(Intercept)":
            continue
        if part.startswith("I(") and part.endswith("^2)"):
            values = values * data[part[2:-3]].to_numpy(float) ** 2
        elif part in data:
            values = values * data[part].to_numpy(float)
        else:
            names = [str(name) for name in data if part.startswith(str(name))]
            factor = next(name for name in names if part.removeprefix(name) in set(data[name]))
            values = values * (data[factor] == part.removeprefix(factor)).to_numpy(float)
    return values


def levels(data: pd.DataFrame, group: str) -> tuple[np.ndarray, list[str]]:
    """Level of every row and the labels of the levels of `g` or `a:b`."""
    labels = data[group.split(":")].astype(str).agg(":".join, axis=1)
    codes, found = pd.factorize(labels, sort=True)
    return codes, list(found)


@dataclass(frozen=True)
class Recorded:
    """A recorded fit as arrays: the oracle's problem and the parameters it was recorded at."""

    problem: oracle.Problem
    beta: np.ndarray
    Lambdas: list[np.ndarray]
    sigma: float
    labels: list[list[str]]  # level labels per block


def arrays(model: dict[str, Any], engine: str | None = None) -> Recorded:
    """Rebuild a recorded fit from the names of its coefficients and of its random effects.

    The parameters are the record's, or those that one of its engines arrived at.
    """
    data = frame(model)
    found_by = model["engines"][engine] if engine else model
    response = model["formula"].split("~")[0].split("/")
    used = [c for c in data if c in model["formula"]] + [part.strip() for part in response]
    data = data.dropna(subset=list(dict.fromkeys(used)))
    assert len(data) == model["nobs"]

    theta = np.array(found_by["theta"])
    terms = {group: list(sizes["sd"]) for group, sizes in found_by["varcorr"].items()}
    diagonal = theta.size == sum(map(len, terms.values()))
    blocks, Lambdas, labels = [], [], []
    for group, names in terms.items():
        codes, found = levels(data, group)
        Z = np.stack([column(data, name) for name in names])
        blocks.append(oracle.Block(codes, len(found), Z))
        k = len(names)
        count = k if diagonal else k * (k + 1) // 2
        own, theta = theta[:count], theta[count:]
        Lambdas.append(np.diag(own) if diagonal else oracle.lower_triangular(own, k))
        labels.append(found)
    assert theta.size == 0

    y = data[response[0].strip()].to_numpy(float)
    problem = oracle.Problem(
        family=model["family"],
        link=model["link"],
        y=y,
        X=np.stack([column(data, name) for name in model["fixef"]], axis=1),
        blocks=blocks,
        trials=data[response[1].strip()].to_numpy(float) if len(response) == 2 else None,
        weights=data[model["weights"]].to_numpy(float) if model["weights"] else None,
        offset=data[model["offset"]].to_numpy(float) if model["offset"] else None,
    )
    beta = np.array([found_by["fixef"][name] for name in model["fixef"]])
    return Recorded(problem, beta, Lambdas, found_by.get("sigma") or 1.0, labels)
