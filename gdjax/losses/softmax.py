"""Cross entropies of softmax probabilities."""

from __future__ import annotations

import math

import jax.numpy as jnp

from gdjax.losses.common import (
    Array,
    ArrayLike,
    Axis,
    axes_of,
    check_floating,
    graded,
    keep,
    label_scores,
    log_softmax,
    log_sum_exp,
    mask_of,
    pair,
    product,
    promoted,
)


def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    """The cross entropy between target probabilities and the softmax of logits.

        loss = -sum_k y_k log p_k,    p = softmax(x)

    A class of logit -inf takes no part: with y_k = 0 its term is 0 in value and derivatives, with y_k > 0 it is inf.

    Args:
      logits: x, (..., K), any real numbers or -inf.
      labels: y, the probabilities of the classes, (..., K); leading axes may broadcast, the axis of classes not.
      axis: the axis or axes of the classes, None for all of them.
      where: False where a class or an example is to be left out; of the shape of `logits`, or without `axis`.

    Returns:
      The loss of each example, (...); 0 where all its classes are left out.

    Raises:
      TypeError: the logits are not floating.
      ValueError: shapes that do not match.

    Optax returns NaN for a logit of -inf, and broadcasts labels (n, 1, K) against logits (n, K) to a loss (n, n).

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> logits = jnp.array([[2.0, 0.0, -jnp.inf], [0.0, 0.0, -jnp.inf]])
      >>> labels = jnp.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
      >>> [round(float(x), 3) for x in gdjax.softmax_cross_entropy(logits, labels)]
      [0.127, 0.693]
    """
    label = "gdjax.softmax_cross_entropy"
    x, y, dtype = pair(label, along=axis, logits=logits, labels=labels)
    return _cross_entropy(label, x, y, axis, where).astype(dtype)


def _cross_entropy(label: str, x: Array, y: Array, axis: Axis, where: ArrayLike | None) -> Array:
    mask = mask_of(label, where, x.shape, axis)
    x, y = keep(mask, x, -jnp.inf), keep(mask, y)
    return -jnp.sum(product(y, log_softmax(x, axis)), axis=axis)


def safe_softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """`softmax_cross_entropy` over the last axis, where 0 log 0 = 0 as there; labels may broadcast along any axis.

    Args:
      logits: (..., K).
      labels: the probabilities of the classes, any shape that broadcasts to that of `logits`.

    Returns:
      The loss of each example, (...).

    Raises:
      TypeError: the logits are not floating.
      ValueError: shapes that do not match.
    """
    label = "gdjax.safe_softmax_cross_entropy"
    x, y, dtype = pair(label, logits=logits, labels=labels)
    return _cross_entropy(label, x, y, -1, None).astype(dtype)


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike, labels: ArrayLike, axis: int | tuple[int, ...] = -1, where: ArrayLike | None = None
) -> Array:
    """`softmax_cross_entropy` for one right class per example, given by its number.

        loss = log sum_k exp(x_k) - x_y

    Args:
      logits: x, (..., K).
      labels: y, (...), integers from 0 to K - 1. A negative label marks an example without a class: its loss and
        gradient are 0, as with the one-hot row of zeros. A label of K or more gives NaN.
      axis: the axis of the classes. With several, K is the product of their sizes, and a label is the index into
        these axes, flattened in the order given.
      where: False where a class or an example is to be left out; of the shape of `logits`, or without `axis`.

    Returns:
      The loss of each example, (...), in the dtype of the logits; 0 where its right class is left out.

    Raises:
      TypeError: the logits are not floating, the labels not integer.
      ValueError: `axis` is neither an int nor a tuple; shapes that do not match.

    Optax takes label -1 for the last class; where the right class is left out, it still subtracts its logit.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> logits = jnp.array([[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
      >>> labels = jnp.array([0, 1, -1])  # -1: no class
      >>> loss = gdjax.softmax_cross_entropy_with_integer_labels(logits, labels)
      >>> [round(float(x), 3) for x in loss]
      [0.127, 0.693, 0.0]
    """
    label = "gdjax.softmax_cross_entropy_with_integer_labels"
    if not isinstance(axis, int | tuple):
        raise ValueError(f"{label}: axis must be an int or a tuple of ints, got {axis!r}")
    x = jnp.asarray(logits)
    check_floating(label, "logits", x)
    (x,), dtype = promoted(x)
    mask = mask_of(label, where, x.shape, axis)
    axes = axes_of(label, axis, x.ndim)
    batch = tuple(i for i in range(x.ndim) if i not in axes)
    sizes = tuple(x.shape[i] for i in batch)
    x = keep(mask, x, -jnp.inf).transpose(batch + axes).reshape(*sizes, -1)
    top, rest = log_sum_exp(x, -1)
    _, y, own = label_scores(label, x - top, labels, "logits")
    loss = rest[..., 0] - own
    if mask is not None:
        kept = mask.transpose(batch + axes).reshape(*sizes, -1).astype(x.dtype)
        out = (label_scores(label, kept, y, "logits")[2] == 0) | ~jnp.any(kept > 0, axis=-1)
        loss = jnp.where(out, 0, loss)
    return graded(y, loss, dtype)


