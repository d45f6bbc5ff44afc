"""COCOB."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests.trees import steps


def test_it_does_not_depend_on_the_scale_of_the_gradients():
    x = jnp.array([1.0, -1.0])
    gs = [jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0]), jnp.array([-2.0, 1.0])]
    for size in (1e-6, 1e6, 1e17, 1e-25):
        eps = 1e-8 if size > 1e-7 else 0.0
        got = steps(gdjax.cocob(eps=eps), x, [size * g for g in gs])[0]
        np.testing.assert_allclose(got, steps(gdjax.cocob(), x, gs)[0], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_zero_gradients_do_not_move(dtype: str, eps: float):
    # In float16 the eps of Optax is 0, and 0 / 0 follows.
    x = jnp.array([1.0, -1.0], dtype)
    got, state = steps(gdjax.cocob(eps=eps), x, [jnp.zeros(2, dtype)] * 2)
    assert got.tolist() == [1, -1] and state[-1].scale.dtype == jnp.float32
    assert np.isfinite(steps(gdjax.cocob(eps=eps), x, [jnp.ones(2, dtype)] * 2)[0].astype("float32")).all()
