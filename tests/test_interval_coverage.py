"""95% intervals contain the truth about as often as they say (a small run of the benchmark)."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
benchmark = importlib.import_module("interval_coverage")


def test_shares_are_shown_and_judged():
    covered = {name: np.arange(200) >= 10 for name in ("x, Wald", "sd, profile")}
    right = benchmark.Study(11, covered, np.zeros(200), 0, 0, 1.0)
    laplace = right._replace(nAGQ=1, covered={**covered, "sd, profile": np.arange(200) >= 30})
    assert "| sd, profile | 95.00 | 85.00 |" in benchmark.table([right, laplace])
    assert (benchmark.within_aim(right), benchmark.within_aim(laplace)) == (True, False)
    found = benchmark.as_json([right, laplace], 200, 1)["studies"][1]
    assert (found["nAGQ"], found["coverage"]["sd, profile"]) == (1, 0.85)


@pytest.mark.slow
def test_intervals_contain_the_truth():
    data_sets = 200
    data = benchmark.design(3)
    Y = benchmark.responses(data, data_sets, 3)
    found = benchmark.study(data, Y, 11)
    assert (found.failed, found.singular) == (0, 0)
    for name, own in found.covered.items():
        assert stats.binomtest(int(own.sum()), data_sets, 0.95).pvalue > 1e-3, name
    assert benchmark.checked(data, Y, found, 20) == 20
