"""The shipped data sets against the csv files of the reference fits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import records

from mixedlm_jax import datasets

LOADERS: dict[str, Callable[[], pd.DataFrame]] = {
    "cbpp": datasets.load_cbpp,
    "grouseticks": datasets.load_grouseticks,
    "sleepstudy": datasets.load_sleepstudy,
    "verbagg": datasets.load_verbagg,
}
COUNTS = {
    "cbpp": (56, 15),
    "grouseticks": (403, 403),
    "sleepstudy": (180, 18),
    "verbagg": (7584, 316),
}
"""Rows, and levels of the first grouping factor, as lme4's help pages give them."""


@pytest.fixture(params=LOADERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_rows_and_sums_equal_the_reference_file(name: str) -> None:
    frame = LOADERS[name]()
    source = pd.read_csv(
        records.FOLDER / "data" / f"{name}.csv", keep_default_na=False, na_values=[""]
    )
    assert list(frame.columns) == list(source.columns)
    assert len(frame) == len(source) == COUNTS[name][0]
    assert not frame.isna().any(axis=None)
    for column in frame:
        if isinstance(frame[column].dtype, pd.CategoricalDtype):
            assert list(frame[column].astype(str)) == list(source[column].astype(str))
        else:
            np.testing.assert_array_equal(frame[column], source[column])


def test_level_orders_equal_the_reference(name: str) -> None:
    frame = LOADERS[name]()
    models = [m for m in records.MODELS.values() if m["dataset"] == f"{name}.csv"]
    assert models
    for model in models:
        for column, levels in model["factors"].items():
            assert list(frame[column].cat.categories) == levels
    first = next(c for c in frame if isinstance(frame[c].dtype, pd.CategoricalDtype))
    assert frame[first].nunique() == COUNTS[name][1]


def test_totals_printed_by_R() -> None:
    """sum() of columns of lme4 1.1-31's data sets; levels as its help pages list them."""
    cbpp, verbagg = datasets.load_cbpp(), datasets.load_verbagg()
    assert (cbpp["incidence"].sum(), cbpp["size"].sum()) == (99, 842)
    assert datasets.load_grouseticks()["TICKS"].sum() == 2567
    assert verbagg["y"].sum() == 3611
    assert datasets.load_sleepstudy()["Reaction"].sum() == pytest.approx(53731.42, abs=0.005)
    assert list(verbagg["mode"].cat.categories) == ["want", "do"]


def test_every_loader_hands_out_its_own_copy(name: str) -> None:
    first = LOADERS[name]()
    first.iloc[:, -1] = first.iloc[:, -1].to_numpy()[0]
    assert not first.equals(LOADERS[name]())


def test_documented(name: str) -> None:
    text = LOADERS[name].__doc__ or ""
    assert "Source: " in text
    assert ">>> glmer(" in text
