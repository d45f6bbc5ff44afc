"""Dice losses against their definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest

from gdjax import losses
from tests.support import relaxed

RNG = np.random.default_rng(0)
X, CLASSES = RNG.normal(size=(2, 3, 2, 3)), RNG.integers(0, 3, (2, 3, 2))
T = np.eye(3)[CLASSES]
P = np.exp(X) / np.exp(X).sum(-1, keepdims=True)


def f32(x: Any) -> Any:
    return jnp.asarray(x, "float32")


def dice(p: Any, t: Any, smooth: float = 1.0, alpha: float = 0.5, beta: float = 0.5) -> Any:
    """(batch, classes), from Tversky's index."""
    p, t = (z.reshape(len(z), -1, z.shape[-1]) for z in (p, t))
    both, only_p, only_t = (p * t).sum(1), (p * (1 - t)).sum(1), ((1 - p) * t).sum(1)
    return 1 - (both + smooth) / (both + alpha * only_p + beta * only_t + smooth)


def test_definitions():
    close = {"rtol": 1e-5, "atol": 1e-6}
    each = losses.dice_loss(f32(X), f32(T), smooth=0.3, alpha=0.2, beta=0.9, reduction="none")
    np.testing.assert_allclose(each, dice(P, T, 0.3, 0.2, 0.9), **close)
    np.testing.assert_allclose(losses.dice_loss(f32(X), T.astype(int)), dice(P, T).mean(-1), **close)
    weights = np.array([3.0, 1.0, 0.5])
    got = losses.dice_loss(f32(X), f32(T), class_weights=weights, reduction="sum", ignore_background=True)
    np.testing.assert_allclose(got, (dice(P, T) * weights)[:, 1:].sum(-1), **close)
    n = T.sum((0, 1, 2))
    w = 1 / n**2
    general = (dice(P, T) * w * 3 / w.sum()).mean()
    np.testing.assert_allclose(losses.multiclass_generalized_dice_loss(f32(X), f32(T)), general, **close)
    sigmoid = 1 / (1 + np.exp(-X[..., :1]))
    wanted = dice(sigmoid, T[..., :1])[:, 0]
    for x, t in (X[..., 0], T[..., 0]), (X[..., :1], T[..., :1]), (X[..., :1], T[..., 0]), (X[..., 0], T[..., :1]):
        np.testing.assert_allclose(losses.binary_dice_loss(f32(x), f32(t)), wanted, **close)


def test_probabilities_may_be_given_also_traced_and_for_one_class():
    wanted = losses.dice_loss(f32(X), f32(T))
    direct = jax.jit(lambda p: losses.dice_loss(p, f32(T), apply_softmax=False))
    np.testing.assert_allclose(direct(f32(P)), wanted, rtol=1e-5)
    np.testing.assert_allclose(losses.dice_loss(f32(P), f32(T), apply_softmax=False), wanted, rtol=1e-5)
    got = losses.binary_dice_loss(f32(P[..., 0]), f32(T[..., 0]), apply_sigmoid=False)
    np.testing.assert_allclose(got, dice(P[..., :1], T[..., :1])[:, 0], rtol=1e-5, atol=1e-6)
    with relaxed(), pytest.raises(ValueError, match="must be valid probability distributions"):
        optax.losses.binary_dice_loss(f32(P[..., 0]), f32(T[..., 0]), apply_sigmoid=False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_probabilities_of_16_bits_sum_to_1_as_far_as_they_can(dtype: str):
    p = jax.nn.softmax(jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), dtype))
    targets = jax.nn.one_hot(jnp.zeros((2, 5), jnp.int32), 3)
    for loss in (losses.dice_loss, losses.multiclass_generalized_dice_loss):
        assert jnp.all(jnp.isfinite(loss(p, targets, apply_softmax=False)))
        with pytest.raises(ValueError, match="must sum to 1 over the classes"):
            loss(p * jnp.asarray(1.05, dtype), targets, apply_softmax=False)


def test_a_batch_of_nothing():
    nothing = jnp.zeros((0, 4, 3))
    assert losses.multiclass_generalized_dice_loss(nothing, nothing) == 0


def test_a_class_that_is_nowhere_costs_nothing_without_smoothing():
    p, t = f32([[[1, 0], [1, 0]]]), f32([[[1, 0], [1, 0]]])
    loss = lambda p: jnp.sum(losses.dice_loss(p, t, smooth=0.0, apply_softmax=False, reduction="none"))
    value, slope = jax.value_and_grad(loss)(p)
    assert value == 0 and np.all(np.isfinite(slope))


def test_extreme_logits():
    for loss in losses.dice_loss, losses.multiclass_generalized_dice_loss:
        value, slope = jax.value_and_grad(lambda x, loss=loss: jnp.sum(loss(x, f32(T))))(f32(1e4 * (2 * T - 1)))
        np.testing.assert_allclose(value, 0, atol=1e-6)
        assert np.all(np.isfinite(slope))


def test_many_pixels_in_16_bits():
    # 10,000 pixels: in bfloat16 a running sum of ones stops at 256.
    x, t = jnp.zeros((1, 10_000, 1), "bfloat16"), jnp.ones((1, 10_000, 1), "bfloat16")
    np.testing.assert_allclose(losses.dice_loss(x, t).astype("float32"), 1 - 5001 / 7501, rtol=2.0**-8)


@pytest.mark.parametrize(
    "kwargs,message",
    [
        ({"reduction": "max"}, "reduction must be one of mean, sum, none, got 'max'"),
        ({"class_weights": np.ones(2)}, r"class_weights shape \(2,\) does not match the classes \(3,\)"),
        (
            {"apply_softmax": False},
            "with apply_softmax=False the predictions must sum to 1 over the classes, got sums",
        ),
    ],
)
def test_errors_of_options(kwargs: Any, message: str):
    with pytest.raises(ValueError, match="^gdjax.dice_loss: " + message):
        losses.dice_loss(f32(X), f32(T), **kwargs)


@pytest.mark.parametrize("name", ["dice_loss", "multiclass_generalized_dice_loss", "binary_dice_loss"])
def test_errors_of_shapes(name: str):
    with pytest.raises(ValueError, match=rf"^gdjax.{name}: predictions shape .* does not match targets shape"):
        getattr(losses, name)(f32(X), f32(T[:1]))
