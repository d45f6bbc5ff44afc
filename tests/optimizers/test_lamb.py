"""LAMB."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.declare import matrices


def lamb(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6,
    eps_root: float = 0.0, weight_decay: Any = 0.0, mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """One layer."""
    m, v = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        r = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        if mask is None or np.ndim(x) > 1:
            r = r + oracles.at(weight_decay, t) * x
        norms = [np.sqrt(np.sum(y**2)) for y in (x, r)]
        ratio = norms[0] / norms[1] if min(norms) > 0 else 1
        x = x - oracles.at(learning_rate, t) * ratio * r
        yield x, {"mu": m, "nu": v}


CASES = {
    "default": {},
    "schedules": {"learning_rate": oracles.fall, "weight_decay": oracles.fall},
    "mask": {"weight_decay": 0.5, "mask": matrices},
    "options": {"b1": 0.5, "b2": 0.75, "eps": 0.25, "eps_root": 0.125, "weight_decay": 0.25},
}


test_oracle = oracles.follows(gdjax.lamb, lamb, CASES, learning_rate=0.0625)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_zero_norms(dtype):
    tx = gdjax.lamb(0.5, eps=0.0)
    zero, one = jnp.zeros(2, dtype), jnp.ones(2, dtype)
    np.testing.assert_array_equal(tx.update(zero, tx.init(one), one)[0], zero)
    np.testing.assert_array_equal(tx.update(one, tx.init(one), zero)[0], -0.5 * one)  # Adam's step


def test_a_step_is_relative_to_the_parameter():
    tx, x = gdjax.lamb(0.25), jnp.array([3.0, 4.0])
    u, _ = tx.update(jnp.array([1e-3, -7.0]), tx.init(x), x)
    np.testing.assert_allclose(np.linalg.norm(u), 0.25 * 5, rtol=1e-6)
