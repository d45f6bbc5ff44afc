"""Functions of arrays that two or more rules share."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.arrays import is_key
from gdjax.core.types import Array, ArrayLike, ArrayTree, Axis, DTypeLike

__all__ = ["safe_increment", "safe_int32_increment"]


def abs_sq(x: Array) -> Array:
    """|x|^2, real for complex x, without the rounding of a square root."""
    if jnp.iscomplexobj(x):
        return jnp.square(x.real) + jnp.square(x.imag)
    return jnp.square(x)


def real_product(x: Array, y: Array) -> Array:
    """Re(conj(x) y) of each element: above 0 where the two point one way."""
    return jnp.real(jnp.conj(x) * y) if jnp.iscomplexobj(x) else x * y


@jax.custom_jvp
def sqrt(x: Array) -> Array:
    """The square root, with derivative 0 (not infinity) at 0, so that a zero gradient can be differentiated through."""
    return jnp.sqrt(x)


@sqrt.defjvp
def _sqrt_jvp(primals: tuple[Array], tangents: tuple[Array]) -> Any:
    root = sqrt(primals[0])
    zero = root == 0
    slope = jnp.where(zero, 0, 0.5 / jnp.where(zero, 1, root))
    return root, slope * tangents[0]


def divide(x: Array, y: Array, eps: ArrayLike = 0) -> Array:
    """x / (y + eps), and x where y + eps is 0: x is 0 there too, or its square is, since y is the root of squares."""
    return x / divisor(y, eps)


@jax.custom_jvp
def quotient(x: Array, y: Array) -> Array:
    """x / y, whose derivative divides by y twice: JAX's has y^-2, which is infinite for a y whose reciprocal is not."""
    return x / y


@quotient.defjvp
def _quotient_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> Any:
    x, y = primals
    ratio = x / y
    return ratio, (tangents[0] - ratio * tangents[1]) / y


def divisor(y: Array, eps: ArrayLike = 0) -> Array:
    """y + eps, and 1 where that is 0. A constant eps above 0 needs no such guard: y is at least 0."""
    constant = isinstance(eps, float | np.floating) and eps >= jnp.finfo(y.dtype).tiny
    y = y + eps
    return y if constant else jnp.where(y == 0, 1, y)


def largest(x: Array, axis: Axis = None) -> Array:
    """The maximum, and NaN where there is one: on a CPU `jnp.max` of some thousand numbers loses it."""
    top = jnp.max(x, axis)
    return jnp.where(jnp.any(jnp.isnan(x), axis), jnp.nan, top) if jnp.issubdtype(x.dtype, jnp.inexact) else top


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def peak(x: Array, axis: int | None = None) -> Array:
    """The maximum of numbers from 0 on, along an axis that is kept, or of all; the derivative is that of the first one.

    JAX's looks for the maximum among the numbers, which a compiler may round in another way there: of none it is NaN.
    """
    return jnp.max(x, axis, keepdims=axis is not None, initial=0)


@peak.defjvp
def _peak_jvp(axis: int | None, primals: tuple[Array], tangents: tuple[Array]) -> Any:
    (x,), (change,) = primals, tangents
    top = peak(x, axis)
    if x.size == 0:
        return top, jnp.zeros_like(top)
    if axis is None:
        return top, jnp.where(top > 0, change.ravel()[jnp.argmax(x)], 0)
    return top, jnp.where(top > 0, jnp.take_along_axis(change, jnp.argmax(x, axis, keepdims=True), axis), 0)


def one_minus_pow(b: ArrayLike, t: Array) -> Array:
    """1 - b^t, the sum of the weights of an exponential moving average after t >= 1 steps.

    Evaluated as -expm1(t log b): the plain difference loses half of float32's digits for b near 1 and small t, and is
    zero for ever in bfloat16, where 0.999 rounds to 1.
    """
    if isinstance(b, int | float):
        return jnp.ones_like(t) if b == 0 else -jnp.expm1(t * math.log(b))
    return -jnp.expm1(t * jnp.log(b))


def debias(x: Array, b: ArrayLike, t: Array) -> Array:
    """x / (1 - b^t): corrects an average that began at 0. One quotient in all, and one product per element."""
    # A sign that is left to the loops of leaves puts this number last among their inputs. Without it the first leaf of
    # each shape has its inputs in another order, and a compiled loop of its own.
    return x * -(1 / -one_minus_pow(b, t))


def safe_increment(count: int | Array) -> Array:
    """count + 1, staying at the largest value of its dtype instead of wrapping to a negative one.

    Raises:
      ValueError: the count is neither an integer nor a real number.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> count = jnp.array([0, 2**31 - 1], jnp.int32)
      >>> print(gdjax.safe_increment(count))
      [         1 2147483647]
    """
    count = jnp.asarray(count)
    if not jnp.issubdtype(count.dtype, jnp.integer) and not jnp.issubdtype(count.dtype, jnp.floating):
        raise ValueError(f"gdjax.safe_increment: count has dtype {count.dtype}, expected integers or real numbers")
    limits = jnp.iinfo if jnp.issubdtype(count.dtype, jnp.integer) else jnp.finfo
    top = jnp.asarray(limits(count.dtype).max, count.dtype)
    return jnp.where(count < top, count + 1, top)


safe_int32_increment = safe_increment


def at_least_float32(dtype: DTypeLike) -> Any:
    """`dtype`, or float32 where that is wider: nothing is computed in 16 bits."""
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype("float32")


def real_dtype(dtype: DTypeLike) -> Any:
    """The dtype of the real part of `dtype`."""
    return jnp.finfo(dtype).dtype


def complex_dtype(dtype: DTypeLike) -> Any:
    """complex128 where the numbers of `dtype`, or their parts, are float64; else complex64."""
    return jnp.dtype("complex128" if real_dtype(dtype).itemsize == 8 else "complex64")


def widest_real(tree: ArrayTree) -> Any:
    """The widest real dtype among the floating leaves of a tree, float32 at least."""
    dtypes = [d for d in map(jnp.result_type, jax.tree.leaves(tree)) if jnp.issubdtype(d, jnp.inexact)]
    reals = [real_dtype(at_least_float32(d)) for d in dtypes]
    return max(reals, key=lambda d: d.itemsize, default=jnp.dtype("float32"))


def scalar(x: ArrayLike, real: DTypeLike) -> Any:
    """A hyperparameter in the dtype `real`; a Python number as it is, exact until it meets an array."""
    return x if isinstance(x, int | float) else jnp.asarray(x).astype(real)


def widen(tree: ArrayTree, real: np.dtype) -> Any:
    """The arrays of a tree in the dtype `real`, or complex with parts in `real`; PRNG keys as they are."""

    def leaf(x: ArrayLike) -> Array:
        x = jnp.asarray(x)
        if is_key(x):
            return x
        return x.astype(complex_dtype(real) if jnp.iscomplexobj(x) else real)

    return jax.tree.map(leaf, tree)


def python_numbers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy scalars as Python numbers, which take the dtype they meet."""
    return {k: v.item() if isinstance(v, np.number) or type(v) is np.ndarray else v for k, v in arguments.items()}
