"""Adamax and AdamaxW."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.declare import matrices


def adamax(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    weight_decay: Any = 0.0, mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    m, u = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        u = np.maximum(b2 * u, np.abs(g) + eps)
        step = m / (1 - b1**t) / np.where(u == 0, 1, u)
        if mask is None or np.ndim(x) > 1:
            step = step + oracles.at(weight_decay, t) * x
        x = x - oracles.at(learning_rate, t) * step
        yield x, {"mu": m, "nu": u}


CASES = {
    "default": {},
    "schedule": {"learning_rate": oracles.fall},
    "reference": {"eps": 0.0},
    "options": {"b1": 0.5, "b2": 0.75, "eps": 0.25},
}
DECAYING = {
    "default": {},
    "decay": {"weight_decay": 0.5},
    "decay, mask": {"weight_decay": oracles.fall, "mask": matrices, "b1": 0.5},
}
adamaxw = functools.partial(adamax, weight_decay=1e-4)
test_oracle = oracles.follows(gdjax.adamax, adamax, CASES, learning_rate=0.01)
test_decaying = oracles.follows(gdjax.adamaxw, adamaxw, DECAYING, learning_rate=0.01)


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_zero_gradients_in_sixteen_bits(eps):
    # 1e-8 is 0 in float16, and m / u would be 0 / 0.
    tx, zero = gdjax.adamax(0.1, eps=eps), jnp.zeros(2, "float16")
    u, state = tx.update(zero, tx.init(zero))
    np.testing.assert_array_equal(u, zero)
    assert state[0].nu.dtype == jnp.float32


def test_complex_moduli():
    tx, g = gdjax.adamax(1.0, eps=0.0), jnp.array([3 + 4j, -2j])
    u, state = tx.update(g, tx.init(g))
    np.testing.assert_allclose(u, [-0.6 - 0.8j, 1j], rtol=1e-6)
    np.testing.assert_allclose(state[0].nu, [5, 2], rtol=1e-6)
