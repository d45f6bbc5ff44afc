"""Fenchel-Young losses against their definition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest

from gdjax import losses
from tests.support import relaxed

RNG = np.random.default_rng(0)
S, P = RNG.normal(size=(2, 3, 4)), RNG.dirichlet(np.ones(4), size=(2, 3))


def f32(x: Any) -> Any:
    return jnp.asarray(x, "float32")


def test_of_log_sum_exp():
    loss = losses.make_fenchel_young_loss(jax.nn.logsumexp)
    wanted = np.log(np.exp(S).sum(-1)) - (P * S).sum(-1)
    np.testing.assert_allclose(loss(f32(S), f32(P)), wanted, rtol=1e-5)
    np.testing.assert_allclose(loss(f32(S), f32(P[0, 0])), np.log(np.exp(S).sum(-1)) - S @ P[0, 0], rtol=1e-5)
    with relaxed():
        theirs = optax.losses.make_fenchel_young_loss(jax.nn.logsumexp)(f32(S), f32(P))
    np.testing.assert_allclose(loss(f32(S), f32(P)), theirs, rtol=1e-5)
    gradient = jax.grad(lambda s: jnp.sum(loss(s, f32(P))))(f32(S))
    np.testing.assert_allclose(gradient, np.exp(S) / np.exp(S).sum(-1, keepdims=True) - P, rtol=1e-5, atol=1e-6)


def test_further_arguments_go_to_the_max_function():
    def smooth_max(s: Any, temperature: Any, *, shift: Any = 0.0) -> Any:
        return temperature * jax.nn.logsumexp(s / temperature) + shift

    loss = losses.make_fenchel_young_loss(smooth_max)
    got = jax.jit(lambda t: loss(f32(S), f32(P), t, shift=1.0))(0.5)
    np.testing.assert_allclose(got, 0.5 * np.log(np.exp(2 * S).sum(-1)) + 1 - (P * S).sum(-1), rtol=1e-5)


def test_a_score_of_minus_infinity_takes_no_part():
    loss = losses.make_fenchel_young_loss(jax.nn.logsumexp)
    value, slope = jax.value_and_grad(loss)(f32([1, -np.inf, 2]), f32([1, 0, 0]))
    np.testing.assert_allclose(value, np.log1p(np.e), rtol=1e-6)
    assert np.all(np.isfinite(slope))


def test_16_bits():
    loss = losses.make_fenchel_young_loss(jax.nn.logsumexp)
    got = loss(jnp.asarray(S, "bfloat16"), jnp.asarray(P, "bfloat16"))
    assert got.dtype == "bfloat16"


def test_errors():
    loss = losses.make_fenchel_young_loss(jax.nn.logsumexp)
    with pytest.raises(ValueError, match=r"scores shape \(2, 3, 4\) does not match targets shape \(2, 3, 1\) along"):
        loss(f32(S), f32(P[..., :1]))
