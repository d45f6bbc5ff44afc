"""Functions of one array that XLA computes wherever they are read.

XLA:CPU repeats in each loop an operation on one array; the result of one on two arrays, such as a choice between them,
it often writes to memory, and reads it in each.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def finite_within(x: Array, bound: float) -> Array:
    """x clipped to [-bound, bound], and NaN where it is not finite, by operations with constants alone.

    The bits of a float, read as an integer, grow with its size: first the finite numbers, then infinity, then NaN, for
    each sign in a half of its own of the circle of integers. Adding the length of a block of infinity and NaN turns the
    circle so that the finite positive numbers are the largest integers and positive infinity is the least. A maximum
    with one more than the least then makes infinity NaN, and a minimum clips the finite numbers. Half a turn brings the
    negative numbers to the same places, and half a turn more brings all back.
    """
    info = jnp.finfo(x.dtype)
    kind = np.dtype(f"int{info.bits}")
    infinity, top = (int(np.asarray(v, x.dtype).view(kind)) for v in (np.inf, bound))
    least = -(2 ** (info.bits - 1))
    block = -least - infinity  # how many integers stand for infinity and NaN of one sign
    number = lambda i: np.asarray(i, kind)  # noqa: E731
    i = jax.lax.bitcast_convert_type(x, kind) + number(block)
    for _ in range(2):
        i = jax.lax.min(jax.lax.max(i, number(least + 1)), number(top + block)) ^ number(least)
    return jax.lax.bitcast_convert_type(i - number(block), x.dtype)


@jax.custom_jvp
def with_flipped(x: Array, last: Array) -> Array:
    """x of 16 bits, the last of them flipped if a boolean scalar says so. A product XLA:CPU would round, in a loop."""
    return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, jnp.uint16) ^ last.astype(jnp.uint16), x.dtype)


@with_flipped.defjvp
def _with_flipped_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> Any:
    return with_flipped(*primals), tangents[0]


def as_integers(x: Array, dtype: Any) -> Array:
    """Whole float32 numbers as integers of 8 bits.

    From float32: of integers of 32 bits that become 8 XLA:TPU makes a kernel of its own, which reads all inputs again.
    """
    return x.astype(dtype)
