"""Cross entropies of independent yes-or-no predictions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gdjax.losses.common import Array, ArrayLike, pair, product


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
    return _cross_entropy(x, y).astype(jnp.result_type(logits))


def _cross_entropy(x: Array, y: Array) -> Array:
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
    hard = (y == 0) | (y == 1)
    soft = jnp.where(hard, 0.5, y)
    mixed = jnp.logaddexp(jnp.log(soft) + log_q, jnp.log1p(-soft) + log_p)
    wrong = jnp.where(hard, jnp.where(y == 1, log_q, log_p), mixed)  # log (1 - p_t)
    loss = _cross_entropy(x, y) * jnp.exp(product(gamma, wrong))
    if alpha is not None:
        alpha = jnp.asarray(alpha, x.dtype)
        loss = (alpha * y + (1 - alpha) * (1 - y)) * loss
    return loss.astype(jnp.result_type(logits))
