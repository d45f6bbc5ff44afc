"""Optimistic gradient descent and optimistic Adam."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdjax
from tests import oracles


def descent(
    x: Any, gradient: Any, learning_rate: Any, alpha: Any = 1.0, beta: Any = 1.0, direction: Any = lambda t, g, s: g
) -> Iterator[Any]:
    memory: dict[str, Any] = {}
    before = 0.0
    for t in range(1, oracles.STEPS + 1):
        g = direction(t, gradient(t, x), memory)
        before = g if t == 1 else before
        step = oracles.at(alpha, t) * g + oracles.at(beta, t) * (g - before)
        x, before = x - oracles.at(learning_rate, t) * step, g
        yield x, {"previous_gradient": g}


def adam(t: int, g: Any, memory: dict[str, Any], b1: float = 0.9, b2: float = 0.999, nesterov: bool = True) -> Any:
    memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
    m_hat = memory["m"] / (1 - b1**t)
    if nesterov:
        m_hat = b1 * memory["m"] / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
    return m_hat / (np.sqrt(memory["v"] / (1 - b2**t)) + 1e-8)


def follows(tx: Any, oracle: Any, dtype: str) -> None:
    params, state = oracles.run(tx, dtype)
    assert not np.any(state["is_initial_step"])
    got = params, {"previous_gradient": state["previous_gradient"]}
    oracles.assert_same(got, oracles.expected(oracle), **oracles.TOLERANCE[dtype])


DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@DTYPES
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"alpha": 0.5, "beta": 0.25}, {"learning_rate": oracles.fall, "beta": oracles.fall}, {"beta": 0.0}],
    ids=oracles.named,
)
def test_gradient_descent(kwargs, dtype):
    kwargs = {"learning_rate": 0.0625, **kwargs}
    follows(gdjax.optimistic_gradient_descent(**kwargs), functools.partial(descent, **kwargs), dtype)


@DTYPES
@pytest.mark.parametrize(
    "kwargs", [{}, {"alpha": 0.5, "beta": 0.25}, {"learning_rate": oracles.fall}], ids=oracles.named
)
def test_adam_v2(kwargs, dtype):
    kwargs = {"learning_rate": 0.0625, **kwargs}
    follows(gdjax.optimistic_adam_v2(**kwargs), functools.partial(descent, **kwargs, direction=adam), dtype)


@DTYPES
@pytest.mark.parametrize("optimism", [None, 0.25, oracles.fall])
def test_adam(optimism, dtype):
    """The reference: theta_t = theta_{t-1} - 2 lr u_t + lr u_{t-1} for the optimism lr."""
    tx = gdjax.optimistic_adam(0.0625, optimism, b2=0.99, nesterov=False)
    direction = functools.partial(adam, b2=0.99, nesterov=False)
    beta = 0.0625 if optimism is None else optimism
    follows(tx, functools.partial(descent, learning_rate=1.0, alpha=0.0625, beta=beta, direction=direction), dtype)


def test_optimism_finds_the_saddle_point_that_descent_circles():
    def distance(tx: Any) -> float:
        def step(carry: Any, _: Any) -> Any:
            (x, y), state = carry
            updates, state = tx.update((y, -x), state)  # min over x, max over y of x y
            return (gdjax.apply_updates((x, y), updates), state), None

        start = (jnp.float32(1.0), jnp.float32(1.0))
        (point, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=400)
        return float(gdjax.global_norm(point))

    assert distance(gdjax.optimistic_gradient_descent(0.1)) < 0.3 < 2 < distance(gdjax.sgd(0.1))
