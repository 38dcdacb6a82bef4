"""What the comparison of engines says about figures that are given to it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import mixedlm_jax as mlm
from mixedlm_jax.formula import parse

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
compare = importlib.import_module("compare")
work = importlib.import_module("work")


def figures(value, warm, **others):
    return {
        "logLik": value,
        "cold_s": 2 * warm,
        "warm_s": warm,
        "warm_all_s": [warm],
        "peak_MiB": 100.0,
        **others,
    }


def verdicts(**found):
    """Per aim of VerbAgg its figure and whether it holds."""
    return [(figure, holds) for _, _, figure, holds in compare.aims_of({"verbagg": found})]


def test_ratios_and_limits():
    ours = figures(-10.0, 0.1, arrays_s=0.05)
    assert verdicts(ours=ours, glmm=figures(-10.0, 0.1)) == [(0.5, True), (0.1, False)]
    assert verdicts(ours=ours, glmm=figures(-10.0, 0.04))[0] == (1.25, False)


def test_a_rival_that_fell_short_was_stopped_or_is_absent():
    ours = figures(-10.0, 0.1, arrays_s=0.05)
    assert verdicts(ours=ours, glmm={"skipped": "not installed"})[0] == (None, None)
    # its whole time would have been longer still
    assert verdicts(ours=ours, glmm=figures(-10.001, 0.1))[0] == (0.5, True)
    assert verdicts(ours=ours, glmm=figures(-10.001, 0.01))[0] == (5.0, None)
    assert verdicts(ours=ours, glmm={"stopped": "", "limit_s": 0.1})[0] == (0.5, True)
    assert verdicts(ours=ours, glmm={"stopped": "", "limit_s": 0.01})[0] == (5.0, None)


def test_a_part_that_is_run_anew_leaves_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "FIGURES", tmp_path / "results.json")
    old = {"wide": {"ours": figures(-1.0, 0.1)}, "verbagg": {"ours": figures(-2.0, 0.1)}}
    new = {"verbagg": {"ours": figures(-2.0, 0.2)}}
    assert compare.with_earlier(new) == new
    compare.FIGURES.write_text(compare.as_json(["setting"], old))
    assert compare.with_earlier(new) == {"verbagg": new["verbagg"], "wide": old["wide"]}
    assert list(compare.with_earlier(new)) == ["verbagg", "wide"]


def test_an_aim_fails_where_the_fit_fell_short_or_failed():
    ours = figures(-10.001, 0.01, arrays_s=0.01)
    assert verdicts(ours=ours, glmm=figures(-10.0, 1.0)) == [(None, False), (None, False)]
    assert verdicts(ours={"error": "killed"}, glmm=figures(-10.0, 1.0))[0] == (None, False)


def test_a_short_time_is_marked_and_has_no_ratio():
    found = {"ours": figures(-10.0, 0.1), "lme4": figures(-10.001, 1.0)}
    cells = compare.describe("lme4", found["lme4"], found, work.WORK["verbagg"])
    assert cells[3] == ""
    assert "short by 0.001" in cells[-1]
    counted = compare.describe("ours", found["ours"], found, work.WORK["verbagg"])
    assert counted[3] == "1"


def test_the_document_names_every_aim_and_engine():
    results = {
        "verbagg": {
            "ours": figures(-10.0, 0.1, arrays_s=0.05, design_share=0.1),
            "glmm": {"skipped": "glmm is not installed"},
        }
    }
    text = compare.document(results, ["setting"])
    assert "not judged" in text
    assert "glmm is not installed" in text
    page = "before\n" + "old".join(compare.MARKS) + "after\n"
    assert compare.filled(page, text) == "before\n" + text.join(compare.MARKS) + "after\n"
    assert all(mark in compare.RESULTS.read_text("utf-8") for mark in compare.MARKS)


@pytest.mark.parametrize("key", ["cbpp", "grouseticks", "wide", "unbalanced", "single-1e4"])
def test_the_data_have_what_their_model_needs(key, tmp_path):
    one = work.WORK[key]
    frame = one.frame(tmp_path)
    assert len(frame) == pytest.approx(one.rows, rel=0.05)
    names = {str(node) for side in parse(one.formula).sides() for t in side.terms for node in t}
    assert names <= set(frame.columns)
    again = one.frame(tmp_path)
    assert np.array_equal(frame.to_numpy(), again.to_numpy())


def test_aims_are_about_works_and_engines_that_there_are():
    for one in work.WORK.values():
        for aim in one.aims:
            assert aim.over is None or aim.over in compare.ENGINES or aim.over in work.WORK
            assert aim.words()
        assert mlm.families.resolve(one.family)
