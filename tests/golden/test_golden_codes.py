"""`quantize_state` with the dynamic map beside the 8-bit Adam of bitsandbytes; see `make_bitsandbytes.py`."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from gdjax.codes.dynamic import Dynamic, _map
from tests.golden.make_bitsandbytes import RUNS, STEPS, curvature, noise, x0

FOUND = dict(np.load(Path(__file__).with_name("bitsandbytes_0_50.npz")))


def test_the_maps():
    for signed, name in ((True, "signed"), (False, "unsigned")):
        np.testing.assert_allclose(_map(signed), FOUND[name], rtol=2e-7)


@pytest.fixture
def on_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU bitsandbytes looks codes up in a table of 65,536 ratios; its other kernels, as the paper, do not."""
    nearest = Dynamic._nearest

    def looked_up(self: Dynamic, ratios: jax.Array) -> jax.Array:
        return nearest(self, jnp.round((ratios + 1) / 2 * 65535) / 65535 * 2 - 1)

    monkeypatch.setattr(Dynamic, "_nearest", looked_up)


@pytest.mark.parametrize("run", RUNS)
def test_trajectories_and_codes(run: str, on_a_grid: None):
    adamw = gdjax.adamw(0.01, weight_decay=RUNS[run])
    tx = gdjax.quantize_state(adamw, moments="dynamic", squares="dynamic", min_size=0)
    h, noises = jnp.asarray(curvature()), jnp.stack([noise(t) for t in range(STEPS[-1])])

    @jax.jit
    def trained() -> Any:
        def step(carry: Any, n: Any) -> Any:
            x, state = carry
            u, state = tx.update(h * x + n, state, x)
            return (x + u, state), x + u

        x = jnp.asarray(x0())
        (_, state), points = jax.lax.scan(step, (x, tx.init(x)), noises)
        return points, state

    points, state = trained()
    away = np.abs(np.asarray(points)[np.asarray(STEPS) - 1] - FOUND[f"{run}/x"])
    other = [np.mean(gdjax.tree.get(state, f)[0] != FOUND[f"{run}/{x}"]) for f, x in (("mu", "m"), ("nu", "v"))]
    assert np.all(away[:2] < 1e-6) and away.max() < 5e-3  # after 50 steps of 0.01
    # Where roundings differ, a number halfway between two codes may get the other.
    assert np.all(np.mean(away > 1e-5, axis=1) < 0.1) and max(other) < 0.01
