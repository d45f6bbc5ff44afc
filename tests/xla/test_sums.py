"""Sums and maxima as compilers take them well."""

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.xla.sums import largest_size


def test_the_largest_size_is_not_finite_where_a_number_is_not():
    x = jnp.array([[1.0, jnp.nan, 2.0, jnp.inf], [-3.0, 4.0, -jnp.inf, jnp.nan]]).T
    for f in (largest_size, jax.jit(largest_size, static_argnums=1)):
        np.testing.assert_array_equal(np.isfinite(f(x, 0)), [False, False])
        np.testing.assert_array_equal(np.isfinite(f(x, 1)), [True, False, False, False])
        assert f(x, 1)[0] == 3


def test_on_a_gpu_nothing_is_chosen_before_the_maximum():
    text = {
        platform: jax.jit(largest_size, static_argnums=1)
        .trace(jnp.ones((8, 4)), 0)
        .lower(lowering_platforms=(platform,))
        .as_text()
        for platform in ("cpu", "cuda")
    }
    assert "select" in text["cpu"] and "select" not in text["cuda"]
