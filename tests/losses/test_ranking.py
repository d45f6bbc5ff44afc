"""The softmax ranking loss against its definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gdjax import losses

RNG = np.random.default_rng(0)
S, Y, W = RNG.normal(size=(3, 4)), RNG.integers(0, 3, (3, 4)), RNG.uniform(size=(3, 4))
KEPT = np.array([[1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0]], bool)


def f32(x: Any) -> Any:
    return jnp.asarray(x, "float32")


def per_list() -> Any:
    out = []
    for s, y, w, k in zip(S, Y, W, KEPT, strict=True):
        out.append(-sum(w[k] * y[k] * (s[k] - np.log(np.exp(s[k]).sum()))) if k.any() else 0)
    return np.array(out)


def test_definition():
    def loss(reduce_fn: Any) -> Any:
        return losses.ranking_softmax_loss(f32(S), Y, where=KEPT, weights=W, reduce_fn=reduce_fn)

    np.testing.assert_allclose(loss(None), per_list(), rtol=1e-5)
    np.testing.assert_allclose(loss(jnp.sum), per_list().sum(), rtol=1e-5)
    np.testing.assert_allclose(loss(jnp.mean), per_list().sum() / 2, rtol=1e-5)  # the third list has no item
    np.testing.assert_allclose(loss(lambda x, where: jnp.max(x, where=where, initial=0)), per_list().max(), rtol=1e-5)


@pytest.mark.full
def test_nothing_to_rank():
    def loss(s: Any) -> Any:
        return losses.ranking_softmax_loss(s, f32(Y), where=np.zeros((3, 4), bool))

    value, slope = jax.value_and_grad(loss)(f32(S))
    assert value == 0 and not np.any(slope)
    assert losses.ranking_softmax_loss(jnp.zeros((0, 4)), jnp.zeros((0, 4))) == 0


def test_hidden_nan():
    s, y, w = (jnp.where(KEPT, f32(x), jnp.nan) for x in (S, Y, W))
    grad = jax.grad(lambda s: losses.ranking_softmax_loss(s, y, where=KEPT, weights=w))(s)
    clean = jax.grad(lambda s: losses.ranking_softmax_loss(s, f32(Y), where=KEPT, weights=f32(W)))(f32(S))
    np.testing.assert_array_equal(grad, clean)


def test_an_item_of_score_minus_infinity_takes_no_part():
    s = f32([1, -np.inf, 2])
    value, slope = jax.value_and_grad(losses.ranking_softmax_loss)(s, f32([1, 0, 0]))
    np.testing.assert_allclose(value, np.log1p(np.e), rtol=1e-6)
    assert np.all(np.isfinite(slope))


def test_errors():
    with pytest.raises(ValueError, match=r"logits shape \(3, 4\) does not match labels shape \(3, 1\) along axis -1"):
        losses.ranking_softmax_loss(f32(S), f32(Y[:, :1]))
    with pytest.raises(ValueError, match=r"where shape \(3,\) does not fit the inputs' shape \(3, 4\)"):
        losses.ranking_softmax_loss(f32(S), f32(Y), where=np.ones(3, bool))
