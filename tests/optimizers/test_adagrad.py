"""Adagrad."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def adagrad(
    x: Any, gradient: Any, learning_rate: Any, initial_accumulator_value: float = 0.1, eps: float = 1e-7
) -> Iterator[Any]:
    s = np.full(np.shape(x), initial_accumulator_value)
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        s = s + g**2
        root = np.sqrt(s + eps)
        x = x - oracles.at(learning_rate, t) * np.where(root == 0, 0, g / np.where(root == 0, 1, root))
        yield x, {"sum_of_squares": s}


def adagrad_of_the_notes(x: Any, gradient: Any, lr: float = 0.1, eps: float = 1e-7) -> Iterator[Any]:
    cache = np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        dx = gradient(t, x)
        cache = cache + dx**2
        x = x - lr * dx / (np.sqrt(cache) + eps)
        yield x, {"sum_of_squares": cache}


CASES = {
    "default": {},
    "schedule": {"learning_rate": oracles.fall},
    "options": {"initial_accumulator_value": 0.5, "eps": 0.25},
    "reference": {"initial_accumulator_value": 0.0, "eps": 0.0},
}
test_oracle = oracles.follows(gdjax.adagrad, adagrad, CASES, learning_rate=0.1)
test_optax = oracles.like_optax("adagrad", CASES, learning_rate=0.1)


def adagrad_eps_outside(x: Any, gradient: Any, lr: Any = 0.1, initial: float = 0.0, eps: float = 0.0) -> Iterator[Any]:
    """Figure 1 of the reference, whose H_t is delta + sqrt(s_t); s_0 as torch has it."""
    s = np.full(np.shape(x), initial)
    for t in range(1, oracles.STEPS + 1):
        g = gradient(t, x)
        s = s + g**2
        root = np.sqrt(s) + eps
        x = x - oracles.at(lr, t) * g / np.where(root == 0, 1, root)
        yield x, {"sum_of_squares": s}


def test_the_notes_form_without_an_initial_value():
    # They differ in the eps of 1e-7 beside a root that is 0.002 or more: at most 1e-4 of the first step of 0.1.
    got = oracles.run(gdjax.adagrad(0.1, 0.0, 0.0), "float64")
    oracles.assert_same(got, oracles.expected(adagrad_of_the_notes), rtol=1e-5, atol=1e-5)


@DTYPES
@pytest.mark.parametrize("like", ["torch", "paper"])
def test_eps_outside(like, dtype):
    defaults = functools.partial(adagrad_eps_outside, eps=1e-10 if like == "torch" else 0.0)
    oracles.assert_follows(gdjax.adagrad(0.1, like=like), defaults, dtype)
    others = functools.partial(adagrad_eps_outside, lr=oracles.fall, initial=0.5, eps=0.25)
    oracles.assert_follows(gdjax.adagrad(oracles.fall, 0.5, 0.25, like=like), others, dtype)


def test_direction():
    # s = 0.1 + 9 + 16 = 25.1 after the gradients 3 and 4.
    tx = gdjax.scale_by_rss(eps=0.0)
    state = tx.init(jnp.zeros(()))
    _, state = tx.update(jnp.array(3.0), state)
    u, _ = tx.update(jnp.array(4.0), state)
    np.testing.assert_allclose(u, 4 / np.sqrt(25.1), rtol=1e-6)
