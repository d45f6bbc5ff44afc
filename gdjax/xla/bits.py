"""Bits and whole numbers, in operations that XLA computes wherever they are read.

XLA:CPU repeats in each loop an operation on one array; the result of one on two arrays, such as a choice between them,
it often writes to memory, and reads it in each.
"""

from collections.abc import Callable, Sequence
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
    """Whole numbers of 32 bits as integers of 8 or 16.

    By way of float32: of integers of 32 bits that become 8 XLA:TPU makes a kernel of its own, which reads all inputs
    again.
    """
    return x.astype(jnp.float32).astype(dtype)


def weighted(numbers: Sequence[Array], weights: Sequence[int], zeros: Array) -> Array:
    """sum_k weights_k numbers_k modulo 2^32, of uint32 arrays like `zeros`, in products that all of them have part in.

    A product of the index along one axis XLA:GPU and XLA:TPU write to memory, where all arrays with as many rows read
    it, and then join what reads it: twelve matrices of GPT-2 small in one kernel on a GPU, two on a TPU.
    """
    wrapped = lambda n: np.uint32(n % 2**32)  # noqa: E731
    total = sum(numbers, zeros)
    if len(numbers) < 2:
        return total * wrapped(sum(weights))
    # With t = x + y: a x + b y = (2 b - a) t + (a - b) (t + x).
    over = [weight - weights[-1] for weight in weights[:-1]]
    found = total * wrapped(weights[-1] - sum(over))
    for difference, x in zip(over, numbers, strict=False):
        found += (total + x) * wrapped(difference)
    return found


def in_pairs(x: Array, halves: Callable[[Array], Array]) -> Array:
    """Whole float32 numbers from 0 to 15, two of which become one of uint8: the first + 16 times the second.

    Args:
      halves: makes of an array like x one in which first and second lie along the third-last axis, of length 2.

    XLA:TPU would write the float32 numbers to memory for both: it gets those of 8 bits to write, with whatever else is
    computed of x. XLA:GPU would do the same for anything but a sum.
    """

    def written(x: Array) -> Array:
        both = halves(jax.lax.optimization_barrier(as_integers(x, jnp.uint8)))
        first, second = (jax.lax.index_in_dim(both, i, both.ndim - 3, keepdims=False) for i in (0, 1))
        return first | (second << np.uint8(4))

    def summed(x: Array) -> Array:
        both = halves(x)
        weights = jnp.where(jax.lax.broadcasted_iota(jnp.uint8, both.shape, both.ndim - 3) == 0, 1, 16)
        return as_integers(jnp.sum(both * weights.astype(jnp.float32), -3), jnp.uint8)

    return jax.lax.platform_dependent(x, cuda=summed, rocm=summed, default=written)


def out_of_pairs(x: Array, together: Callable[[Array], Array]) -> Array:
    """What `in_pairs` made uint8 numbers of, as float32.

    Args:
      together: the inverse of `halves`.

    A shift by an index, which XLA:TPU does not compute before the numbers are there twice, for one half and the other,
    and write to memory.
    """
    both = jnp.broadcast_to(x[..., None, :, :], (*x.shape[:-2], 2, *x.shape[-2:]))
    up = jax.lax.broadcasted_iota(jnp.uint8, both.shape, both.ndim - 3) * np.uint8(4)
    return (jax.lax.shift_right_logical(together(both), together(up)) & np.uint8(15)).astype(jnp.float32)
