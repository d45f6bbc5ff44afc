"""AdEMAMix and its simplification."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def test_the_two_counts_are_told_apart():
    # count_m2 is what the schedules see, count what corrects the averages.
    x = jnp.ones(3)
    tx = gdjax.scale_by_ademamix(b3=0.5, alpha=lambda count: count.astype(jnp.float32))
    state = tx.update(x, tx.update(x, tx.init(x))[1])[1]
    assert (int(state.count), int(state.count_m2)) == (2, 2)
    u, new = tx.update(x, state._replace(count_m2=jnp.int32(0), m2=jnp.zeros(3)))
    assert (int(new.count), int(new.count_m2)) == (3, 1)
    np.testing.assert_allclose(u, 1.0, rtol=1e-6)  # alpha(0) = 0; the fast average alone, of ones
    u, _ = tx.update(x, new)
    np.testing.assert_allclose(u, 1.0 + 1 * 0.75, rtol=1e-6)


def test_the_second_moment_is_kept_in_float32():
    state = gdjax.scale_by_ademamix(mu_dtype="bfloat16").init(jnp.ones(2, "bfloat16"))
    assert (state.m1.dtype, state.m2.dtype, state.nu.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert gdjax.scale_by_simplified_ademamix().init(jnp.ones(2, "bfloat16")).n.dtype == jnp.float32


def test_a_state_of_another_transform_is_an_error():
    x = jnp.ones(2)
    with pytest.raises(
        ValueError, match=r"gdjax.scale_by_ademamix: state has fields \('count', 'mu', 'nu'\), expected"
    ):
        gdjax.scale_by_ademamix().update(x, gdjax.scale_by_adam().init(x))
    with pytest.raises(ValueError, match=r"gdjax.ademamix: b3 must be in \[0, 1\).* got 1.0"):
        gdjax.ademamix(0.1, b3=1.0)
