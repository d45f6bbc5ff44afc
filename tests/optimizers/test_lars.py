"""LARS."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def test_zero_norms():
    tx = gdjax.lars(0.5)
    zero, one = jnp.zeros(2, "float16"), jnp.ones(2, "float16")
    np.testing.assert_array_equal(tx.update(zero, tx.init(one), one)[0], zero)
    np.testing.assert_array_equal(tx.update(one, tx.init(one), zero)[0], -0.5 * one)  # plain descent


def test_params_are_asked_for_by_name():
    tx, x = gdjax.lars(0.1), jnp.ones(2)
    with pytest.raises(ValueError, match=r"^gdjax\.\w+: this transform needs params"):
        tx.update(x, tx.init(x))
