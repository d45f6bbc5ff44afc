"""float32 numbers in 16 bits: rounded to the nearest or at random, or in two parts of which one is a bfloat16.

It is done on the bits of the numbers, read as integers, which grow with the size, or by `reduce_precision`. A cast to
16 bits and back a compiler may leave out, and with it the rounding; these operations it may not. What they return is
a number of 16 bits already: the cast that follows changes nothing, made or left out.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.xla.bits import as_integers

Array = jax.Array

NARROW = jnp.dtype("bfloat16"), jnp.dtype("float16")


def is_narrow(x: Any) -> bool:
    """Whether x, an array, its shape and dtype, or a number, is of 16-bit real numbers."""
    return getattr(x, "dtype", None) in NARROW


def nearest(x: Array, dtype: Any) -> Array:
    """float32 numbers rounded to the nearest of a 16-bit dtype, ties to even; still in float32."""
    if dtype == jnp.bfloat16:
        return jax.lax.reduce_precision(x, 8, 7)
    return _in_float16(x, lambda i: np.uint32(0xFFF) + ((i >> np.uint32(13)) & np.uint32(1)), jnp.round)


def stochastically(x: Array, dtype: Any, bits: Array) -> Array:
    """float32 numbers rounded to one of their two neighbours in a 16-bit dtype, with their mean; still in float32.

        x up with probability (x - low) / (high - low),    so E = x

    Args:
      bits: uint32, shaped like x. Their last 16 decide: added to the 16 bits that a bfloat16 does not have, they carry
        with that probability.
    """
    if dtype == jnp.bfloat16:
        i = jax.lax.bitcast_convert_type(x, jnp.uint32) + (bits & np.uint32(0xFFFF))
        return jnp.where(jnp.isfinite(x), _float(i & np.uint32(0xFFFF0000)), x)
    uniform = (bits & np.uint32(0xFFFF)).astype(jnp.float32) * np.float32(2.0**-16)
    return _in_float16(x, lambda i: bits & np.uint32(0x1FFF), lambda y: jnp.floor(y + uniform))


def _in_float16(x: Array, more: Any, whole: Any) -> Array:
    """x rounded to float16.

    Args:
      more: from the bits to what is added to them before the last 13 are dropped.
      whole: rounds to an integer; for numbers below 2^-14, whose distance is 2^-24 there, whatever their size.
    """
    i = jax.lax.bitcast_convert_type(x, jnp.uint32)
    large = _float((i + more(i)) & np.uint32(0xFFFFE000))
    small = whole(x * np.float32(2.0**24)) * np.float32(2.0**-24)
    y = jnp.where(jnp.abs(x) < 2.0**-14, small, large)
    y = jnp.where(jnp.abs(y) > 65504, jnp.copysign(jnp.inf, x), y)
    return jnp.where(jnp.isfinite(x), y, x)


def split(x: Array, remainder: Any, bits: Array | None = None) -> tuple[Array, Array]:
    """float32 numbers as the nearest bfloat16, still in float32, and the bits that it lacks.

    The bits of x are those of the bfloat16, which are the upper half, plus a signed integer, the remainder. With int16
    that is exact. With int8 x is rounded to 24 bits first, of which 16 are its precision: to the nearest, or at random
    with x as the mean where `bits` are given, of which the last 8 decide. A tie goes away from 0.
    """
    drop = _dropped(remainder)
    i = jax.lax.bitcast_convert_type(x, jnp.int32)
    if drop:
        more = np.int32(1 << (drop - 1)) if bits is None else (bits & np.uint32((1 << drop) - 1)).astype(jnp.int32)
        i = (i + more) & np.int32(-1 << drop)
    finite = jnp.isfinite(x)
    rest = i - ((i + np.int32(0x8000)) & np.int32(-0x10000))
    rest = as_integers(jnp.where(finite, rest >> np.int32(drop), 0), remainder)
    # Of what is stored, or a TPU would write the two in two kernels.
    near = _float(i - (rest.astype(jnp.int32) << np.int32(drop)))
    return jnp.where(finite, near, x), rest


def joined(near: Array, rest: Array) -> Array:
    """The float32 numbers that `split` took apart.

    Of another bfloat16 than that of the split it makes a number within half of its last place; 0, and a bfloat16 that
    is not finite, stay.
    """
    i = jax.lax.bitcast_convert_type(near, jnp.int32) + (rest.astype(jnp.int32) << np.int32(_dropped(rest.dtype)))
    x = _float(i)
    return jnp.where(jnp.isnan(x), near, x)  # what is no number is made of 0 or an infinity


def _dropped(remainder: Any) -> int:
    """How many of the last 16 bits a remainder of this dtype does not have."""
    return 16 - jnp.dtype(remainder).itemsize * 8


def _float(i: Array) -> Array:
    return jax.lax.bitcast_convert_type(i, jnp.float32)
