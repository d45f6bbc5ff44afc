"""Adam-atan2."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles
from tests.declare import matrices


def adam_atan2(
    x: Any, gradient: Any, learning_rate: Any, b1: float = 0.9, b2: float = 0.99, a: float = 1.27, b: float = 1.0,
    weight_decay: Any = 0.0, mask: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """Adam with the paper's arc tangent, and decoupled decay."""
    m, v = np.zeros(np.shape(x)), np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        u = a * np.arctan2(m / (1 - b1**t), b * np.sqrt(v / (1 - b2**t)))
        decay = oracles.at(weight_decay, t) if mask is None or np.ndim(x) > 1 else 0
        x = x - oracles.at(learning_rate, t) * (u + decay * x)
        yield x, {"mu": m, "nu": v}


CASES = {
    "default": {},
    "all": {"b1": 0.75, "b2": 0.5, "a": 2.0, "b": 0.25, "weight_decay": 0.5, "mask": matrices},
    "schedules": {"learning_rate": oracles.fall, "weight_decay": oracles.fall},
}


test_follows_the_paper = oracles.follows(gdjax.adam_atan2, adam_atan2, CASES, learning_rate=0.01)


@pytest.mark.parametrize("size", [1e-30, 1e-15, 1.0, 1e15, 1e30])
def test_the_size_of_gradients_does_not_matter(size: float):
    tx, g = gdjax.scale_by_adam_atan2(a=4 / np.pi), jnp.array([1.0, -1.0, 0.0])
    u, state = tx.update(size * g, tx.init(g))
    v, _ = tx.update(-size * g, state)
    # Squares of numbers below 1e-19 are 0: then it is the arc tangent of the number alone, not a step of full length.
    np.testing.assert_allclose(u, g if size > 1e-19 else size * g, rtol=1e-5, atol=1e-12)
    assert (jnp.abs(v) <= 2).all()


def test_complex_numbers_keep_their_argument():
    tx, g = gdjax.scale_by_adam_atan2(a=4 / np.pi), jnp.array([3 + 4j, -2j, 0j])
    u, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(u, [0.6 + 0.8j, -1j, 0], rtol=1e-6)


def test_derivatives_at_zero_gradients():
    tx, zero = gdjax.scale_by_adam_atan2(), jnp.zeros(2)
    state = tx.init(zero)
    assert np.isfinite(jax.grad(lambda g: jnp.sum(tx.update(g, state)[0]))(zero)).all()
