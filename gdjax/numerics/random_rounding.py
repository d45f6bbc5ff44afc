"""Random bits for rounding: the same on one device and on many, because they come from each element's place."""

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.xla.bits import places

Array = jax.Array


def salt(seed: Array | int, step: Array | int, number: int) -> Array:
    """() uint32: where the bits of one array in one step start.

    Args:
      seed: () uint32, or an integer.
      step: the number of the step, an integer.
      number: of the array among those of the step.
    """
    words = [jnp.asarray(seed).astype(jnp.uint32), jnp.asarray(step).astype(jnp.uint32)]
    return _mixed(words[0] ^ _mixed(words[1])) + np.uint32(number * 0x9E3779B9 & 0xFFFFFFFF)


def random_bits(salt: Array, like: Array) -> Array:
    """32 random bits for each element, shaped like an array, from the salt and the element's place in the whole array.

    A few integer operations for each element, which a compiler computes where they are read. They are good enough to
    round with, not to sample from. An array of more than 2^32 elements repeats them.
    """
    return _mixed(places(like, 0x9E3779B1) ^ salt)


def uniform(salt: Array, like: Array) -> Array:
    """float32 numbers in [0, 1), of 24 bits, shaped like an array; see `random_bits`."""
    return (random_bits(salt, like) >> np.uint32(8)).astype(jnp.float32) * np.float32(2.0**-24)


def _mixed(x: Array) -> Array:
    """Each bit made of all bits (the last steps of MurmurHash3, by Appleby)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
