"""Where the likelihood is computed, and in which precision: one device, many, and float32."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import mixedlm_jax as mlm
from mixedlm_jax import functional as mf

formula = "incidence / size ~ period + (1 | herd)"
cbpp = mlm.load_cbpp()
both = jax.jit(jax.value_and_grad(mf.log_likelihood))

# Precision is the caller's: float32 unless float64 is enabled where the arrays are made and used
found = {}
for enabled in (True, False):
    with jax.enable_x64(enabled):
        problem = mf.make_problem(formula, cbpp, "binomial")
        found[enabled] = mf.solve(problem, mf.init(problem))
double, single = found[True], found[False]
apart = np.abs(np.asarray(single.params.flat) - np.asarray(double.params.flat))
print(f"log L in float64 {double.log_likelihood:.6f}, in float32 {single.log_likelihood:.6f}")
print(f"estimates differ by at most {apart.max():.0e}")

# Placement is JAX's: what is committed to a device is computed there, and the result stays
problem = mf.make_problem(formula, cbpp, "binomial")
start = mf.init(problem)
last = jax.devices()[-1]
value, slope = both(start, jax.device_put(problem, last))
assert value.devices() == slope.beta.devices() == {last}
print(f"\nlog L on {last}, the last of {len(jax.devices())} devices: {value:.4f}")

# Many responses divided among all devices: no fit needs to know of another
lanes = NamedSharding(Mesh(np.array(jax.devices()), ("lanes",)), PartitionSpec("lanes"))
size = 32 * len(jax.devices())
incidence = np.random.default_rng(1).binomial(cbpp["size"], 0.2, size=(size, len(cbpp)))
y = jax.device_put(incidence.astype(problem.y.dtype), lanes)
fits = jax.jit(jax.vmap(lambda y: mf.solve(problem.replace(y=y), start)))(y)
print(f"{size} responses on {len(fits.code.devices())} devices: {np.sum(fits.code >= 0)} ok")

# Rows divided among devices, for data too large for one: as many of them as divide the rows
number = max(k for k in range(1, len(jax.devices()) + 1) if len(cbpp) % k == 0)
divided = mf.shard_rows(problem, jax.devices()[:number])
again, _ = both(start, divided)
print(f"\nRows on {len(divided.y.devices())} devices: {again:.4f}")
assert np.allclose(again, value)
