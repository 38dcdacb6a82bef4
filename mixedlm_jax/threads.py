"""One BLAS thread while a model is fitted.

The matrices of a fit are small: several threads only spin, and where another process keeps a core
busy they cost forty times what they save.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np


@cache
def _controller() -> Any:
    """Made once (a millisecond), after a first LAPACK call: before it SciPy's BLAS is not found."""
    importlib.import_module("scipy.linalg").cholesky(np.eye(2))
    return importlib.import_module("threadpoolctl").ThreadpoolController()  # not every run fits


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Limit every BLAS library of the process to one thread inside the block."""
    with _controller().limit(limits=1, user_api="blas"):
        yield
