"""Adamax and AdamaxW."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


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
