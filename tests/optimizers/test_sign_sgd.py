"""Sign descent and Signum."""

import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def signum(x: Any, gradient: Any, learning_rate: Any, beta: float = 0.9) -> Iterator[Any]:
    m = np.zeros(np.shape(x))
    for t in range(1, oracles.STEPS + 1):
        m = beta * m + (1 - beta) * gradient(t, x)
        x = x - oracles.at(learning_rate, t) * np.sign(m)
        yield x, {"ema": m}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kwargs", [{}, {"beta": 0.5}, {"learning_rate": oracles.fall}], ids=oracles.named)
def test_signum(kwargs, dtype):
    kwargs = {"learning_rate": 0.0625, **kwargs}
    oracles.assert_follows(gdjax.signum(**kwargs), functools.partial(signum, **kwargs), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.0625, oracles.fall])
def test_sign_sgd(rate, dtype):
    params, _ = oracles.run(gdjax.sign_sgd(rate), dtype)
    want, _ = oracles.expected(functools.partial(signum, learning_rate=rate, beta=0.0))
    oracles.assert_same((params, {}), (want, {}), **oracles.TOLERANCE[dtype])


def test_signs():
    u, _ = gdjax.scale_by_sign().update(jnp.array([-3.0, 0.0, 1e-30]), gdjax.EmptyState())
    np.testing.assert_array_equal(u, [-1, 0, 1])
    u, _ = gdjax.scale_by_sign().update(jnp.array([3 + 4j, 0]), gdjax.EmptyState())
    np.testing.assert_allclose(u, [0.6 + 0.8j, 0], rtol=1e-6)


def test_beta_is_checked():
    with pytest.raises(ValueError, match=r"^gdjax.signum: beta must be in \[0, 1\).* got 1.0"):
        gdjax.signum(0.1, 1.0)
