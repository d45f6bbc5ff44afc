"""Scikit-learn's digits, a tenth of the labels wrong: a network of three layers that could learn them by heart."""

from typing import Any

import jax
import jax.numpy as jnp
from _data import digits, mislabelled

from . import Task

SIZES, BATCH, STEPS = (64, 128, 128, 10), 64, 1000


def start(key: Any) -> Any:
    keys = jax.random.split(key, 3)
    return {
        name: {"w": jax.random.normal(k, (n, m)) * (2 / n) ** 0.5, "b": jnp.zeros(m)}
        for name, k, n, m in zip(("layer0", "layer1", "head"), keys, SIZES[:-1], SIZES[1:], strict=True)
    }


def loss(params: Any, split: Any) -> Any:
    x = split.x
    for name in ("layer0", "layer1"):
        x = jax.nn.relu(x @ params[name]["w"] + params[name]["b"])
    log_p = jax.nn.log_softmax(x @ params["head"]["w"] + params["head"]["b"])
    return -jnp.take_along_axis(log_p, split.y[:, None], axis=1).mean()


def make() -> Task:
    train, test = digits()
    train = mislabelled(train, 0.1)
    x, y = jnp.asarray(train.x), jnp.asarray(train.y)

    def batch(key: Any, times: int = 1) -> Any:
        chosen = jax.random.randint(key, (times * BATCH,), 0, len(y))
        return train._replace(x=x[chosen], y=y[chosen])

    def judge(params: Any) -> Any:
        return loss(params, test)

    about = "digits, a tenth of the labels random: 64-128-128-10, 47 epochs"
    return Task(about, STEPS, start, batch, loss, judge, judge, "nats an image, held out")
