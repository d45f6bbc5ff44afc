"""Rounding to fewer bits: to nearest, at random, or with the error kept.

It is done on the bits of the numbers, read as integers, which grow with the size, or by `reduce_precision`. A cast to
16 bits and back a compiler may leave out, and with it the rounding; these operations it may not. What they return is
a number of 16 bits already: the cast that follows changes nothing, made or left out.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.types import Array, Codec
from gdjax.xla.reads import as_integers, weighted
from gdjax.xla.write_order import own_zero

__all__ = ["bfloat16_with_error"]

# The extra argument of `update` that tells a part which rounds at random the number of the first row of all arrays: of
# one layer of a stack, as `gradient_release` updates it, that of the layer.
FIRST_ROW = "first_row"


class Salt(NamedTuple):
    """Where the random bits of one array in one step start."""

    word: Array  # () uint32, of the seed, the step and the array
    still: Array  # () uint32, of the seed and the array
    step: Array  # () uint32
    row: Array | None  # () uint32, the place of the array's first row in the whole array; None for the whole


def salt(seed: Array | int, step: Array | int, number: int, first_row: Array | int = 0) -> Salt:
    """The salt of an array.

    Args:
      seed: () uint32, or an integer.
      step: the number of the step, an integer.
      number: of the array among those of the step.
      first_row: the place of the array's first row in the whole array.
    """
    start, step = jnp.asarray(seed).astype(jnp.uint32), jnp.asarray(step).astype(jnp.uint32)
    of_array = np.uint32(number * 0x9E3779B9 & 0xFFFFFFFF)
    from_start = isinstance(first_row, int) and not first_row
    row = None if from_start else jnp.asarray(first_row).astype(jnp.uint32)
    return Salt(mixed(start ^ mixed(step)) + of_array, mixed(start) + of_array, step, row)


def random_bits(salt: Salt, like: Array) -> Array:
    """32 random bits for each element, shaped like an array, from the salt and the element's place in the whole array.

    A few integer operations for each element, which a compiler computes where they are read. They are good enough to
    round with, not to sample from. An array of more than 2^32 elements repeats them.
    """
    return _bits(salt.word, salt, like)


AFRESH = 16  # steps


def even_bits(salt: Salt, like: Array) -> tuple[Array, Array, Array]:
    """Three times 32 bits for each element, random among elements and even in time; see `random_bits`.

    As numbers in [0, 1): all start at random; in each step the first grows by 2 - sqrt(2), modulo 1, and the second
    falls by (sqrt(5) - 1) / 2. Each part of [0, 1) is met as often as it is long, to within one or two steps. So what
    is rounded in one direction again and again moves as it should, where with new bits in each step it walks at random.
    Not so what moves in every k-th step alone, for a k with k sqrt(2) near an integer, as 12 or 29: there the first
    hardly grows from one time to the next. The third grows as the first, and starts anew after every 16 steps.
    """
    bits = _bits(salt.still, salt, like)
    first, second = bits + salt.step * np.uint32(0x95F61999), bits * np.uint32(0x85EBCA6B)
    new = bits * np.uint32(0xC2B2AE35) ^ mixed(salt.still ^ mixed(salt.step // np.uint32(AFRESH)))
    return first, second - salt.step * np.uint32(0x9E3779B9), new + salt.step * np.uint32(0x95F61999)


def _bits(word: Array, salt: Salt, like: Array) -> Array:
    factor = 0x9E3779B1
    place = places(like, factor, own_zero(salt.word))
    if salt.row is not None:
        place = place + salt.row * np.uint32(factor * int(np.prod(like.shape[1:], dtype=object)) & 0xFFFFFFFF)
    return mixed(place ^ word)


def places(like: Array, factor: int, zero: Array | int = 0) -> Array:
    """The place of each element in the flattened array, times a factor, modulo 2^32: uint32, divided as it is."""
    axes = [axis for axis, size in enumerate(like.shape) if size > 1]
    strides = [factor * int(np.prod(like.shape[axis + 1 :], dtype=object)) for axis in axes]
    index = [jax.lax.broadcasted_iota(jnp.uint32, like.shape, axis) for axis in axes]
    return weighted(index, strides, jnp.full_like(like, zero, jnp.uint32))


def uniform(salt: Salt, like: Array) -> Array:
    """float32 numbers in [0, 1), of 24 bits, shaped like an array; see `random_bits`."""
    return (random_bits(salt, like) >> np.uint32(8)).astype(jnp.float32) * np.float32(2.0**-24)


def bits_of(x: Array) -> Array:
    """The bits of float32 numbers, uint32."""
    return jax.lax.bitcast_convert_type(x, jnp.uint32)


def float_of(bits: Array) -> Array:
    """The float32 numbers of these bits."""
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def number(x: Array) -> Array:
    """uint32 below 2^31 as float32: most processors have this conversion for signed integers alone."""
    return x.astype(jnp.int32).astype(jnp.float32)


def mixed(x: Array) -> Array:
    """Each bit made of all bits (the last steps of MurmurHash3, by Appleby)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


