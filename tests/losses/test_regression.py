"""Regression losses against their definitions, and at the edges of float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdjax import losses
from tests.support import relaxed

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3))


def f32(x: Any) -> Any:
    return jnp.asarray(x, "float32")


def test_definitions():
    e = X - Y
    close = {"rtol": 1e-5, "atol": 1e-6}
    x, y = f32(X), f32(Y)
    np.testing.assert_allclose(losses.squared_error(x, y), e**2, **close)
    np.testing.assert_allclose(losses.l2_loss(x, y), e**2 / 2, **close)
    huber = np.where(abs(e) <= 0.8, e**2 / 2, 0.8 * (abs(e) - 0.4))
    np.testing.assert_allclose(losses.huber_loss(x, y, delta=jnp.asarray(0.8)), huber, **close)
    np.testing.assert_allclose(losses.log_cosh(x, y), np.log(np.cosh(e)), **close)
    cosine = (X * Y).sum(-1) / np.sqrt((X**2).sum(-1) * (Y**2).sum(-1))
    np.testing.assert_allclose(losses.cosine_similarity(x, y), cosine, **close)
    np.testing.assert_allclose(losses.cosine_distance(x, y), 1 - cosine, **close)
    pairs = losses.cosine_similarity(x[:, None], y[None])
    np.testing.assert_allclose(np.diag(pairs), cosine, **close)
    assert pairs.shape == (4, 4)


def test_no_targets_are_zeros():
    x = f32(X)
    for loss in losses.squared_error, losses.l2_loss, losses.huber_loss, losses.log_cosh:
        np.testing.assert_array_equal(loss(x), loss(x, jnp.zeros_like(x)))


def test_a_16_bit_error_is_rounded_once():
    # 256 - 1.0078125 needs 16 bits of significand; rounded to 255 first, its square is 65025 and then 65024.
    x, y = jnp.asarray(256, "bfloat16"), jnp.asarray(1.0078125, "bfloat16")
    assert losses.squared_error(x, y) == jnp.asarray((256 - 1.0078125) ** 2, "bfloat16")
    x, y = jnp.asarray(300.0, "float16"), jnp.asarray(0.0, "float16")
    assert losses.huber_loss(x, y, delta=10.0) == jnp.asarray(2950, "float16")


@pytest.mark.parametrize("e", [0.0, 1e-10, 1e-4, 1e-2, 0.3, 0.999, 1.0, 1.001, 5.0, 90.0, 1e4, 3e38])
def test_log_cosh_keeps_its_digits(e: float):
    for sign in -1, 1:
        value, slope = jax.value_and_grad(losses.log_cosh)(f32(sign * e))
        x = float(f32(e))
        exact = np.log1p(2 * np.sinh(x / 2) ** 2) if x < 90 else x - np.log(2)
        np.testing.assert_allclose((value, slope), (exact, sign * np.tanh(x)), rtol=3e-6)
        np.testing.assert_allclose(jax.grad(jax.grad(losses.log_cosh))(f32(sign * e)), 1 - np.tanh(x) ** 2, atol=1e-6)
    with relaxed():
        assert abs(float(optax.log_cosh(f32(1e-4))) - 5e-9) > 4e-9


@pytest.mark.parametrize("e,slope", [(0, 0), (0.5, 0.5), (1, 1), (-1, -1), (2, 1), (-1e20, -1)])
def test_huber_gradient_is_the_clipped_error(e: float, slope: float):
    value, got = jax.value_and_grad(losses.huber_loss)(f32(e))
    assert got == slope and np.isfinite(value)


def test_cosine_of_zero_and_of_extreme_vectors():
    zero, one = jnp.zeros(3), f32([1, 2, 2])
    for epsilon in 0.0, jnp.asarray(1e-3):
        value, slopes = jax.value_and_grad(
            lambda x, y, epsilon=epsilon: losses.cosine_similarity(x, y, epsilon=epsilon), argnums=(0, 1)
        )(zero, one)
        assert value == 0 and losses.cosine_distance(zero, one) == 1
        assert not np.any(slopes[0]) and not np.any(slopes[1])
    for size in 1e-36, 1e-25, 1e25, 1e37:
        value, slope = jax.value_and_grad(losses.cosine_similarity)(size * one, f32([0, 3, 4]))
        np.testing.assert_allclose(value, 14 / 15, rtol=1e-6)
        assert np.all(np.isfinite(slope))
    with relaxed():
        assert np.isnan(optax.cosine_similarity(zero, one))
        assert optax.cosine_similarity(1e25 * one, one) == 0


def test_epsilon_bounds_the_norm():
    x, y = f32([3e-3, 4e-3]), f32([0.0, 1.0])
    np.testing.assert_allclose(losses.cosine_similarity(x, y, epsilon=1e-3), 0.8, rtol=1e-6)
    np.testing.assert_allclose(losses.cosine_similarity(x, y, epsilon=1e-2), 0.4, rtol=1e-6)
    with relaxed():  # whose epsilon 1e-3 bounds the norm at its root, 0.03
        np.testing.assert_allclose(optax.cosine_similarity(x, y, epsilon=1e-3), 4e-3 / 1e-3**0.5, rtol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match=r"l2_loss: predictions shape \(4, 3\) does not match targets shape \(\)"):
        losses.l2_loss(f32(X), 0.0)
    with pytest.raises(ValueError, match=r"gdjax.cosine_distance: predictions shape \(4, 3\) does not match targets"):
        losses.cosine_distance(f32(X), f32(Y)[:, None])
    with pytest.raises(TypeError, match="gdjax.cosine_similarity: targets must be of a floating dtype, got complex64"):
        losses.cosine_similarity(f32(X), jnp.asarray(Y, "complex64"))
    with pytest.raises(ValueError, match="gdjax.cosine_similarity: axis 2 is out of bounds for an array with 2"):
        losses.cosine_similarity(f32(X), f32(Y), axis=2)
