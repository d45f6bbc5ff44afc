"""AMSGrad."""

import jax.numpy as jnp

import gdjax


def test_mu_dtype():
    state = gdjax.amsgrad(0.1, mu_dtype="bfloat16").init(jnp.zeros(2))[0]
    assert (state.mu.dtype, state.nu.dtype, state.nu_max.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
