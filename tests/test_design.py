"""Formula and data frame to arrays: against R's model matrices, and every way data can be bad."""

from __future__ import annotations

import json
import pickle
import time
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest
import records

from mixedlm_jax.datasets import load_cbpp, load_sleepstudy
from mixedlm_jax.design import Design, Labels, build
from mixedlm_jax.errors import ArgumentError, DataError, DataWarning, FormulaError
from mixedlm_jax.families import Binomial, Gaussian, Poisson
from mixedlm_jax.formula import parse
from mixedlm_jax.identification import check_identified
from mixedlm_jax.matrix import independent_columns
from mixedlm_jax.table import Numeric

R = json.loads((records.FOLDER / "model_matrices.json").read_text("utf-8"))
"""What R made of formulas; `reference/make_model_matrices.R` is the script."""


def design(text: str, data: Any, family: Any = None, **arguments: Any) -> tuple[Design, Labels]:
    return build(parse(text), data, family or Gaussian(), **arguments)


@pytest.fixture
def frame() -> pd.DataFrame:
    """The frame of `make_model_matrices.R`."""
    n = 48
    i = np.arange(1, n + 1)
    data = pd.DataFrame(
        {
            "y": np.sin(3 * i),
            "x": np.cos(i),
            "z": i / 10,
            "f": np.array(["a", "b", "c"])[i * 7 % 3],
            "h": np.array(["u", "v"])[i * i % 2],
            "b": i * 5 % 4 > 1,
            "g": 1 + i % 6,
            "k": 1 + i * 11 % 5,
            "m": 1 + i % 4,
        }
    )
    data["my col"] = np.sin(i)
    data["count"] = i % 5
    data["n"] = 5
    return data


@pytest.fixture
def cbpp() -> pd.DataFrame:
    return load_cbpp()


# What R makes of the same formulas.


@pytest.mark.parametrize("case", R["matrices"], ids=lambda case: case["formula"][0])
def test_model_matrix_is_R_s(case: dict[str, Any], frame: pd.DataFrame) -> None:
    d, labels = design(f"y {case['formula'][0]} + (1 | g)", frame)
    assert list(labels.dropped) == case["dropped"]
    kept = [name for name in case["names"] if name not in case["dropped"]]
    assert list(labels.fixed) == kept
    i = np.arange(1, len(frame) + 1)
    weights = np.stack([np.ones(len(frame)), i, np.cos(2 * i)])
    moments = np.array(case["moments"])[:, [name in kept for name in case["names"]]]
    np.testing.assert_allclose(weights @ d.X, moments, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("case", R["random"], ids=lambda case: case["formula"][0])
def test_random_terms_are_lme4_s(case: dict[str, Any], frame: pd.DataFrame) -> None:
    d, labels = design(f"y ~ 1 + {case['formula'][0]}", frame)
    found = [
        (labels.factors[t.factor], [labels.columns[t.factor][j] for j in t.columns])
        for t in d.terms
    ]
    assert found == list(zip(case["groups"], case["columns"], strict=True))
    for term, levels, codes in zip(d.terms, case["levels"], case["codes"], strict=True):
        assert list(labels.levels[term.factor]) == levels
        np.testing.assert_array_equal(d.factors[term.factor].levels + 1, codes)
        assert d.factors[term.factor].levels.dtype == np.int32
        assert d.factors[term.factor].n_levels == len(levels)


@pytest.mark.parametrize("name", records.select("binomial", "poisson", "gaussian", nAGQ=(0, 1)))
def test_labels_of_the_recorded_fits(name: str) -> None:
    model = records.MODELS[name]
    family = {"binomial": Binomial, "poisson": Poisson, "gaussian": Gaussian}[model["family"]]()
    d, labels = design(
        model["formula"],
        records.frame(model),
        family,
        weights=model["weights"],
        weights_type="frequency",
        offset=model["offset"],
    )
    assert list(labels.fixed) == list(model["fixef"])
    assert list(dict.fromkeys(labels.factors)) == list(model["ranef"])
    assert d.y.shape == (model["nobs"],)


# The response.


@pytest.mark.parametrize(
    ("left", "weights"),
    [
        ("incidence / size", None),
        ("incidence / size", "size"),
        ("cbind(incidence, size - incidence)", None),
        ("prop", "size"),
        ("incidence/size", "size"),
    ],
)
def test_four_ways_to_write_trials(left: str, weights: str | None, cbpp: pd.DataFrame) -> None:
    d, labels = design(f"{left} ~ period + (1 | herd)", cbpp, Binomial(), weights=weights)
    np.testing.assert_allclose(d.y, cbpp["incidence"], atol=1e-12)
    np.testing.assert_array_equal(d.trials, cbpp["size"])
    np.testing.assert_array_equal(d.weights, 1.0)
    assert labels.response == left


def test_other_weights_multiply(cbpp: pd.DataFrame) -> None:
    weights = np.linspace(0, 2, len(cbpp))
    d, _ = design("incidence / size ~ period + (1 | herd)", cbpp, Binomial(), weights=weights)
    np.testing.assert_array_equal(d.weights, weights)
    np.testing.assert_array_equal(d.trials, cbpp["size"])
    assert d.weights_type == "prior"


def test_frequency_weights_equal_to_the_trials_still_count(cbpp: pd.DataFrame) -> None:
    d, _ = design(
        "incidence / size ~ period + (1 | herd)",
        cbpp,
        Binomial(),
        weights="size",
        weights_type="frequency",
    )
    np.testing.assert_array_equal(d.weights, cbpp["size"])


def test_a_zero_one_response_keeps_its_weights(frame: pd.DataFrame) -> None:
    frame["hit"] = frame["count"] > 2
    d, _ = design("hit ~ x + (1 | g)", frame, Binomial(), weights=np.full(48, 3.0))
    np.testing.assert_array_equal(d.weights, 3.0)
    np.testing.assert_array_equal(d.trials, 1.0)


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["no", "yes"] * 24),
        pd.Series(["no", "yes"] * 24, dtype="string"),
        pd.Series(["no", "yes"] * 24, dtype=object),
        pd.Series([False, True] * 24),
        pd.Series([False, True] * 24, dtype="boolean"),
        pd.Series([False, True] * 24, dtype=object),
        pd.Series(pd.Categorical(["z", "a"] * 24, categories=["z", "unused", "a"])),
        pd.Series(pd.Categorical([0, 1] * 24)),
        pd.Series([0, 1] * 24),
    ],
    ids=lambda s: str(s.dtype),
)
def test_second_of_two_levels_is_success(values: pd.Series, frame: pd.DataFrame) -> None:
    frame["r"] = values
    d, _ = design("r ~ x + (1 | g)", frame, Binomial())
    np.testing.assert_array_equal(d.y, [0.0, 1.0] * 24)


