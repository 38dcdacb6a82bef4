"""Long runs: killed and resumed, damaged, and divided among devices and processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fitted import CBPP, cbpp

import mixedlm_jax as mlm
from mixedlm_jax import checkpoint, lane_fits, lanes, many
from mixedlm_jax.families import CustomFamily

LANES, BLOCK = 44, 8
PARTS = ("beta", "theta", "vcov", "logLik", "ok", "code", "separated", "rescued", "nobs")

# A run in blocks of eight lanes in a process of its own. Arguments: the responses, where the result
# goes, a folder of checkpoints or "", seconds that every block takes longer, and a coordinator's
# address with the process's number.
WORKER = f"""
import sys, time, warnings
import numpy as np
import jax
warnings.simplefilter("error")
responses, result, folder, longer, address, rank = sys.argv[1:]
if address:
    jax.distributed.initialize(address, num_processes=2, process_id=int(rank))
import mixedlm_jax as mlm
from mixedlm_jax import lanes, many
many._WIDTHS, lanes._MOST_LANES, many._workers = 1, {BLOCK} // len(jax.local_devices()), lambda _: 1
fit_lanes = many.fit_lanes

def slowly(*arguments):
    time.sleep(float(longer))
    return fit_lanes(*arguments)

many.fit_lanes = slowly
model = mlm.glmer("{CBPP}", mlm.load_cbpp(), "binomial")
fits = model.refit_many(np.load(responses), checkpoint=folder or None, progress=False)
parts = {{name: getattr(fits, name) for name in {PARTS}}}
np.savez(result, devices=len(jax.local_devices()), **parts)
"""


@pytest.fixture
def blocks(monkeypatch):
    """Blocks of eight lanes, one after the other; the numbers of those that were fitted."""
    fitted = []
    monkeypatch.setattr(many, "_WIDTHS", 1)
    monkeypatch.setattr(lanes, "_MOST_LANES", BLOCK)
    monkeypatch.setattr(many, "_workers", lambda mesh: 1)
    whole = lane_fits.fit_lanes

    def counted(shared, responses, searches):
        fitted.append(len(responses.y))
        return whole(shared, responses, searches)

    monkeypatch.setattr(many, "fit_lanes", counted)
    return fitted


@pytest.fixture(scope="module")
def model():
    return mlm.glmer(CBPP, cbpp(), "binomial")


@pytest.fixture(scope="module")
def Y(model):
    drawn = model.simulate(LANES, seed=4).to_numpy(copy=True)
    drawn[:, 10] = 0.0  # constant
    drawn[cbpp()["period"].to_numpy().astype(str) == "4", 20] = 0.0  # separated
    return drawn


@pytest.fixture
def whole(model, Y, blocks):
    fits = model.refit_many(Y, progress=False)
    assert blocks == [8, 8, 8, 8, 8, 3]
    blocks.clear()
    return {name: getattr(fits, name) for name in PARTS}


def start(tmp_path, Y, *, name="result", folder="", longer=0.0, address="", rank=0, flags=""):
    np.save(tmp_path / "Y.npy", Y)
    arguments = [tmp_path / "Y.npy", tmp_path / f"{name}.npz", folder, longer, address, rank]
    root = str(Path(mlm.__file__).parents[1])
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()  # other flags, other last digits
    environment = os.environ | {"PYTHONPATH": root, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process) -> None:
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors


def identical(fits, expected) -> None:
    for name in PARTS:
        np.testing.assert_array_equal(getattr(fits, name), expected[name], err_msg=name)


def close(found, expected) -> None:
    for name in PARTS:
        np.testing.assert_allclose(
            found[name], expected[name], rtol=1e-10, atol=1e-10, err_msg=name
        )


# ----------------------------------------------------------------------------------------------
# Checkpoints


def test_a_killed_run_goes_on_where_it_stood(model, Y, whole, blocks, tmp_path):
    folder = tmp_path / "run"
    process = start(tmp_path, Y, folder=folder, longer=0.5)
    deadline = time.monotonic() + 250
    while len(list(folder.glob("piece-*"))) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(list(folder.glob("piece-*")))
    assert 2 <= done < 6
    identical(model.refit_many(Y, checkpoint=folder, progress=False), whole)
    assert len(blocks) == 6 - done
    # and a finished run is read
    blocks.clear()
    identical(model.refit_many(Y, checkpoint=folder, progress=False), whole)
    assert blocks == []


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_damaged_piece_is_made_anew(model, Y, whole, blocks, tmp_path, damage):
    model.refit_many(Y, checkpoint=tmp_path, progress=False)
    blocks.clear()
    piece = tmp_path / "piece-000002"
    content = piece.read_bytes()
    at = len(content) // 2
    piece.write_bytes(
        {
            "truncated": content[:-40],
            "changed": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
            "empty": b"",
        }[damage]
    )
    with pytest.warns(mlm.StoreWarning, match="piece-000002 is damaged"):
        fits = model.refit_many(Y, checkpoint=tmp_path, progress=False)
    identical(fits, whole)
    assert blocks == [8]
    assert piece.read_bytes() == content


def test_a_folder_belongs_to_one_run(model, Y, blocks, tmp_path):
    model.refit_many(Y[:, :8], checkpoint=tmp_path, progress=False)
    other = Y[:, :8].copy()
    other[0, 0] += 1.0 if other[0, 0] == 0.0 else -1.0
    with pytest.raises(mlm.ArgumentError, match=r"another run .* give an empty folder"):
        model.refit_many(other, checkpoint=tmp_path, progress=False)


def test_a_folder_that_cannot_be_used_is_said(model, Y, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(mlm.ArgumentError, match="cannot be used"):
        model.refit_many(Y[:, :2], checkpoint=tmp_path / "file", progress=False)


def test_a_digest_tells_shapes_types_and_values_apart():
    ones = np.ones(4)
    found = {
        checkpoint.digest(parts)
        for parts in ([ones], [ones.reshape(2, 2)], [ones.astype(int)], [ones, 1], [2 * ones])
    }
    assert len(found) == 5
    assert checkpoint.digest([ones, "a"]) == checkpoint.digest([np.ones(4), "a"])


def test_families_of_ones_own_are_known_by_their_code():
    def family(scale):
        source = f"lambda y, eta, phi: -{scale} * (y - eta) ** 2"
        return many._described(CustomFamily(eval(source)))

    assert family(0.5) == family(0.5)
    assert family(0.5) != family(0.25)


# ----------------------------------------------------------------------------------------------
# Devices and processes


def test_eight_devices_give_what_one_gives(model, Y, whole, tmp_path):
    finished(start(tmp_path, Y, flags="--xla_force_host_platform_device_count=8"))
    found = np.load(tmp_path / "result.npz")
    assert found["devices"] == 8
    close(found, whole)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(model, Y, whole, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        start(tmp_path, Y, name=f"rank{rank}", address=address, rank=rank) for rank in (0, 1)
    ]
    try:
        for process in processes:
            finished(process)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    for rank in (0, 1):
        close(np.load(tmp_path / f"rank{rank}.npz"), whole)
