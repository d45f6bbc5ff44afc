"""Addition modulo 53 from 60 % of the table: what is learnt by heart first, and understood later, or not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import Task

P, WIDTH, HIDDEN, SHARE, BATCH, STEPS = 53, 64, 128, 0.6, 256, 2000


def start(key: Any) -> Any:
    a, b, c = jax.random.split(key, 3)
    return {
        "embed": jax.random.normal(a, (P, WIDTH)) * 0.5,
        "hidden": {"kernel": jax.random.normal(b, (2 * WIDTH, HIDDEN)) * (2 * WIDTH) ** -0.5},
        "out": {"kernel": jax.random.normal(c, (HIDDEN, P)) * HIDDEN**-0.5},
    }


def loss(params: Any, pairs: Any) -> Any:
    x = params["embed"][pairs].reshape(len(pairs), -1)
    log_p = jax.nn.log_softmax(jax.nn.relu(x @ params["hidden"]["kernel"]) @ params["out"]["kernel"])
    return -jnp.take_along_axis(log_p, (pairs.sum(-1) % P)[:, None], axis=1).mean()


def make() -> Task:
    pairs = np.random.default_rng(0).permutation([(a, b) for a in range(P) for b in range(P)])
    cut = int(SHARE * len(pairs))
    train, test = jnp.asarray(pairs[:cut], jnp.int32), jnp.asarray(pairs[cut:], jnp.int32)

    def batch(key: Any, times: int = 1) -> Any:
        return train[jax.random.randint(key, (times * BATCH,), 0, cut)]

    def judge(params: Any) -> Any:
        return loss(params, test)

    about = "addition modulo 53, 60 % of the table to learn from"
    return Task(about, STEPS, start, batch, loss, judge, judge, "nats a sum, held out")
