"""Fits that several test files look at, each made once per process."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import records

import mixedlm_jax as mlm


@cache
def recorded(name: str) -> mlm.GlmerResult:
    """Our fit of the model that is recorded under this id."""
    record = records.MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlm.SingularFitWarning)
        return _fit(record)


def _fit(record: dict[str, Any]) -> mlm.GlmerResult:
    return mlm.glmer(
        record["formula"],
        records.frame(record),
        mlm.families.FAMILIES[record["family"]](link=record["link"]),
        nAGQ=record["nAGQ"],
        weights=record["weights"],
        offset=record["offset"],
        ziformula=record["ziformula"],
        dispformula=record["dispformula"],
    )


def cbpp() -> pd.DataFrame:
    """A fresh copy of the cattle data."""
    return records.frame(records.MODELS["cbpp_logit"])


@cache
def singular() -> mlm.GlmerResult:
    """Groups of the same counts, between which there is nothing to explain."""
    data = pd.DataFrame({"y": [1, 2, 3, 4] * 10, "g": np.repeat(np.arange(10), 4)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlm.SingularFitWarning)
        return mlm.glmer("y ~ 1 + (1 | g)", data, "poisson")


CBPP = "incidence / size ~ period + (1 | herd)"
