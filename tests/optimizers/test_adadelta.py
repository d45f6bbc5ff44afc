"""Adadelta."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def test_descends_without_a_rate():
    tx, g = gdjax.adadelta(), jnp.ones(2)
    u, _ = tx.update(g, tx.init(g), g)
    np.testing.assert_allclose(u, -np.sqrt(1e-6 / (0.1 + 1e-6)), rtol=1e-6)


def test_zero_gradients_without_eps():
    tx, zero = gdjax.adadelta(eps=0.0), jnp.zeros(2, "float16")
    u, state = tx.update(zero, tx.init(zero), zero)
    np.testing.assert_array_equal(u, zero)
    assert state[1].e_g.dtype == state[1].e_x.dtype == jnp.float32


@pytest.mark.parametrize("rho", [-0.1, 1.0])
def test_rho_is_checked(rho):
    with pytest.raises(ValueError, match=r"^gdjax.adadelta: rho must be in \[0, 1\)"):
        gdjax.adadelta(1.0, rho)
