"""Margin losses against their definitions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest

from gdjax import losses
from tests.support import relaxed

RNG = np.random.default_rng(0)
S, LABELS = 2 * RNG.normal(size=(6, 4)), np.array([0, 1, 2, 3, 0, 2])


def f32(x: Any) -> Any:
    return jnp.asarray(x, "float32")


def sparsemax(s: Any) -> Any:
    """By trying every size of the support."""
    for k in range(len(s), 0, -1):
        largest = np.sort(s)[::-1][:k]
        tau = (largest.sum() - 1) / k
        if largest[-1] > tau:
            return np.maximum(s - tau, 0)
    raise AssertionError


def test_definitions_of_two_classes():
    x = np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 2.0])
    for y in -1, 1:
        np.testing.assert_allclose(losses.hinge_loss(f32(x), y), np.maximum(0, 1 - x * y))
        targets = np.full(6, y)
        np.testing.assert_allclose(losses.perceptron_loss(f32(x), targets), np.maximum(0, -x * y))
        m = x * y
        wanted = np.where(m >= 1, 0, np.where(m <= -1, -m, (1 - m) ** 2 / 4))
        np.testing.assert_allclose(losses.sparsemax_loss(f32(x), targets > 0), wanted)


def test_definitions_of_many_classes():
    hinge, perceptron, sparse = [], [], []
    for s, y in zip(S, LABELS, strict=True):
        others = np.delete(s, y)
        hinge.append(max(0, others.max() + 1 - s[y]))
        perceptron.append(max(0, others.max() - s[y]))
        p, e = sparsemax(s), np.eye(4)[y]
        # The Fenchel-Young loss of Omega(p) = |p|^2 / 2.
        sparse.append(p @ s - p @ p / 2 + e @ e / 2 - e @ s)
    np.testing.assert_allclose(losses.multiclass_hinge_loss(f32(S), LABELS), hinge, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses.multiclass_perceptron_loss(f32(S), LABELS), perceptron, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses.multiclass_sparsemax_loss(f32(S), LABELS), sparse, rtol=1e-5, atol=1e-6)
    single = losses.multiclass_sparsemax_loss(f32(S[1]), LABELS[1])
    np.testing.assert_allclose(single, sparse[1], rtol=1e-5)


def test_gradient_of_sparsemax_loss():
    gradient = jax.grad(lambda s: jnp.sum(losses.multiclass_sparsemax_loss(s, LABELS)))(f32(S))
    np.testing.assert_allclose(gradient, np.stack([sparsemax(s) for s in S]) - np.eye(4)[LABELS], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multiclass_hinge_loss", "multiclass_perceptron_loss", "multiclass_sparsemax_loss"])
def test_classes_that_take_no_part_and_labels_outside_the_range(name: str):
    loss = getattr(losses, name)
    s = f32([[3, -np.inf, 1, 2], [1e4, -1e4, 0, 5]])
    value, pull = jax.vjp(lambda s: loss(s, np.array([2, 1])), s)
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(pull(jnp.ones(2))[0]))
    np.testing.assert_allclose(value[0], loss(s[0, jnp.array([0, 2, 3])], jnp.asarray(1)), rtol=1e-6)
    np.testing.assert_allclose(
        value[1], 2e4 + {"h": 1, "p": 0, "s": -0.5}[name[11]] + (name[11] == "s") * 0.5, rtol=1e-6
    )
    assert loss(s[0], jnp.asarray(-1)) == 0 and np.isnan(loss(s[1], jnp.asarray(4)))
    with relaxed():
        theirs = getattr(optax.losses, name)(s[:1], jnp.array([2]))
    assert np.isnan(theirs[0]) == (name != "multiclass_sparsemax_loss")


def test_large_scores_keep_their_digits():
    s = f32([1e4, 1e4 + 0.5, 0])
    np.testing.assert_allclose(losses.multiclass_sparsemax_loss(s, jnp.asarray(0)), 0.5625, rtol=1e-6)


def test_errors():
    with pytest.raises(TypeError, match="gdjax.multiclass_hinge_loss: labels must be of an integer dtype, got float32"):
        losses.multiclass_hinge_loss(f32(S), jnp.ones(6))
    with pytest.raises(ValueError, match=r"batch of scores shape \(6,\) does not match labels shape \(4,\)"):
        losses.multiclass_perceptron_loss(f32(S), jnp.ones(4, int))
    with pytest.raises(ValueError, match=r"gdjax.perceptron_loss: predictor_outputs shape \(6, 4\) does not match"):
        losses.perceptron_loss(f32(S), jnp.ones(4))
    with pytest.raises(ValueError, match="scores must have an axis of classes"):
        losses.multiclass_sparsemax_loss(jnp.asarray(1.0), jnp.asarray(0))