def test_arithmetic_in_the_response(frame: pd.DataFrame) -> None:
    d, labels = design("log(y + 2) ~ x + (1 | g)", frame)
    np.testing.assert_array_equal(d.y, np.log(frame["y"] + 2))
    assert labels.response == "log(y + 2)"
    d, _ = design("y / z ~ x + (1 | g)", frame)
    np.testing.assert_array_equal(d.y, frame["y"] / frame["z"])
    d, _ = design("count > 2 ~ x + (1 | g)", frame, Binomial())
    np.testing.assert_array_equal(d.y, frame["count"] > 2)
    d, _ = design("count / 5 ~ x + (1 | g)", frame, Binomial())
    np.testing.assert_array_equal(d.trials, 5.0)


def test_rows_without_trials_have_no_weight(cbpp: pd.DataFrame) -> None:
    cbpp.loc[[3, 7], ["incidence", "size"]] = 0
    d, labels = design("incidence / size ~ period + (1 | herd)", cbpp, Binomial())
    assert d.weights.sum() == 54
    assert d.weights[[3, 7]].sum() == 0
    assert "2 rows" in labels.notes[0]


@pytest.mark.parametrize(
    ("left", "family", "message"),
    [
        ("f", Binomial(), "has 3 levels"),
        ("f", Poisson(), "needs numbers"),
        ("b", Gaussian(), "needs numbers"),
        ("z / 5", Binomial(), "expects"),
        ("count / m", Binomial(), "no more successes than trials"),
        ("cbind(count, 2 - count)", Binomial(), "negative numbers of failures"),
        ("count", Binomial(), "expects"),
        ("x", Binomial(), "expects"),
        ("y", Poisson(), "expects"),
        ("z", Poisson(), "expects"),
        ("abs(x)", Binomial(), "holds proportions"),
        ("n", Poisson(), "is constant"),
        ("n", Gaussian(), "is constant"),
        ("count == 9", Binomial(), "is constant"),
        ("log(x)", Gaussian(), "is not a finite number"),
        ("poly(x, 2)", Gaussian(), "several columns"),
        ("f + 1", Gaussian(), r"'\+' needs numbers"),
    ],
)
def test_bad_responses(left: str, family: Any, message: str, frame: pd.DataFrame) -> None:
    with pytest.raises((DataError, FormulaError), match=message):
        design(f"{left} ~ x + (1 | g)", frame, family)


def test_cbind_needs_trials(frame: pd.DataFrame) -> None:
    with pytest.raises(FormulaError, match="needs a family with trials, found poisson"):
        design("cbind(count, n) ~ x + (1 | g)", frame, Poisson())


def test_a_proportion_of_no_whole_number(cbpp: pd.DataFrame) -> None:
    cbpp["wrong"] = cbpp["size"] + 1
    with pytest.raises(DataError, match="no whole number of successes"):
        design("prop ~ period + (1 | herd)", cbpp, Binomial(), weights="wrong")
    with pytest.raises(DataError, match="write successes / trials"):
        design("prop ~ 1 + (1 | herd)", cbpp, Binomial(), weights="size", weights_type="frequency")


# Weights and offsets.


def test_weights_and_offsets_come_in_many_forms(frame: pd.DataFrame) -> None:
    w = frame["z"].to_numpy()
    for given in ("z", w, list(w), frame["z"], pl.Series(w), pd.Series(w, dtype="Float64")):
        d, _ = design("y ~ x + offset(x) + (1 | g)", frame, weights=given, offset=given)
        np.testing.assert_array_equal(d.weights, w)
        np.testing.assert_allclose(d.offset, w + frame["x"], rtol=1e-15)


def test_a_series_must_share_the_index(frame: pd.DataFrame) -> None:
    part = frame[frame["m"] > 1]
    d, _ = design("y ~ x + (1 | g)", part, weights=part["z"])
    np.testing.assert_array_equal(d.weights, part["z"])
    with pytest.raises(ArgumentError, match="index differs"):
        design("y ~ x + (1 | g)", part, weights=part["z"].reset_index(drop=True))


