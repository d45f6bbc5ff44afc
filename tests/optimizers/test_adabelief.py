"""AdaBelief."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def adabelief(
    x: Any, gradient: Any, learning_rate: Any = 0.01, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-16,
    eps_root: float = 1e-16, nesterov: bool = False, weight_decay: float = 0.0,
) -> Iterator[Any]:  # fmt: skip
    m, s = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps_root
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        u = m_hat / (np.sqrt(s / (1 - b2**t)) + eps)
        x = x - oracles.at(learning_rate, t) * (u + weight_decay * x)
        yield x, {"mu": m, "nu": s}


CASES = {
    "default": {},
    "schedule": {"learning_rate": oracles.fall},
    "reference": {"eps": 1e-8, "eps_root": 1e-8},
    "options": {"b1": 0.75, "b2": 0.9, "eps": 0.25, "eps_root": 0.125},
    "nesterov": {"nesterov": True, "b1": 0.8},
    "decay": {"weight_decay": 0.25, "eps": 0.25},
}


test_oracle = oracles.follows(gdjax.adabelief, adabelief, CASES, learning_rate=0.01)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_zero_gradients_without_eps(dtype):
    zero = jnp.zeros(3, dtype)
    tx = gdjax.adabelief(0.1, eps=0.0, eps_root=0.0)
    u, state = tx.update(zero, tx.init(zero))
    np.testing.assert_array_equal(u, zero)
    assert state[0].nu.dtype == jnp.float32


def test_belief_in_a_steady_gradient():
    # nu_t = (b1^t g)^2 (1 - b2) + ..., against Adam's g^2: where the gradient does not change the steps grow.
    g = jnp.ones(())
    sizes = []
    for tx in (gdjax.adabelief(0.1), gdjax.adam(0.1)):
        u, state = tx.update(g, tx.init(g))
        for _ in range(19):
            u, state = tx.update(g, state)
        sizes.append(float(u))
    assert sizes[0] < 2 * sizes[1] < 0


def test_decay_of_some_leaves_and_the_state_without():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    zeros = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
    tx = gdjax.adabelief(0.1, weight_decay=0.5, weight_decay_mask={"w": True, "b": False})
    u, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(u["w"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(u["b"], 0)
    assert len(gdjax.adabelief(0.1).init(params)) == 2  # as in Optax 0.2.8, whose checkpoints have no decay
    assert len(tx.init(params)) == 3
