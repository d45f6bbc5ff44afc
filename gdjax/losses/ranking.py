"""Losses of rankings, and of embeddings that learn without labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.losses.common import (
    Array,
    ArrayLike,
    check_floating,
    keep,
    log_softmax,
    log_sum_exp,
    mask_of,
    pair,
    positive_part,
    product,
    promoted,
    unit,
)

__all__ = ["ntxent", "ranking_softmax_loss", "triplet_margin_loss"]


def ranking_softmax_loss(
    logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None, weights: ArrayLike | None = None,
    reduce_fn: Callable[..., Any] | None = jnp.mean,
) -> Array:  # fmt: skip
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


def ntxent(embeddings: ArrayLike, labels: ArrayLike, temperature: ArrayLike = 0.07) -> Array:
    """The normalized temperature-scaled cross entropy between the embeddings of a batch (NT-Xent).

        loss = mean over pairs i != j of equal label of  -log(e_ij / (e_ij + sum_{k of another label} e_ik))
        e_ij = exp(cos(x_i, x_j) / temperature)

    Args:
      embeddings: x, (batch, features).
      labels: (batch,); examples of equal label are positive pairs.
      temperature: how sharp the softmax is, above 0.

    Returns:
      A scalar; 0 where the batch has no positive pair.

    Raises:
      TypeError: the embeddings are not floating.
      ValueError: shapes that do not match.

    Optax returns NaN for a batch without positive pairs.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
      >>> round(float(gdjax.ntxent(x, jnp.array([0, 0, 1, 1]), temperature=0.5)), 3)
      0.24
      >>> round(float(gdjax.ntxent(x, jnp.array([0, 1, 0, 1]), temperature=0.5)), 3)
      2.24

    Reference:
      Chen et al. 2020, A simple framework for contrastive learning of visual representations, equation 1,
      https://arxiv.org/abs/2002.05709, with any number of positives per example
    """
    label = "gdjax.ntxent"
    x, y = jnp.asarray(embeddings), jnp.asarray(labels)
    check_floating(label, "embeddings", x)
    if x.ndim != 2:
        raise ValueError(f"{label}: embeddings must have shape (batch, features), got {x.shape}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{label}: embeddings shape {x.shape} does not match labels shape {y.shape}")
    (x,), dtype = promoted(x)
    x = unit(x, jnp.finfo(x.dtype).eps ** 0.5, -1)
    s = jnp.matmul(x, x.T, precision="highest") / jnp.asarray(temperature, x.dtype)
    same = y[:, None] == y[None, :]
    positive = same & ~jnp.eye(y.size, dtype=bool)
    top, rest = log_sum_exp(jnp.where(same, -jnp.inf, s), -1)
    loss = jax.nn.softplus(rest + (top - s))
    counted = positive & ~jnp.all(same, axis=-1, keepdims=True)  # without others, e_ij / e_ij has the loss 0
    return (jnp.sum(jnp.where(counted, loss, 0)) / jnp.maximum(jnp.sum(positive, dtype=x.dtype), 1)).astype(dtype)


def triplet_margin_loss(
    anchors: ArrayLike, positives: ArrayLike, negatives: ArrayLike, axis: int = -1, norm_degree: ArrayLike = 2,
    margin: ArrayLike = 1.0, eps: ArrayLike = 1e-6,
) -> Array:  # fmt: skip
    """Asks that an anchor be closer to its positive than to its negative by a margin.

        loss = max(0, d(a, p) - d(a, n) + margin),    d(x, y) = (sum_k |x_k - y_k|^r + eps)^(1/r)

    Args:
      anchors: a, (..., features).
      positives: p, like the anchor.
      negatives: n, unlike the anchor. The shapes of p and n broadcast to that of a or the other way, but for `axis`.
      axis: the axis of the features.
      norm_degree: r, at least 1.
      margin: the least difference of the distances.
      eps: keeps the derivative of the root finite where a distance is 0.

    Returns:
      The loss of each triplet, (...).

    Raises:
      TypeError: an input is not floating.
      ValueError: shapes that do not match.

    Optax takes the power of x - y, not of |x - y|: for odd degrees that is no norm.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> a, p, n = jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 5.5]])
      >>> [round(float(x), 3) for x in gdjax.losses.triplet_margin_loss(a, p, n, margin=1.0)]
      [0.5]

    Reference:
      Balntas et al. 2016, Learning shallow convolutional feature descriptors with triplet losses, equation 3
    """
    label = "gdjax.triplet_margin_loss"
    a, p, one = pair(label, floating=2, along=axis, anchors=anchors, positives=positives)
    b, n, two = pair(label, floating=2, along=axis, anchors=anchors, negatives=negatives)
    (near, far), _ = promoted(_distance(a - p, axis, norm_degree, eps), _distance(b - n, axis, norm_degree, eps))
    near, far, _ = pair(label, positives=near, negatives=far)
    _, dtype = promoted(jnp.zeros((), one), jnp.zeros((), two))
    return positive_part(near - far + jnp.asarray(margin, near.dtype)).astype(dtype)


def _distance(x: Array, axis: int, degree: ArrayLike, eps: ArrayLike) -> Array:
    zero = x == 0
    power = jnp.where(zero, 0, jnp.where(zero, 1, jnp.abs(x)) ** degree)
    total = jnp.sum(power, axis=axis) + jnp.asarray(eps, x.dtype)
    return jnp.where(total == 0, 0, jnp.where(total == 0, 1, total) ** (1 / degree))
