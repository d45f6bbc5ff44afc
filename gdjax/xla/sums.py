"""Sums and means of one array that XLA:CPU computes without writing what it adds up to memory.

Rules import them by their names from `gdjax.linalg.sums`.
"""

import jax
import jax.numpy as jnp

from gdjax.core.types import ArrayLike
from gdjax.numerics.bounds import bounded_sq, largest_of, shrinking
from gdjax.numerics.elementwise import Array, abs_sq, sqrt
from gdjax.xla.reads import alone
from gdjax.xla.write_order import after


def summand(x: Array) -> Array:
    """`numerics.squarable(x, "summed")` as an expression that XLA:CPU sums as it is computed.

    It would write to memory first what is needed twice, a bound that arrays of one shape share, and what it makes of a
    minimum and a maximum with constants: here each array has a bound of its own, and minima alone.
    """
    if jnp.iscomplexobj(x):
        return jax.lax.complex(summand(x.real), summand(x.imag))
    bound = after(x, jnp.asarray(largest_of(x.dtype, "summed"), x.dtype))
    return -jnp.minimum(-jnp.minimum(x, bound), bound)


def largest_size(x: Array, axis: int) -> Array:
    """max |x| along an axis; not finite where one of the numbers is not.

    XLA:CPU's maximum passes over NaN. XLA:GPU's does not; of a choice before the maximum it makes transposed copies,
    which took AdamW with moments in blocks from 27 to 61 bytes a parameter.
    """
    guarded = lambda x: jnp.max(jnp.where(jnp.isfinite(x), jnp.abs(x), jnp.inf), axis)  # noqa: E731
    return jax.lax.platform_dependent(x, cpu=guarded, default=lambda x: jnp.max(jnp.abs(x), axis))


def means(x: Array, axes: tuple[int, ...]) -> Array:
    """The means along these axes, which have length 1 in the result."""
    return jnp.mean(alone(x), axes, keepdims=True)


def mean_sq_of_quotient(x: Array, y: Array) -> Array:
    """The mean of |x / y|^2 for y above 0, of an x that counts as `largest_of` says at most, by "each".

    XLA:CPU writes to memory first what the sum is not made of by a few plain operations: y, but not the quotient.
    """
    largest = jnp.square(largest_of(y.dtype, "each") / y)  # of quotients: a bounded x would be written to memory
    return jnp.sum(jnp.minimum(abs_sq(alone(x) / y), largest)) * (1 / max(x.size, 1))


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
    one = bounded_sq(jnp.sum(abs_sq(narrow(alone(x))) * (1 / x.shape[first]), a), "each")
    other = bounded_sq(jnp.sum(abs_sq(narrow(alone(x, one)) * x.shape[second] ** -0.5), b), "each")
    without = lambda axis: [n for i, n in enumerate(x.shape) if i != axis]  # noqa: E731
    return one.reshape(without(first)), other.reshape(without(second))


def limited(x: Array, factors: tuple[Array, Array], most: ArrayLike) -> tuple[Array, Array]:
    """The two factors, the second smaller so that x times both has a root mean square of at most `most`.

    For that, elements of x count as `largest_of` says at most.
    """
    first, second = factors
    y, bound = alone(x, second) * first * second, largest_of(second.dtype, "each") * first * second
    # A minimum of squares, not the square of a bounded x, which would be written to memory before it is summed.
    square = jnp.sum(jnp.minimum(abs_sq(y), jnp.square(bound))) * (1 / max(x.size, 1))
    shrink = shrinking(sqrt(square), most)
    # The product is computed again, not kept: on a CPU two passes of reading, and none of writing, for its mean.
    return after(shrink, first), second * shrink
