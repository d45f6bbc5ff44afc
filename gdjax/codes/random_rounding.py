"""Random bits for rounding: the same on one device and on many, because they come from each element's place."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

from gdjax.xla.bits import weighted

Array = jax.Array

# The number of its row for each element of an array. In a trace of its own, so that whoever evaluates that for a part
# of the rows of a larger array can put others in its place, as `gradient_release` does for one layer of a stack.
rows_p = Primitive("gdjax_rows")


def _rows(*, shape: tuple[int, ...], type: object) -> Array:
    return jax.lax.broadcasted_iota(jnp.uint32, shape, 0)


rows_p.def_impl(_rows)
rows_p.def_abstract_eval(lambda *, shape, type: type)
mlir.register_lowering(rows_p, mlir.lower_fun(_rows, multiple_results=False))


def rows(shape: tuple[int, ...]) -> Array:
    """uint32: for each element of an array of this shape the number of its row, the place along the first axis."""
    (kind,) = jax.make_jaxpr(lambda: _rows(shape=shape, type=None))().out_avals
    return rows_p.bind(shape=shape, type=kind)


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


def places(like: Array, factor: int) -> Array:
    """The place of each element in the flattened array, times a factor, modulo 2^32: uint32, divided as it is."""
    axes = [axis for axis, size in enumerate(like.shape) if size > 1 or not axis]  # one row of many is that of `rows`
    strides = [factor * int(np.prod(like.shape[axis + 1 :], dtype=object)) for axis in axes]
    index = [jax.lax.broadcasted_iota(jnp.uint32, like.shape, axis) if axis else rows(like.shape) for axis in axes]
    return weighted(index, strides, jnp.zeros_like(like, jnp.uint32))


def uniform(salt: Array, like: Array) -> Array:
    """float32 numbers in [0, 1), of 24 bits, shaped like an array; see `random_bits`."""
    return (random_bits(salt, like) >> np.uint32(8)).astype(jnp.float32) * np.float32(2.0**-24)


def _mixed(x: Array) -> Array:
    """Each bit made of all bits (the last steps of MurmurHash3, by Appleby)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
