"""Yogi."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def yogi(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-3,
    eps_root: float = 0.0, initial_accumulator_value: float = 1e-6,
) -> Iterator[Any]:  # fmt: skip
    m, v = np.zeros(np.shape(x)), np.full(np.shape(x), initial_accumulator_value)
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * np.sign(v - g**2) * g**2
        step = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        x = x - oracles.at(learning_rate, t) * step
        yield x, {"mu": m, "nu": v}


CASES = {
    "default": {},
    "schedule": {"learning_rate": oracles.fall},
    "options": {"b1": 0.75, "b2": 0.9, "eps": 0.25},
}


test_oracle = oracles.follows(gdjax.yogi, yogi, CASES, learning_rate=0.01)


def test_oracle_of_the_part():
    kwargs = {"eps_root": 0.25, "initial_accumulator_value": 0.5}
    tx = gdjax.chain(gdjax.scale_by_yogi(**kwargs), gdjax.scale(-0.01))
    oracles.assert_follows(tx, functools.partial(yogi, **kwargs), "float64")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_has_no_gradient_stays(dtype):
    tx, zero = gdjax.yogi(0.1), jnp.zeros(2, dtype)
    np.testing.assert_array_equal(tx.update(zero, tx.init(zero))[0], zero)


def test_a_large_gradient_is_forgotten_slowly():
    # Adam's second moment falls by the factor b2, Yogi's by (1 - b2) g^2.
    state = gdjax.scale_by_yogi(b2=0.5).init(jnp.zeros(()))._replace(nu=jnp.float32(100.0))
    _, state = gdjax.scale_by_yogi(b2=0.5).update(jnp.float32(2.0), state)
    assert float(state.nu) == 98.0
