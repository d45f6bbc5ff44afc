"""What several losses share: reading their inputs, masks, and sums of exponentials."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from gdjax import numerics
from gdjax.core.types import Array

ArrayLike = jax.typing.ArrayLike
Axis = int | tuple[int, ...] | None


def pair(
    label: str, *, floating: int = 1, along: Axis = (), outer: bool = False, equal: bool = False, **two: ArrayLike
) -> tuple[Array, Array, Any]:
    """Two inputs as arrays of one shape and of one dtype to compute in, and the dtype of the result.

    Args:
      label: the loss, for messages.
      floating: how many of the inputs, from the left, must be real floating numbers.
      along: the axes (None: all) along which the sizes must agree.
      outer: whether inputs with equally many axes may broadcast both ways.
      equal: whether the shapes must be the same.
      **two: the inputs by their names.

    Raises:
      TypeError: the dtype of an input.
      ValueError: shapes that do not fit, see `joint_shape`.
    """
    (a, x), (b, y) = ((name, jnp.asarray(value)) for name, value in two.items())
    for name, value in ((a, x), (b, y))[:floating]:
        check_floating(label, name, value)
    if equal and x.shape != y.shape:
        raise ValueError(f"{label}: {a} shape {x.shape} does not match {b} shape {y.shape}")
    shape = joint_shape(label, (a, b), x.shape, y.shape, outer and x.ndim == y.ndim)
    for i in axes_of(label, along, len(shape)):
        sizes = [1 if i < len(shape) - z.ndim else z.shape[i - len(shape)] for z in (x, y)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"{label}: {a} shape {x.shape} does not match {b} shape {y.shape} along axis {along}")
    (x, y), dtype = promoted(x, y)
    return jnp.broadcast_to(x, shape), jnp.broadcast_to(y, shape), dtype


def joint_shape(
    label: str, names: tuple[str, str], xs: tuple[int, ...], ys: tuple[int, ...], outer: bool = False
) -> tuple[int, ...]:
    """The shape that two inputs broadcast to, which must be that of one of them, but for leading axes of size 1.

    A result larger than both, such as (n, n) from (n,) and (n, 1), is nearly always a mistake. `outer` allows it.
    """
    try:
        shape = np.broadcast_shapes(xs, ys)
    except ValueError:
        shape = None
    if shape is None or not outer and math.prod(shape) not in (math.prod(xs), math.prod(ys)):
        raise ValueError(f"{label}: {names[0]} shape {xs} does not match {names[1]} shape {ys}")
    return shape


def check_floating(label: str, name: str, x: Array) -> None:
    """Raises unless `x` holds real floating numbers."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{label}: {name} must be of a floating dtype, got {x.dtype}")


def promoted(*xs: Array) -> tuple[list[Array], Any]:
    """The arrays in their common dtype, float32 at least, and that dtype as JAX promotes it; integers count as floats.

    The losses promote their inputs themselves, so that integer targets are welcome in JAX's strict mode too.
    """
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*xs)
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = jnp.result_type(float)
    wide = numerics.at_least_float32(dtype)
    return [x.astype(wide) for x in xs], dtype


def axes_of(label: str, axis: Axis, rank: int) -> tuple[int, ...]:
    """`axis` as numbers from 0 to rank - 1, in the order given; None means every axis."""
    given = tuple(range(rank)) if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    for i in given:
        if not -rank <= i < rank:
            raise ValueError(f"{label}: axis {i} is out of bounds for an array with {rank} dimensions")
    return tuple(i % rank for i in given)


