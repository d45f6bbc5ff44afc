"""Losses of embeddings against their definitions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest

from gdjax import losses
from tests.support import relaxed

RNG = np.random.default_rng(0)
X, LABELS = RNG.normal(size=(5, 3)), np.array([0, 1, 0, 0, 1])


def f32(x: Any) -> Any:
    return jnp.asarray(x, "float32")


def nt_xent(x: Any, labels: Any, temperature: float) -> float:
    """Pair by pair."""
    u = x / np.linalg.norm(x, axis=-1, keepdims=True)
    e = np.exp(u @ u.T / temperature)
    terms = []
    for i in range(len(x)):
        others = e[i][labels != labels[i]].sum()
        terms += [-np.log(e[i, j] / (e[i, j] + others)) for j in range(len(x)) if j != i and labels[j] == labels[i]]
    return float(np.mean(terms))


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_ntxent(temperature: float):
    got = losses.ntxent(f32(X), LABELS, jnp.asarray(temperature))
    np.testing.assert_allclose(got, nt_xent(X, LABELS, temperature), rtol=1e-5)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
def test_ntxent_without_positives_or_negatives(labels: Any):
    labels = jnp.asarray(labels)
    value, slope = jax.jit(jax.value_and_grad(losses.ntxent))(f32(X), labels)
    np.testing.assert_allclose(value, nt_xent(X, np.array(labels), 0.07) if labels[-1] == 1 else 0, rtol=1e-5)
    assert np.all(np.isfinite(slope))
    with relaxed():
        theirs = jax.jit(optax.losses.ntxent)(f32(X), labels)
    assert np.isnan(theirs) == (labels[1] == 1)


def test_ntxent_of_zero_embeddings_and_a_sharp_softmax():
    x = f32(X).at[1].set(0)
    for temperature in 0.07, 1e-3:
        value, slope = jax.jit(jax.value_and_grad(losses.ntxent))(x, LABELS, temperature)
        assert np.isfinite(value) and np.all(np.isfinite(slope))


@pytest.mark.parametrize("degree", [1, 1.5, 2, 3])
def test_triplet_margin(degree: float):
    a, p, n = RNG.normal(size=(3, 6, 3))

    def distance(x: Any, y: Any) -> Any:
        return ((np.abs(x - y) ** degree).sum(-1) + 1e-6) ** (1 / degree)

    wanted = np.maximum(distance(a, p) - distance(a, n) + 0.4, 0)
    got = losses.triplet_margin_loss(f32(a), f32(p), f32(n), norm_degree=degree, margin=0.4)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
    traced = jax.jit(losses.triplet_margin_loss, static_argnums=3)(f32(a), f32(p), f32(n), -1, f32(degree), f32(0.4))
    np.testing.assert_allclose(traced, wanted, rtol=1e-4, atol=1e-6)
    if degree in (1, 3):
        with relaxed():
            theirs = optax.losses.triplet_margin_loss(f32(a), f32(p), f32(n), norm_degree=degree, margin=0.4)
        assert not np.allclose(theirs, wanted, rtol=1e-2)


@pytest.mark.parametrize("degree", [1, 1.5, 2])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_triplets_of_equal_points_have_finite_derivatives(degree: float, eps: float):
    x = jnp.ones((2, 3))
    loss = lambda a, p, n: jnp.sum(losses.triplet_margin_loss(a, p, n, norm_degree=degree, eps=eps))
    value, slopes = jax.value_and_grad(loss, argnums=(0, 1, 2))(x, x, x)
    assert value == 2 and all(np.all(np.isfinite(s)) for s in slopes)


def test_errors():
    with pytest.raises(ValueError, match=r"ntxent: embeddings shape \(5, 3\) does not match labels shape \(5, 1\)"):
        losses.ntxent(f32(X), LABELS[:, None])
    with pytest.raises(ValueError, match=r"gdjax.ntxent: embeddings must have shape \(batch, features\), got \(3,\)"):
        losses.ntxent(f32(X[0]), LABELS[:3])
    with pytest.raises(TypeError, match="gdjax.ntxent: embeddings must be of a floating dtype, got int32"):
        losses.ntxent(jnp.ones((5, 3), int), LABELS)
    with pytest.raises(ValueError, match=r"anchors shape \(5, 3\) does not match negatives shape \(5, 1\) along"):
        losses.triplet_margin_loss(f32(X), f32(X), f32(X[:, :1]))
    with pytest.raises(TypeError, match="gdjax.triplet_margin_loss: positives must be of a floating dtype, got int32"):
        losses.triplet_margin_loss(f32(X), jnp.ones((5, 3), int), f32(X))
