"""Euclidean norms of one array, or along some of its axes, whose squares neither over- nor underflow."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.meshes import by_platform
from gdjax.core.types import ArrayLike, Axis, DTypeLike
from gdjax.numerics import elementwise as numerics
from gdjax.numerics.elementwise import Array
from gdjax.xla.write_order import product, selected_product

__all__ = ["safe_norm", "safe_root_mean_squares"]

Axes = tuple[int, ...]


def small(dtype: DTypeLike) -> float:
    """A sum of squares below this has lost digits to underflow."""
    return 2.0**-80 if jnp.finfo(dtype).bits <= 32 else 2.0**-900


def scale(dtype: DTypeLike) -> float:
    """Numbers times this, or its reciprocal, have squares where those of the numbers are lost."""
    return 2.0**70 if jnp.finfo(dtype).bits <= 32 else 2.0**560


def precise(square: Array) -> Array:
    """Whether a sum of squares has all its digits."""
    return (square >= small(square.dtype)) & jnp.isfinite(square)


def power_of_two(x: Array) -> Array:
    """A power of two near the largest |x|, with a reciprocal; 1 where that is 0 or not finite. It has no derivative."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), initial=0))
    usable, most = (largest > 0) & (largest < jnp.inf), jnp.finfo(largest.dtype).maxexp - 3
    exponent = jnp.frexp(jnp.where(usable, largest, 1))[1] - 1
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, -most, most))


def three_sums(x: Array, axes: Axes, factor: float | None = None) -> list[Array]:
    """sum |f x|^2 for f = 1, s and 1 / s, with s = `factor` or `scale`; x is read once, on a CPU three times."""
    parts = [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
    parts = [part.astype(numerics.at_least_float32(part.dtype)) for part in parts]
    of = parts[0].dtype
    s = jnp.asarray(scale(of) if factor is None else factor, of)
    times = lambda f: parts if f is None else [selected_product(p, f) for p in parts]
    squares = [sum(map(jnp.square, times(f))) for f in (None, s, 1 / s)]
    one_each, all_in_one = functools.partial(_sums_apart, axes), functools.partial(_sums_in_one, axes)
    return by_platform(squares, tpu=one_each, default=all_in_one)


def _sums_in_one(axes: Axes, xs: list[Array]) -> list[Array]:
    zeros = [jnp.zeros((), x.dtype) for x in xs]
    return jax.lax.reduce(xs, zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], axes)


def _sums_apart(axes: Axes, xs: list[Array]) -> list[Array]:
    """A sum each. A TPU takes these in the kernel that writes the xs; on a GPU they would be three kernels, not one."""
    return [jnp.sum(x, axes) for x in xs]


def unit_and_norm(x: Array, axis: Axis = None) -> tuple[Array, Array]:
    """A unit and a norm whose product is |x| along the axes: neither over- nor underflows.

    Args:
      x: floating, float32 or wider.
      axis: an axis or several; all for None.

    Returns:
      The unit, whose reciprocal is a normal number too, and the norm of x / unit. Both are real and keep the axes with
      length 1. Only the norm has a derivative, which is 0 where x is 0: the unit is taken for a constant.
    """
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return _unit_and_norm(x, tuple(a % x.ndim for a in axes))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _unit_and_norm(x: Array, axes: Axes) -> tuple[Array, Array]:
    by_the_largest, by_three_sums = (functools.partial(f, axes) for f in (_by_the_largest, _by_three_sums))
    return by_platform(x, cpu=by_the_largest, default=by_three_sums)


def _by_the_largest(axes: Axes, x: Array) -> tuple[Array, Array]:
    top, unit = _largest(x, axes)
    unit = jnp.where(top == 0, 1, unit)
    return unit, jnp.sqrt(jnp.sum(numerics.abs_sq(product(x, 1 / unit)), axes, keepdims=True))


def _largest(x: Array, axis: Axis) -> tuple[Array, Array]:
    """The largest |x|, which may miss NaN, and a unit near it."""
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis, keepdims=True, initial=0))
    limits = jnp.finfo(top.dtype)
    # At most an eighth of the largest number: x is multiplied by the reciprocal, which must not be denormal.
    return top, jnp.where(jnp.isfinite(top), jnp.clip(top, limits.tiny, limits.max / 8), 1)