def poly_loss_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, epsilon: ArrayLike = 2.0, axis: Axis = -1, where: ArrayLike | None = None
) -> Array:
    """Cross entropy plus a linear term: PolyLoss with the first coefficient of its series changed (Poly-1).

        loss = -sum_k y_k log p_k + epsilon sum_k y_k (1 - p_k),    p = softmax(x)

    Args:
      logits: x, (..., K).
      labels: y, the probabilities of the classes, any shape that broadcasts to that of `logits`.
      epsilon: weight of the linear term; the reference takes 2 for images and -1 for detection and segmentation.
      axis: the axis or axes of the classes, None for all of them.
      where: False where a class or an example is to be left out; of the shape of `logits`, or without `axis`.

    Returns:
      The loss of each example, (...).

    Raises:
      TypeError: logits or labels are not floating.
      ValueError: shapes that do not match.

    Reference:
      Leng et al. 2022, PolyLoss: a polynomial expansion perspective of classification loss functions, equation 5,
      https://arxiv.org/abs/2204.12511
    """
    label = "gdjax.poly_loss_cross_entropy"
    x, y, dtype = pair(label, floating=2, logits=logits, labels=labels)
    mask = mask_of(label, where, x.shape, axis)
    x, y = keep(mask, x, -jnp.inf), keep(mask, y)
    log_p = log_softmax(x, axis)
    linear = jnp.sum(y * -jnp.expm1(log_p), axis=axis)
    return (-jnp.sum(product(y, log_p), axis=axis) + jnp.asarray(epsilon, x.dtype) * linear).astype(dtype)


def smooth_labels(labels: ArrayLike, alpha: ArrayLike, *, axis: Axis = -1, where: ArrayLike | None = None) -> Array:
    """Mixes target probabilities with the uniform distribution.

        (1 - alpha) y + alpha / K

    Args:
      labels: y, (..., K), floating, such as one-hot rows.
      alpha: weight of the uniform distribution, in [0, 1].
      axis: the axis or axes of the classes, None for all of them.
      where: False where a class is left out of the K that are counted; it broadcasts to the shape of `labels`.

    Returns:
      The smoothed probabilities, (..., K).

    Raises:
      TypeError: the labels are not floating.
      ValueError: `where` does not fit.

    Optax counts a `where` of size 1 along `axis` as one class, and returns inf where no class is left.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> smooth = gdjax.smooth_labels(jnp.array([[1.0, 0.0, 0.0, 0.0]]), alpha=0.5)
      >>> print(smooth)
      [[0.625 0.125 0.125 0.125]]

    Reference:
      Müller, Kornblith & Hinton 2019, When does label smoothing help?, section 2, https://arxiv.org/abs/1906.02629
    """
    label = "gdjax.smooth_labels"
    y = jnp.asarray(labels)
    check_floating(label, "labels", y)
    (y,), dtype = promoted(y)
    mask = mask_of(label, where, y.shape)
    if mask is None:
        count = jnp.asarray(math.prod(y.shape[i] for i in axes_of(label, axis, y.ndim)), y.dtype)
    else:
        count = jnp.sum(mask, axis=axis, keepdims=True, dtype=y.dtype)
    alpha = jnp.asarray(alpha, y.dtype)
    return ((1 - alpha) * y + alpha / jnp.maximum(count, 1)).astype(dtype)
