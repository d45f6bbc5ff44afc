"""Rprop."""

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax


def test_delayed_is_one_step_behind():
    now, later = gdjax.scale_by_rprop(0.1), gdjax.scale_by_rprop(0.1, delayed=True)
    a, b = now.init(jnp.zeros(2)), later.init(jnp.zeros(2))
    before = jnp.zeros(2)
    for g in (jnp.array([1.0, -2.0]), jnp.array([3.0, -1.0]), jnp.array([2.0, 1.0]), jnp.array([2.0, 1.0])):
        u, a = now.update(g, a)
        v, b = later.update(g, b)
        np.testing.assert_array_equal(v, jnp.where(g * before < 0, 0, before))
        before = u


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e-34), ("float16", 1e-7), ("bfloat16", 1e-34)])
def test_tiny_gradients_keep_their_signs(dtype, size):
    # The product of the gradient and the step before is 0 in float32.
    tx, g = gdjax.scale_by_rprop(1e-5), jnp.array([size, -size], dtype)
    _, state = tx.update(g, tx.init(g))
    _, state = tx.update(g, state)
    np.testing.assert_allclose(state.step_sizes, [1.2e-5, 1.2e-5], rtol=1e-6)
    assert state.step_sizes.dtype == jnp.float32


def test_complex_parameters_are_an_error():
    tx, z = gdjax.rprop(0.1), jnp.ones(2, "complex64")
    with pytest.raises(TypeError, match=r"^gdjax.rprop: params: does not support complex numbers"):
        tx.update(z, tx.init(z))


@pytest.mark.parametrize("wrong", [{"eta_minus": 1.5}, {"eta_plus": 0.9}, {"min_step_size": -1.0}])
def test_domains(wrong):
    with pytest.raises(ValueError, match=rf"^gdjax.rprop: {next(iter(wrong))} must be"):
        gdjax.rprop(0.1, **wrong)


def test_delayed_by_a_step_where_the_gradient_is_zero():
    # The sign has not changed: the step of the update before is still to be made.
    tx, x, g = gdjax.rprop(0.1, delayed=True), jnp.zeros(2), jnp.array([1.0, -1.0])
    _, state = tx.update(g, tx.init(x), x)
    updates, _ = tx.update(jnp.zeros(2), state, x)
    np.testing.assert_allclose(updates, [-0.1, 0.1], rtol=1e-6)
