"""Functions of arrays that two or more rules share."""

import math
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def abs_sq(x: Array) -> Array:
    """|x|^2, real for complex x, without the rounding of a square root."""
    if jnp.iscomplexobj(x):
        return jnp.square(x.real) + jnp.square(x.imag)
    return jnp.square(x)


@jax.custom_jvp
def sqrt(x: Array) -> Array:
    """The square root, with derivative 0 (not infinity) at 0, so that a zero gradient can be differentiated through."""
    return jnp.sqrt(x)


@sqrt.defjvp
def _sqrt_jvp(primals: Any, tangents: Any) -> Any:
    root = sqrt(primals[0])
    zero = root == 0
    slope = jnp.where(zero, 0, 0.5 / jnp.where(zero, 1, root))
    return root, slope * tangents[0]


def divide(x: Array, y: Array) -> Array:
    """x / y, and x where y is 0: there x is 0 too, or so small that its square is, since y is the root of squares."""
    return x / jnp.where(y == 0, 1, y)


def one_minus_pow(b: Any, t: Array) -> Array:
    """1 - b^t, the sum of the weights of an exponential moving average after t >= 1 steps.

    Evaluated as -expm1(t log b): the plain difference loses half of float32's digits for b near 1 and small t, and is
    zero for ever in bfloat16, where 0.999 rounds to 1.
    """
    if isinstance(b, int | float):
        return jnp.ones_like(t) if b == 0 else -jnp.expm1(t * math.log(b))
    return -jnp.expm1(t * jnp.log(b))


def debias(x: Array, b: Any, t: Array) -> Array:
    """x / (1 - b^t): an average begun at 0, corrected for it. One quotient for all, and a product per element."""
    return x * (1 / one_minus_pow(b, t))


def safe_increment(count: Array) -> Array:
    """count + 1, staying at the largest value of its dtype instead of wrapping to a negative one."""
    count = jnp.asarray(count)
    top = jnp.iinfo(count.dtype).max
    return jnp.where(count < top, count + 1, top).astype(count.dtype)


def at_least_float32(dtype: Any) -> Any:
    """`dtype`, or float32 where that is wider: 16-bit numbers are computed with in float32."""
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype("float32")


def real_dtype(dtype: Any) -> Any:
    """The dtype of the real part of `dtype`."""
    return jnp.finfo(dtype).dtype
