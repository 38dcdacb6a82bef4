"""What users are shown runs: README blocks with their output, examples, docstrings."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
import runpy
import sys
from pathlib import Path

import pytest

import mixedlm_jax

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
MODULES = [
    name for _, name, _ in pkgutil.walk_packages(mixedlm_jax.__path__, mixedlm_jax.__name__ + ".")
]


# Examples of what one may do together with packages that ours does without.
NEEDED = {"sample_posterior": ("blackjax", "arviz"), "learned_features": ("equinox",)}

# Those that spend their time on compiling what is kept nowhere.
SLOW = {"influence", "learned_features", "sample_posterior"}
EXAMPLES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW))
    for path in sorted((ROOT / "examples").glob("*.py"))
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def comparable(text: str) -> str:
    """Printed output without the distance from the optimum, which differs by machine."""
    text = re.sub(r"converged: \S+ log-likelihood", "converged: * log-likelihood", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def run(code: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def test_readme_blocks_print_what_they_show():
    code, shown = blocks("python"), blocks("text")
    assert len(code) == len(shown) > 0
    for block, expected in zip(code, shown, strict=True):
        assert comparable(run(block)) == comparable(expected)


def test_readme_commands():
    commands = blocks("sh")[0].splitlines()
    assert len(commands) == 2
    assert "examples/quickstart.py" in commands[0]
    assert "pytest" in commands[1]


def test_readme_links():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", EXAMPLES)
def test_examples_run(path, capsys, monkeypatch):
    for package in NEEDED.get(path.stem, ()):
        pytest.importorskip(package)
    monkeypatch.setattr(sys, "argv", [str(path)])  # not the arguments of this run
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed
    if path.stem == "quickstart":
        for figure in ("-92.0263", "0.2325", "0.3066", "0.3266", "0.4274", "Converged: True"):
            assert figure in printed
        for figure in ("-91.9834", "Laplace is good enough"):  # by quadrature
            assert figure in printed


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    failed, _ = doctest.testmod(
        importlib.import_module(name),
        extraglobs={"mlm": mixedlm_jax},
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert failed == 0
