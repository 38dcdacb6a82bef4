"""Finished pieces of a long run in a folder, so that a killed run goes on where it stood.

A piece is written whole or not at all and carries a digest of its content; one that is damaged is
told of and computed anew. A folder belongs to one run: what the run was asked for is digested too.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mixedlm_jax.errors import ArgumentError, StoreWarning

_RUN = "run.sha256"


def digest(parts: Iterable[Any]) -> str:
    """A digest of arrays (their bytes) and of anything else (its repr)."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype.str}{part.shape}".encode())
            found.update(np.ascontiguousarray(part).tobytes())
        else:
            found.update(repr(part).encode())
    return found.hexdigest()


class Checkpoint:
    """The finished pieces of one run.

    Parameters
    ----------
    folder
        Made where it does not exist.
    run
        A digest of all that the results depend on.

    Raises
    ------
    ArgumentError
        For a folder that holds another run, or that cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], run: str) -> None:
        try:
            self.folder = Path(folder)
        except TypeError as error:
            raise ArgumentError(f"checkpoint is {folder!r}; give the path of a folder") from error
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            known = self.folder / _RUN
            if not known.exists():
                self._write(known, run.encode())
            found = known.read_text("utf-8").strip()
        except OSError as error:
            raise ArgumentError(
                f"checkpoint={str(folder)!r} cannot be used ({error.strerror}); give a folder that "
                "can be written"
            ) from error
        if found != run:
            raise ArgumentError(
                f"checkpoint={str(folder)!r} holds the fits of another run (other data, responses, "
                "settings or version); give an empty folder"
            )

    def read(self, piece: int) -> dict[str, np.ndarray] | None:
        """The arrays of a piece, None where there is none that is whole."""
        path = self._path(piece)
        if not path.exists():
            return None
        content = path.read_bytes()
        known, body = content[:64], content[64:]
        try:
            if hashlib.sha256(body).hexdigest().encode() == known:
                with np.load(io.BytesIO(body), allow_pickle=False) as stored:
                    return dict(stored)
        except (ValueError, zipfile.BadZipFile):
            pass  # said below: it is damaged
        warnings.warn(f"{path} is damaged; its fits are made anew", StoreWarning, stacklevel=2)
        return None

    def write(self, piece: int, arrays: dict[str, np.ndarray]) -> None:
        """Keep the arrays of a piece."""
        body = io.BytesIO()
        np.savez(body, **arrays)  # type: ignore[arg-type]
        content = body.getvalue()
        self._write(self._path(piece), hashlib.sha256(content).hexdigest().encode() + content)

    def _path(self, piece: int) -> Path:
        return self.folder / f"piece-{piece:06d}"

    def _write(self, path: Path, content: bytes) -> None:
        handle, unfinished = tempfile.mkstemp(dir=self.folder, suffix=".unfinished")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
