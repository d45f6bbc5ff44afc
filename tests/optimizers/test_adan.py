"""Adan."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.declare import matrices


def adan(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.98, b2: float = 0.92, b3: float = 0.99, eps: float = 1e-8,
    eps_root: float = 1e-8, weight_decay: Any = 0.0, mask: Any = None, proximal: bool = False, lookahead: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """In the reference's letters, where beta is 1 - b, with its code's bias corrections."""
    beta1, beta2, beta3 = 1 - b1, 1 - b2, 1 - b3
    ahead = 1 - beta2 if lookahead is None else lookahead
    m, v, n, before = (np.zeros(np.shape(x)) for _ in range(4))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        difference = g - before if t > 1 else np.zeros(np.shape(x))
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * difference
        n = (1 - beta3) * n + beta3 * (g + ahead * difference) ** 2
        rate = oracles.at(learning_rate, t)
        eta = rate / (np.sqrt(n / (1 - (1 - beta3) ** t) + eps_root) + eps)
        step = eta * (m / (1 - (1 - beta1) ** t) + ahead * v / (1 - (1 - beta2) ** t))
        decay = oracles.at(weight_decay, t) if mask is None or np.ndim(x) > 1 else 0
        x = (x - step) / (1 + decay * rate) if proximal else x - step - rate * decay * x
        before = g
        yield x, {"m": m, "v": v, "n": n, "g": g}


CASES = {
    "default": {},
    "schedules": {"learning_rate": oracles.fall, "weight_decay": oracles.fall},
    "mask": {"weight_decay": 0.5, "mask": matrices},
    "options": {"b1": 0.75, "b2": 0.5, "b3": 0.875, "eps": 0.25, "eps_root": 0.125},
    "Optax": {"lookahead": 0.08},
}


def follows(tx: Any, oracle: Any, dtype: str) -> None:
    params, state = oracles.run(tx, dtype)
    np.testing.assert_array_equal(state["t"], np.arange(1, oracles.STEPS + 1))
    state = {k: state[k] for k in "mvng"}
    oracles.assert_same((params, state), oracles.expected(oracle), **oracles.TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_oracle(name, dtype):
    kwargs = {"learning_rate": 0.01, **CASES[name]}
    follows(gdjax.adan(**kwargs), functools.partial(adan, **kwargs), dtype)


def test_the_decay_of_the_reference():
    rate, decay = 0.0625, 0.5
    tx = gdjax.adan(rate / (1 + rate * decay), weight_decay=decay)
    follows(tx, functools.partial(adan, learning_rate=rate, weight_decay=decay, proximal=True), "float64")


def test_the_first_step_has_no_difference():
    tx, g = gdjax.scale_by_adan(eps=0.0), jnp.array([3.0, -4.0, 0.0])
    u, state = tx.update(g, tx.init(g))
    np.testing.assert_allclose(u, np.sign(g), rtol=1e-6)
    np.testing.assert_array_equal(state.v, np.zeros(3))


def test_a_schedule_of_a_decay():
    g = jnp.array([3.0, -4.0])
    got, want = (tx.update(g, tx.init(g))[0] for tx in (gdjax.scale_by_adan(lambda count: 0.98), gdjax.scale_by_adan()))
    np.testing.assert_allclose(got, want, rtol=1e-6)
