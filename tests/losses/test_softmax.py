"""Softmax cross entropies against their definitions, and at the edges of float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdjax import losses
from tests.support import relaxed

RNG = np.random.default_rng(0)
X, P = 2 * RNG.normal(size=(4, 5)), RNG.dirichlet(np.ones(5), size=4)
LABELS = np.array([0, 4, 2, 2])
INF = np.inf


def f32(x: Any) -> Any:
    return jnp.asarray(x, "float32")


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cross_entropy(x: Any, y: Any, kept: Any = None) -> Any:
    """One example at a time, over the classes that are kept."""
    kept = np.ones_like(x, bool) if kept is None else kept
    return np.array(
        [-(b[k] * np.log(softmax(a[k]))).sum() if k.any() else 0 for a, b, k in zip(x, y, kept, strict=True)]
    )


def test_definitions():
    one_hot, kept = np.eye(5)[LABELS], RNG.integers(0, 2, (4, 5)).astype(bool)
    kept[1] = False
    close = {"rtol": 1e-5, "atol": 1e-6}
    x, p = f32(X), f32(P)
    np.testing.assert_allclose(losses.softmax_cross_entropy(x, p), cross_entropy(X, P), **close)
    np.testing.assert_allclose(losses.softmax_cross_entropy(x, p, where=kept), cross_entropy(X, P, kept), **close)
    np.testing.assert_allclose(losses.safe_softmax_cross_entropy(x, p), cross_entropy(X, P), **close)
    integer = losses.softmax_cross_entropy_with_integer_labels
    np.testing.assert_allclose(integer(x, LABELS), cross_entropy(X, one_hot), **close)
    np.testing.assert_allclose(integer(x, LABELS, where=kept), cross_entropy(X, one_hot, kept), **close)
    poly = cross_entropy(X, P) + 0.7 * (P * (1 - softmax(X))).sum(-1)
    np.testing.assert_allclose(losses.poly_loss_cross_entropy(x, p, epsilon=0.7), poly, **close)
    np.testing.assert_allclose(losses.smooth_labels(p, 0.2), 0.8 * P + 0.2 / 5, **close)
    several = integer(x.reshape(2, 2, 5), np.array([7, 0]), axis=(2, 1))
    flat = X.reshape(2, 2, 5).transpose(0, 2, 1).reshape(2, 10)
    np.testing.assert_allclose(several, cross_entropy(flat, np.eye(10)[[7, 0]]), **close)


def test_a_batch_of_nothing():
    integer, labels = losses.softmax_cross_entropy_with_integer_labels, jnp.zeros((0,), jnp.int32)
    assert integer(jnp.ones((0, 3)), labels).shape == integer(jnp.ones((3, 0)), labels, axis=0).shape == (0,)
    assert integer(jnp.ones((0, 3)), labels, where=jnp.ones((0, 3), bool)).shape == (0,)


def test_gradient_is_softmax_minus_labels():
    gradient = jax.grad(lambda x: jnp.sum(losses.softmax_cross_entropy(x, f32(P))))(f32(X))
    np.testing.assert_allclose(gradient, softmax(X) - P, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(losses.softmax_cross_entropy_with_integer_labels(x, LABELS)))(f32(X))
    np.testing.assert_allclose(gradient, softmax(X) - np.eye(5)[LABELS], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "x,value,gradient",
    [
        ([1e4, -1e4, 0.0], 0.0, [0, 0, 0]),
        ([-1e4, 1e4, 0.0], 2e4, [-1, 1, 0]),
        ([3.0, -INF, 3.0], np.log(2), [-0.5, 0, 0.5]),
        ([3.0, -INF, -INF], 0.0, [0, 0, 0]),
        ([-INF, 0.0, 0.0], INF, [-1, 0.5, 0.5]),
        ([3e38, -3e38, 3e38], np.log(2), [-0.5, 0, 0.5]),
        ([1e4, 1e4, -1e4], np.log(2), [-0.5, 0.5, 0]),
    ],
)
@pytest.mark.parametrize("name", ["one-hot", "safe", "integer", "poly"])
def test_extreme_logits(name: str, x: Any, value: float, gradient: Any):
    loss = {
        "one-hot": lambda x: losses.softmax_cross_entropy(x, f32([1, 0, 0])),
        "safe": lambda x: losses.safe_softmax_cross_entropy(x, f32([1, 0, 0])),
        "integer": lambda x: losses.softmax_cross_entropy_with_integer_labels(x, jnp.asarray(0)),
        "poly": lambda x: losses.poly_loss_cross_entropy(x, f32([1, 0, 0]), epsilon=0.0),
    }[name]
    got = jax.value_and_grad(loss)(f32(x))
    np.testing.assert_allclose(got[0], value, rtol=1e-6)
    np.testing.assert_allclose(got[1], gradient, rtol=1e-6)


def test_a_class_that_takes_no_part_has_finite_derivatives_by_its_label_too():
    gradient = jax.grad(losses.softmax_cross_entropy, argnums=1)(f32([0, -INF, 0]), f32([0.5, 0, 0.5]))
    np.testing.assert_allclose(gradient, [np.log(2), 0, np.log(2)], rtol=1e-6)


def test_rows_without_a_class_cost_nothing():
    x = jnp.full((2, 3), -jnp.inf)
    for where in np.zeros((2, 3), bool), np.zeros(2, bool), np.zeros((2, 1), bool):
        for loss in (
            lambda x, where=where: losses.softmax_cross_entropy(x, jnp.ones((2, 3)) / 3, where=where),
            lambda x, where=where: losses.poly_loss_cross_entropy(x, jnp.ones((2, 3)) / 3, where=where),
            lambda x, where=where: losses.softmax_cross_entropy_with_integer_labels(x, np.array([0, 99]), where=where),
        ):
            value, pull = jax.vjp(loss, x)
            np.testing.assert_array_equal(value, np.zeros(2))
            np.testing.assert_array_equal(pull(jnp.ones(2))[0], np.zeros((2, 3)))


def test_labels_outside_the_range():
    loss = losses.softmax_cross_entropy_with_integer_labels
    value, pull = jax.vjp(lambda x: loss(x, np.array([-1, -100, 4, 5])), f32(X))
    np.testing.assert_allclose(value[2], cross_entropy(X[2:3], np.eye(5)[[4]])[0], rtol=1e-5)
    np.testing.assert_array_equal(value[:2], [0, 0])
    assert np.isnan(value[3])
    np.testing.assert_array_equal(pull(f32([1, 1, 1, 0]))[0][:2], np.zeros((2, 5)))
    with relaxed():  # for which -1 is the last class
        theirs = optax.softmax_cross_entropy_with_integer_labels(f32(X), jnp.array([-1, 4, 4, 5]))
    assert theirs[0] > 0 and np.isnan(theirs[3])


def test_small_label_dtypes_reach_all_classes():
    x = jnp.arange(300, dtype="float32")
    for dtype in "uint8", "int8":
        got = losses.softmax_cross_entropy_with_integer_labels(x, jnp.asarray(100, dtype))
        wanted = losses.softmax_cross_entropy_with_integer_labels(x, jnp.asarray(100))
        np.testing.assert_array_equal(got, wanted)


def test_a_right_class_left_out_costs_nothing_as_with_one_hot_labels():
    kept = np.array([True, False, True])
    x = f32([1, 2, 3])
    got = losses.softmax_cross_entropy_with_integer_labels(x, jnp.asarray(1), where=kept)
    assert got == losses.softmax_cross_entropy(x, f32([0, 1, 0]), where=kept) == 0


def test_smoothing_counts_the_classes_that_are_kept():
    y, kept = f32(np.eye(3)), np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
    got = losses.smooth_labels(y, 0.3, where=kept)
    np.testing.assert_allclose(got[0], [0.85, 0.15, 0.15], rtol=1e-6)
    np.testing.assert_allclose(got[2], [0.1, 0.1, 0.8], rtol=1e-6)
    assert np.all(np.isfinite(got[1]))
    rows = losses.smooth_labels(y, jnp.asarray(0.3), where=np.ones((3, 1), bool))
    np.testing.assert_array_equal(rows, losses.smooth_labels(y, 0.3))


@pytest.mark.parametrize(
    "args,kwargs,kind,message",
    [
        ((X, LABELS * 1.0), {}, TypeError, "labels must be of an integer dtype, got float32"),
        ((LABELS, LABELS), {}, TypeError, "logits must be of a floating dtype, got int32"),
        ((X, LABELS[:3]), {}, ValueError, r"the batch of logits shape \(4,\) does not match labels shape \(3,\)"),
        (
            (X, LABELS[:, None]),
            {},
            ValueError,
            r"the batch of logits shape \(4,\) does not match labels shape \(4, 1\)",
        ),
        ((X, LABELS), {"axis": None}, ValueError, "axis must be an int or a tuple of ints, got None"),
        ((X, LABELS), {"axis": 2}, ValueError, "axis 2 is out of bounds for an array with 2 dimensions"),
    ],
)
def test_errors_of_integer_labels(args: Any, kwargs: Any, kind: Any, message: str):
    args = [f32(x) if x.dtype == float else jnp.asarray(x) for x in args]
    with pytest.raises(kind, match="^gdjax.softmax_cross_entropy_with_integer_labels: " + message):
        losses.softmax_cross_entropy_with_integer_labels(*args, **kwargs)


def test_errors_of_labels():
    with pytest.raises(ValueError, match=r"logits shape \(4, 5\) does not match labels shape \(4, 1\) along axis -1"):
        losses.softmax_cross_entropy(f32(X), jnp.ones((4, 1)))
    with pytest.raises(TypeError, match="gdjax.poly_loss_cross_entropy: labels must be of a floating dtype, got int32"):
        losses.poly_loss_cross_entropy(f32(X), jnp.ones((4, 5), int))
    with pytest.raises(TypeError, match="gdjax.smooth_labels: labels must be of a floating dtype, got int32"):
        losses.smooth_labels(jnp.ones((4, 5), int), 0.1)
