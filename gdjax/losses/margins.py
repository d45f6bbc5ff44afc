"""Losses that are 0 once the right score leads by a margin: hinge, perceptron, sparsemax."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gdjax.losses.common import Array, ArrayLike, graded, label_scores, pair, positive_part, promoted
from gdjax.numerics import largest
from gdjax.projections.balls import projection_simplex


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
