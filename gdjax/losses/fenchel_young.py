"""Losses made from a max function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gdjax.losses.common import Array, ArrayLike, pair, product


def make_fenchel_young_loss(max_fun: Callable[..., Any]) -> Callable[..., Array]:
    """The Fenchel-Young loss of a regularised maximum.

        loss(s, y) = max_fun(s) - <y, s>

    Its gradient with respect to the scores is grad max_fun(s) - y. For `jax.nn.logsumexp` it is the cross entropy.

    Args:
      max_fun: a function of scores (n,), and of any further arguments, to a scalar.

    Returns:
      loss(scores, targets, *args, **kwargs) over the last axis of scores and targets, (..., n); the further arguments
      go to `max_fun` as they are. Leading axes may broadcast, either way.

    In Optax further positional arguments are an error.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = gdjax.losses.make_fenchel_young_loss(jax.nn.logsumexp)
      >>> scores, target = jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0])
      >>> cross_entropy = gdjax.softmax_cross_entropy(scores, target)
      >>> round(float(loss(scores, target)), 3), round(float(cross_entropy), 3)
      (0.313, 0.313)

    Reference:
      Blondel, Martins & Niculae 2020, Learning with Fenchel-Young losses, definition 2,
      https://arxiv.org/abs/1901.02324
    """

    def fenchel_young_loss(scores: ArrayLike, targets: ArrayLike, *args: Any, **kwargs: Any) -> Array:
        s, y, dtype = pair("gdjax.fenchel_young_loss", floating=0, along=-1, scores=scores, targets=targets)
        top = jnp.vectorize(lambda row: max_fun(row, *args, **kwargs), signature="(n)->()")(s)
        return (top - jnp.sum(product(y, s), axis=-1)).astype(dtype)

    return fenchel_young_loss
