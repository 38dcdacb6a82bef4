"""Compiled programs that outlive their process: what is kept, and what may go wrong with it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fitted import recorded

import mixedlm_jax as mlm
from mixedlm_jax import compiled, store
from mixedlm_jax.compiled import Program, forget
from mixedlm_jax.families import Binomial, Poisson
from mixedlm_jax.means import link_mean
from mixedlm_jax.store import VARIABLE, Store, chosen_folder, store_in

ETA = np.array([-1.0, 0.5, 2.0])

FIT = """
import jax
import mixedlm_jax as mlm

heard = []
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: heard.append(event))
model = mlm.glmer("incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), "binomial")
compiled = sum("backend_compile" in event for event in heard)
print(compiled, repr(model.fit.log_likelihood))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder for compiled programs, and a process that remembers none."""
    place = tmp_path / "programs"
    monkeypatch.setenv(VARIABLE, str(place))
    forget()
    return place


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.program"))


def in_another_process(code: str, folder: Path) -> str:
    """What a new process prints that compiles as users do; its warnings go to the end."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, VARIABLE: str(folder), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


class TestPrograms:
    def test_are_read_back_instead_of_compiled(self, folder, traces):
        expected = link_mean(Poisson(), ETA)
        assert traces
        assert len(entries(folder)) == 1
        forget()
        traces.clear()
        np.testing.assert_array_equal(link_mean(Poisson(), ETA), expected)
        assert not [event for event in traces if "backend_compile" in event or "jaxpr" in event]

    def test_differ_by_link_shape_and_configuration(self, folder):
        link_mean(Poisson(), ETA)
        link_mean(Poisson("sqrt"), ETA)
        link_mean(Binomial(), ETA)
        link_mean(Poisson(), np.ones(9))
        with jax.default_matmul_precision("float32"):
            link_mean(Poisson(), ETA)
        assert len(entries(folder)) == 5

    def test_are_kept_for_their_owner_alone(self, folder):
        link_mean(Poisson(), ETA)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert entries(folder)[0].stat().st_mode & 0o777 == 0o600

    def test_of_code_from_elsewhere_stay_in_the_process(self, folder):
        @dataclass(frozen=True)
        class Doubled(Poisson):
            link: str = "sqrt"

        np.testing.assert_allclose(link_mean(Doubled(), ETA), ETA**2)
        assert not entries(folder)

    def test_leave_the_callers_cache_to_the_caller(self, folder, tmp_path):
        code = (
            "import jax\n"
            f"jax.config.update('jax_compilation_cache_dir', {str(tmp_path / 'jax')!r})\n"
            "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)\n"
            "import numpy as np; from mixedlm_jax.means import link_mean\n"
            "from mixedlm_jax.families import Poisson\n"
            "print(link_mean(Poisson(), np.zeros(2))[0])"
        )
        assert in_another_process(code, folder) == "1.0\n"
        assert not entries(folder)
        assert list((tmp_path / "jax").glob("*-cache"))

    def test_may_be_switched_off(self, folder, monkeypatch):
        monkeypatch.setenv(VARIABLE, "off")
        np.testing.assert_allclose(link_mean(Poisson(), ETA), np.exp(ETA))
        assert compiled._open_store() is None

    def test_change_nothing_of_the_configuration(self, folder):
        before = dict(jax.config.values)
        link_mean(Poisson(), ETA)
        assert dict(jax.config.values) == before

    def test_in_memory_are_bounded(self, monkeypatch):
        monkeypatch.setenv(VARIABLE, "off")
        monkeypatch.setattr(compiled, "_MAX_IN_MEMORY", 3)
        double = Program(lambda x: 2.0 * x)
        for n in range(1, 8):
            double(np.ones(n, np.float32))
        assert len(compiled._executables) == 3
        np.testing.assert_array_equal(double(np.ones(1, np.float32)), [2.0])

    def test_under_a_transformation_are_plain_functions(self, folder):
        square = Program(lambda x: x**2)
        assert float(jax.grad(square)(3.0)) == 6.0
        np.testing.assert_allclose(jax.vmap(square)(jnp.arange(3.0)), [0.0, 1.0, 4.0])
        assert not entries(folder)

    def test_follow_arrays_bound_to_a_device(self, folder):
        there = jax.device_put(jnp.ones(3), jax.devices()[0])
        assert there.committed
        np.testing.assert_array_equal(Program(lambda x: x + 1.0)(there), [2.0, 2.0, 2.0])

    def test_make_a_second_process_compile_nothing(self, tmp_path):
        first = in_another_process(FIT, tmp_path / "programs").split()
        second = in_another_process(FIT, tmp_path / "programs").split()
        assert int(first[0]) > 5
        assert int(second[0]) == 0
        assert first[1] == second[1]
        # and those that the tests compile in a hurry (see conftest) give the same
        ours = recorded("cbpp_logit").fit.log_likelihood
        assert float(first[1]) == pytest.approx(ours, abs=1e-9)


class TestMishaps:
    @pytest.mark.parametrize("kept", [0, 20, 200])
    def test_a_truncated_entry_is_made_anew(self, folder, kept):
        link_mean(Poisson(), ETA)
        (entry,) = entries(folder)
        whole = entry.read_bytes()
        entry.write_bytes(whole[:kept])
        forget()
        with pytest.warns(mlm.StoreWarning, match="damaged and is made anew") as said:
            np.testing.assert_allclose(link_mean(Poisson(), ETA), np.exp(ETA))
        assert len(said) == 1
        assert len(entry.read_bytes()) > 200

    def test_what_jax_cannot_load_is_made_anew(self, folder):
        link_mean(Poisson(), ETA)
        (entry,) = entries(folder)
        Store(folder).write(entry.stem, b"whole, but no program")
        forget()
        with pytest.warns(mlm.StoreWarning, match="damaged"):
            np.testing.assert_allclose(link_mean(Poisson(), ETA), np.exp(ETA))
        forget()
        np.testing.assert_allclose(link_mean(Poisson(), ETA), np.exp(ETA))  # and does not warn

    @pytest.mark.parametrize("number", ["EACCES", "EROFS", "ENOSPC"])
    def test_a_folder_that_takes_nothing_is_said_once(self, folder, monkeypatch, number):
        # root may write into any folder, so the refusal is made here
        code = getattr(errno, number)

        def refuse(*_, **__):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("tempfile.mkstemp", refuse)
        with pytest.warns(mlm.StoreWarning, match="nothing can be written") as said:
            np.testing.assert_allclose(link_mean(Poisson(), ETA), np.exp(ETA))
        assert len(said) == 1
        np.testing.assert_allclose(link_mean(Binomial(), 0.0 * ETA), 0.5)  # and does not warn again
        assert not list(folder.glob("*"))

    def test_a_disk_that_fills_up_leaves_nothing_behind(self, folder, monkeypatch):
        def refuse(*_):
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr("os.replace", refuse)
        with pytest.warns(mlm.StoreWarning, match="No space left"):
            link_mean(Poisson(), ETA)
        assert not list(folder.glob("*"))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_read_only_folder(self, folder):
        folder.mkdir(mode=0o500)
        with pytest.warns(mlm.StoreWarning, match="nothing can be written"):
            np.testing.assert_allclose(link_mean(Poisson(), ETA), np.exp(ETA))

    def test_a_file_where_the_folder_should_be(self, folder):
        folder.write_text("no folder")
        with pytest.warns(mlm.StoreWarning):
            np.testing.assert_allclose(link_mean(Poisson(), ETA), np.exp(ETA))

    def test_a_folder_that_others_may_write_is_not_trusted(self, folder):
        folder.mkdir()
        folder.chmod(0o777)
        with pytest.warns(mlm.StoreWarning, match="may be written by others"):
            np.testing.assert_allclose(link_mean(Poisson(), ETA), np.exp(ETA))
        assert not entries(folder)

    def test_processes_that_fill_it_at_once(self, tmp_path):
        code = (
            "import numpy as np; from mixedlm_jax.means import link, link_mean\n"
            "from mixedlm_jax.families import Poisson\n"
            "for n in range(1, 40, 8): link_mean(Poisson(), np.ones(n))\n"
            "print(float(link_mean(Poisson(), np.zeros(2))[0]))"
        )
        with ThreadPoolExecutor(3) as pool:
            printed = list(pool.map(lambda _: in_another_process(code, tmp_path), range(3)))
        assert printed == ["1.0\n"] * 3  # and no warning
        assert not list(tmp_path.glob("*.unfinished"))


class TestFolder:
    def test_is_the_users_own(self, monkeypatch):
        monkeypatch.delenv(VARIABLE)
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        monkeypatch.setattr("sys.platform", "linux")
        assert chosen_folder() == Path("/somewhere/mixedlm_jax")
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        assert chosen_folder() == Path.home() / ".cache" / "mixedlm_jax"

    @pytest.mark.parametrize("word", ["off", "OFF", "0", ""])
    def test_may_be_none(self, monkeypatch, word):
        monkeypatch.setenv(VARIABLE, word)
        assert chosen_folder() is None

    def test_is_swept_oldest_first(self, tmp_path, monkeypatch):
        place = Store(tmp_path)
        for age, name in enumerate(["new", "middle", "old"]):
            place.write(name, os.urandom(1000))
            os.utime(tmp_path / f"{name}.program", (1e9 - age, 1e9 - age))
        assert place.read("old") is not None  # and with it the youngest
        monkeypatch.setattr(store, "_MAX_BYTES", 3000)
        monkeypatch.setattr(store, "_WRITES_BETWEEN_SWEEPS", 1)
        place.write("newest", os.urandom(1000))
        assert {path.stem for path in entries(tmp_path)} == {"newest", "old"}

    def test_loses_what_its_writers_abandoned(self, tmp_path):
        lost = tmp_path / "x.unfinished"
        lost.write_bytes(b"half")
        os.utime(lost, (0, 0))
        Store(tmp_path).write("one", b"content")
        assert not lost.exists()

    def test_has_one_store(self, tmp_path):
        assert store_in(tmp_path) is store_in(tmp_path)

    def test_gives_back_what_it_was_given(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            place = Store(tmp_path / "new")
            assert place.read("entry") is None
            place.write("entry", b"content")
            assert place.read("entry") == b"content"
