"""Matrices under a record's control of norms, from `golden/norm_control.npz`; its script says how it was made."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax

with np.load(Path(__file__).parent / "norm_control.npz") as file:
    GOLDEN = dict(file)
RATE, FLOOR = float(GOLDEN["rate"]), float(GOLDEN["rate"] * GOLDEN["floor"])
RUNS = {"brake": {}, "floor": {"floor": FLOOR}, "outputs": {"floor": FLOOR, "outputs": True}}
SHAPES = ("4x3", "3x5")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("run", RUNS)
def test_the_record(run, shape):
    tx = gdjax.radial_brake(gdjax.sgd(RATE), **RUNS[run])
    params = {"kernel": jnp.asarray(GOLDEN[f"{shape}/start"].T)}
    state, found = tx.init(params), []
    for g in GOLDEN[f"{shape}/updates"]:
        updates, state = jax.jit(tx.update)({"kernel": jnp.asarray(g.T)}, state, params)
        params = gdjax.apply_updates(params, updates)
        found.append(params["kernel"].T)
    np.testing.assert_allclose(np.stack(found), GOLDEN[f"{run}/{shape}"], rtol=1e-5, atol=1e-6)


def test_every_part_acts():
    for shape in SHAPES:
        ends = [GOLDEN[f"{run}/{shape}"][-1] for run in RUNS]
        assert all(np.abs(a - b).max() > 1e-2 for a, b in zip(ends, ends[1:], strict=False))
