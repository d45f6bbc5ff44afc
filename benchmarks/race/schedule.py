"""The one schedule of the race: a straight line up, a straight line down."""

from typing import Any

import jax.numpy as jnp

WARMUP = 0.05  # of the run, for those who do not tune it


def rate(peak: Any, steps: Any, warmup: Any = WARMUP, end: Any = 0.0) -> Any:
    """peak min(t / (warmup steps), end + (1 - end) (steps - t) / (steps - warmup steps)) at step t = 1, 2, ..., steps.

    All but the count may be traced, so that runs of different shapes and lengths are one program.
    """

    def at(count: Any) -> Any:
        t = step(count)
        first = jnp.maximum(warmup * steps, 1.0)
        down = end + (1 - end) * (steps + 1 - t) / (steps + 1 - first)
        return peak * jnp.clip(jnp.minimum(t / first, down), 0, 1)

    return at


def step(count: Any) -> Any:
    """The first is 1."""
    return jnp.asarray(count, float) + 1


def constant(peak: Any, steps: Any, warmup: Any = WARMUP) -> Any:
    """The same line up, and no decay: for methods whose averages stand in for one."""
    return lambda count: peak * jnp.minimum(step(count) / jnp.maximum(warmup * steps, 1.0), 1.0)
