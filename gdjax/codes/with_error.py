"""A codec: float32 numbers as the nearest bfloat16 and an int8 error."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core.codec import Codec

Array = jax.Array

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
