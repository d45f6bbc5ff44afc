"""Adam-atan2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1.0, 1e15, 1e30])
def test_the_size_of_gradients_does_not_matter(size: float):
    tx, g = gdjax.scale_by_adam_atan2(a=4 / np.pi), jnp.array([1.0, -1.0, 0.0])
    u, state = tx.update(size * g, tx.init(g))
    v, _ = tx.update(-size * g, state)
    # Squares of numbers below 1e-19 are 0: then it is the arc tangent of the number alone, not a step of full length.
    np.testing.assert_allclose(u, g if size > 1e-19 else size * g, rtol=1e-5, atol=1e-12)
    assert (jnp.abs(v) <= 2).all()


def test_complex_numbers_keep_their_argument():
    tx, g = gdjax.scale_by_adam_atan2(a=4 / np.pi), jnp.array([3 + 4j, -2j, 0j])
    u, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(u, [0.6 + 0.8j, -1j, 0], rtol=1e-6)


def test_derivatives_at_zero_gradients():
    tx, zero = gdjax.scale_by_adam_atan2(), jnp.zeros(2)
    state = tx.init(zero)
    assert np.isfinite(jax.grad(lambda g: jnp.sum(tx.update(g, state)[0]))(zero)).all()
