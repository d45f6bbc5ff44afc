"""Kullback-Leibler divergences against their definitions, with probabilities of 0."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gdjax import losses
from tests.support import relaxed

RNG = np.random.default_rng(0)
Q, P = RNG.dirichlet(np.ones(4), size=3), RNG.dirichlet(np.ones(4), size=3)
INF = np.inf


def f32(x: Any) -> Any:
    return jnp.asarray(x, "float32")


def kl(p: Any, q: Any) -> float:
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def test_definitions():
    wanted = [kl(p, q) for p, q in zip(P, Q, strict=True)]
    log_q = f32(np.log(Q))
    np.testing.assert_allclose(losses.kl_divergence(log_q, f32(P)), wanted, rtol=1e-5)
    np.testing.assert_allclose(losses.kl_divergence_with_log_targets(log_q, f32(np.log(P))), wanted, rtol=1e-5)
    general = [kl(2 * p, q) + q.sum() - 2 * p.sum() for p, q in zip(P, Q, strict=True)]
    np.testing.assert_allclose(losses.generalized_kl_divergence(log_q, f32(2 * P)), general, rtol=1e-5)
    np.testing.assert_allclose(losses.convex_kl_divergence(log_q, f32(2 * P)), general, rtol=1e-5)
    np.testing.assert_allclose(losses.kl_divergence(log_q[0], f32(P)), [kl(p, Q[0]) for p in P], rtol=1e-5)


@pytest.mark.parametrize(
    "p,q,value,slopes",
    [
        ([0.5, 0.5, 0], [0.5, 0.25, 0.25], kl([0.5, 0.5], [0.5, 0.25]), [-0.5, -0.5, 0]),
        ([0.5, 0.5, 0], [0.5, 0.5, 0], 0, [-0.5, -0.5, 0]),
        ([1, 0, 0], [0.0, 0.5, 0.5], INF, [-1, 0, 0]),
    ],
)
def test_zeros(p: Any, q: Any, value: float, slopes: Any):
    log_q = f32(np.log(q, where=np.array(q) > 0, out=np.full(3, -INF)))
    log_p = f32(np.log(p, where=np.array(p) > 0, out=np.full(3, -INF)))
    for loss, targets in (losses.kl_divergence, f32(p)), (losses.kl_divergence_with_log_targets, log_p):
        got = jax.value_and_grad(loss, argnums=(0, 1))(log_q, targets)
        np.testing.assert_allclose(got[0], value, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(got[1][0], slopes, rtol=1e-6)
        assert np.all(np.isfinite(got[1][1]) | (value == INF))
    general, slope = jax.value_and_grad(losses.generalized_kl_divergence)(log_q, f32(p))
    np.testing.assert_allclose(general, value, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(slope, np.array(slopes) + q, rtol=1e-6)


def test_optax_has_nan_at_zeros():
    with relaxed():
        assert np.isnan(optax.kl_divergence(f32([0, -INF]), f32([1, 0])))
        assert np.any(np.isnan(jax.grad(optax.kl_divergence, argnums=1)(f32([0, -1]), f32([1, 0]))))


def test_targets_that_underflow():
    got = jax.value_and_grad(losses.kl_divergence_with_log_targets, argnums=(0, 1))(f32([0, -1e4]), f32([0, -1e4]))
    jax.tree.map(np.testing.assert_array_equal, got, (f32(0), (f32([-1, 0]), f32([1, 0]))))


def test_errors():
    with pytest.raises(TypeError, match="gdjax.kl_divergence: targets must be of a floating dtype, got int32"):
        losses.kl_divergence(f32(Q), jnp.ones((3, 4), int))
    with pytest.raises(ValueError, match=r"log_predictions shape \(3, 4\) does not match targets shape \(3, 1\) along"):
        losses.kl_divergence(f32(Q), jnp.ones((3, 1)))
