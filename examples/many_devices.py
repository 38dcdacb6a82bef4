"""Many fits divided among devices and machines.

On one machine, whatever devices it has:

    python examples/many_devices.py

On several, the same line on each, with the first one's address and each its own number:

    python examples/many_devices.py --coordinator first:9876 --processes 2 --process 0
    python examples/many_devices.py --coordinator first:9876 --processes 2 --process 1

JAX finds the devices: GPUs where jax[cuda12] is installed, else the processor. Every process fits
every so many-th block of the lanes, and all of them end with all results. A seed must be given, so
that all draw the same responses.
"""

from __future__ import annotations

import argparse
import time

import jax

import mixedlm_jax as mlm

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("--coordinator", help="address:port of the first process")
parser.add_argument("--processes", type=int, default=1)
parser.add_argument("--process", type=int, default=0, help="this process's number, from 0")
parser.add_argument("--lanes", type=int, default=2_000)
parser.add_argument("--checkpoint", help="a folder; a run that was killed goes on where it stood")
args = parser.parse_args()

if args.coordinator:  # before anything else is asked of JAX
    jax.distributed.initialize(args.coordinator, args.processes, args.process)

model = mlm.glmer("incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), "binomial")
Y = model.simulate(args.lanes, seed=1)
begun = time.perf_counter()
fits = model.refit_many(Y, checkpoint=args.checkpoint)
seconds = time.perf_counter() - begun

if jax.process_index() == 0:
    device = jax.devices()[0].device_kind
    print(f"{len(fits)} fits in {seconds:.1f} s on {jax.device_count()} x {device}")
    print(fits)
    print(fits.to_dataframe()[list(fits.fixed)].describe().round(3))
