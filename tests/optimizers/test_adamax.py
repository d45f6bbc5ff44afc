"""Adamax and AdamaxW."""

import jax.numpy as jnp
import numpy as np

import gdjax


def test_complex_moduli():
    tx, g = gdjax.adamax(1.0, eps=0.0), jnp.array([3 + 4j, -2j])
    u, state = tx.update(g, tx.init(g))
    np.testing.assert_allclose(u, [-0.6 - 0.8j, 1j], rtol=1e-6)
    np.testing.assert_allclose(state[0].nu, [5, 2], rtol=1e-6)
