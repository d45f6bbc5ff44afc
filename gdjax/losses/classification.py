"""Losses of classes: of logits by sigmoid and softmax, of margins, and Fenchel-Young losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
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
    positive_part,
    product,
    promoted,
)
from gdjax.numerics import largest
from gdjax.projections.balls import projection_simplex

__all__ = [
    "hinge_loss", "make_fenchel_young_loss", "multiclass_hinge_loss", "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss", "perceptron_loss", "poly_loss_cross_entropy", "safe_softmax_cross_entropy",
    "sigmoid_binary_cross_entropy", "sigmoid_focal_loss", "smooth_labels", "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels", "sparsemax_loss",
]  # fmt: skip


def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> Array:
    """The cross entropy of each yes-or-no prediction.

        loss = -y log p - (1 - y) log (1 - p),    p = sigmoid(x)

    Args:
      logits: x, any shape; infinite ones are welcome where the label agrees.
      labels: y in [0, 1], the probability of yes, of any dtype. One shape must broadcast to the other.

    Returns:
      The loss of each prediction, in the dtype of the logits.

    Raises:
      TypeError: the logits are not floating.
      ValueError: the shapes would broadcast to one larger than both, such as (n,) and (n, 1) to (n, n).

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> logits, labels = jnp.array([0.0, 10.0, 10.0]), jnp.array([1, 1, 0])
      >>> loss = gdjax.sigmoid_binary_cross_entropy(logits, labels)
      >>> [round(float(x), 3) for x in loss]
      [0.693, 0.0, 10.0]
    """
    x, y, _ = pair("gdjax.sigmoid_binary_cross_entropy", logits=logits, labels=labels)
    return _binary_cross_entropy(x, y).astype(jnp.result_type(logits))


def _binary_cross_entropy(x: Array, y: Array) -> Array:
    # Both terms are at least 0 for y in [0, 1], so nothing cancels.
    return product(y, jax.nn.softplus(-x)) + product(1 - y, jax.nn.softplus(x))


def sigmoid_focal_loss(
    logits: ArrayLike, labels: ArrayLike, *, alpha: ArrayLike | None = None, gamma: ArrayLike = 2.0
) -> Array:
    """Binary cross entropy, weighted down where the prediction is already right.

        loss = a (1 - p_t)^gamma CE,    1 - p_t = y (1 - p) + (1 - y) p,    a = alpha y + (1 - alpha) (1 - y)

    with CE and p as in `sigmoid_binary_cross_entropy`. The power is taken of the logarithm, so that a right
    prediction keeps its weight where 1 - p rounds to 0.

    Args:
      logits: x, any shape.
      labels: y in [0, 1], of any dtype. One shape must broadcast to the other.
      alpha: weight of the positive examples against the negative ones, in (0, 1); None for a = 1.
      gamma: how fast the weight falls, at least 0; 0 gives the cross entropy.

    Returns:
      The loss of each prediction, in the dtype of the logits.

    Raises:
      TypeError: the logits are not floating.
      ValueError: the shapes would broadcast to one larger than both.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = gdjax.sigmoid_focal_loss(jnp.array([0.0, 3.0, -3.0]), jnp.array([1, 1, 1]))
      >>> [round(float(x), 4) for x in loss]
      [0.1733, 0.0001, 2.7663]

    Reference:
      Lin et al. 2017, Focal loss for dense object detection, equations 4 and 5, https://arxiv.org/abs/1708.02002
    """
    x, y, _ = pair("gdjax.sigmoid_focal_loss", logits=logits, labels=labels)
    gamma = jnp.asarray(gamma, x.dtype)
    log_p, log_q = jax.nn.log_sigmoid(x), jax.nn.log_sigmoid(-x)
    hard = (y <= 0) | (y >= 1)  # a rounding outside counts as the end
    soft = jnp.where(hard, 0.5, y)
    mixed = jnp.logaddexp(jnp.log(soft) + log_q, jnp.log1p(-soft) + log_p)
    wrong = jnp.where(hard, jnp.where(y >= 1, log_q, log_p), mixed)  # log (1 - p_t)
    loss = _binary_cross_entropy(x, y) * jnp.exp(product(gamma, wrong))
    if alpha is not None:
        alpha = jnp.asarray(alpha, x.dtype)
        loss = (alpha * y + (1 - alpha) * (1 - y)) * loss
    return loss.astype(jnp.result_type(logits))


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
    sizes = (*(x.shape[i] for i in batch), math.prod(x.shape[i] for i in axes))
    x = keep(mask, x, -jnp.inf).transpose(batch + axes).reshape(sizes)
    top, rest = log_sum_exp(x, -1)
    _, y, own = label_scores(label, x - top, labels, "logits")
    loss = rest[..., 0] - own
    if mask is not None:
        kept = mask.transpose(batch + axes).reshape(sizes).astype(x.dtype)
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


def hinge_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> Array:
    """The hinge loss of a two-class decision.

        loss = max(0, 1 - f y)

    Args:
      predictor_outputs: f, the scores, any shape.
      targets: y, -1 or 1. One shape must broadcast to the other.

    Returns:
      The loss of each prediction.

    Raises:
      ValueError: the shapes would broadcast to one larger than both, such as (n,) and (n, 1) to (n, n).

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.hinge_loss(jnp.array([2.0, 0.5, -1.0]), jnp.array([1.0, 1.0, 1.0])))
      [0.  0.5 2. ]

    Reference:
      Cortes & Vapnik 1995, Support-vector networks, https://doi.org/10.1007/BF00994018
    """
    f, y, dtype = pair("gdjax.hinge_loss", floating=0, predictor_outputs=predictor_outputs, targets=targets)
    return positive_part(1 - f * y).astype(dtype)


def perceptron_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> Array:
    """The perceptron loss of a two-class decision.

        loss = max(0, -f y)

    Args:
      predictor_outputs: f, the scores, any shape.
      targets: y, -1 or 1, of the same shape.

    Returns:
      The loss of each prediction.

    Raises:
      ValueError: the shapes differ.

    Reference:
      Rosenblatt 1958, The perceptron: a probabilistic model, https://doi.org/10.1037/h0042519
    """
    f, y, dtype = pair(
        "gdjax.perceptron_loss", equal=True, floating=0, predictor_outputs=predictor_outputs, targets=targets
    )
    return positive_part(-f * y).astype(dtype)


def sparsemax_loss(logits: ArrayLike, labels: ArrayLike) -> Array:
    """The two-class sparsemax loss: a hinge whose corner is a parabola between margins -1 and 1.

        loss = 0 for m >= 1,    (1 - m)^2 / 4 for |m| < 1,    -m for m <= -1,    m = x where y = 1, else -x

    Args:
      logits: x, any shape.
      labels: y, 0 or 1. One shape must broadcast to the other.

    Returns:
      The loss of each prediction, in the dtype of the logits.

    Raises:
      TypeError: the logits are not floating.
      ValueError: the shapes would broadcast to one larger than both.

    Reference:
      Blondel, Martins & Niculae 2020, Learning with Fenchel-Young losses, section 4.4, https://arxiv.org/abs/1901.02324
    """
    x, y, _ = pair("gdjax.sparsemax_loss", logits=logits, labels=labels)
    return jax.nn.sparse_plus(jnp.where(y != 0, -x, x)).astype(jnp.result_type(logits))


def multiclass_hinge_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    """The hinge loss for K classes: how far the best wrong score comes within 1 of the right one.

        loss = max(0, max_{k != y} s_k + 1 - s_y)

    Args:
      scores: s, (..., K); -inf for a class that takes no part.
      labels: y, (...), integers from 0 to K - 1. A negative one marks an example without a class, whose loss is 0; one
        of K or more gives NaN.

    Returns:
      The loss of each example, (...), in the dtype of the scores.

    Raises:
      TypeError: the labels are not integer.
      ValueError: shapes that do not match.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> scores = jnp.array([[3.0, 1.0, 0.0], [3.0, 2.5, 0.0]])
      >>> print(gdjax.losses.multiclass_hinge_loss(scores, jnp.array([0, 0])))
      [0.  0.5]

    Reference:
      Crammer & Singer 2001, On the algorithmic implementation of multiclass kernel-based vector machines,
      https://jmlr.org/papers/v2/crammer01a.html
    """
    (s,), dtype = promoted(jnp.asarray(scores))
    s, y, own = label_scores("gdjax.multiclass_hinge_loss", s, labels)
    wrong = ~jax.nn.one_hot(y, s.shape[-1], dtype=bool)
    return graded(y, largest(jnp.where(wrong, s + 1, s), -1) - own, dtype)


def multiclass_perceptron_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    """The perceptron loss for K classes: how far the right score stays behind the best.

        loss = max_k s_k - s_y

    Args:
      scores: s, (..., K); -inf for a class that takes no part.
      labels: y, (...), integers from 0 to K - 1. A negative one marks an example without a class, whose loss is 0; one
        of K or more gives NaN.

    Returns:
      The loss of each example, (...), in the dtype of the scores.

    Raises:
      TypeError: the labels are not integer.
      ValueError: shapes that do not match.

    Reference:
      Collins 2002, Discriminative training methods for hidden Markov models, https://aclanthology.org/W02-1001
    """
    (s,), dtype = promoted(jnp.asarray(scores))
    s, y, own = label_scores("gdjax.multiclass_perceptron_loss", s, labels)
    return graded(y, largest(s, -1) - own, dtype)


def multiclass_sparsemax_loss(scores: ArrayLike, labels: ArrayLike) -> Array:
    """The loss whose gradient is sparsemax(s) minus the one-hot label, and that is 0 for a lead of 1 or more.

        loss = <p, s - s_y> + (1 - |p|^2) / 2,    p = the projection of s onto the simplex

    Args:
      scores: s, (..., K); -inf for a class that takes no part.
      labels: y, (...), integers from 0 to K - 1. A negative one marks an example without a class, whose loss is 0; one
        of K or more gives NaN.

    Returns:
      The loss of each example, (...), in the dtype of the scores.

    Raises:
      TypeError: the labels are not integer.
      ValueError: shapes that do not match.

    Reference:
      Martins & Astudillo 2016, From softmax to sparsemax, equation 18, https://arxiv.org/abs/1602.02068
    """
    (s,), dtype = promoted(jnp.asarray(scores))
    s, y, own = label_scores("gdjax.multiclass_sparsemax_loss", s, labels)
    p = jnp.vectorize(projection_simplex, signature="(k)->(k)")(s)
    lead = jnp.where(p > 0, s - own[..., None], 0)
    return graded(y, jnp.sum(p * lead, axis=-1) + (1 - jnp.sum(jnp.square(p), axis=-1)) / 2, dtype)


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
