"""NovoGrad."""

import jax.numpy as jnp
import numpy as np

import gdjax


def test_the_second_moment_is_a_number_for_each_leaf():
    params = {"a": jnp.ones((2, 3), "bfloat16"), "b": jnp.ones(4)}
    tx = gdjax.scale_by_novograd(mu_dtype="float32", eps=0.0)
    u, state = tx.update(params, tx.init(params), params)
    assert {k: (v.shape, v.dtype) for k, v in state.nu.items()} == {k: ((), jnp.float32) for k in "ab"}
    assert state.mu["a"].dtype == jnp.float32 and u["a"].dtype == jnp.bfloat16
    np.testing.assert_allclose(u["b"], 0.5 * np.ones(4), rtol=1e-6)  # of norm 1


def test_nu_recovers_from_a_huge_gradient():
    tx, one = gdjax.novograd(0.1), jnp.ones(2)
    _, state = tx.update(1e20 * one, tx.init(one), one)
    assert np.isfinite(state[0].nu)
    u = one
    for _ in range(150):
        u, state = tx.update(one, state, one)
    np.testing.assert_allclose(u, -0.1 * 10 / np.sqrt(2) * one, rtol=1e-3)  # momentum adds ten of them up
