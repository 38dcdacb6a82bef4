"""Placement and sharding: eight virtual CPU devices, in one process of their own.

The process writes down what it found (`facts`); the tests judge that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import fitted
import numpy as np
import pytest

import mixedlm_jax as mlm
from mixedlm_jax import functional as mf
from mixedlm_jax.errors import ArgumentError

DEVICES = 8
PROGRAM = '''
import json, re
import jax, numpy as np
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import pandas as pd
import mixedlm_jax as mlm
from mixedlm_jax import functional as mf

jax.config.update("jax_enable_x64", True)
devices = jax.devices()
assert len(devices) == 8
facts = {}


def where(tree):
    """Numbers of the devices each leaf lives on."""
    return [sorted(device.id for device in leaf.devices()) for leaf in jax.tree.leaves(tree)]


def numbers(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@jax.jit
def both(params, arrays, problem):
    return jax.value_and_grad(
        lambda params, arrays: mf.log_likelihood(params, problem.replace(**arrays)), (0, 1)
    )(params, arrays)


def of(problem):
    return {"weights": problem.weights, "X": problem.X, "offset": problem.offset}


def gathered(compiled):
    """Sizes of what is gathered from all devices."""
    found = re.findall(r"= \\(?[a-z0-9]+\\[([0-9,]*)\\][^=]* all-gather", compiled.as_text())
    return [[int(size) for size in one.split(",") if size] for one in found]


cbpp = mf.make_problem("incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), "binomial")
rng = np.random.default_rng(1)
a, b = np.repeat(np.arange(16), 10), np.tile(np.arange(10), 16)
y = rng.poisson(np.exp(0.3 + 0.5 * rng.normal(size=16)[a] + 0.4 * rng.normal(size=10)[b]))
frame = pd.DataFrame({"y": y, "a": a, "b": b, "x": rng.normal(size=160)})
crossed = mf.make_problem("y ~ x + (1 | a) + (1 | b)", frame, "poisson")

for name, problem in (("cbpp", cbpp), ("crossed", crossed)):
    start = mf.init(problem)
    plain = both(start, of(problem), problem)
    rows = mf.shard_rows(problem)
    compiled = both.lower(start, of(rows), rows).compile()
    found = compiled(start, of(rows), rows)
    facts[name] = {
        "plain": numbers(plain).tolist(),
        "divided": numbers(found).tolist(),
        "where": where(found),
        "weights": [piece.data.shape for piece in found[1][1]["weights"].addressable_shards],
        "gathered": gathered(compiled),
        "n": problem.y.shape[0],
        "start": numbers(mf.init(rows)).tolist(),
        "init": numbers(start).tolist(),
    }

start = mf.init(cbpp)
third = jax.device_put(cbpp, devices[3])
facts["placed"] = where((both(start, of(third), third), mf.solve(third, start)))
divided = mf.shard_rows(cbpp)
solved = mf.solve(divided, start)
facts["solved"] = {"params": solved.params.flat.tolist(), "code": int(solved.code),
                   "value": float(solved.log_likelihood), "where": where(solved)}

whole = NamedSharding(divided.y.sharding.mesh, PartitionSpec())
facts["control"] = gathered(jax.jit(jnp.exp, out_shardings=whole).lower(divided.y).compile())

lanes = NamedSharding(Mesh(np.array(devices), ("lanes",)), PartitionSpec("lanes"))
many = np.tile(np.asarray(cbpp.y), (16, 1))
many[1:] = rng.binomial(np.asarray(cbpp.trials).astype(int), 0.2, size=(15, 56))
program = jax.jit(jax.vmap(lambda y: mf.solve(cbpp.replace(y=y), start)))
compiled = program.lower(jax.device_put(many, lanes)).compile()
fits = compiled(jax.device_put(many, lanes))
facts["lanes"] = {"first": fits.params.beta[0].tolist(), "code": fits.code.tolist(),
                  "pieces": [piece.data.shape for piece in fits.params.beta.addressable_shards],
                  "gathered": gathered(compiled)}
print(json.dumps(facts))
'''


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": flags},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["cbpp", "crossed"])
def test_rows_divided_among_devices_change_nothing(facts, name):
    found = facts[name]
    np.testing.assert_allclose(found["divided"], found["plain"], rtol=1e-10, atol=1e-10)
    assert found["where"] == [list(range(DEVICES))] * len(found["where"])
    assert found["start"] == found["init"]


@pytest.mark.parametrize("name", ["cbpp", "crossed"])
def test_divided_rows_are_not_gathered(facts, name):
    found = facts[name]
    assert [size for size in found["gathered"] if found["n"] in size] == []
    assert facts["control"] == [[56]]  # what is gathered is seen
    # the gradient in the weights of rows stays where the rows are
    assert found["weights"] == [[found["n"] // DEVICES]] * DEVICES


def test_what_is_put_on_a_device_is_computed_there(facts):
    assert facts["placed"] == [[3]] * len(facts["placed"])


def test_estimates_of_divided_rows(facts):
    model, found = fitted.recorded("cbpp_logit"), facts["solved"]
    assert found["code"] == 0
    np.testing.assert_allclose(found["params"], [*model.theta, *model.beta], atol=2e-6)
    assert found["value"] == pytest.approx(float(model.logLik()), abs=1e-9)
    assert found["where"] == [list(range(DEVICES))] * len(found["where"])


def test_many_fits_divided_among_devices(facts):
    model, found = fitted.recorded("cbpp_logit"), facts["lanes"]
    assert min(found["code"]) >= 0
    np.testing.assert_allclose(found["first"], model.beta, atol=2e-6)
    assert found["pieces"] == [[16 // DEVICES, 4]] * DEVICES
    assert found["gathered"] == []


def test_programs_that_were_kept_run_where_there_are_several_devices(tmp_path):
    """On the one that is chosen, in the process that keeps them and in the next."""
    program = """
import jax
import mixedlm_jax as mlm
from mixedlm_jax import functional as mf
found = set()
for device in (None, *jax.devices()):
    with jax.default_device(device):
        problem = mf.make_problem("incidence / size ~ 1 + (1 | herd)", mlm.load_cbpp(), "binomial")
        start = mf.init(problem)
        assert start.beta.devices() == {device or jax.devices()[0]}
        found.add(float(start.beta[0]))
assert len(found) == 1
"""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    env = os.environ | {"XLA_FLAGS": flags, "MIXEDLM_JAX_CACHE": str(tmp_path)}
    kept = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program], check=True, env=env)
        kept.append(sorted(path.name for path in tmp_path.rglob("*") if path.is_file()))
    assert kept[0]
    assert kept[1] == kept[0]


def test_rows_that_cannot_be_divided_are_refused():
    problem = mf.make_problem(fitted.CBPP, mlm.load_cbpp(), "binomial")
    with pytest.raises(ArgumentError, match=r"56 rows cannot be divided .* among 5 .*add 4 rows"):
        mf.shard_rows(problem, [mlm] * 5)
