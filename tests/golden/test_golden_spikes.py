"""What authors' code does about spikes, from `golden/spikes.npz`; its script says how it was made."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles

with np.load(Path(__file__).parent / "spikes.npz") as file:
    GOLDEN = dict(file)
SKIPS = {"default": {}, "options": {"rolling_interval_length": 16, "sigma_factor": 3}}
CLIPS = {
    "default": {},
    "unbounded": {"max_norm": np.inf},
    "options": {"alpha": 0.75, "z_thresh": 1.5, "max_norm": 1.25, "eps": 0.125, "warmup_steps": 4},
}


def updates(tx):
    """Of a gradient of each of the norms, in float64: all updates, stacked."""
    with oracles.precision("float64"):
        zero = jnp.zeros(3)
        given = jnp.asarray(GOLDEN["norms"]), jnp.asarray(GOLDEN["losses"])

        def step(state, x):
            u, state = tx.update(x[0] * jnp.array([0.6, 0.0, 0.8]), state, zero, value=x[1])
            return state, u

        return np.asarray(jax.jit(lambda: jax.lax.scan(step, tx.init(zero), given)[1])())


@pytest.mark.parametrize("run", SKIPS)
def test_olmos_skipped_steps(run):
    got = updates(gdjax.skip_spikes(gdjax.identity(), **SKIPS[run]))
    want = GOLDEN[f"factor/{run}"]
    assert 3 < np.sum(want == 0) < 20
    np.testing.assert_array_equal(np.any(got != 0, axis=1), want == 1)


@pytest.mark.parametrize("run", CLIPS)
def test_zclips_norms(run):
    # Its quotients have 1e-6 beside the norm, ours have not.
    got, want = np.linalg.norm(updates(gdjax.zclip(**CLIPS[run])), axis=1), GOLDEN[f"clipped/{run}"]
    acted = want < GOLDEN["norms"] - 1e-9
    assert 5 < acted.sum() < 120
    exact = np.where(acted, want * (1 + 1e-6 / GOLDEN["norms"]), want)
    np.testing.assert_allclose(got, exact, rtol=1e-9)


def test_every_run_is_compared():
    assert {k for k in GOLDEN if "/" in k} == {f"factor/{k}" for k in SKIPS} | {f"clipped/{k}" for k in CLIPS}
