"""A codec: numbers of 24 bits, as a bfloat16 and the eight bits that follow."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core.codec import Codec

Array = jax.Array


class WithError(NamedTuple):
    """The codes of `bfloat16_with_error`: three bytes a number."""

    value: Array  # bfloat16, the nearest
    error: Array  # int8, what is missing, in units of its last place over 256


@dataclass(frozen=True)
class Bfloat16WithError(Codec):
    """Keeps a float32 number as the nearest bfloat16 and an int8 error: rounded to 16 bits of precision, of 24.

    The relative error is at most 2^-16, against 2^-8 of bfloat16 alone, and the range is that of float32; infinities
    and NaN stay what they are. The bits of the number are cut and put together, so that nothing underflows.
    """

    def encode(self, x: Array) -> WithError:
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
        # To the nearest number whose last eight bits are zero. A carry goes to the exponent, but makes no infinity.
        top = bits + jnp.where((bits & 0x7FFFFF80) < 0x7F7FFF80, 0x80, 0).astype(jnp.uint32)
        high = (top + 0x8000) >> 16  # and of that to the nearest bfloat16
        value = jax.lax.bitcast_convert_type(high.astype(jnp.uint16), jnp.bfloat16)
        error = jax.lax.bitcast_convert_type((top >> 8).astype(jnp.uint8), jnp.int8)  # modulo 256 the difference
        return WithError(value, error)

    def decode(self, codes: WithError) -> Array:
        high = jax.lax.bitcast_convert_type(codes.value, jnp.uint16).astype(jnp.uint32) << 16
        error = jax.lax.bitcast_convert_type(codes.error.astype(jnp.int32) << 8, jnp.uint32)
        return jax.lax.bitcast_convert_type(high + error, jnp.float32)

    def __repr__(self) -> str:
        return "gdjax.bfloat16_with_error"


bfloat16_with_error = Bfloat16WithError()
