"""Optimistic gradient descent and optimistic Adam."""

from typing import Any

import jax
import jax.numpy as jnp

import gdjax


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
