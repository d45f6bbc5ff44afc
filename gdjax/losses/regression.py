"""Losses of real-valued predictions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gdjax.losses.common import Array, ArrayLike, Axis, check_floating, keep, mask_of, pair, promoted, unit

__all__ = ["cosine_distance", "cosine_similarity", "huber_loss", "l2_loss", "log_cosh", "squared_error"]


def squared_error(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    """The square of each error; `l2_loss` is half of it.

        loss = (x - y)^2

    Args:
      predictions: x, any shape.
      targets: y, of the same shape; None for zeros.

    Returns:
      The loss of each prediction.

    Raises:
      TypeError: the predictions are not floating.
      ValueError: the shapes differ.
    """
    error, dtype = _errors("gdjax.squared_error", predictions, targets, equal=True)
    return jnp.square(error).astype(dtype)


def l2_loss(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    """Half the square of each error, whose gradient is the error.

        loss = (x - y)^2 / 2

    Args:
      predictions: x, any shape.
      targets: y, of the same shape; None for zeros.

    Returns:
      The loss of each prediction.

    Raises:
      TypeError: the predictions are not floating.
      ValueError: the shapes differ.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.l2_loss(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])))
      [0. 2.]
    """
    error, dtype = _errors("gdjax.l2_loss", predictions, targets, equal=True)
    return (0.5 * jnp.square(error)).astype(dtype)


def _errors(label: str, predictions: ArrayLike, targets: ArrayLike | None, equal: bool = False) -> tuple[Array, Any]:
    """predictions - targets, in float32 or wider, and the dtype of the result."""
    if targets is not None:
        x, y, dtype = pair(label, equal=equal, predictions=predictions, targets=targets)
        return x - y, dtype
    x = jnp.asarray(predictions)
    check_floating(label, "predictions", x)
    (x,), dtype = promoted(x)
    return x, dtype


def huber_loss(predictions: ArrayLike, targets: ArrayLike | None = None, *, delta: ArrayLike = 1.0) -> Array:
    """A parabola for small errors that goes on as a line, so that no gradient is larger than delta.

        loss = e^2 / 2 for |e| <= delta,    delta (|e| - delta / 2) beyond,    e = x - y

    Args:
      predictions: x, any shape.
      targets: y; None for zeros. One shape must broadcast to the other.
      delta: where the line begins, at least 0.

    Returns:
      The loss of each prediction.

    Raises:
      TypeError: the predictions are not floating.
      ValueError: the shapes would broadcast to one larger than both, such as (n,) and (n, 1) to (n, n).

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.huber_loss(jnp.array([0.5, 1.0, 3.0]), jnp.zeros(3), delta=1.0))
      [0.125 0.5   2.5  ]

    Reference:
      Huber 1964, Robust estimation of a location parameter, https://doi.org/10.1214/aoms/1177703732
    """
    error, dtype = _errors("gdjax.huber_loss", predictions, targets)
    delta = jnp.asarray(delta, error.dtype)
    inner = jnp.clip(error, -delta, delta)  # the loss's gradient
    return (inner * (error - inner / 2)).astype(dtype)


def log_cosh(predictions: ArrayLike, targets: ArrayLike | None = None) -> Array:
    """About half the square of small errors, and the size of large ones: smooth everywhere.

        loss = log cosh(e),    e = x - y

    It is about e^2 / 2 for small errors and |e| - log 2 for large ones.

    Args:
      predictions: x, any shape.
      targets: y; None for zeros. One shape must broadcast to the other.

    Returns:
      The loss of each prediction.

    Raises:
      TypeError: the predictions are not floating.
      ValueError: the shapes would broadcast to one larger than both.

    Optax loses the digits of small errors: in float32, all of them at 1e-4.

    Reference:
      Chen et al. 2019, Log hyperbolic cosine loss improves variational auto-encoder,
      https://openreview.net/forum?id=rkglvsC9Ym
    """
    error, dtype = _errors("gdjax.log_cosh", predictions, targets)
    return _log_cosh(error).astype(dtype)


@jax.custom_jvp
def _log_cosh(e: Array) -> Array:
    size = jnp.abs(e)
    small = jnp.log1p(2 * jnp.square(jnp.sinh(jnp.minimum(size, 1) / 2)))
    return jnp.where(size < 1, small, size + jnp.log1p(jnp.exp(-2 * size)) - jnp.log(jnp.asarray(2, e.dtype)))


@_log_cosh.defjvp
def _log_cosh_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> Any:
    return _log_cosh(primals[0]), jnp.tanh(primals[0]) * tangents[0]


def cosine_similarity(
    predictions: ArrayLike, targets: ArrayLike, *, epsilon: ArrayLike = 0.0, axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """The cosine of the angle between vectors.

        <x, y> / (|x| |y|)

    Args:
      predictions: x, (..., d).
      targets: y, (..., d). The sizes along `axis` must agree; other axes may broadcast, also both ways where the
        numbers of axes are equal, so that (n, 1, d) and (1, m, d) give all pairs.
      epsilon: the least |x| and |y| to divide by; a shorter vector counts as if it had that length.
      axis: the axis or axes of the vectors, None for all of them.
      where: False where a component is to be left out; it broadcasts to the shape of the inputs.

    Returns:
      The similarity of each pair, (...), in [-1, 1]; 0, with derivative 0, where a vector is zero.

    Raises:
      TypeError: an input is not floating.
      ValueError: shapes that do not match.

    Optax returns NaN for a zero vector, and bounds the square of the norm by epsilon, not the norm as it says.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x, y = jnp.array([[3.0, 4.0], [0.0, 0.0]]), jnp.array([[4.0, 3.0], [1.0, 1.0]])
      >>> [round(float(s), 3) for s in gdjax.cosine_similarity(x, y)]
      [0.96, 0.0]
    """
    similarity, dtype = _cosine("gdjax.cosine_similarity", predictions, targets, epsilon, axis, where)
    return similarity.astype(dtype)


def _cosine(
    label: str, predictions: ArrayLike, targets: ArrayLike, epsilon: ArrayLike, axis: Axis, where: ArrayLike | None
) -> tuple[Array, Any]:
    x, y, dtype = pair(label, floating=2, along=axis, outer=True, predictions=predictions, targets=targets)
    mask = mask_of(label, where, x.shape)
    x, y = keep(mask, x), keep(mask, y)
    return jnp.sum(unit(x, epsilon, axis) * unit(y, epsilon, axis), axis=axis), dtype


def cosine_distance(
    predictions: ArrayLike, targets: ArrayLike, *, epsilon: ArrayLike = 0.0, axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Array:  # fmt: skip
    """1 minus the cosine of the angle between vectors.

        1 - <x, y> / (|x| |y|)

    Args:
      predictions: x, (..., d).
      targets: y, (..., d). The sizes along `axis` must agree; other axes may broadcast.
      epsilon: the least |x| and |y| to divide by; a shorter vector counts as if it had that length.
      axis: the axis or axes of the vectors, None for all of them.
      where: False where a component is to be left out; it broadcasts to the shape of the inputs.

    Returns:
      The distance of each pair, (...), in [0, 2]; 1 where a vector is zero.
    """
    similarity, dtype = _cosine("gdjax.cosine_distance", predictions, targets, epsilon, axis, where)
    return (1 - similarity).astype(dtype)
