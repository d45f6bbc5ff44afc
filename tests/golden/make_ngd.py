"""Writes ngd.npz: steps of SPRING and of minSR by NetKet; `golden/test_golden_ngd.py` reads it.

    python tests/golden/make_ngd.py

needs netket 3.23.0, whose jax was 0.10.2. The wave function is that of a restricted Boltzmann machine with real
parameters, the samples and the local energies are random numbers, drawn anew for each step.

The arrays: "samples" (STEPS, n, sites), "energies" (STEPS, n); "start" the parameters, in the order a, b, W; and of
each run the parameters after every step.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import netket as nk
import numpy as np
from netket._src.ngd.sr_srt_common import srt

STEPS, SAMPLES, SITES, HIDDEN = 6, 12, 4, 3
RATE, SHIFT = 0.1, 0.05
RUNS = {"minsr": {}, "spring": {"momentum": 0.9}, "projected": {"momentum": 0.9, "proj_reg": 1.0}}

assert jax.config.jax_enable_x64, "NetKet enables float64"


def log_psi(variables, samples):
    p = variables["params"]
    return samples @ p["a"] + jnp.sum(jnp.log(jnp.cosh(samples @ p["W"] + p["b"])), -1)


rng = np.random.default_rng(0)
start = {"a": rng.normal(size=SITES), "b": rng.normal(size=HIDDEN), "W": rng.normal(size=(SITES, HIDDEN))}
start = {name: jnp.asarray(0.3 * x) for name, x in start.items()}
samples = rng.choice([-1.0, 1.0], size=(STEPS, SAMPLES, SITES))
energies = rng.normal(size=(STEPS, SAMPLES))
in_order = lambda p: np.concatenate([np.ravel(p[name]) for name in "abW"])
arrays = {"samples": samples, "energies": energies, "start": in_order(start)}
for run, settings in RUNS.items():
    params, old, points = start, None, []
    for x, e in zip(samples, energies, strict=True):
        updates, old, _ = srt(
            log_psi, jnp.asarray(e), params, {}, jnp.asarray(x), diag_shift=SHIFT, old_updates=old,
            solver_fn=nk.optimizer.solver.cholesky, mode="real", **settings,
        )  # fmt: skip
        params = jax.tree.map(lambda p, u: p - RATE * u, params, updates)
        points.append(in_order(params))
    arrays[run] = np.stack(points)
np.savez_compressed(Path(__file__).parent / "ngd.npz", rate=RATE, shift=SHIFT, **arrays)
