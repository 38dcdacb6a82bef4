"""Notebooks executed cell by cell in a kernel of this interpreter, away from the user's settings.

As a script, stores each notebook anew with what it prints: `python tests/executed.py`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat

import mixedlm_jax

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted(FOLDER.glob("*.ipynb"))

CELL_SECONDS = 600
_PACKAGES = Path(mixedlm_jax.__file__).parents[1]
_WHERE = "import sys, mixedlm_jax\nprint(sys.executable, mixedlm_jax.__file__, sep='\\n')"


def execute(notebook: Any, folder: Path) -> tuple[Any, list[str]]:
    """A notebook executed anew in an empty folder, and where its kernel found things.

    The latter is the interpreter's path, then the package's. The kernel's specification and all
    that Jupyter writes are kept in `folder`; the package is the one this process has. Raises
    `nbclient.exceptions.CellExecutionError` for a cell that fails.
    """
    fresh = nbformat.from_dict(notebook)
    fresh.cells.append(nbformat.v4.new_code_cell(_WHERE))
    work = folder / "work"
    work.mkdir()
    _kernel(folder / "jupyter" / "kernels" / "python3")
    ours = {
        "JUPYTER_PATH": folder / "jupyter",  # searched before any other
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    kept = dict(os.environ)
    os.environ.update({name: str(value) for name, value in ours.items()})
    try:
        nbclient.NotebookClient(
            fresh,
            kernel_name="python3",
            timeout=CELL_SECONDS,
            record_timing=False,
            resources={"metadata": {"path": str(work)}},
        ).execute()
    finally:
        os.environ.clear()
        os.environ.update(kept)
    return fresh, fresh.cells.pop().outputs[0].text.splitlines()


def _kernel(folder: Path) -> None:
    """Write the specification of a kernel that runs this interpreter with this package."""
    folder.mkdir(parents=True)
    path = os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH")]))
    specification = {
        "display_name": "Python 3",
        "language": "python",
        "argv": [
            sys.executable,
            *["-X", "frozen_modules=off"],  # else the debugger warns
            *["-m", "ipykernel_launcher", "-f", "{connection_file}"],
        ],
        "env": {
            "PYTHONPATH": path,
            "IPYTHONDIR": str(folder / "ipython"),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        },
    }
    (folder / "kernel.json").write_text(json.dumps(specification), "utf-8")


def store(path: Path) -> None:
    """Execute a notebook and write it back with its outputs, free of what differs by machine."""
    with tempfile.TemporaryDirectory() as folder:
        fresh, _ = execute(nbformat.read(path, as_version=4), Path(folder))
    fresh.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(fresh, path)


if __name__ == "__main__":
    for source in SOURCES:
        store(source)
