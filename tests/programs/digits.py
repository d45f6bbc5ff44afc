"""Handwritten digits, and a small network for them: what the programs train."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TRAIN = 800  # of the 1,000 digits; the rest is for tests


def load() -> tuple[Any, Any, Any, Any]:
    """Images (n, 64) in [0, 1] and labels (n,) to train with, and to test with."""
    with np.load(Path(__file__).parents[1] / "data" / "digits.npz") as data:
        x, y = jnp.asarray(data["x"] / 16, jnp.float32), jnp.asarray(data["y"], jnp.int32)
    return x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]


def network(seed: int = 0, hidden: int = 32) -> Any:
    """Parameters of two dense layers."""
    first, second = jax.random.split(jax.random.key(seed))
    return {
        "hidden": {"kernel": jax.random.normal(first, (64, hidden)) / 8, "bias": jnp.zeros(hidden)},
        "head": {"kernel": jax.random.normal(second, (hidden, 10)) / hidden**0.5, "bias": jnp.zeros(10)},
    }


def logits(params: Any, x: Any) -> Any:
    hidden = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def accuracy(params: Any) -> float:
    """On the digits to test with."""
    _, _, x, y = load()
    return float(jnp.mean((jnp.argmax(logits(params, x), axis=-1) == y).astype(jnp.float32)))


def batches(steps: int, size: int, seed: int = 0) -> tuple[Any, Any]:
    """Random batches: images (steps, size, 64) and labels (steps, size)."""
    x, y, _, _ = load()
    chosen = jax.random.randint(jax.random.key(seed), (steps, size), 0, TRAIN)
    return x[chosen], y[chosen]
