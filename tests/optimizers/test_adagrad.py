"""Adagrad."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

import gdjax
from tests import oracles


def adagrad_of_the_notes(x: Any, gradient: Any, lr: float = 0.1, eps: float = 1e-7) -> Iterator[Any]:
    cache = np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        dx = gradient(t, x)
        cache = cache + dx**2
        x = x - lr * dx / (np.sqrt(cache) + eps)
        yield x, {"sum_of_squares": cache}


def test_the_notes_form_without_an_initial_value():
    # They differ in the eps of 1e-7 beside a root that is 0.002 or more: at most 1e-4 of the first step of 0.1.
    got = oracles.run(gdjax.adagrad(0.1, 0.0, 0.0), "float64")
    oracles.assert_same(got, oracles.expected(adagrad_of_the_notes), rtol=1e-5, atol=1e-5)


def test_direction():
    # s = 0.1 + 9 + 16 = 25.1 after the gradients 3 and 4.
    tx = gdjax.scale_by_rss(eps=0.0)
    state = tx.init(jnp.zeros(()))
    _, state = tx.update(jnp.array(3.0), state)
    u, _ = tx.update(jnp.array(4.0), state)
    np.testing.assert_allclose(u, 4 / np.sqrt(25.1), rtol=1e-6)