def test_offsets_add(frame: pd.DataFrame) -> None:
    d, _ = design("y ~ offset(z) + x + offset(log(z)) + (1 | g)", frame, offset="x")
    np.testing.assert_allclose(d.offset, frame["z"] + np.log(frame["z"]) + frame["x"], rtol=1e-15)


@pytest.mark.parametrize("argument", ["weights", "offset"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones(3), "expected one number for each of the 48 rows"),
        (1.0, "expected one number for each of the 48 rows"),
        (np.ones((48, 1)), "expected one number for each of the 48 rows"),
        ("zz", "'zz' is not in the data"),
        ("f", "needs numbers"),
        (["a"] * 48, "must be a column's name or an array of numbers"),
        (np.r_[np.inf, np.ones(47)], "is infinite in 1 rows"),
    ],
)
def test_bad_weights_and_offsets(
    argument: str, given: Any, message: str, frame: pd.DataFrame
) -> None:
    with pytest.raises((ArgumentError, DataError), match=message):
        design("y ~ x + (1 | g)", frame, **{argument: given})


def test_weights_are_not_negative_and_not_all_zero(frame: pd.DataFrame) -> None:
    negative = int((frame["x"] < 0).sum())
    with pytest.raises(DataError, match=f"weights are negative in {negative} rows"):
        design("y ~ z + (1 | g)", frame, weights="x")
    with pytest.raises(DataError, match="every row has weight 0"):
        design("y ~ x + (1 | g)", frame, weights=np.zeros(48))
    with pytest.raises(ArgumentError, match="expected one of prior, frequency"):
        design("y ~ x + (1 | g)", frame, weights_type="sampling")


# Factors.


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["b", "a", "c"] * 16),
        pd.Series(["b", "a", "c"] * 16, dtype="string"),
        pd.Series(["b", "a", "c"] * 16, dtype=object),
        pd.Series(pd.Categorical(["b", "a", "c"] * 16)),
        pd.Series(pd.Categorical(["b", "a", "c"] * 16, ["a", "b", "c", "d"], ordered=True)),
    ],
    ids=lambda s: str(s.dtype)[:8],
)
def test_every_kind_of_string_is_a_factor(values: pd.Series, frame: pd.DataFrame) -> None:
    frame["s"] = values
    d, labels = design("y ~ s + (1 | s)", frame)
    assert labels.fixed == ("(Intercept)", "sb", "sc")
    np.testing.assert_array_equal(d.X[:3], [[1, 1, 0], [1, 0, 0], [1, 0, 1]])
    assert list(labels.levels[0]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([10, 9, 2], ["2", "9", "10"]),
        ([10.0, 9.0, 2.0], ["2", "9", "10"]),
        ([0.5, -1.0, 100000.0], ["-1", "0.5", "100000"]),
        ([1e10, 1.0, 2.0], ["1", "2", "10000000000"]),
        ([True, False, True], ["FALSE", "TRUE"]),
        (["10", "9", "2"], ["10", "2", "9"]),
    ],
)
def test_level_labels(values: list[Any], labels: list[str], frame: pd.DataFrame) -> None:
    frame["s"] = values * 16
    _, found = design("y ~ x + (1 | s)", frame)
    assert list(found.levels[0]) == labels


@pytest.mark.parametrize(
    ("numbers", "levels"),
    [
        ([2.0, -3.0, 2.0, 5.0], ["-3", "2", "5"]),
        ([-1.0, 0.0, 1e-17, 1.0], ["-1", "0", "1e-17", "1"]),
        ([0.1 + 0.2 - 0.3, 1.0, 2.0, 3.0], ["5.55111512312578e-17", "1", "2", "3"]),
        ([1e19, 1e19, 1e300, 1e300], ["1e+19", "1e+300"]),
        ([1e300] * 4, ["1e+300"]),
    ],
)
def test_numbers_as_levels(numbers: list[float], levels: list[str]) -> None:
    values = np.array(numbers)
    category = Numeric(values).as_category()
    assert list(category.levels) == levels
    np.testing.assert_array_equal(np.unique(values)[category.codes], values)


def test_numbers_that_print_alike_are_one_level(frame: pd.DataFrame) -> None:
    frame["s"] = [0.3, 0.1 + 0.2, 0.4] * 16
    d, labels = design("y ~ x + (1 | s)", frame)
    assert list(labels.levels[0]) == ["0.3", "0.4"]
    assert list(d.factors[0].levels[:3]) == [0, 0, 1]


def test_long_identifiers_are_not_rounded(frame: pd.DataFrame) -> None:
    frame["s"] = 2**60 + np.arange(48) % 5
    with pytest.raises(DataError, match=r"beyond 2\*\*53"):
        design("y ~ x + (1 | s)", frame)
    _, labels = design("y ~ x + (1 | s)", frame.assign(s=frame["s"].astype(str)))
    assert len(labels.levels[0]) == 5


