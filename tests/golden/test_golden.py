"""The points that torch.optim 2.13 visits, from `golden/torch_2_13.npz`; its script says how they were made."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles

with np.load(Path(__file__).parent / "torch_2_13.npz") as file:
    GOLDEN = dict(file)

# With the arguments that the docstrings name.
RUNS = {
    "sgd": gdjax.sgd(0.1),
    "sgd_momentum": gdjax.sgd(0.1, 0.9),
    "sgd_nesterov": gdjax.sgd(0.1, 0.9, nesterov=True),
    "adam": gdjax.adam(0.01),
    "adamw": gdjax.adamw(0.01, weight_decay=0.01),
    "rmsprop": gdjax.rmsprop(0.01, decay=0.99, eps_in_sqrt=False),
    "rmsprop_centered": gdjax.rmsprop(0.01, decay=0.99, eps_in_sqrt=False, centered=True),
    "rmsprop_momentum": gdjax.rmsprop(0.01, decay=0.99, eps_in_sqrt=False, momentum=0.9),
    "adagrad": gdjax.adagrad(0.1, 0.0, 0.0),
}
# The promise is 1e-6 in float32, for parameters of order 1; in float64 the rules can be seen to be the same.
TOLERANCE = {"float32": 1e-6, "float64": 1e-14}


def points(tx, dtype):
    with oracles.precision(dtype):
        x, h, noise = (jnp.asarray(GOLDEN[k], dtype) for k in ("x0", "curvature", "noise"))

        def step(carry, n):
            x, state = carry
            updates, state = tx.update(h * x + n, state, x)
            x = gdjax.apply_updates(x, updates)
            return (x, state), x

        return np.asarray(jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), noise)[1])(x))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("run", RUNS)
def test_torch(run, dtype):
    want = GOLDEN[f"{run}/{dtype}"]
    assert want.dtype == dtype and want.shape == (30, 6)
    got = points(RUNS[run], dtype)
    # torch's Adagrad adds an eps of 1e-10 to the root, which is of order 1 here.
    tolerance = max(TOLERANCE[dtype], 1e-10 if run == "adagrad" else 0)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_every_run_is_compared():
    assert {k.split("/")[0] for k in GOLDEN if "/" in k} == set(RUNS)
    assert GOLDEN["versions"][0].startswith("torch 2.13.")
