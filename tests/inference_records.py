"""What R says of intervals, comparisons and tests: `tests/reference/inference.json` by model."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import fitted
import numpy as np
import records

import mixedlm_jax as mlm

INFERENCE: dict[str, dict[str, Any]] = {
    model["id"]: model
    for model in json.loads((records.FOLDER / "inference.json").read_text("utf-8"))["models"]
}


def table(rows: list[dict[str, Any]]) -> np.ndarray:
    """Rows of numbers (rows, columns), nan where R has none."""
    return np.array([[np.nan if v is None else v for v in row.values()] for row in rows], float)


def rows_of(record: dict[str, Any], name: str) -> list[str]:
    """Names of the rows of a table; R writes one as a text."""
    found = record[f"{name}_rows"]
    return [found] if isinstance(found, str) else list(found)


@cache
def other(name: str, which: str) -> mlm.GlmerResult:
    """Our fit of a recorded model's "smaller" or "terms" formula."""
    text = re.sub(r"cbind\((\w+), (\w+) - \w+\)", r"\1 / \2", INFERENCE[name][which])
    return fitted.recorded(name).update(text)
