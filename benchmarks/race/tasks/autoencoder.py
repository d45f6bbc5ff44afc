"""A deep autoencoder of digits, as in the literature on second-order methods: a code of eight numbers, eight layers."""

from typing import Any

import jax
import jax.numpy as jnp
from _data import digits

from . import Task

VARIANCE = 0.14  # of all pixels
SIZES, BATCH, STEPS = (64, 128, 64, 32, 8, 32, 64, 128, 64), 128, 1000


def start(key: Any) -> Any:
    keys = jax.random.split(key, len(SIZES) - 1)
    return {
        f"layer{i}": {"w": jax.random.normal(k, (n, m)) * n**-0.5, "b": jnp.zeros(m)}
        for i, (k, n, m) in enumerate(zip(keys, SIZES[:-1], SIZES[1:], strict=True))
    }


def loss(params: Any, x: Any) -> Any:
    """The mean square of what is missing, over the pixels' variance."""
    h = x
    for i, layer in enumerate(params.values()):
        h = h @ layer["w"] + layer["b"]
        h = h if i == len(params) - 1 else jnp.tanh(h)
    return jnp.mean((h - x) ** 2) / VARIANCE


def make() -> Task:
    train, _ = digits()
    x = jnp.asarray(train.x)

    def batch(key: Any, times: int = 1) -> Any:
        return x[jax.random.randint(key, (times * BATCH,), 0, len(x))]

    def judge(params: Any) -> Any:
        return loss(params, x)

    about = "deep autoencoder of digits: 64-128-64-32-8-32-64-128-64, tanh"
    return Task(about, STEPS, start, batch, loss, judge, judge, "unexplained share of the variance, training set")
