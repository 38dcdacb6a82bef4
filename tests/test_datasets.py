"""The shipped data sets against the csv files of the reference fits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import records

from mixedlm_jax import datasets
from mixedlm_jax.design import build
from mixedlm_jax.families import resolve
from mixedlm_jax.formula import parse

LOADERS: dict[str, Callable[[], pd.DataFrame]] = {
    name.removeprefix("load_"): getattr(datasets, name)
    for name in datasets.__all__
    if name.startswith("load_")
}
COUNTS = {
    "bacteria": (220, 50),
    "cake": (270, 15),
    "cbpp": (56, 15),
    "contraception": (1934, 60),
    "epil": (236, 59),
    "grouseticks": (403, 403),
    "pastes": (60, 10),
    "salamanders": (644, 23),
    "sleepstudy": (180, 18),
    "toenail": (1908, 294),
    "verbagg": (7584, 316),
}
"""Rows, and levels of the first grouping factor, as the R packages' help pages give them."""


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


def test_totals_printed_by_R_of_other_packages() -> None:
    """sum() of columns of mlmRev 1.0-8, HSAUR3 1.0-14, MASS 7.3-58.2, glmmTMB 1.1.5, lme4."""
    contraception, toenail = datasets.load_contraception(), datasets.load_toenail()
    assert contraception["use"].sum() == 759
    assert contraception["age"].sum() == pytest.approx(4.2507, abs=1e-9)
    assert toenail["y"].sum() == 408
    assert toenail["time"].sum() == pytest.approx(8950.643, abs=5e-4)
    bacteria, epil = datasets.load_bacteria(), datasets.load_epil()
    assert (bacteria["y"].sum(), bacteria["week"].sum(), bacteria["late"].sum()) == (177, 980, 126)
    assert (epil["y"].sum(), epil["V4"].sum()) == (1948, 59)
    salamanders, cake = datasets.load_salamanders(), datasets.load_cake()
    assert salamanders["count"].sum() == 852
    assert salamanders["cover"].sum() == pytest.approx(5.599999e-08, abs=1e-12)
    assert (cake["angle"].sum(), cake["ctemp"].sum()) == (8673, 0)
    assert datasets.load_pastes()["strength"].sum() == pytest.approx(3603.2, abs=1e-9)
    assert datasets.load_pastes()["sample"].nunique() == 30


def test_list() -> None:
    table = datasets.list()
    assert list(table.columns) == ["name", "rows", "columns", "source", "family", "model"]
    assert list(table["name"]) == sorted(LOADERS)
    for row in table.itertuples():
        assert LOADERS[str(row.name)]().shape == (row.rows, row.columns)
        text = LOADERS[str(row.name)].__doc__ or ""
        assert str(row.model) in text
        assert str(row.source).removeprefix("R package ") in text


def test_models_to_try_fit_their_data() -> None:
    for row in datasets.list().itertuples():
        design, _ = build(parse(str(row.model)), LOADERS[str(row.name)](), resolve(str(row.family)))
        assert len(design.y) == row.rows


def test_every_loader_hands_out_its_own_copy(name: str) -> None:
    first = LOADERS[name]()
    first.iloc[:, 0] = first.iloc[:, 0].to_numpy()[0]
    assert not first.equals(LOADERS[name]())


def test_documented(name: str) -> None:
    text = LOADERS[name].__doc__ or ""
    assert "Source: " in text
    assert " ~ " in text
