"""AdamC."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.declare import matrices

PEAK = 0.25


def adamc(
    x: Any, gradient: Any, lr: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-4,
    peak: float = PEAK, mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """AdamW, with lr^2 / lr_max in place of lr before the decay."""
    mu = nu = 0.0
    for t in range(1, oracles.STEPS + 1):
        g, rate = gradient(t, x), oracles.at(lr, t)
        mu, nu = b1 * mu + (1 - b1) * g, b2 * nu + (1 - b2) * g**2
        u = mu / (1 - b1**t) / (np.sqrt(nu / (1 - b2**t)) + eps)
        decay = weight_decay if mask is None or np.ndim(x) > 1 else 0
        x = x - rate * u - rate**2 / peak * decay * x
        yield x, {"mu": mu, "nu": nu}


CASES = {
    "default": {},
    "all": {"b1": 0.8, "b2": 0.9, "eps": 0.5, "weight_decay": 0.5},
    "mask": {"weight_decay": 0.5, "mask": matrices},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_oracle(name: str, dtype: str):
    tx = gdjax.adamc(oracles.fall, peak_learning_rate=PEAK, **CASES[name])
    oracle = functools.partial(adamc, lr=oracles.fall, **CASES[name])
    # A schedule is computed in float32 in both dtypes.
    tolerance = {"float32": {"rtol": 1e-5, "atol": 2e-6}, "float64": {"rtol": 1e-6, "atol": 1e-7}}[dtype]
    oracles.assert_follows(tx, oracle, dtype, **tolerance)


def test_with_a_constant_rate_it_is_adamw():
    both = [oracles.run(f(0.01, weight_decay=0.25)) for f in (gdjax.adamc, gdjax.adamw)]
    oracles.assert_same(*both, rtol=1e-6, atol=1e-6)


def test_misuse():
    with pytest.raises(ValueError, match="^gdjax.adamc: kind='corrected' needs peak_learning_rate"):
        gdjax.adamc(oracles.fall)
    with pytest.raises(ValueError, match="^gdjax.adamc: peak_learning_rate must be finite and above 0"):
        gdjax.adamc(0.1, peak_learning_rate=0.0)
