"""NovoGrad."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def novograd(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.25, eps: float = 1e-6,
    eps_root: float = 0.0, weight_decay: Any = 0.0,
) -> Iterator[Any]:  # fmt: skip
    """One layer; after the reference's loop, whose first step stands before it."""
    v, m = 0.0, 0.0
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        v = np.sum(g**2) if t == 1 else b2 * v + (1 - b2) * np.sum(g**2)
        term = g / (np.sqrt(v + eps_root) + eps) + oracles.at(weight_decay, t) * x
        m = term if t == 1 else b1 * m + term
        x = x - oracles.at(learning_rate, t) * m
        yield x, {"mu": m, "nu": v}


CASES = {
    "default": {},
    "schedules": {"learning_rate": oracles.fall, "weight_decay": oracles.fall},
    "reference": {"b1": 0.95, "b2": 0.98, "weight_decay": 0.001},
    "options": {"b1": 0.5, "eps": 0.25, "eps_root": 0.125, "weight_decay": 0.25},
}


test_oracle = oracles.follows(gdjax.novograd, novograd, CASES, learning_rate=0.01)


def test_the_second_moment_is_a_number_for_each_leaf():
    params = {"a": jnp.ones((2, 3), "bfloat16"), "b": jnp.ones(4)}
    tx = gdjax.scale_by_novograd(mu_dtype="float32", eps=0.0)
    u, state = tx.update(params, tx.init(params), params)
    assert {k: (v.shape, v.dtype) for k, v in state.nu.items()} == {k: ((), jnp.float32) for k in "ab"}
    assert state.mu["a"].dtype == jnp.float32 and u["a"].dtype == jnp.bfloat16
    np.testing.assert_allclose(u["b"], 0.5 * np.ones(4), rtol=1e-6)  # of norm 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_zero_gradients(dtype):
    tx, zero = gdjax.novograd(0.1, eps=0.0), jnp.zeros(2, dtype)
    np.testing.assert_array_equal(tx.update(zero, tx.init(zero), zero)[0], zero)


def test_nu_recovers_from_a_huge_gradient():
    tx, one = gdjax.novograd(0.1), jnp.ones(2)
    _, state = tx.update(1e20 * one, tx.init(one), one)
    assert np.isfinite(state[0].nu)
    u = one
    for _ in range(150):
        u, state = tx.update(one, state, one)
    np.testing.assert_allclose(u, -0.1 * 10 / np.sqrt(2) * one, rtol=1e-3)  # momentum adds ten of them up
