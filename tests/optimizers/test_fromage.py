"""Fromage."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def fromage(x: Any, gradient: Any, learning_rate: Any, min_norm: float = 1e-6) -> Iterator[Any]:
    for t in range(1, oracles.STEPS + 1):
        g, lr = gradient(t, x), oracles.at(learning_rate, t)
        norms = [max(np.sqrt(np.sum(y**2)), min_norm) for y in (x, g)]
        x = (x - lr * g * norms[0] / norms[1]) / np.sqrt(1 + lr**2)
        yield x, {}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kwargs", [{}, {"learning_rate": oracles.fall}, {"min_norm": 2.0}], ids=oracles.named)
def test_oracle(kwargs, dtype):
    kwargs = {"learning_rate": 0.0625, **kwargs}
    got = oracles.run(gdjax.fromage(**kwargs), dtype)
    oracles.assert_same(
        (got[0], {}), oracles.expected(functools.partial(fromage, **kwargs)), **oracles.TOLERANCE[dtype]
    )


@pytest.mark.parametrize("rate", [1e-4, gdjax.constant_schedule(1e-4), jnp.float32(1e-4)])
def test_a_small_rate_shrinks_too(rate):
    # 1 / sqrt(1 + 1e-8) is 1 in float32.
    tx, x = gdjax.fromage(rate), jnp.ones(2)
    u, _ = tx.update(jnp.zeros(2), tx.init(x), x)
    np.testing.assert_allclose(u, -0.5e-8, rtol=1e-5)


def test_zero_gradients_and_zero_parameters():
    tx, zero, g = gdjax.fromage(0.5, 0.0), jnp.zeros(2), jnp.array([3.0, 4.0])
    np.testing.assert_array_equal(tx.update(zero, tx.init(zero), zero)[0], zero)
    np.testing.assert_allclose(tx.update(g, tx.init(g), zero)[0], -0.5 * g / np.sqrt(1.25), rtol=1e-6)
    half = jnp.zeros(2, "float16")
    np.testing.assert_array_equal(gdjax.fromage(0.5).update(half, gdjax.fromage(0.5).init(half), half)[0], half)
