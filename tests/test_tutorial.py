"""Every code block of `tutorial.md` runs, in order and in one namespace.

There `mixedlm` stands for this package and `...` for the formula, data and family of the last
model; `data` are simulated to fit the names.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd

import mixedlm_jax as mlm

TEXT = (Path(__file__).parent / "tutorial.md").read_text("utf-8")


def blocks() -> list[str]:
    found = re.findall(r"^( *)```python\n(.*?)^\1```", TEXT, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in found]


def simulated() -> pd.DataFrame:
    rng = np.random.default_rng(20)
    subjects, times = 32, 8
    subject = np.repeat(np.arange(subjects), times)
    n = len(subject)
    x, z = rng.normal(size=(2, n))
    time = np.tile(np.linspace(-2.0, 2.0, times), subjects)
    treatment = subject % 2
    start, slope = 1.2 * rng.normal(size=(2, subjects))
    log_mean = 1.0 + 0.5 * treatment + 0.3 * x + 0.6 * rng.normal(size=subjects)[subject]
    eta = 0.3 + 0.8 * x + 1.0 * z + 0.5 * time + start[subject] + slope[subject] * time
    return pd.DataFrame(
        {
            "subject": subject, "g": subject, "group": subject, "treatment": treatment,
            "x": x, "z": z, "time": time,
            "count": rng.poisson(np.exp(log_mean) * rng.gamma(2.0, 0.5, size=n)),
            "y": rng.binomial(1, 1.0 / (1.0 + np.exp(-eta))),
        }
    )  # fmt: skip


def last_model(code: str) -> str | None:
    """Formula, data and family of the last call of glmer in some code, as written."""
    calls = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "mlm.glmer"
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ]
    if not calls:
        return None
    call = max(calls, key=lambda node: node.lineno)
    family = [f"family={ast.unparse(k.value)}" for k in call.keywords if k.arg == "family"]
    return ", ".join([*map(ast.unparse, call.args), *family])


def test_every_block_runs():
    code = blocks()
    assert len(code) == TEXT.count("```python") > 20
    names: dict[str, object] = {"data": simulated()}
    model, printed = "", io.StringIO()
    for block in code:
        runnable = re.sub(r"\bmixedlm\b", "mixedlm_jax", block).replace("...", model)
        with contextlib.redirect_stdout(printed):
            exec(compile(runnable, "tutorial.md", "exec"), names)
        model = last_model(runnable) or model
    text = printed.getvalue()
    assert "Generalized linear mixed model fit by maximum likelihood" in text
    assert "odds ratio" in text.lower()
    assert "95% CI:" in text
    assert "sd_(Intercept)|herd" in text
    assert text.rstrip().endswith("Converged: True")
    comparison = mlm.anova(names["m1"], names["m2"])  # type: ignore[arg-type]
    assert comparison["Df"].iloc[1] == 1.0
    assert comparison["Pr(>Chisq)"].iloc[1] < 0.05
