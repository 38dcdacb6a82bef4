"""Every notebook runs as it is stored: no cell fails, and each prints what its reader sees."""

from __future__ import annotations

import re
import sys
from typing import Any

import executed
import nbformat
import pytest
from test_documents import comparable

import mixedlm_jax

MAX_BYTES = 500_000


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: Any) -> list[str]:
    """What a cell prints and shows as text, output by output, without addresses of objects."""
    found: list[str] = []
    for output in cell.outputs:
        if output.output_type != "stream":
            found.append(output.data["text/plain"])
        elif output.name == "stdout":
            found.append(output.text)
    return [re.sub(r"0x[0-9a-f]+", "0x*", comparable(text)) for text in found]


def pictures(cell: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def shown(cell: Any) -> list[str]:
    return [cell.source, *(texts(cell) if cell.cell_type == "code" else [])]


@pytest.fixture(params=executed.SOURCES, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_there_are_notebooks():
    names = [
        *("differentiable_likelihood", "gene_screen", "inference", "laplace_or_agq"),
        *("power_study", "tutorial"),
    ]
    assert [path.stem for path in executed.SOURCES] == names


def test_notebook_is_stored_executed_and_clean(path):
    text = path.read_text("utf-8")
    stored = nbformat.reads(text, as_version=4)
    nbformat.validate(stored)
    cells = code_cells(stored)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert stored.metadata.kernelspec.name == "python3"
    assert "widgets" not in stored.metadata
    assert not any("execution" in cell.metadata for cell in cells), "holds execution timings"
    for cell in cells:
        assert all(output.output_type != "error" for output in cell.outputs), cell.id
        assert all(output.get("name") != "stderr" for output in cell.outputs), cell.id
        assert pictures(cell) == cell.source.count("plt.show()"), cell.id
    assert sum(map(pictures, cells)) > 0
    words = "\n".join(text for cell in stored.cells for text in shown(cell))
    assert not re.search(r"/(?:home|tmp|root|usr|Users)/|[A-Z]:\\\\", words), "holds a path"
    assert len(text.encode()) < MAX_BYTES


@pytest.mark.notebooks
@pytest.mark.filterwarnings("default")  # Jupyter's own are not ours to mend
def test_notebook_prints_what_it_shows(path, tmp_path):
    stored = nbformat.read(path, as_version=4)
    fresh, where = executed.execute(stored, tmp_path)
    assert where == [sys.executable, mixedlm_jax.__file__]
    for old, new in zip(code_cells(stored), code_cells(fresh), strict=True):
        assert texts(new) == texts(old), old.id
        assert pictures(new) == pictures(old), old.id
        spoken = [output.text for output in new.outputs if output.get("name") == "stderr"]
        assert not any("Warning" in text for text in spoken), (old.id, spoken)
