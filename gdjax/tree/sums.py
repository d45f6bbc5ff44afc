"""Sums over a tree in float32 or wider: within each leaf, and then over the leaves in pairs.

They do not stall in 16 bits, and the order of the leaves changes them by rounding alone. The sums and means of one
array are such that on a CPU nothing of its size is written to memory for them.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.base import is_float0
from gdjax.core.types import Array, ArrayLike, ArrayTree
from gdjax.xla.products import product
from gdjax.xla.reads import alone
from gdjax.xla.write_order import after


def arrays(tree: ArrayTree) -> list[Array]:
    """The leaves that have numbers; None, `MaskedNode` and float0 leaves do not count."""
    return [jnp.asarray(x) for x in jax.tree.leaves(tree) if jnp.size(x) and not is_float0(x)]


def wide(x: Array) -> Array:
    """x, in float32 or wider if it is floating."""
    return x.astype(numerics.at_least_float32(x.dtype)) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def floating(x: Array) -> Array:
    """x in float32 or wider; whole numbers in the floating dtype that they promote to."""
    return x.astype(floating_dtype(x))


def floating_dtype(x: Array) -> Any:
    """The dtype of `floating(x)`."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return numerics.at_least_float32(x.dtype)
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(x.dtype, jnp.float32)


def concatenated(xs: Sequence[Array]) -> Array:
    """Scalars as a vector, arrays one behind the other, in the dtype that they promote to."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = functools.reduce(jnp.promote_types, [x.dtype for x in xs])
    return jax.lax.concatenate([(x if x.ndim else x.reshape(1)).astype(dtype) for x in xs], 0)


def pairwise_sum(x: Array) -> Array:
    """The sum over the first axis, added up as a balanced tree: the error grows with log n, not n."""
    while len(x) > 1:
        half = (len(x) + 1) // 2
        x = x[:half] + jnp.pad(x[half:], [(0, 2 * half - len(x))] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(x.shape[1:])


def total(xs: Sequence[Array]) -> Array:
    """The sum of scalars; 0 in float32 for none."""
    return pairwise_sum(concatenated(xs)) if xs else jnp.zeros((), jnp.float32)


@jax.jit
def sum_of_squares(x: Array, factor: Array | None = None) -> Array:
    """sum |factor x|^2 in float32 or wider, of shape (1,)."""
    x = floating(x)
    return jnp.sum(numerics.abs_sq(x if factor is None else product(x, factor))).reshape(1)


def means(x: Array, axes: tuple[int, ...]) -> Array:
    """The means along these axes, which have length 1 in the result."""
    return jnp.mean(alone(x), axes, keepdims=True)


def share_of_nonzeros(x: Array) -> Array:
    """The share of the elements of x that are not 0; x has no NaN, which would make the sum of signs one.

    As a sum of products: comparisons would be written to memory, as numbers, before they are added up.
    """
    return jnp.sum(jnp.square(jnp.sign(jnp.abs(x)))) * (1 / max(x.size, 1))


def means_of_squares(x: Array, first: int, second: int) -> tuple[Array, Array]:
    """The means of |x|^2 along one axis and along another, which are gone from the results.

    Each is bounded as by "each" in `largest_of`.
    """
    # Without axes of length 1: with those in front sums take three times as long on a CPU.
    kept = [i for i, n in enumerate(x.shape) if n > 1 or i in (first, second)]
    narrow = lambda x: x.reshape([x.shape[i] for i in kept])  # noqa: E731
    a, b = kept.index(first), kept.index(second)
    # The mean is of quotients, since a sum overflows long before it does; and of two expressions: what both had in
    # common would be written to memory.
    one = numerics.bounded_sq(jnp.sum(numerics.abs_sq(narrow(alone(x))) * (1 / x.shape[first]), a), "each")
    other = numerics.bounded_sq(jnp.sum(numerics.abs_sq(narrow(alone(x, one)) * x.shape[second] ** -0.5), b), "each")
    without = lambda axis: [n for i, n in enumerate(x.shape) if i != axis]  # noqa: E731
    return one.reshape(without(first)), other.reshape(without(second))


def limited(x: Array, factors: tuple[Array, Array], most: ArrayLike) -> tuple[Array, Array]:
    """The two factors, the second smaller so that x times both has a root mean square of at most `most`.

    For that, elements of x count as `largest_of` says at most.
    """
    first, second = factors
    y, bound = alone(x, second) * first * second, numerics.largest_of(second.dtype, "each") * first * second
    # A minimum of squares, not the square of a bounded x, which would be written to memory before it is summed.
    square = jnp.sum(jnp.minimum(numerics.abs_sq(y), jnp.square(bound))) * (1 / max(x.size, 1))
    shrink = numerics.shrinking(numerics.sqrt(square), most)
    # The product is computed again, not kept: on a CPU two passes of reading, and none of writing, for its mean.
    return after(shrink, first), second * shrink
