"""The points that torch.optim 2.13 visits where it differs from Optax, from `golden/dialects_torch_2_13.npz`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles

with np.load(Path(__file__).parent / "dialects_torch_2_13.npz") as file:
    GOLDEN = dict(file)
DOUBLE = 2.0**-52  # torch's eps of Adafactor for 64-bit parameters
DECAY = 1e-7  # Adafactor's decay of the second moment is a schedule, and computed in float32
MATRIX = gdjax.MuonDimensionNumbers(1, 0)  # of (outputs, inputs)


def rates(count: Any) -> Any:
    return jnp.asarray(GOLDEN["rates"], jnp.asarray(0.0).dtype)[count]


def decayed(tx: Any) -> Any:
    return gdjax.chain(gdjax.add_decayed_weights(0.1), tx)


@dataclasses.dataclass(frozen=True)
class Run:
    make: Callable[[Any], Any]  # from eps of the dtype
    # |gdjax - torch| <= tolerance (1 + |torch|) in float64; in float32 it is 2e-6.
    double: float = 1e-14


RUNS = {
    "nadam": Run(lambda eps: gdjax.nadam(0.1, like="torch")),
    "nadam_l2": Run(lambda eps: decayed(gdjax.nadam(rates, 0.8, 0.9, momentum_decay=0.5, like="torch"))),
    "nadamw": Run(lambda eps: gdjax.nadamw(rates, weight_decay=0.1, like="torch")),
    "radam": Run(lambda eps: gdjax.radam(0.1, like="torch")),
    "radam_eps": Run(lambda eps: gdjax.radam(rates, 0.8, 0.95, 1e-2, like="torch")),
    "amsgrad": Run(lambda eps: gdjax.amsgrad(0.1, like="torch")),
    "amsgrad_fast": Run(lambda eps: gdjax.amsgrad(rates, 0.5, 0.75, 1e-3, like="torch")),
    "adagrad": Run(lambda eps: gdjax.adagrad(0.1, like="torch")),
    "adagrad_eps": Run(lambda eps: gdjax.adagrad(rates, 0.25, 1e-2, like="torch")),
    "rmsprop": Run(lambda eps: gdjax.rmsprop(0.01, like="torch")),
    "rmsprop_momentum": Run(lambda eps: gdjax.rmsprop(rates, momentum=0.9, like="torch")),
    "rmsprop_centered": Run(lambda eps: gdjax.rmsprop(rates, eps=1e-3, momentum=0.5, centered=True, like="torch")),
    "adafactor": Run(lambda eps: gdjax.adafactor(like="torch", **eps), DECAY),
    "adafactor_decay": Run(
        lambda eps: gdjax.adafactor(
            0.5, decay_rate=0.5, clipping_threshold=1.5, weight_decay_rate=0.1, like="torch", **eps
        ),
        DECAY,
    ),
    "adafactor_eps": Run(lambda eps: gdjax.adafactor(rates, eps=0.25, like="torch"), DECAY),
    # Here eps is added to the norm; torch has the larger of the two.
    "muon": Run(lambda eps: gdjax.muon(rates, ns_dtype=None, muon_weight_dimension_numbers=MATRIX, like="torch"), 1e-6),
    "adadelta": Run(lambda eps: gdjax.adadelta(rates)),
    "adamax": Run(lambda eps: gdjax.adamax(rates, eps=1e-2)),
    "rprop": Run(lambda eps: gdjax.rprop(0.1)),
}
CASES = [key.rsplit("/", 2) for key in GOLDEN if key.count("/") == 2]


def points(tx: Any, leaf: str, dtype: str) -> Any:
    with oracles.precision(dtype):
        x, h, noise = (jnp.asarray(GOLDEN[f"{leaf}/{k}"], dtype) for k in ("x0", "curvature", "noise"))

        def step(carry: Any, n: Any) -> Any:
            x, state = carry
            updates, state = tx.update(h * x + n, state, x)
            x = gdjax.apply_updates(x, updates)
            return (x, state), x

        return np.asarray(jax.jit(lambda x: jax.lax.scan(step, (x, tx.init(x)), noise)[1])(x))


# In float32 Adafactor has another eps; the others are as in float64 but for rounding.
RARE = [dtype == "float32" and not run.startswith("adafactor") for run, _, dtype in CASES]


@pytest.mark.parametrize(
    ("run", "leaf", "dtype"),
    [pytest.param(*x, marks=[pytest.mark.slow] * rare) for x, rare in zip(CASES, RARE, strict=True)],
)
def test_torch(run, leaf, dtype):
    eps = {"eps": DOUBLE} if dtype == "float64" else {}
    with oracles.precision(dtype):
        tx = RUNS[run].make(eps)
    want, got = GOLDEN[f"{run}/{leaf}/{dtype}"], points(tx, leaf, dtype)
    tolerance = RUNS[run].double if dtype == "float64" else 2e-6
    np.testing.assert_allclose(got[-len(want) :], want, rtol=tolerance, atol=tolerance)


def test_every_run_is_compared():
    assert {run for run, _, _ in CASES} == set(RUNS)
    assert GOLDEN["versions"][0].startswith("torch 2.13.")
