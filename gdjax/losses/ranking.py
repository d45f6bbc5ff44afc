"""Losses of the order that scores put the items of a list in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gdjax.losses.common import Array, ArrayLike, keep, log_softmax, mask_of, pair, product


def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Callable[..., Any] | None = jnp.mean,
) -> Array:
    """The cross entropy between the relevance of the items of a list and the softmax of their scores.

        loss = -sum_i w_i y_i log(exp(s_i) / sum_j exp(s_j))

    Args:
      logits: s, the scores, (..., items).
      labels: y, the relevances, (..., items), of any dtype.
      where: False for an item that is to be left out of its list, (..., items).
      weights: w, a weight for each item, (..., items).
      reduce_fn: called as reduce_fn(losses, where=lists that have an item), such as `jnp.sum`; None for no reduction.

    Returns:
      The reduced loss; without `reduce_fn` one of each list, (...), 0 for a list without items. The mean of no lists
      is 0.

    Raises:
      TypeError: the logits are not floating.
      ValueError: shapes that do not match.

    What stands where `where` is False has no effect, whatever it is.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> scores = jnp.array([[0.0, 0.0, 0.0, 9.0]])  # a list of three items, padded to four
      >>> relevance = jnp.array([[1.0, 0.0, 0.0, 0.0]])
      >>> there = jnp.array([[True, True, True, False]])
      >>> round(float(gdjax.losses.ranking_softmax_loss(scores, relevance, where=there)), 3)
      1.099

    Reference:
      Cao et al. 2007, Learning to rank: from pairwise approach to listwise approach, section 4,
      https://doi.org/10.1145/1273496.1273513
    """
    label = "gdjax.ranking_softmax_loss"
    s, y, _ = pair(label, along=-1, logits=logits, labels=labels)
    dtype = jnp.result_type(logits)
    mask = mask_of(label, where, s.shape)
    if weights is not None:
        y, w, _ = pair(label, along=-1, labels=y, weights=weights)
        s, y = jnp.broadcast_to(s, y.shape), y * keep(mask, w.astype(y.dtype))
    s, y = keep(mask, s, -jnp.inf), keep(mask, y)
    loss = -jnp.sum(product(y, log_softmax(s, -1)), axis=-1)
    lists = None if mask is None else jnp.any(mask, axis=-1)
    if reduce_fn is None:
        return keep(lists, loss).astype(dtype)
    if reduce_fn is jnp.mean:
        return _mean(loss, lists).astype(dtype)
    return jnp.asarray(reduce_fn(loss, where=lists)).astype(dtype)


def _mean(x: Array, mask: Array | None) -> Array:
    """The mean, 0 of nothing."""
    count = x.size if mask is None else jnp.sum(mask, dtype=x.dtype)
    return jnp.sum(keep(mask, x)) / jnp.maximum(count, 1)
