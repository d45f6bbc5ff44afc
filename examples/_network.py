"""The network of the examples that are not about networks: dense layers with ReLU between them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _data import Split

import gdjax

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


def train(
    params: Any, tx: Any, split: Split, order: np.ndarray, measure: Callable[..., Any], name: str, grad_fn: bool = False
) -> tuple[Any, np.ndarray]:
    """Trains on the mini-batches of `orders`, an epoch compiled as one scan.

    Args:
      params: the initial parameters.
      tx: the optimizer.
      split: the training examples.
      order: (epochs, steps, batch) indices of examples.
      measure: `measure(params, state)`, an array of what to keep after each epoch.
      name: for the progress line.
      grad_fn: whether `tx` asks for the gradient as a function.

    Returns:
      The last parameters, and the measures with a leading axis of epochs.
    """
    x, y = jnp.asarray(split.x), jnp.asarray(split.y)

    @jax.jit
    def epoch(params: Any, state: Any, order: Any) -> Any:
        def step(carry: Any, chosen: Any) -> tuple[Any, None]:
            params, state = carry

            def gradient(params: Any, i: Any = 0) -> Any:
                return jax.grad(cross_entropy)(params, Split(x[chosen], y[chosen]))

            extra = {"grad_fn": gradient} if grad_fn else {}
            updates, state = tx.update(gradient(params), state, params, **extra)
            return (gdjax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, state), order)
        return params, state, measure(params, state)

    state, rows = tx.init(params), []
    with gdjax.Progress(len(order)) as progress:
        for i, chosen in enumerate(order):
            params, state, row = epoch(params, state, chosen)
            rows.append(np.asarray(row))
            progress.update(i + 1, run=name)
    return params, np.stack(rows)
