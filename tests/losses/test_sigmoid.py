"""Sigmoid cross entropies against their definitions, and at the edges of float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax import losses

X = np.array([-3.0, -0.5, 0.0, 0.5, 3.0])
INF = np.inf


def f32(x: Any) -> Any:
    return jnp.asarray(x, "float32")


def cross_entropy(x: Any, y: Any) -> Any:
    p = 1 / (1 + np.exp(-x))
    return -y * np.log(p) - (1 - y) * np.log(1 - p)


def focal(x: Any, y: Any, gamma: float) -> Any:
    p = 1 / (1 + np.exp(-x))
    return (y * (1 - p) + (1 - y) * p) ** gamma * cross_entropy(x, y)


@pytest.mark.parametrize("y", [0.0, 0.3, 1.0])
def test_definitions(y: float):
    got = losses.sigmoid_binary_cross_entropy(f32(X), y)
    np.testing.assert_allclose(got, cross_entropy(X, y), rtol=1e-5)
    np.testing.assert_array_equal(losses.sigmoid_focal_loss(f32(X), y, gamma=0), got)
    for gamma in 0.5, 2.0:
        np.testing.assert_allclose(losses.sigmoid_focal_loss(f32(X), y, gamma=gamma), focal(X, y, gamma), rtol=1e-5)
    weighted = losses.sigmoid_focal_loss(f32(X), y, alpha=jnp.asarray(0.3), gamma=jnp.asarray(1.5))
    np.testing.assert_allclose(weighted, (0.3 * y + 0.7 * (1 - y)) * focal(X, y, 1.5), rtol=1e-5)


@pytest.mark.parametrize("y", [-1.0, -1e-7, 1.0000001, 1.25])
def test_focal_loss_of_a_label_outside_is_finite(y: float):
    # One that is ignored, and ones that a resized mask has.
    value, slope = jax.value_and_grad(lambda x: losses.sigmoid_focal_loss(x, jnp.float32(y)))(f32(0.5))
    assert jnp.isfinite(value) and jnp.isfinite(slope)
    if abs(y - 0.5) < 0.51:
        np.testing.assert_allclose(value, losses.sigmoid_focal_loss(f32(0.5), round(y)), rtol=1e-5)


@pytest.mark.parametrize("x,y,value,slope", [
    (1e4, 1.0, 0, 0), (-1e4, 1.0, 1e4, -1), (1e4, 0.0, 1e4, 1), (-1e4, 0.0, 0, 0), (1e4, 0.5, 5e3, 0.5),
    (INF, 1.0, 0, 0), (-INF, 0.0, 0, 0), (INF, 0.0, INF, 1), (-INF, 1.0, INF, -1),
])  # fmt: skip
def test_extreme_logits(x: float, y: float, value: float, slope: float):
    got = jax.value_and_grad(losses.sigmoid_binary_cross_entropy)(f32(x), f32(y))
    np.testing.assert_allclose(got, (value, slope), rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("x", [0.0, 30.0, -30.0, 200.0, 1e4, -1e4])
@pytest.mark.parametrize("y", [0.0, 0.5, 1.0])
def test_focal_loss_is_finite_with_its_derivative(x: float, y: float, gamma: float):
    value, slope = jax.value_and_grad(lambda x: losses.sigmoid_focal_loss(x, y, gamma=gamma))(f32(x))
    assert np.isfinite(value) and np.isfinite(slope) and value >= 0
    wrong = abs(x) if y != (x > 0) else 0.0
    if abs(x) >= 200 and y != 0.5:
        np.testing.assert_allclose((value, abs(slope)), (wrong, float(wrong > 0)), atol=1e-30)


def test_a_right_prediction_keeps_its_weight_where_its_error_rounds_to_zero():
    # 1 - sigmoid(100) is 0 in float32; its power 0.01 is exp(-1).
    got = losses.sigmoid_focal_loss(f32(80), 1.0, gamma=0.01)
    np.testing.assert_allclose(got, np.exp(-0.8) * np.exp(-80.0), rtol=1e-4)


def test_labels_of_any_dtype():
    for y in np.ones(5, int), np.ones(5, bool), np.ones(5), f32(np.ones(5)):
        np.testing.assert_allclose(losses.sigmoid_binary_cross_entropy(f32(X), y), np.log1p(np.exp(-X)), rtol=1e-5)
