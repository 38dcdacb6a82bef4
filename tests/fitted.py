"""Fits that several test files look at, each made once per process."""

from __future__ import annotations

from functools import cache

import pandas as pd
import records

import mixedlm_jax as mlm


@cache
def recorded(name: str) -> mlm.GlmerResult:
    """Our fit of the model that is recorded under this id."""
    record = records.MODELS[name]
    return mlm.glmer(
        record["formula"],
        records.frame(record),
        mlm.families.FAMILIES[record["family"]](link=record["link"]),
        nAGQ=record["nAGQ"],
        weights=record["weights"],
        offset=record["offset"],
    )


def cbpp() -> pd.DataFrame:
    """A fresh copy of the cattle data."""
    return records.frame(records.MODELS["cbpp_logit"])


CBPP = "incidence / size ~ period + (1 | herd)"
