"""AMSGrad."""

import jax.numpy as jnp
import numpy as np

import gdjax


def test_zero_gradients_in_sixteen_bits():
    tx, zero = gdjax.amsgrad(0.1), jnp.zeros(2, "float16")
    np.testing.assert_array_equal(tx.update(zero, tx.init(zero))[0], zero)


def test_mu_dtype():
    state = gdjax.amsgrad(0.1, mu_dtype="bfloat16").init(jnp.zeros(2))[0]
    assert (state.mu.dtype, state.nu.dtype, state.nu_max.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
