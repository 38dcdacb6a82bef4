"""Strict numerics for every test: no silent broadcasting, seeded draws, float64 on request.

Warnings are errors (pyproject). The package's compiled programs are kept in pytest's cache folder,
which all workers share: compile time is most of the test time.

The default run therefore compiles in a hurry: XLA's older emitters instead of those by way of MLIR,
and no optimisation by LLVM, which together halve the time of a test. The programs, their order of
operations and their double precision stay what they are; only the machine code is worse.
What is marked slow runs as users compile it, and so does everything where XLA_FLAGS is set:
`XLA_FLAGS= python -m pytest` asks for it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import records

from mixedlm_jax.compiled import forget
from mixedlm_jax.store import VARIABLE

# Cells of a grid that compile for ten seconds and more, and whose like the default run has.
LONG = {
    "test_bootstrap.py::test_a_variance_that_is_there_and_one_that_is_not",
    "test_crossing.py::test_modes_determinant_and_gradient[slopes nested and crossed]",
    "test_custom.py::test_a_family_that_ships_written_down_gives_the_same_model",
    "test_custom.py::test_known_truth_is_found_from_far_away",
    "test_derivatives.py::test_gradient_and_hessian"
    "[student_t-identity-nested and crossed-expected]",
    "test_fit.py::test_padding_changes_no_fit",
    "test_parts.py::test_no_zero_inflation_is_said[zi_disp_nbinom2]",
    "test_parts.py::test_quadrature_of_zero_inflation",
    "test_robust.py::test_scores_of_herds_and_of_groups_of_herds[1-cbpp_logit_agq10-10]",
    "test_structures.py::TestAgainstGlmmTMB::test_components[sleep_cs_days]",
    "test_structures.py::TestAgainstGlmmTMB::test_estimates[sleep_cs_days]",
}

HURRY = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"


def pytest_configure(config: pytest.Config) -> None:
    if "slow" not in config.option.markexpr.replace("not slow", ""):
        os.environ.setdefault("XLA_FLAGS", HURRY)  # read when the first program is compiled
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if config.cache is not None:
        os.environ[VARIABLE] = str(config.cache.mkdir("programs"))


@pytest.hookimpl(tryfirst=True)  # before those left out by their marks are
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.rpartition("/")[2] in LONG:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def _few_memory_maps() -> Iterator[None]:
    """Linux grants a process 65,530 maps, and the programs of all tests together take more."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        forget()
        jax.clear_caches()


@pytest.fixture(autouse=True)
def _x64_left_alone() -> Iterator[None]:
    """The package may use double precision, but never switch it on for its host."""
    before = jax.config.read("jax_enable_x64")
    yield
    assert jax.config.read("jax_enable_x64") == before, "jax_enable_x64 was left changed"


@pytest.fixture
def x64(_x64_left_alone: None) -> Iterator[None]:
    """Double precision inside the test, for those that call the engine directly."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A NumPy generator seeded by the test's name: the same in any order, on any worker."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture(scope="session")
def reference() -> dict[str, dict[str, Any]]:
    """The recorded fits by id (see `records`)."""
    return records.MODELS


@pytest.fixture(scope="session")
def reference_frame() -> Callable[[dict[str, Any]], pd.DataFrame]:
    """A function from a recorded fit to the data it was fitted to."""
    return records.frame


@pytest.fixture
def traces() -> Iterator[list[str]]:
    """The names of what JAX traces and compiles during a test."""
    heard: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if "trace" in event or "compile" in event:
            heard.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield heard
    jax.monitoring.clear_event_listeners()