@pytest.mark.parametrize(
    ("contrast", "names", "rows"),
    [
        ("treatment", ["f b", "f c"], [[0, 0], [1, 0], [0, 1]]),
        ("sum", ["f 1", "f 2"], [[1, 0], [0, 1], [-1, -1]]),
        ("contr.sum", ["f 1", "f 2"], [[1, 0], [0, 1], [-1, -1]]),
        ("helmert", ["f 1", "f 2"], [[-1, -1], [1, -1], [0, 2]]),
        (
            "poly",
            ["f .L", "f .Q"],
            [[-(0.5**0.5), 6**-0.5], [0, -2 * 6**-0.5], [0.5**0.5, 6**-0.5]],
        ),
    ],
)
def test_contrasts(
    contrast: str, names: list[str], rows: list[list[float]], frame: pd.DataFrame
) -> None:
    d, labels = design("y ~ f + (f | g)", frame, contrasts={"f": contrast})
    assert list(labels.fixed[1:]) == [name.replace(" ", "") for name in names]
    for level, row in zip("abc", rows, strict=True):
        np.testing.assert_allclose(d.X[frame["f"] == level][0, 1:], row, atol=1e-15)
    assert labels.columns[0] == ("(Intercept)", "fb", "fc")
    with pytest.raises(ArgumentError, match="expected one of treatment, sum"):
        design("y ~ f + (1 | g)", frame, contrasts={"f": "deviation"})
    for column in ("ff", "x", "h"):
        with pytest.raises(ArgumentError, match=f"contrasts name '{column}'"):
            design("y ~ f + x + (1 | g)", frame, contrasts={column: contrast})


