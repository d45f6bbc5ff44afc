"""A byte language model: the transformer of `make train`, smaller, on the sources of Python's standard library."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from small_lm import loss as nats
from small_lm import start, text

from . import Task

WIDTH, LAYERS, LENGTH, BATCH, STEPS = 64, 2, 64, 8, 1000
REPEATED = 65_536  # bytes that are read about eight times


def fresh() -> Task:
    data = text.read()
    return _task("byte language model, each window drawn from all of 7.5 MB", data.train, data)


def repeated() -> Task:
    data = text.read()
    middle = (len(data.train) - REPEATED) // 2
    return _task("the same on 64 kB, each read eight times", data.train[middle : middle + REPEATED], data)


def of_large_batches() -> Task:
    return _of("the same, batches of 64 windows, 250 steps: twice the bytes", batch_size=8 * BATCH, steps=250)


def of_width_128() -> Task:
    return _of("the same model at width 128, 459,904 parameters", width=128)


def of_width_256() -> Task:
    return _of("the same model at width 256, 1,706,240 parameters", width=256)


def long() -> Task:
    return _of("the same, ten times as long", steps=10_000)


def _of(about: str, **other: Any) -> Task:
    """Fresh text, and what differs from `language`, whose best points are tried here."""
    data = text.read()
    return _task(about, data.train, data, **other)._replace(near="language")


def _task(
    about: str, read: np.ndarray, data: Any, width: int = WIDTH, batch_size: int = BATCH, steps: int = STEPS
) -> Task:
    few, many = (jnp.asarray(text.spread(data.held_out, n, LENGTH)) for n in (64, 512))

    def held_out(windows: Any) -> Any:
        return lambda params: jax.lax.map(lambda w: nats(params, w), windows.reshape(-1, 32, LENGTH + 1)).mean()

    return Task(
        about, steps, lambda key: start(key, width, LAYERS), drawing(read, batch_size), nats,
        held_out(many), held_out(few),
        "nats a byte, held out", data=hashlib.sha256(read.tobytes() + data.held_out.tobytes()).hexdigest()[:16],
    )  # fmt: skip


def drawing(read: np.ndarray, batch_size: int = BATCH) -> Any:
    """Batches of windows, each drawn from all of the text."""
    corpus = jnp.asarray(read)

    def batch(key: Any, times: int = 1) -> Any:
        starts = jax.random.randint(key, (times * batch_size, 1), 0, len(read) - LENGTH)
        return corpus[starts + jnp.arange(LENGTH + 1)[None]]

    return batch
