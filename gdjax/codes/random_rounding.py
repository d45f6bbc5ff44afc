"""Random bits for rounding: the same on one device and on many, because they come from each element's place."""

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.xla.bits import weighted

Array = jax.Array

# The extra argument of `update` that tells a part which rounds at random the number of the first row of all arrays: of
# one layer of a stack, as `gradient_release` updates it, that of the layer.
FIRST_ROW = "first_row"


def salt(seed: Array | int, step: Array | int, number: int, first_row: Array | int = 0) -> Array:
    """uint32: where the bits of one array in one step start; () or, of arrays that are rows of larger ones, (2,).

    Args:
      seed: () uint32, or an integer.
      step: the number of the step, an integer.
      number: of the array among those of the step.
      first_row: the place of the array's first row in the whole array.
    """
    words = [jnp.asarray(seed).astype(jnp.uint32), jnp.asarray(step).astype(jnp.uint32)]
    word = mixed(words[0] ^ mixed(words[1])) + np.uint32(number * 0x9E3779B9 & 0xFFFFFFFF)
    whole = isinstance(first_row, int) and not first_row
    return word if whole else jnp.stack([word, jnp.asarray(first_row).astype(jnp.uint32)])


def random_bits(salt: Array, like: Array) -> Array:
    """32 random bits for each element, shaped like an array, from the salt and the element's place in the whole array.

    A few integer operations for each element, which a compiler computes where they are read. They are good enough to
    round with, not to sample from. An array of more than 2^32 elements repeats them.
    """
    factor = 0x9E3779B1
    if not salt.ndim:
        return mixed(places(like, factor) ^ salt)
    row = np.uint32(factor * int(np.prod(like.shape[1:], dtype=object)) & 0xFFFFFFFF)
    return mixed((places(like, factor) + salt[1] * row) ^ salt[0])


def places(like: Array, factor: int) -> Array:
    """The place of each element in the flattened array, times a factor, modulo 2^32: uint32, divided as it is."""
    axes = [axis for axis, size in enumerate(like.shape) if size > 1]
    strides = [factor * int(np.prod(like.shape[axis + 1 :], dtype=object)) for axis in axes]
    index = [jax.lax.broadcasted_iota(jnp.uint32, like.shape, axis) for axis in axes]
    return weighted(index, strides, jnp.zeros_like(like, jnp.uint32))


def uniform(salt: Array, like: Array) -> Array:
    """float32 numbers in [0, 1), of 24 bits, shaped like an array; see `random_bits`."""
    return (random_bits(salt, like) >> np.uint32(8)).astype(jnp.float32) * np.float32(2.0**-24)


def mixed(x: Array) -> Array:
    """Each bit made of all bits (the last steps of MurmurHash3, by Appleby)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
