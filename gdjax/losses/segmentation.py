"""Losses of segmentations: how far two sets of pixels overlap."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from gdjax.core.base import is_concrete
from gdjax.losses.common import Array, ArrayLike, pair

__all__ = ["binary_dice_loss", "dice_loss", "multiclass_generalized_dice_loss"]

_REDUCTIONS = {"mean": jnp.mean, "sum": jnp.sum, "none": lambda x, axis: x}


def dice_loss(
    predictions: ArrayLike, targets: ArrayLike, *, class_weights: ArrayLike | None = None, smooth: ArrayLike = 1.0,
    alpha: ArrayLike = 0.5, beta: ArrayLike = 0.5, apply_softmax: bool = True,
    reduction: Literal["mean", "sum", "none"] = "mean", ignore_background: bool = False,
    axis: int | tuple[int, ...] | None = None,
) -> Array:  # fmt: skip
    """The soft Dice loss of each class; with alpha and beta its generalisation, Tversky's.

        TP_c = sum_i p_ic t_ic,    FP_c = sum_i p_ic - TP_c,    FN_c = sum_i t_ic - TP_c
        loss_c = 1 - (TP_c + smooth) / (TP_c + alpha FP_c + beta FN_c + smooth)

    Args:
      predictions: logits, (batch, ..., classes); one class takes a sigmoid, several a softmax over the last axis.
      targets: t, the true classes, one-hot, of the same shape. Of two inputs that differ by one axis, the one of
        lower rank gets an axis of one class.
      class_weights: a factor for each class, (classes,), before the reduction.
      smooth: pulls the loss of small classes to 0, at least 0. With 0 a class that is nowhere has the loss 0.
      alpha: weight of the false positives FP; alpha = beta = 1/2 is Dice.
      beta: weight of the false negatives FN.
      apply_softmax: False where `predictions` are probabilities already.
      reduction: over the classes, "mean", "sum" or "none".
      ignore_background: leaves class 0 out, where there are several.
      axis: the axes to sum over, by default all but the first and the last.

    Returns:
      The loss of each example, (batch,), and of each class, (batch, classes), for reduction "none".

    Raises:
      ValueError: shapes that do not match; an unknown reduction; probabilities of several classes that do not sum
        to 1, where they are not traced.

    Optax cannot be traced with `apply_softmax=False`, and then refuses probabilities of a single class.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> logits = jnp.array([[[8.0, -8.0], [8.0, -8.0], [-8.0, 8.0]]])  # three pixels
      >>> labels = jnp.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
      >>> loss = gdjax.losses.dice_loss(logits, labels, smooth=0.0, reduction="none")
      >>> [round(float(x), 3) for x in loss[0]]  # of each class
      [0.333, 0.333]

    Reference:
      Milletari, Navab & Ahmadi 2016, V-Net, https://arxiv.org/abs/1606.04797, and Salehi, Erdogmus & Gholipour 2017,
      Tversky loss function for image segmentation, equation 3, https://arxiv.org/abs/1706.05721
    """
    label = "gdjax.dice_loss"
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{label}: reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
    loss, dtype = _dice(label, predictions, targets, apply_softmax, smooth, alpha, beta, axis)
    if class_weights is not None:
        weights, classes = jnp.asarray(class_weights, loss.dtype), jnp.shape(loss)[-1:]
        if weights.shape != classes:
            raise ValueError(f"{label}: class_weights shape {weights.shape} does not match the classes {classes}")
        loss = loss * jnp.broadcast_to(weights, loss.shape)
    return _REDUCTIONS[reduction](_foreground(loss, ignore_background), axis=-1).astype(dtype)


def _dice(
    label: str, predictions: ArrayLike, targets: ArrayLike, activate: bool, smooth: ArrayLike, alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5, axis: int | tuple[int, ...] | None = None,
) -> tuple[Array, Any]:  # fmt: skip
    """The loss of each class, (batch, classes), and the dtype of the result."""
    p, t = jnp.asarray(predictions), jnp.asarray(targets)
    given = p.dtype
    if abs(p.ndim - t.ndim) == 1:
        p, t = (p[..., None], t) if p.ndim < t.ndim else (p, t[..., None])
    p, t, dtype = pair(label, equal=True, predictions=p, targets=t)
    p = _activated(p) if activate else _probabilities(label, p, given)
    smooth, alpha, beta = (jnp.asarray(x, p.dtype) for x in (smooth, alpha, beta))
    axis = tuple(range(1, p.ndim - 1)) if axis is None else axis
    hit = jnp.sum(p * t, axis=axis)
    missed = alpha * jnp.sum(p * (1 - t), axis=axis) + beta * jnp.sum((1 - p) * t, axis=axis)
    size = hit + missed + smooth
    return missed / jnp.where(size == 0, 1, size), dtype


def _foreground(loss: Array, ignore_background: bool) -> Array:
    return loss[..., 1:] if ignore_background and loss.shape[-1] > 1 else loss


def _activated(x: Array) -> Array:
    return jax.nn.sigmoid(x) if x.shape[-1] == 1 else jax.nn.softmax(x, axis=-1)


def _probabilities(label: str, p: Array, given: Any) -> Array:
    """p, whose sums over the classes are 1, to roundings of the dtype that was given."""
    if p.shape[-1] > 1 and is_concrete(p):
        sums = jnp.sum(p, axis=-1)
        if not jnp.allclose(sums, 1.0, rtol=max(1e-5, float(jnp.finfo(given).eps))):
            raise ValueError(
                f"{label}: with apply_softmax=False the predictions must sum to 1 over the classes, "
                f"got sums from {jnp.min(sums):.6f} to {jnp.max(sums):.6f}"
            )
    return p


def multiclass_generalized_dice_loss(
    predictions: ArrayLike, targets: ArrayLike, *, smooth: ArrayLike = 1.0, apply_softmax: bool = True,
    ignore_background: bool = False,
) -> Array:  # fmt: skip
    """`dice_loss` with each class weighted by the inverse square of its size, so that small classes count.

        w_c = 1 / (n_c^2 + 1e-7),  scaled to sum to the number of classes,    n_c = the sum of targets of class c

    Args:
      predictions: logits, (batch, ..., classes).
      targets: the true classes, one-hot, of the same shape.
      smooth: pulls the loss of small classes to 0, at least 0. With 0 a class that is nowhere has the loss 0.
      apply_softmax: False where `predictions` are probabilities already.
      ignore_background: leaves class 0 out of the mean.

    Returns:
      The mean over classes and batch, a scalar.

    Raises:
      ValueError: the shapes differ; otherwise as in `dice_loss`.

    The weights are those of the reference; it weights numerator and denominator and divides once, where here, as in
    Optax, each class has its own quotient. A class without a pixel takes nearly all of the weight.

    Reference:
      Sudre et al. 2017, Generalised Dice overlap as a deep learning loss function, https://arxiv.org/abs/1707.03237
    """
    label = "gdjax.multiclass_generalized_dice_loss"
    _, t, dtype = pair(label, equal=True, predictions=predictions, targets=targets)
    weights = 1 / (jnp.square(jnp.sum(t, axis=tuple(range(t.ndim - 1)))) + 1e-7)
    weights = weights * (weights.size / jnp.sum(weights))
    loss, _ = _dice(label, predictions, targets, apply_softmax, smooth)
    loss = _foreground(loss * jnp.broadcast_to(weights, loss.shape), ignore_background)
    return (jnp.sum(loss) / max(loss.size, 1)).astype(dtype)


def binary_dice_loss(
    predictions: ArrayLike, targets: ArrayLike, *, smooth: ArrayLike = 1.0, apply_sigmoid: bool = True
) -> Array:
    """`dice_loss` of a single class.

    Args:
      predictions: logits, (batch, ...) or (batch, ..., 1).
      targets: 0 or 1, (batch, ...) or (batch, ..., 1).
      smooth: pulls the loss of small classes to 0, at least 0. With 0 a class that is nowhere has the loss 0.
      apply_sigmoid: False where `predictions` are probabilities already, which Optax refuses.

    Returns:
      The loss of each example, (batch,).

    Raises:
      ValueError: shapes that do not match.
    """
    p, t = jnp.asarray(predictions), jnp.asarray(targets)
    if p.ndim == t.ndim and p.shape[-1:] != (1,):
        p, t = p[..., None], t[..., None]
    loss, dtype = _dice("gdjax.binary_dice_loss", p, t, apply_sigmoid, smooth)
    return loss[..., 0].astype(dtype)
