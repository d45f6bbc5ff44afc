"""The network of the examples that are not about networks: dense layers with ReLU between them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _data import Split

Array = jax.Array


def network(sizes: tuple[int, ...], key: Any = 0) -> dict[str, Any]:
    """Initial parameters of sizes[0] -> ... -> sizes[-1]; the key is one of JAX's or a seed."""
    keys = jax.random.split(jax.random.key(key) if isinstance(key, int) else key, len(sizes) - 1)
    return {
        f"layer{i}": {"w": jax.random.normal(keys[i], (n, m)) * np.float32((2 / n) ** 0.5), "b": jnp.zeros((1, m))}
        for i, (n, m) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
    }


def scores(params: Any, x: Any) -> Array:
    """(n, classes) logits."""
    *hidden, last = params.values()
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def cross_entropy(params: Any, batch: Split) -> Array:
    log_p = jax.nn.log_softmax(scores(params, batch.x))
    return -jnp.mean(jnp.take_along_axis(log_p, batch.y[:, None], axis=1))


def accuracy(params: Any, split: Split) -> Array:
    """The part of the examples whose largest score is that of their class."""
    return jnp.mean((jnp.argmax(scores(params, split.x), axis=1) == split.y).astype(jnp.float32))
