"""bfloat16 in place of float32, rounded at random."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gdjax.codes.random_rounding import random_bits
from gdjax.codes.rounding import stochastically
from gdjax.core.codec import Format

Array = jax.Array

LARGEST = float(jnp.finfo(jnp.bfloat16).max)


class NarrowCodes(NamedTuple):
    """The codes of `NarrowFloats`."""

    rounded: Array  # bfloat16, like the array

    @property
    def format(self) -> Format:
        return NarrowFloats()


@dataclass(frozen=True)
class NarrowFloats(Format):
    """Keeps a float32 number as bfloat16, one of the two beside it at random, so that its mean is right.

    What is not finite becomes NaN; what is finite stays so.
    """

    def __repr__(self) -> str:
        return "bfloat16"

    def encode(self, x: Array, salt: Array | None = None) -> NarrowCodes:
        x = jnp.where(jnp.isfinite(x), jnp.clip(x, -LARGEST, LARGEST), jnp.nan)
        x = x if salt is None else stochastically(x, jnp.bfloat16, random_bits(salt, x))
        return NarrowCodes(x.astype(jnp.bfloat16))

    def decode(self, codes: NarrowCodes) -> Array:
        return codes.rounded.astype(jnp.float32)
