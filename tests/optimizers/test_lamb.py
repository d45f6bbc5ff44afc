"""LAMB."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


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