@jax.custom_jvp
def _rounded(x: Array, y: Array) -> Array:
    """y, to which x was rounded; its derivative is that of x, where the bits have none."""
    return y


_rounded.defjvp(lambda primals, tangents: (primals[1], tangents[0]))

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
        return _rounded(x, jnp.where(jnp.isfinite(x), float_of(i & np.uint32(0xFFFF0000)), x))
    uniform = (bits & np.uint32(0xFFFF)).astype(jnp.float32) * np.float32(2.0**-16)
    return _in_float16(x, lambda i: bits & np.uint32(0x1FFF), lambda y: jnp.floor(y + uniform))


def _in_float16(x: Array, more: Any, to_integer: Any) -> Array:
    """x rounded to float16.

    Args:
      more: from the bits to what is added to them before the last 13 are dropped.
      whole: rounds to an integer; for numbers below 2^-14, whose distance is 2^-24 there, whatever their size.
    """
    i = jax.lax.bitcast_convert_type(x, jnp.uint32)
    large = float_of((i + more(i)) & np.uint32(0xFFFFE000))
    small = to_integer(x * np.float32(2.0**24)) * np.float32(2.0**-24)
    y = jnp.where(jnp.abs(x) < 2.0**-14, small, large)
    y = jnp.where(jnp.abs(y) > 65504, jnp.copysign(jnp.inf, x), y)
    return _rounded(x, jnp.where(jnp.isfinite(x), y, x))


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
    near = float_of(i - (rest.astype(jnp.int32) << np.int32(drop)))
    return _rounded(x, jnp.where(finite, near, x)), rest


def joined(near: Array, rest: Array) -> Array:
    """The float32 numbers that `split` took apart.

    Of another bfloat16 than that of the split it makes a number within half of its last place; 0, and a bfloat16 that
    is not finite, stay.
    """
    i = jax.lax.bitcast_convert_type(near, jnp.int32) + (rest.astype(jnp.int32) << np.int32(_dropped(rest.dtype)))
    x = float_of(i)
    return _rounded(near, jnp.where(jnp.isnan(x), near, x))  # what is no number is made of 0 or an infinity


def _dropped(remainder: Any) -> int:
    """How many of the last 16 bits a remainder of this dtype does not have."""
    return 16 - jnp.dtype(remainder).itemsize * 8


STEPS = 127 * 2.0**8  # of the error, in a number's power of two: 127 are half of a bfloat16's last place
LARGEST = float(jnp.finfo(jnp.bfloat16).max)


class WithError(NamedTuple):
    """The codes of `bfloat16_with_error`: three bytes a number."""

    value: Array  # bfloat16, the nearest
    error: Array  # int8, the number less the value, over the value's power of two, in `STEPS`


@dataclass(frozen=True)
class Bfloat16WithError(Codec):
    """Keeps a float32 number as the nearest bfloat16 and an int8 error: 16 of the 24 bits of its precision.

    The relative error is at most about 2^-16, where that of bfloat16 alone is 2^-8. Below 1e-34 the int8 error
    underflows gradually, and bfloat16's remains. Infinities and NaN stay as they are; no finite number becomes one.
    """

    def encode(self, x: Array) -> WithError:
        # A compiler may leave out the conversion itself, where another back to float32 follows.
        near = jax.lax.reduce_precision(jnp.where(jnp.isinf(x), x, jnp.clip(x, -LARGEST, LARGEST)), 8, 7)
        rest, power = x - near, _power(near)
        known = jnp.abs(rest) < power  # not for 0, infinities and NaN
        error = jnp.where(known, rest / jnp.where(known, power, 1) * STEPS, 0)
        return WithError(near.astype(jnp.bfloat16), jnp.round(error).astype(jnp.int8))

    def decode(self, codes: WithError) -> Array:
        near, error = codes.value.astype(jnp.float32), codes.error.astype(jnp.float32) * (1 / STEPS)
        return jnp.where(error == 0, near, near + error * _power(near))

    def __repr__(self) -> str:
        return "gdjax.bfloat16_with_error"


def _power(x: Array) -> Array:
    """The largest power of two that is at most |x|: the bits of the exponent alone. Infinite where x is not finite."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & 0x7F800000
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


bfloat16_with_error = Bfloat16WithError()
