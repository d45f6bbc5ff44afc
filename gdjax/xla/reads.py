"""How numbers are read: 16 bits where they lie, and tests of numbers by their bits.

XLA:CPU repeats an operation on one array in each loop that reads it. The result of an operation on two arrays, such as
a choice between them, it often writes to memory and reads in each loop.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.contexts import PASS
from gdjax.core.types import Array
from gdjax.xla.loops import writes_several


def finite_within(x: Array, bound: float) -> Array:
    """x clipped to [-bound, bound], and NaN where it is not finite, by operations with constants alone.

    The bits of a float, read as an integer, grow with its size: first the finite numbers, then infinity, then NaN, for
    each sign in a half of its own of the circle of integers. Adding the length of a block of infinity and NaN turns the
    circle so that the finite positive numbers are the largest integers and positive infinity is the least. A maximum
    with one more than the least then makes infinity NaN, and a minimum clips the finite numbers. Half a turn brings the
    negative numbers to the same places, and half a turn more brings all back.
    """
    if writes_several():  # in fewer numbers: XLA:CPU joins loops that read few
        return jnp.maximum(jnp.minimum(x, bound), -bound) - (x - x)  # of -0, too: -0 - 0
    info = jnp.finfo(x.dtype)
    kind = np.dtype(f"int{info.bits}")
    infinity, top = (int(np.asarray(v, x.dtype).view(kind)) for v in (np.inf, bound))
    least = -(2 ** (info.bits - 1))
    block = -least - infinity  # how many integers stand for infinity and NaN of one sign
    number = lambda i: np.asarray(i, kind)
    i = jax.lax.bitcast_convert_type(x, kind) + number(block)
    for _ in range(2):
        i = jax.lax.clamp(number(least + 1), i, number(top + block)) ^ number(least)
    return jax.lax.bitcast_convert_type(i - number(block), x.dtype)


@jax.custom_jvp
def with_flipped(x: Array, last: Array) -> Array:
    """x of 16 bits, with its last bit flipped if `last`. XLA:CPU would round a product in a loop of its own."""
    return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, jnp.uint16) ^ last.astype(jnp.uint16), x.dtype)


@with_flipped.defjvp
def _with_flipped_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> Any:
    return with_flipped(*primals), tangents[0]


def as_integers(x: Array, dtype: Any) -> Array:
    """Whole numbers of 32 bits as integers of 8 or 16.

    By way of float32: for a conversion from 32 to 8 bits XLA:TPU makes a separate kernel, which reads all inputs again.
    So it does where they come of operations on integers alone: the last must be one on float32 numbers.
    """
    return x.astype(jnp.float32).astype(dtype)


def reciprocal(x: Array) -> Array:
    """1 / x of float32 numbers above 0, to within 1e-5, by products.

    XLA:CPU writes a quotient that has two readers to memory.
    """
    y = jax.lax.bitcast_convert_type(np.uint32(0x7EF311C3) - jax.lax.bitcast_convert_type(x, jnp.uint32), jnp.float32)
    y = y * (2 - x * y)
    return y * (2 - x * y)


def weighted(numbers: Sequence[Array], weights: Sequence[int], zeros: Array) -> Array:
    """sum_k weights_k numbers_k modulo 2^32, of uint32 arrays like `zeros`, with all of them in each product.

    XLA:GPU and XLA:TPU write a product of the index along one axis to memory, where all arrays with as many rows read
    it, and then merge its readers: twelve matrices of GPT-2 small in one kernel on a GPU, two on a TPU.
    """
    wrapped = lambda n: np.uint32(n % 2**32)
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
    """Packs whole float32 numbers from 0 to 15 in pairs into uint8: the first + 16 times the second.

    Args:
      halves: reshapes an array like x so that first and second lie along the third-last axis, of length 2.

    XLA:TPU would write the float32 numbers of both halves to memory: here it writes 8-bit ones, in the same kernel as
    other results from x. XLA:GPU would write them for anything but a sum.
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
    """Unpacks the uint8 numbers of `in_pairs` into float32.

    Args:
      together: the inverse of `halves`.

    It shifts by an index: XLA:TPU then does not unpack before the numbers are duplicated for both halves, and writes
    nothing to memory.
    """
    both = jnp.broadcast_to(x[..., None, :, :], (*x.shape[:-2], 2, *x.shape[-2:]))
    up = jax.lax.broadcasted_iota(jnp.uint8, both.shape, both.ndim - 3) * np.uint8(4)
    return (jax.lax.shift_right_logical(together(both), together(up)) & np.uint8(15)).astype(jnp.float32)


def apart(x: Array, *others: Array) -> tuple[Array, ...]:
    """The arguments unchanged; a 16-bit x behind a barrier, so that every reader converts it from 16 bits itself.

    Without the barrier XLA:CPU writes x as float32, for a sum and other readers or before a loop in which x does not
    change; or it computes x again, unrounded, from its inputs.
    """
    if x.dtype.itemsize >= 4:
        return x, *others
    # On other devices one kernel may write both x and the results from it.
    return jax.lax.platform_dependent(x, *others, cpu=_barrier, default=lambda *xs: xs)


def _barrier(*xs: Array) -> tuple[Array, ...]:
    return tuple(jax.lax.optimization_barrier(xs))


def original(x: Array) -> Array:
    """What an array that a rule was given was widened from; any other array as it is."""
    return next((narrow for wide, narrow in PASS.get().widened if wide is x), x)


def rounded(x: Array, like: Array) -> Array:
    """x, rounded to the dtype of the original of `like`, an argument of a rule; it keeps its own dtype.

    Two casts would not do: XLA removes such a pair.
    """
    dtype = original(like).dtype if original(like) is not like else x.dtype
    if dtype.itemsize >= x.dtype.itemsize or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    form = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, form.nexp, form.nmant)


def alone(x: Array, *others: Array) -> Array:
    """x, converted again from its 16-bit original for one sum, see `apart`; other arrays are returned as they are.

    A second sum of the same x names the result of the first in `others`, or XLA would merge both conversions.
    """
    narrow = original(x)
    return x if narrow is x else apart(narrow, *others)[0].astype(x.dtype)
