"""Formulas changed by formulas, against R's `update.formula` (`reference/make_accessors.R`)."""

from __future__ import annotations

import json

import pytest
import records

from mixedlm_jax.errors import FormulaError
from mixedlm_jax.formula import parse
from mixedlm_jax.revision import revise

UPDATES = json.loads((records.FOLDER / "accessors.json").read_text("utf-8"))["updates"]
OLD = "s / t ~ x + (1 | g) + offset(o)"


@pytest.mark.parametrize("case", UPDATES, ids=lambda case: f"{case['old']}, {case['update']}")
def test_as_r_does(case: dict[str, str]) -> None:
    found = str(revise(parse(case["old"]), case["update"]))
    assert found.replace(" ", "") == case["new"].replace(" ", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (". ~ . - offset(o)", "s / t ~ x + (1 | g)"),  # R cannot
        (". ~ . + offset(log(w))", "s / t ~ x + (1 | g) + offset(o) + offset(log(w))"),
        ("cbind(s, f) ~ .", "cbind(s, f) ~ x + (1 | g) + offset(o)"),
        (". ~ . + `my col`", "s / t ~ x + (1 | g) + `my col` + offset(o)"),
        (". ~ . - ( 1|g ) + (x||g)", "s / t ~ x + (x || g) + offset(o)"),
        (". ~ z + . - x", "s / t ~ z + (1 | g) + offset(o)"),
        (". ~ . + .5:x", None),
        ("log(.) ~ .", "log(s / t) ~ x + (1 | g) + offset(o)"),
    ],
)
def test_what_r_leaves_open(text: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(FormulaError):
            revise(parse(OLD), text)
    else:
        assert str(revise(parse(OLD), text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (". ~ . - q", "no term q that could be taken away"),
        (". ~ . - (1 | h)", r"no term \(1 | h\) that could be taken away"),
        (". ~ . - offset(q)", r"no term offset\(q\)"),
        (". ~ . * z", "must be a summand of its own"),
        (". ~ . - .", "must be a summand of its own"),
        (". ~ . - (1 | g)", "has no random term"),
        (". + x", "has no '~'"),
        (". ~ . +", "ends too early"),
        (". ~ . + (1 | h):x", "`1 | h`|stand alone|no meaning"),
        (7, "found int"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(FormulaError, match=message):
        revise(parse(OLD), text)


def test_a_dot_is_for_updates_only() -> None:
    with pytest.raises(FormulaError, match="write out the columns"):
        parse("y ~ . + (1 | g)")