def test_polynomial_contrasts_of_many_levels(frame: pd.DataFrame) -> None:
    frame["s"] = np.array(list("abcdef"))[np.arange(48) % 6]
    d, labels = design("y ~ s + (1 | k)", frame, contrasts={"s": "poly"})
    assert labels.fixed[1:] == ("s.L", "s.Q", "s.C", "s^4", "s^5")
    coding = d.X[:6, 1:]
    np.testing.assert_allclose(coding.T @ coding, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(coding.sum(axis=0), 0.0, atol=1e-12)
    assert np.all(coding[-1] > 0)


def test_levels_can_be_reordered_in_the_formula(frame: pd.DataFrame) -> None:
    _, labels = design('y ~ C(f, levels = c("c", "a", "b")) + factor(m) + (1 | g)', frame)
    name = 'C(f, levels = c("c", "a", "b"))'
    assert labels.fixed == ("(Intercept)", f"{name}a", f"{name}b") + tuple(
        f"factor(m){level}" for level in "234"
    )
    with pytest.raises(DataError, match="leaves out the level 'b'"):
        design('y ~ C(f, levels = c("c", "a")) + (1 | g)', frame)


def test_factors_share_their_terms(frame: pd.DataFrame) -> None:
    d, labels = design("y ~ 1 + (1 | k) + (1 | g) + (0 + x | k) + (0 + z | g)", frame)
    assert labels.factors == ("g", "k")
    assert labels.columns == (("(Intercept)", "z"), ("(Intercept)", "x"))
    assert [(t.factor, t.columns) for t in d.terms] == [
        (0, (0,)),
        (0, (1,)),
        (1, (0,)),
        (1, (1,)),
    ]
    np.testing.assert_array_equal(d.factors[0].Z, [np.ones(48), frame["z"]])
    np.testing.assert_array_equal(d.factors[1].Z, [np.ones(48), frame["x"]])
    assert {t.structure for t in d.terms} == {"us"}


def test_ties_keep_formula_order(frame: pd.DataFrame) -> None:
    frame["g2"] = 7 - frame["g"]
    _, labels = design("y ~ 1 + (1 | k) + (1 | g2) + (1 | g)", frame)
    assert labels.factors == ("g2", "g", "k")


def test_double_bar_keeps_a_factor_together_and_says_so(frame: pd.DataFrame) -> None:
    d, labels = design("y ~ 1 + (f || g)", frame)
    assert [t.columns for t in d.terms] == [(0,), (1, 2, 3)]
    assert "keeps the levels of the factor" in labels.notes[0]
    _, labels = design("y ~ 1 + (x || g)", frame)
    assert labels.notes == ()


@pytest.mark.parametrize(
    ("text", "family", "message"),
    [
        ("y ~ xx + (1 | g)", Gaussian(), "column 'xx' is not in the data"),
        ("y ~ coutn + (1 | g)", Gaussian(), "did you mean 'count'"),
        ("y ~ x + (1 | gg)", Gaussian(), "grouping factor 'gg' is not in the data"),
        ("yy ~ x + (1 | g)", Gaussian(), "column 'yy' is not in the data"),
        ("y ~ x + offset(q) + (1 | g)", Gaussian(), "column 'q' is not in the data"),
        ("y ~ x + (1 | n)", Gaussian(), "grouping factor 'n' has one level, '5'"),
        ("y ~ x + (1 | z)", Gaussian(), "48 levels for 48 rows"),
        ("b ~ x + (1 | z)", Binomial(), "48 levels for 48 rows"),
        ("y ~ only + (1 | g)", Gaussian(), "'only' has only the level 'o'"),
        ("y ~ far + (1 | g)", Gaussian(), "column 'far' is infinite in 1 rows"),
        ("y ~ when + (1 | g)", Gaussian(), "column 'when' holds datetime64"),
        ("y ~ mixed + (1 | g)", Gaussian(), "column 'mixed' holds mixed"),
        ("y ~ log(x) + (1 | g)", Gaussian(), r"log\(x\) is not a finite number in 25 rows"),
        ("y ~ scale(n) + (1 | g)", Gaussian(), r"scale\(n\) is not a finite number"),
        ("y ~ poly(b, 2) + (1 | g)", Gaussian(), "the degree must be a whole number from 1 to 1"),
        ("y ~ poly(x, 0) + (1 | g)", Gaussian(), "the degree must be"),
        ("y ~ bs(x, df = 2) + (1 | g)", Gaussian(), "cannot be computed"),
        ("y ~ log(f) + (1 | g)", Gaussian(), r"log\(\) needs numbers, found the levels 'a'"),
        ("y ~ (x == 'a') + (1 | g)", Gaussian(), "compares numbers with the string 'a'"),
        ("y ~ (f == 'd') + (1 | g)", Gaussian(), "'d', which is no level"),
        ("y ~ (f < 'b') + (1 | g)", Gaussian(), "cannot order strings"),
        ("y ~ scale(poly(x, 2)) + (1 | g)", Gaussian(), r"scale\(\) takes one column"),
        ("y ~ sqrt(poly(x, 2)) + (1 | g)", Gaussian(), r"sqrt\(poly\(x, 2\)\) is not a finite"),
        ("y ~ x + I(f + 1) + (1 | g)", Gaussian(), r"'\+' needs numbers, found the levels 'a'"),
    ],
)
def test_bad_data(text: str, family: Any, message: str, frame: pd.DataFrame) -> None:
    frame["only"] = "o"
    frame["far"] = np.r_[np.inf, np.arange(47)]
    frame["when"] = pd.date_range("2020-01-01", periods=48)
    frame["mixed"] = pd.Series([1, "a"] * 24, dtype=object)
    with pytest.raises((DataError, FormulaError), match=message):
        design(text, frame, family)


def test_one_row_per_level_is_fine_where_the_family_bears_it(cbpp: pd.DataFrame) -> None:
    cbpp["row"] = np.arange(len(cbpp))
    d, _ = design("incidence / size ~ period + (1 | row)", cbpp, Binomial())
    assert d.factors[0].n_levels == 56


def test_a_doubtful_row_per_level_warns(frame: pd.DataFrame) -> None:
    class Overdispersed(Poisson):
        def one_row_per_level(self, trials: np.ndarray) -> str:
            return "warn"

    with pytest.warns(DataWarning, match="48 levels for 48 rows"):
        design("count ~ x + (1 | z)", frame, Overdispersed())


def test_what_is_no_frame() -> None:
    for data in ({"y": [1.0]}, np.ones((3, 2)), None, "data.csv"):
        with pytest.raises(DataError, match="must be a pandas or polars DataFrame"):
            design("y ~ x + (1 | g)", data)


def test_a_doubled_column(frame: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="2 columns named 'x'"):
        design("y ~ x + (1 | g)", pd.concat([frame, frame[["x"]]], axis=1))


# Missing values.


def test_missing_values_drop_rows_and_are_counted(frame: pd.DataFrame) -> None:
    frame = frame.astype({"count": "Int64"})
    frame.loc[0, "y"] = np.nan
    frame.loc[1, "f"] = None
    frame.loc[2, "count"] = pd.NA
    frame.loc[[2, 3], "g"] = np.nan
    weights = np.ones(48)
    weights[4] = np.nan
    d, labels = design("y ~ f + count + (1 | g:k)", frame, weights=weights)
    assert d.y.shape == (43,)
    np.testing.assert_array_equal(np.flatnonzero(~labels.kept), [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(d.y, frame["y"][5:])
    causes = "y in 1, f in 1, count in 1, g in 2, weights in 1"
    assert labels.notes == (f"5 of 48 rows dropped for missing values ({causes}).",)
    assert labels.index.equals(frame.index)
    _, excluded = design("y ~ f + (1 | g)", frame, na_action="exclude")
    assert (excluded.na_action, excluded.kept.sum()) == ("exclude", 44)
    with pytest.raises(DataError, match=r"4 of 48 rows have missing values .*na_action is 'raise'"):
        design("y ~ f + (1 | g)", frame, na_action="raise")
    with pytest.raises(ArgumentError, match="expected one of omit, exclude, raise"):
        design("y ~ f + (1 | g)", frame, na_action="drop")


def test_nothing_left(frame: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="have no rows"):
        design("y ~ x + (1 | g)", frame.iloc[:0])
    for column in ("y", "x", "f", "g"):
        empty = frame.assign(**{column: None})
        with pytest.raises(DataError, match=f"all 48 rows have missing values .{column} in 48"):
            design("y ~ x + f + (1 | g)", empty)


def test_levels_that_only_dropped_rows_have_are_dropped(frame: pd.DataFrame) -> None:
    frame.loc[frame["f"] == "c", "y"] = np.nan
    frame.loc[frame["g"] == 2, "x"] = np.nan
    _, labels = design("y ~ f + x + (1 | g)", frame)
    assert labels.fixed == ("(Intercept)", "fb", "x")
    assert "2" not in labels.levels[0]


def test_transforms_learn_from_the_whole_column(frame: pd.DataFrame) -> None:
    """As in R, where variables are evaluated before rows are dropped."""
    frame.loc[:9, "y"] = np.nan
    frame.loc[10:12, "x"] = np.nan
    d, _ = design("y ~ center(x) + scale(z) + (1 | g)", frame)
    np.testing.assert_allclose(d.X[:, 1], (frame["x"] - frame["x"].mean())[13:], rtol=1e-12)
    z = frame["z"]
    np.testing.assert_allclose(d.X[:, 2], ((z - z.mean()) / z.std())[13:], rtol=1e-12)


# Rank.


def test_dropped_columns_are_named(frame: pd.DataFrame) -> None:
    frame["twice"] = 2 * frame["x"] - 1
    d, labels = design("y ~ x + z + twice + I(x + z) + (1 | g)", frame)
    assert labels.dropped == ("twice", "I(x + z)")
    assert labels.fixed == ("(Intercept)", "x", "z")
    assert d.X.shape == (48, 3)
    assert "dropped 2 columns, twice, I(x + z)." in labels.notes[0]


def test_rank_counts_weighted_rows_only(frame: pd.DataFrame) -> None:
    weights = (frame["h"] == "u").astype(float)
    _, labels = design("y ~ x + h + (1 | k)", frame, weights=weights)
    assert labels.dropped == ("hv",)


def test_independent_columns_against_singular_values(rng: np.random.Generator) -> None:
    A = rng.normal(size=(200, 6))
    X = np.column_stack([A[:, :3], A[:, :3] @ [1, 2, 3], A[:, 3:], np.zeros(200), A @ np.ones(6)])
    expected = [True, True, True, False, True, True, True, False, False]
    np.testing.assert_array_equal(independent_columns(X * 10.0 ** np.arange(-4, 5)), expected)
    assert np.linalg.matrix_rank(X) == sum(expected)


@pytest.mark.parametrize("degree", [2, 3])
def test_strong_but_incomplete_collinearity_is_kept(degree: int) -> None:
    """Raw powers of the years 1990 to 2020: lm() keeps the square and drops the cube (R 4.2.2)."""
    years = np.arange(1990.0, 2021.0)
    X = np.vander(years, degree + 1, increasing=True)
    assert independent_columns(X).tolist() == [True, True, True, False][: degree + 1]


def test_no_columns() -> None:
    assert independent_columns(np.empty((5, 0))).shape == (0,)


# New rows.

REBUILT = [
    "y ~ x + f * h + (1 | g)",
    "y ~ poly(x, 3) + (f || g:k)",
    "y ~ scale(x) + center(z) + (scale(x) | k) + (1 | g)",
    "y ~ bs(x, df = 5) + cr(z, df = 4) + (1 | k/g)",
    "y ~ cc(z, df = 4) + (1 | g)",
    "y ~ C(f, sum) * b + (0 + b | g)",
    "y ~ I(f == 'b') + I(x > 0) + (1 | factor(g))",
    "y ~ x + I(2 * x) + offset(log(z)) + (1 | g)",
]


@pytest.mark.parametrize("text", REBUILT)
def test_rebuild_repeats_the_design(text: str, frame: pd.DataFrame) -> None:
    d, labels = design(text, frame)
    rows = labels.rebuild(frame)
    np.testing.assert_array_equal(rows.X, d.X)
    np.testing.assert_array_equal(rows.offset, d.offset)
    for Z, levels, factor in zip(rows.Z, rows.levels, d.factors, strict=True):
        np.testing.assert_array_equal(Z, factor.Z)
        np.testing.assert_array_equal(levels, factor.levels)
    assert rows.complete.all()
    assert rows.index.equals(frame.index)


@pytest.mark.parametrize("text", REBUILT)
def test_rebuild_replays_on_any_rows(text: str, frame: pd.DataFrame) -> None:
    """A row's arrays depend on the row alone: state, levels and coding are the fit's."""
    d, labels = design(text, frame)
    labels = pickle.loads(pickle.dumps(labels))
    chosen = [41, 3, 3, 17]
    rows = labels.rebuild(frame.drop(columns="y").iloc[chosen])
    np.testing.assert_allclose(rows.X, d.X[chosen], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(rows.levels[0], d.factors[0].levels[chosen])
    assert list(rows.index) == chosen
    again = labels.rebuild(frame)
    np.testing.assert_array_equal(again.X, d.X)


def test_rebuild_leaves_incomplete_rows_out(frame: pd.DataFrame) -> None:
    _, labels = design("y ~ x + f + (1 | g)", frame)
    new = frame.iloc[:6].copy()
    new.loc[0, "x"] = np.nan
    new.loc[1, "f"] = None
    new.loc[2, "g"] = np.nan
    rows = labels.rebuild(new)
    np.testing.assert_array_equal(rows.complete, [False, False, False, True, True, True])
    assert rows.X.shape == (3, 4)
    assert rows.Z[0].shape == (1, 3)
    assert rows.offset.shape == (3,)
    fixed_only = labels.rebuild(new, factors=())
    assert fixed_only.complete.sum() == 4
    assert fixed_only.Z == fixed_only.levels == ()


def test_rebuild_of_rows_that_are_all_missing(frame: pd.DataFrame) -> None:
    _, labels = design("y ~ poly(x, 2) + f + (1 | g)", frame)
    rows = labels.rebuild(pd.DataFrame({"x": [None], "f": [None], "g": [None]}))
    assert rows.X.shape == (0, 5)
    assert not rows.complete.any()


def test_rebuild_needs_only_what_is_asked_for(frame: pd.DataFrame) -> None:
    _, labels = design("y ~ x + (1 | g) + (1 | k)", frame)
    rows = labels.rebuild(frame[["x", "k"]], factors=[labels.factors.index("k")])
    assert len(rows.levels) == 1
    np.testing.assert_array_equal(rows.levels[0], frame["k"] - 1)
    with pytest.raises(DataError, match="grouping factor 'g' is not in the newdata"):
        labels.rebuild(frame[["x", "k"]])
    with pytest.raises(DataError, match="column 'x' is not in the newdata"):
        labels.rebuild(frame[["g", "k"]])


def test_unseen_levels(frame: pd.DataFrame) -> None:
    _, labels = design("y ~ f + (1 | g) + (1 | g:k)", frame)
    new = frame.iloc[:3].assign(f=["a", "zz", "b"])
    with pytest.raises(DataError, match="'f' has the level 'zz' in newdata"):
        labels.rebuild(new)
    new = frame.iloc[:3].assign(g=[1, 99, 2])
    with pytest.raises(DataError, match=r"'g:k' has the level '99:\d' in newdata"):
        labels.rebuild(new)
    rows = labels.rebuild(new, allow_new_levels=True)
    g = labels.factors.index("g")
    np.testing.assert_array_equal(rows.levels[g], [0, -1, 1])
    assert rows.levels[g].dtype == np.int32
    unseen_pair = pd.DataFrame({"f": "a", "g": [1, 1], "k": [frame["k"][5], 0]})
    rows = labels.rebuild(unseen_pair, allow_new_levels=True)
    pair = labels.levels[1 - g][rows.levels[1 - g][0]]
    assert pair == f"1:{frame['k'][5]}"
    assert rows.levels[1 - g][1] == -1


def test_numbers_stand_for_the_levels_they_print_as(cbpp: pd.DataFrame) -> None:
    d, labels = design("incidence / size ~ period + (1 | herd)", cbpp, Binomial())
    numeric = pd.DataFrame({"period": cbpp["period"].astype(int), "herd": cbpp["herd"].astype(int)})
    rows = labels.rebuild(numeric)
    np.testing.assert_array_equal(rows.X, d.X)
    np.testing.assert_array_equal(rows.levels[0], d.factors[0].levels)


def test_a_column_that_changed_its_kind(frame: pd.DataFrame) -> None:
    _, labels = design("y ~ x + (1 | g)", frame)
    with pytest.raises(DataError, match="'x' held numbers when the model was fitted"):
        labels.rebuild(frame.assign(x="a"))
    rows = labels.rebuild(frame.assign(g=frame["g"].astype(str)))
    np.testing.assert_array_equal(rows.levels[0], frame["g"] - 1)


def test_splines_extrapolate_with_a_warning(frame: pd.DataFrame) -> None:
    _, labels = design("y ~ bs(x, df = 4) + (1 | g)", frame)
    with pytest.warns(DataWarning, match=r"bs\(x, df = 4\) is extrapolated in 1 rows") as told:
        rows = labels.rebuild(frame.iloc[:2].assign(x=[0.0, 1.5]))
    assert told[0].filename == __file__  # not where the package found out
    assert np.isfinite(rows.X).all()


def test_offsets_of_new_rows(frame: pd.DataFrame) -> None:
    _, labels = design("y ~ x + offset(z) + (1 | g)", frame, offset="y")
    rows = labels.rebuild(frame.iloc[:4])
    np.testing.assert_allclose(rows.offset, (frame["z"] + frame["y"])[:4])
    _, labels = design("y ~ x + (1 | g)", frame, offset=frame["z"].to_numpy())
    with pytest.raises(ArgumentError, match="put it into a column"):
        labels.rebuild(frame)


def test_infinite_new_rows(frame: pd.DataFrame) -> None:
    _, labels = design("y ~ log(z) + (1 | g)", frame)
    with pytest.raises(DataError, match="column 'z' is infinite"):
        labels.rebuild(frame.assign(z=np.inf))
    with pytest.raises(DataError, match=r"log\(z\) is not a finite number"):
        labels.rebuild(frame.assign(z=0.0))


def test_condition_on(frame: pd.DataFrame) -> None:
    _, labels = design("y ~ x + (x * z | g) + (1 | k) + (0 + f | k)", frame)

    def used(re_form: str | None) -> list[list[str]]:
        masks = labels.condition_on(re_form)
        return [
            [name for name, use in zip(names, mask, strict=True) if use]
            for names, mask in zip(labels.columns, masks, strict=True)
        ]

    everything = [["(Intercept)", "x", "z", "x:z"], ["(Intercept)", "fa", "fb", "fc"]]
    assert used(None) == everything
    assert used("~0") == used("NA") == [[], []]
    assert used("~(1 | g)") == [["(Intercept)"], []]
    assert used("~(0 + z:x | g) + (0 + f | k)") == [["x:z"], ["fa", "fb", "fc"]]
    assert used("~(x * z | g) + (1 | k)") == [everything[0], ["(Intercept)"]]
    with pytest.raises(ArgumentError, match="'m', which is none of the model's: g, k"):
        labels.condition_on("~(1 | m)")
    with pytest.raises(ArgumentError, match="the effect 'x' by 'k'"):
        labels.condition_on("~(0 + x | k)")


# Other frames.


@pytest.mark.parametrize("null", [False, True])
def test_polars_gives_the_same_design(null: bool, frame: pd.DataFrame) -> None:
    if null:
        frame = frame.astype({"count": "Int64", "b": "boolean"})
        frame.loc[3, "x"] = np.nan
        frame.loc[4, "f"] = None
        frame.loc[5, "count"] = pd.NA
        frame.loc[6, "b"] = pd.NA
    text = "y ~ x * f + b + count + (1 | h:g)"
    d, labels = design(text, frame)
    columns: dict[str, Any] = {str(name): frame[name].astype(object).to_list() for name in frame}
    columns = {k: [None if v is pd.NA or v != v else v for v in c] for k, c in columns.items()}
    polars = pl.DataFrame(columns)
    converted = polars.with_columns(
        pl.col("f").cast(pl.Categorical), pl.col("h").cast(pl.Enum(["u", "v"]))
    )
    for data in (polars, converted, nw.from_native(polars)):
        other, other_labels = design(text, data)
        np.testing.assert_array_equal(other.X, d.X)
        np.testing.assert_array_equal(other.y, d.y)
        np.testing.assert_array_equal(other.factors[0].levels, d.factors[0].levels)
        assert other_labels.fixed == labels.fixed
        assert list(other_labels.levels[0]) == list(labels.levels[0])
        assert list(other_labels.index) == list(range(48))
        np.testing.assert_array_equal(labels.rebuild(data).X, d.X)
    with pytest.raises(DataError, match="must be a pandas or polars DataFrame"):
        design(text, polars.lazy())


def test_any_index_and_any_other_columns(frame: pd.DataFrame) -> None:
    d, _ = design("y ~ x + f + (1 | g)", frame)
    frame.index = pd.Index(["same"] * 48)
    frame["when"] = pd.date_range("2020-01-01", periods=48)
    other, labels = design("y ~ x + f + (1 | g)", frame)
    np.testing.assert_array_equal(other.X, d.X)
    assert labels.index.equals(frame.index)


def test_the_frame_is_left_alone(frame: pd.DataFrame) -> None:
    before = frame.copy(deep=True)
    d, _ = design("y ~ x + f + (x | g)", frame, weights="z", offset="z")
    for array in (d.y, d.X, d.weights, d.offset, d.factors[0].Z):
        array[...] = 7
    pd.testing.assert_frame_equal(frame, before)


def test_arrays_are_contiguous_and_plain(frame: pd.DataFrame) -> None:
    d, _ = design("count ~ x + f + (x | g)", frame, Poisson())
    for array in (d.y, d.trials, d.weights, d.offset, d.X, d.factors[0].Z):
        assert type(array) is np.ndarray
        assert array.dtype == np.float64
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_sleepstudy_by_hand() -> None:
    data = load_sleepstudy()
    d, labels = design("Reaction ~ Days + (Days | Subject)", data)
    np.testing.assert_array_equal(d.X, np.column_stack([np.ones(180), data["Days"]]))
    np.testing.assert_array_equal(d.factors[0].Z, d.X.T)
    assert labels.columns == (("(Intercept)", "Days"),)
    assert list(labels.levels[0][:3]) == ["308", "309", "310"]


def test_large_frames_do_not_crawl(rng: np.random.Generator) -> None:
    """200,000 rows in 10,000 groups take .03 s on one core; a second means work per row."""
    n = 200_000
    data = pd.DataFrame({name: rng.normal(size=n) for name in ("x", "z", "v")})
    data["g"] = rng.integers(0, n // 20, n)
    data["s"] = data["g"].astype(str)
    data["y"] = rng.poisson(1.0, n)
    start = time.perf_counter()
    design("y ~ x + z + v + (1 | g)", data, Poisson())
    design("y ~ x + z + v + (1 | s)", data, Poisson())
    assert time.perf_counter() - start < 1.0


def cells(rng):
    """Three effects a level, one row a cell, and what else the checks below need."""
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 3), "f": np.tile(list("abc"), 20)})
    data["y"] = rng.normal(size=60)
    data["same"] = [f"level {level}" for level in data["g"]]
    data["n"] = rng.integers(2, 6, 60)
    data["s"] = rng.binomial(data["n"], 0.5)
    return data


def identified(formula, data, family):
    check_identified(*build(parse(formula), data, family), family)


def test_as_many_random_effects_as_rows_are_refused_with_a_dispersion(rng):
    data = cells(rng)
    with pytest.raises(DataError, match="20 levels of 3 random effects, 60 for 60 rows"):
        identified("y ~ 1 + (0 + f | g)", data, Gaussian())
    identified("s / n ~ 1 + (0 + f | g)", data, Binomial())


def test_the_same_groups_under_two_names_are_refused(rng):
    with pytest.raises(DataError, match="'g' and 'same' make the same groups"):
        identified("s / n ~ 1 + (1 | g) + (1 | same)", cells(rng), Binomial())
    # an intercept by one and a slope by the other can be told apart
    identified("s / n ~ y + (1 | g) + (0 + y | same)", cells(rng), Binomial())


def test_weights_equal_to_the_trials_count_once_only_beside_a_ratio(rng):
    data, family = cells(rng), Binomial()
    ratio, _ = build(parse("s / n ~ 1 + (1 | g)"), data, family, weights="n")
    pair, _ = build(parse("cbind(s, n - s) ~ 1 + (1 | g)"), data, family, weights="n")
    assert ratio.weights.tolist() == [1.0] * 60
    assert pair.weights.tolist() == data["n"].tolist()


def test_a_column_named_like_an_interaction_is_another_factor(rng):
    data = cells(rng).rename(columns={"same": "g:f"})
    data["g:f"] = data["n"]
    design, _ = build(parse("y ~ 1 + (1 | `g:f`) + (1 | g:n)"), data, Gaussian())
    other, _ = build(parse("y ~ 1 + (1 | `g:f`) + (1 | g)"), data, Gaussian())
    assert len(design.factors) == len(other.factors) == 2
    data["g:n"] = data["f"]
    with pytest.raises(DataError, match="two grouping factors are called 'g:n'"):
        build(parse("y ~ 1 + (1 | `g:n`) + (1 | g:n)"), data, Gaussian())
