"""A folder that keeps bytes from one process to the next, and never stands in a fit's way.

An entry is written whole or not at all, carries a digest of its content, and is readable by its
owner alone: what is read back is run. Whatever goes wrong is said once and costs only time.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from mixedlm_jax.errors import StoreWarning, warn

VARIABLE = "MIXEDLM_JAX_CACHE"
"""Environment variable: another folder, or "off"."""

# The folder is swept when it holds more than this, oldest entries first, down to three quarters.
_MAX_BYTES = 512 * 2**20
_WRITES_BETWEEN_SWEEPS = 32
_ABANDONED = 3600.0  # seconds after which an unfinished file has lost its writer
_SUFFIX = ".program"


class Store:
    """Entries of bytes under names, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._complained: set[str] = set()
        self._usable: bool | None = None
        self._writable = True
        self._writes = 0

    def read(self, name: str) -> bytes | None:
        """The content of an entry, or None where there is none that is whole."""
        if not self._is_safe():
            return None
        path = self._path(name)
        try:
            stored = path.read_bytes()
            content = _unpacked(stored)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._complain("read", f"{path} cannot be read ({error.strerror})")
            return None
        if content is None:
            self.discard(name)
            return None
        with suppress(OSError):
            os.utime(path)  # the sweep takes what was not read for longest
        return content

    def discard(self, name: str) -> None:
        """Forget a damaged entry, and say so."""
        self._complain("damaged", f"an entry in {self.folder} was damaged and is made anew")
        with suppress(OSError):
            self._path(name).unlink()

    def write(self, name: str, content: bytes) -> None:
        """Keep an entry; where that fails, nothing of it is left."""
        if not self._writable or not self._is_safe():
            return
        unfinished = None
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # made readable by its owner alone
            handle, unfinished = tempfile.mkstemp(dir=self.folder, suffix=".unfinished")
            with os.fdopen(handle, "wb") as file:
                file.write(_packed(content))
            os.replace(unfinished, self._path(name))
        except OSError as error:
            self._writable = False
            self._complain("write", f"nothing can be written to {self.folder} ({error.strerror})")
            if unfinished is not None:
                with suppress(OSError):
                    os.unlink(unfinished)
            return
        if self._writes % _WRITES_BETWEEN_SWEEPS == 0:
            self._sweep()
        self._writes += 1

    def _path(self, name: str) -> Path:
        return self.folder / (name + _SUFFIX)

    def _is_safe(self) -> bool:
        """Whether nobody else can have put anything into the folder."""
        if self._usable is None:
            try:
                found = self.folder.stat()
            except FileNotFoundError:
                return True  # made by the first write
            except OSError as error:
                self._usable = False
                self._complain("stat", f"{self.folder} cannot be used ({error.strerror})")
                return False
            self._usable = _trusted(found)
            if not self._usable:
                self._complain(
                    "unsafe",
                    f"{self.folder} belongs to somebody else or may be written by others, and "
                    "what it holds would be run",
                )
        return self._usable

    def _complain(self, kind: str, what: str) -> None:
        if kind in self._complained:
            return
        self._complained.add(kind)
        warn(
            f"compiled programs are kept between processes, but {what}; results are not touched, "
            f"only time is lost. The environment variable {VARIABLE} names another folder, or "
            '"off"',
            StoreWarning,
        )

    def _sweep(self) -> None:
        """Remove what was not used for longest, if the folder has grown too large."""
        with suppress(OSError):  # another process may be sweeping
            entries = sorted(self._entries())
            size = sum(entry[1] for entry in entries)
            if size > _MAX_BYTES:
                for _, own, path in entries:
                    path.unlink(missing_ok=True)
                    size -= own
                    if size <= 0.75 * _MAX_BYTES:
                        break

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Time of last use, size and path of each entry; abandoned files are removed."""
        for path in self.folder.iterdir():
            found = path.stat()
            if path.suffix == _SUFFIX:
                yield found.st_mtime, found.st_size, path
            elif path.suffix == ".unfinished" and time.time() - found.st_mtime > _ABANDONED:
                path.unlink(missing_ok=True)


def _packed(content: bytes) -> bytes:
    packed = zlib.compress(content, 1)
    return hashlib.sha256(packed).digest() + packed


def _unpacked(stored: bytes) -> bytes | None:
    """The content, or None where the digest says that it is not what was written."""
    digest, packed = stored[:32], stored[32:]
    return zlib.decompress(packed) if hashlib.sha256(packed).digest() == digest else None


def _trusted(found: os.stat_result) -> bool:
    if not stat.S_ISDIR(found.st_mode):
        return False
    if sys.platform == "win32":  # the profile's folders are the user's own
        return True
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def chosen_folder() -> Path | None:
    """The folder that `VARIABLE` names, None where it says "off" or nothing.

    Without the variable: the user's own cache folder.
    """
    given = os.environ.get(VARIABLE)
    if given is not None:
        return None if given.strip().lower() in ("", "0", "off") else Path(given).expanduser()
    try:
        home = Path.home()
    except RuntimeError:  # nobody's process, as in some containers
        return None
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "mixedlm_jax"


@cache
def store_in(folder: Path) -> Store:
    """The store of a folder, one for each so that it complains only once."""
    return Store(folder)