def mask_of(label: str, where: ArrayLike | None, shape: tuple[int, ...], axis: Axis | None = ()) -> Array | None:
    """`where` as booleans of the given shape; one of lower rank lacks the axes `axis`.

    Raises:
      ValueError: it does not broadcast to the shape.
    """
    if where is None:
        return None
    mask = jnp.asarray(where).astype(bool)
    given = mask.shape
    if mask.ndim != len(shape) and axis != ():
        axes = axes_of(label, axis, len(shape))
        if mask.ndim + len(axes) == len(shape):
            mask = jnp.expand_dims(mask, axes)
    if mask.ndim > len(shape) or any(m not in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(f"{label}: where shape {given} does not fit the inputs' shape {shape}")
    return jnp.broadcast_to(mask, shape)


def keep(mask: Array | None, x: Array, fill: float = 0.0) -> Array:
    """`x`, and `fill` where the mask is False: what stands there reaches neither the value nor a derivative."""
    return x if mask is None else jnp.where(mask, x, fill)


def product(weight: Array, x: Array) -> Array:
    """weight * x, with 0 times infinity 0, in derivatives too."""
    return weight * jnp.where((weight == 0) & jnp.isinf(x), 0, x)


def positive_part(x: Array) -> Array:
    """max(x, 0), and NaN where x is: of `jnp.maximum` a mean over tens of thousands of numbers loses it on a CPU."""
    return jnp.where(jnp.isnan(x), x, jnp.maximum(x, 0))


def log_sum_exp(x: Array, axis: Axis) -> tuple[Array, Array]:
    """log sum exp(x) along `axis`, as top + rest, with the axis kept; top is the largest x, rest is 0 without any.

    Apart, they keep the digits of rest where top is large. Where every x is -inf both are 0, so that derivatives are
    finite. No derivative goes through top, since the sum does not depend on it.
    """
    top = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True, initial=-jnp.inf))
    top = jnp.where(jnp.isinf(top), 0, top)
    total = jnp.sum(jnp.exp(x - top), axis=axis, keepdims=True)
    return top, jnp.log(jnp.where(total == 0, 1, total))


def log_softmax(x: Array, axis: Axis) -> Array:
    """x - log sum exp(x). An entry of -inf takes no part."""
    top, rest = log_sum_exp(x, axis)
    return (x - top) - rest


def unit(x: Array, epsilon: ArrayLike, axis: Axis) -> Array:
    """x over its Euclidean norm along `axis`, or over epsilon where that is larger; 0 for a zero vector."""
    # Over its largest number first: nothing over- or underflows, here or in the derivative, and top cancels.
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0))
    top = jnp.where((top > 0) & jnp.isfinite(top), top, 1)
    y = x / top
    norm = numerics.sqrt(jnp.sum(jnp.square(y), axis=axis, keepdims=True))
    bound = jnp.maximum(norm, jnp.asarray(epsilon, x.dtype) / top)
    return jnp.where(norm == 0, 0, y / jnp.where(norm == 0, 1, bound))


def wide_enough(labels: Array) -> Array:
    """Labels in 32 bits at least: the number of classes may not fit into their dtype."""
    return labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels


def label_scores(label: str, scores: Array, labels: ArrayLike, name: str = "scores") -> tuple[Array, Array, Array]:
    """For scores (..., K) and integer labels (...): the scores and labels as one shape, and the labels' scores.

    A label of K or more has the score NaN. A negative one stands for "no class"; its loss is `graded`'s business.
    """
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{label}: labels must be of an integer dtype, got {labels.dtype}")
    labels = wide_enough(labels)
    if scores.ndim == 0:
        raise ValueError(f"{label}: {name} must have an axis of classes, got shape ()")
    *batch, classes = scores.shape
    shape = joint_shape(label, (f"the batch of {name}", "labels"), tuple(batch), labels.shape)
    scores, labels = jnp.broadcast_to(scores, (*shape, classes)), jnp.broadcast_to(labels, shape)
    own = jnp.take_along_axis(scores, jnp.clip(labels, 0, classes - 1)[..., None], axis=-1)[..., 0]
    return scores, labels, jnp.where(labels < classes, own, jnp.nan)


def graded(labels: Array, loss: Array, dtype: DTypeLike) -> Array:
    """The loss in the dtype of the result; 0 where the label is negative."""
    return jnp.where(labels < 0, 0, loss).astype(dtype)
