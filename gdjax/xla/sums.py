"""Sums of arrays, and boolean scalars computed from many arrays, as XLA:CPU computes them fast.

Rules import the sums by their names from `gdjax.linalg.vectors`.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gdjax.core.types import ArrayLike
from gdjax.numerics import Array, at_least_float32
from gdjax.numerics.bounds import at_most, bounded_sq, largest_of, shrinking
from gdjax.numerics.elementwise import abs_sq, sqrt
from gdjax.xla.reads import alone, apart
from gdjax.xla.write_order import after


def on_gpu() -> Array:
    """Whether the program runs on a GPU; a constant after compilation."""
    yes, no = (functools.partial(jnp.asarray, answer) for answer in (True, False))
    return jax.lax.platform_dependent(cuda=yes, rocm=yes, default=no)


@jax.jit
def not_finite(x: Array) -> Array:
    """A flag, set if a number of the array is infinite or NaN."""
    # x - x is 0 or NaN, and XLA:CPU sums it in one pass. It would write the result of jnp.isfinite to memory first; its
    # maximum of |x| misses NaN; and it simplifies 0 (c x) to 0 x.
    (x,) = apart(x)
    parts = [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
    wide = [p.astype(at_least_float32(p.dtype)) for p in parts]
    return flag(jnp.any(jnp.asarray([jnp.sum(p - p) != 0 for p in wide])))


def flag(bad: Array) -> Array:
    """A boolean scalar for `none_set`."""
    return bad.reshape(1).astype(jnp.float32)


def none_set(flags: Sequence[Array]) -> Array:
    """Whether no flag is set; each is made by `flag`."""
    # XLA repeats all the additions in each loop that reads the answer, but not a root.
    return jnp.sqrt(jnp.sum(jnp.concatenate([jnp.zeros(1, jnp.float32), *flags]))) == 0


def summand(x: Array) -> Array:
    """`numerics.squarable(x, "summed")` as an expression that XLA:CPU sums as it is computed.

    It would first write to memory a bound that arrays of one shape share, and the result of a minimum and a maximum
    with constants. So each array has a bound of its own here, and there are only minima.
    """
    if jnp.iscomplexobj(x):
        return jax.lax.complex(summand(x.real), summand(x.imag))
    bound = after(x, jnp.asarray(largest_of(x.dtype, "summed"), x.dtype))
    return -jnp.minimum(-jnp.minimum(x, bound), bound)


def largest_size(x: Array, axis: int) -> Array:
    """max |x| along an axis; not finite if one of the numbers is not.

    XLA:CPU's maximum ignores NaN. XLA:GPU's does not, and for a choice before the maximum it makes transposed copies:
    they took AdamW with moments in blocks from 27 to 61 bytes a parameter.
    """
    guarded = lambda x: jnp.max(jnp.where(jnp.isfinite(x), jnp.abs(x), jnp.inf), axis)
    return jax.lax.platform_dependent(x, cpu=guarded, default=lambda x: jnp.max(jnp.abs(x), axis))


def means(x: Array, axes: tuple[int, ...]) -> Array:
    """The means along these axes, kept with length 1."""
    return jnp.mean(alone(x), axes, keepdims=True)


def share_of_nonzeros(x: Array) -> Array:
    """The share of the elements of x that are not 0, for an x without NaN, which would make the result NaN.

    It sums products: XLA:CPU would write comparisons to memory as numbers before it adds them up.
    """
    return jnp.sum(jnp.square(jnp.sign(jnp.abs(x)))) * (1 / max(x.size, 1))


def means_of_squares(x: Array, first: int, second: int) -> tuple[Array, Array]:
    """The means of |x|^2 along one axis, and along another; bounded as by "each" in `largest_of`."""
    # Without axes of length 1: leading ones make sums three times as slow on a CPU.
    kept = [i for i, n in enumerate(x.shape) if n > 1 or i in (first, second)]
    narrow = lambda x: x.reshape([x.shape[i] for i in kept])
    a, b = kept.index(first), kept.index(second)
    # A mean of quotients, since a sum overflows long before the mean; and two different expressions, since XLA would
    # write a common one to memory.
    one = bounded_sq(jnp.sum(abs_sq(narrow(alone(x))) * (1 / x.shape[first]), a), "each")
    other = bounded_sq(jnp.sum(abs_sq(narrow(alone(x, one)) * x.shape[second] ** -0.5), b), "each")
    without = lambda axis: [n for i, n in enumerate(x.shape) if i != axis]
    return one.reshape(without(first)), other.reshape(without(second))


def limited(x: Array, factors: tuple[Array, Array], most: ArrayLike) -> tuple[Array, Array]:
    """The two factors, the second reduced so that x times both has a root mean square of at most `most`.

    In it, elements of x are bounded by `largest_of`.
    """
    first, second = factors
    y, bound = alone(x, second) * first * second, largest_of(second.dtype, "each") * first * second
    # A minimum of squares, not the square of a bounded x, which would be written to memory before it is summed.
    square = jnp.sum(at_most(abs_sq(y), jnp.square(bound))) * (1 / max(x.size, 1))
    shrink = shrinking(sqrt(square), most)
    # The product is computed again and not kept: its mean costs a CPU two passes of reading and none of writing.
    return after(shrink, first), second * shrink
