"""Small functions that each have one difficulty: a run passes or it does not.

All are of a matrix of 8 x 16, some with a bias of 16, begin away from the minimum, and have 500 steps.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import Task, all_data

STEPS, ROWS, COLUMNS = 500, 8, 16


def _task(about: str, loss: Any, start: Any, passes: float, batch: Any = all_data, judge: Any = None) -> Task:
    judge = judge or (lambda params: loss(params, None))
    return Task(about, STEPS, start, batch, loss, judge, judge, "loss", passes=passes, drawn=False)


def _random(key: Any) -> Any:
    return {"kernel": jax.random.normal(key, (ROWS, COLUMNS)), "bias": jnp.ones(COLUMNS)}


def saddle() -> Task:
    """Half of the numbers leave 0, where the slope ends, for 1 or -1."""

    def loss(params: Any, batch: None) -> Any:
        x = params["kernel"]
        return jnp.mean(x[0::2] ** 2 - x[1::2] ** 2 / 2 + x[1::2] ** 4 / 4) + 0.25

    def start(key: Any) -> Any:
        return {"kernel": 1e-6 * jax.random.normal(key, (ROWS, COLUMNS))}

    return _task("a saddle, left from 1e-6 beside it", loss, start, 1e-3)


def valley() -> Task:
    """Rosenbrock's, in pairs."""

    def loss(params: Any, batch: None) -> Any:
        x = params["kernel"].ravel()
        return jnp.mean((1 - x[0::2]) ** 2 + 100 * (x[1::2] - x[0::2] ** 2) ** 2)

    return _task("Rosenbrock's valley, 64 times", loss, lambda key: {"kernel": jnp.zeros((ROWS, COLUMNS))}, 1e-2)


def scales() -> Task:
    """Curvatures over six decades, axis by axis."""
    curvature = jnp.asarray(np.logspace(-3, 3, ROWS * COLUMNS).reshape(ROWS, -1), jnp.float32)

    def loss(params: Any, batch: None) -> Any:
        return jnp.mean(curvature * params["kernel"] ** 2) + jnp.mean(params["bias"] ** 2)

    return _task("curvatures over six decades", loss, _random, 1e-4)


def sparse() -> Task:
    """A row in eight has a gradient, and a row is seen the less often the later it comes."""

    def loss(params: Any, row: Any) -> Any:
        missing = params["kernel"] - 1
        return jnp.mean(missing**2) if row is None else jnp.mean(missing[row] ** 2)

    chances = jnp.asarray(0.6 ** np.arange(ROWS), jnp.float32)

    def batch(key: Any, times: int = 1) -> Any:
        return jax.random.categorical(key, jnp.log(chances))

    return _task("rows of which the last is seen once in a hundred steps", loss, _random, 1e-2, batch)


def heavy_tails() -> Task:
    """A quadratic whose gradient has Student's noise of 1.5 degrees of freedom: no variance."""

    def loss(params: Any, noise: Any) -> Any:
        own = jnp.mean((params["kernel"] - 1) ** 2)
        return own if noise is None else own + jnp.mean(params["kernel"] * noise)

    def batch(key: Any, times: int = 1) -> Any:
        return jax.random.t(key, 1.5, (ROWS, COLUMNS))

    return _task("a quadratic under noise without variance", loss, _random, 2e-2, batch)


def float16() -> Task:
    """Parameters, loss and gradients in float16, the gradients near its smallest number."""

    def loss(params: Any, batch: None) -> Any:
        return jnp.mean(jnp.square(params["kernel"] - 1) * jnp.float16(1e-2))

    def judge(params: Any) -> Any:
        return jnp.mean(jnp.square(params["kernel"].astype(jnp.float32) - 1))

    def start(key: Any) -> Any:
        return {"kernel": jax.random.normal(key, (ROWS, COLUMNS), jnp.float16)}

    return _task("float16 throughout, small gradients", loss, start, 1e-3, judge=judge)
