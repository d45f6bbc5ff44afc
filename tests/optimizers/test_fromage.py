"""Fromage."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


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