def _by_three_sums(axes: Axes, x: Array) -> tuple[Array, Array]:
    total, large, few = (jnp.expand_dims(s, axes) for s in three_sums(x, axes))
    tiny, usable, s = total < small(total.dtype), precise(total), scale(total.dtype)
    unit = jnp.where(usable, 1, jnp.where(tiny, 1 / s, s)).astype(total.dtype)
    return unit, jnp.sqrt(jnp.where(usable, total, jnp.where(tiny, large, few)))


@_unit_and_norm.defjvp
def _unit_and_norm_jvp(axes: Axes, primals: tuple[Array], tangents: tuple[Array]) -> Any:
    unit, norm = _unit_and_norm(primals[0], axes)
    unit = jax.lax.stop_gradient(unit)
    over = (1 / unit).astype(primals[0].dtype)
    direction = primals[0] * over / jnp.where(norm == 0, 1, norm).astype(over.dtype)
    slope = jnp.sum(jnp.real(jnp.conj(direction) * (tangents[0] * over)), axes, keepdims=True)
    return (unit, norm), (jnp.zeros_like(unit), slope)


def safe_norm(
    x: Array | np.ndarray,
    min_norm: float | Array,
    ord: float | str | None = None,
    axis: Axis = None,
    keepdims: bool = False,
) -> Array:
    """max(|x|, min_norm), whose derivative is 0 where |x| <= min_norm, at x = 0 too.

    Args:
      x: an array.
      min_norm: the least result, at least 0.
      ord: which norm, as `jnp.linalg.norm` names them; None is the root of the sum of squares.
      axis: the axis or axes of the vectors or matrices; None for all of x.
      keepdims: keep these axes, with size 1.

    Returns:
      The norm in the real dtype of x. It is computed in float32 or wider, of x scaled to 1, so that squares neither
      over- nor underflow.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> print(gdjax.safe_norm(jnp.array([3.0, 4.0]), 1e-6))
      5.0
      >>> print(jax.grad(lambda x: gdjax.safe_norm(x, 1e-6))(jnp.zeros(2)))
      [0. 0.]
    """
    x, dtype = _wide(x)
    if ord is None:
        unit, norm = unit_and_norm(x, axis)
        norm = unit * norm
    else:
        x, unit = _over_the_largest(x, axis)
        norm = jnp.linalg.norm(x, ord=ord, axis=axis, keepdims=True)
        if ord != 0:  # ord 0 counts; the others take a maximum, which may miss NaN
            norm = jnp.where(jnp.any(jnp.isnan(x), axis, keepdims=True), jnp.nan, unit * norm)
    return _at_least(norm if keepdims else jnp.squeeze(norm, axis), min_norm, dtype)


def safe_root_mean_squares(x: Array | np.ndarray, min_rms: float | Array) -> Array:
    """max(sqrt(mean |x|^2), min_rms), whose derivative is 0 where the root is at most min_rms, at x = 0 too.

    The result is in the real dtype of x, and computed as in `safe_norm`; of no numbers it is min_rms.
    """
    x, dtype = _wide(x)
    unit, norm = (y.reshape(()) for y in unit_and_norm(x))
    return _at_least(unit * (norm * max(x.size, 1) ** -0.5), min_rms, dtype)


def _wide(x: ArrayLike) -> tuple[Array, Any]:
    """x in float32 or wider, and the real dtype it has."""
    x = jnp.asarray(x)
    x = x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)
    return x.astype(numerics.at_least_float32(x.dtype)), numerics.real_dtype(x.dtype)


def _over_the_largest(x: Array, axis: Axis) -> tuple[Array, Array]:
    """x over the largest |x|, and that. A zero x becomes ones, which have derivatives."""
    top, unit = _largest(x, axis)
    ones = jnp.where((top == 0) & (x == 0), jnp.ones_like(x), x / unit.astype(x.dtype))
    return ones, jnp.where(top == 0, 0, unit)


def _at_least(x: Array, least: ArrayLike, dtype: DTypeLike) -> Array:
    least = jnp.asarray(least).astype(x.dtype)
    return jnp.where(x <= least, least, x).astype(dtype)
