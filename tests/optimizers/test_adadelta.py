"""Adadelta."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def test_descends_without_a_rate():
    tx, g = gdjax.adadelta(), jnp.ones(2)
    u, _ = tx.update(g, tx.init(g), g)
    np.testing.assert_allclose(u, -np.sqrt(1e-6 / (0.1 + 1e-6)), rtol=1e-6)


@pytest.mark.parametrize("rho", [-0.1, 1.0])
def test_rho_is_checked(rho):
    with pytest.raises(ValueError, match=r"^gdjax.adadelta: rho must be in \[0, 1\)"):
        gdjax.adadelta(1.0, rho)
