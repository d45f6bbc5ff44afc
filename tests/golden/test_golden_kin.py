"""The points that authors' code of Adam's kin visits, from `golden/kin.npz`; its script says how they were made."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.declare import by_rank

with np.load(Path(__file__).parent / "kin.npz") as file:
    GOLDEN = dict(file)
LEAVES = ("matrix", "wide", "vector")

RUNS = {
    "laprop": gdjax.laprop(0.01),
    "laprop/options": gdjax.laprop(0.01, 0.95, 0.9, 1e-3),
    "adam_atan2": gdjax.adam_atan2(0.01),
    "adam_atan2/options": gdjax.adam_atan2(0.01, 0.8, 0.95, 1.0, 0.5, weight_decay=0.5),
    "stable_adamw": gdjax.stable_adamw(0.01),
    "stable_adamw/options": gdjax.stable_adamw(0.01, 0.8, 0.95, 1e-3, weight_decay=0.5, clipping_threshold=0.5),
}

MARS_ADAMW = gdjax.mars(gdjax.adamw(0.01, 0.95, 0.99, weight_decay=0.0))
PLAIN = gdjax.adamw(0.02, b2=0.95, weight_decay=0.1)  # of what is no matrix
# Their momentum is 1 / (1 - 0.95) times ours, and so is the norm beside their eps of 1e-8.
JORDAN = {"ns_coeffs": "jordan", "eps": 0.05 * 1e-8, "nesterov": False, "bias_correction": False}
AXES = gdjax.MuonDimensionNumbers(1, 0)  # their matrices are (outputs, inputs)
MUON = gdjax.muon(0.01, beta=0.95, weight_decay=0.01, **JORDAN, muon_weight_dimension_numbers=AXES)
RUNS |= {
    "mars/adamw": MARS_ADAMW,
    "mars/1d": gdjax.partition(
        {"matrix": gdjax.mars(gdjax.adamw(0.01, 0.95, 0.99, weight_decay=0.01)), "vector": PLAIN}, by_rank
    ),
    "mars/lion": gdjax.mars(gdjax.signum(0.01, 0.9), b1=0.9, gamma=0.05),
    "mars/shampoo": gdjax.partition(
        {"matrix": gdjax.mars(MUON), "vector": gdjax.adamw(0.003, b2=0.95, weight_decay=0.1)}, by_rank
    ),
    "grokfast": gdjax.grokfast(gdjax.adamw(0.01, weight_decay=0.01)),
    "grokfast/options": gdjax.grokfast(gdjax.sgd(0.01, 0.5), 0.9, 5.0),
}


def points(tx, leaf):
    """After the kept steps, in float64: the rules can then be seen to be the same."""
    with oracles.precision("float64"):
        x, h, noise = (jnp.asarray(GOLDEN[f"{leaf}/{k}"], float) for k in ("x0", "curvature", "noise"))

        def step(carry, n):
            x, state = carry
            updates, state = tx.update(h * x + n, state, x)
            x = gdjax.apply_updates(x, updates)
            return (x, state), x

        return np.asarray(jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), noise)[1])(x))[GOLDEN["kept"] - 1]


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("run", RUNS)
def test_authors(run, leaf):
    want = GOLDEN[f"{run}/{leaf}"]
    np.testing.assert_allclose(points(RUNS[run], leaf), want, rtol=1e-12, atol=1e-12)


def test_every_run_is_compared():
    assert {k.rpartition("/")[0] for k in GOLDEN if k.rpartition("/")[2] in LEAVES} == set(RUNS)
