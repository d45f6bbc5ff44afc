"""Functions of arrays that two or more rules share."""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.xla.bits import finite_within

Array = jax.Array


def is_key(x: Any) -> bool:
    """Whether `x` is an array of typed PRNG keys, which are no numbers."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.extended)


def abs_sq(x: Array) -> Array:
    """|x|^2, real for complex x, without the rounding of a square root."""
    if jnp.iscomplexobj(x):
        return jnp.square(x.real) + jnp.square(x.imag)
    return jnp.square(x)


@jax.custom_jvp
def sqrt(x: Array) -> Array:
    """The square root, with derivative 0 (not infinity) at 0, so that a zero gradient can be differentiated through."""
    return jnp.sqrt(x)


@sqrt.defjvp
def _sqrt_jvp(primals: Any, tangents: Any) -> Any:
    root = sqrt(primals[0])
    zero = root == 0
    slope = jnp.where(zero, 0, 0.5 / jnp.where(zero, 1, root))
    return root, slope * tangents[0]


def divide(x: Array, y: Array, eps: Any = 0) -> Array:
    """x / (y + eps), and x where that is 0: x is 0 there too, or its square is, since y is the root of squares.

    An eps that is a constant needs no such guard: y is 0 at least.
    """
    if isinstance(eps, float) and eps >= jnp.finfo(y.dtype).tiny:
        return x / (y + eps)
    y = y + eps
    return x / jnp.where(y == 0, 1, y)


def below_overflow(x: Array) -> Array:
    """x, at most a quarter of the largest number of its dtype: an average of squares must not be infinite for good."""
    return jnp.minimum(x, float(jnp.finfo(x.dtype).max) / 4)


TERMS = {"each": 1, "summed": 2**32}  # how many squares are added up, at most


def largest_of(dtype: Any, squares: str) -> float:
    """The bound of `squarable`."""
    exponent = jnp.finfo(at_least_float32(dtype)).maxexp - 6 - int(math.log2(TERMS[squares]))
    return 2.0 ** (exponent // 2)


def squarable(x: Array, squares: str) -> Array:
    """x with its real parts, infinities too, bounded so that sums of squares are finite.

    In float32 the bound is 2^61 where `squares` is "each", where a rule squares every element, and 2^45 where they are
    "summed", over up to 2^32 numbers or steps; in float64 2^509 and 2^493. Differences of three such numbers, complex
    ones too, still have finite squares.
    """
    if jnp.iscomplexobj(x):
        return jax.lax.complex(squarable(x.real, squares), squarable(x.imag, squares))
    bound = largest_of(x.dtype, squares)
    if float(jnp.finfo(x.dtype).max) <= bound:
        return x
    return jnp.maximum(jnp.minimum(x, bound), -bound)  # XLA:CPU makes less of lax.clamp


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def bounded(g: Array, squares: str = "each") -> Array:
    """g, bounded so that its squares are finite, and NaN where g is not finite: the first line of a rule that squares.

    No finite gradient then makes a second moment infinite, which it would be for good. See `squarable` for the bounds:
    `squares` is "each" where the rule squares each element by itself, "summed" where it adds up squares over an array
    or over all steps.
    """
    if jnp.iscomplexobj(g):
        return jax.lax.complex(bounded(g.real, squares), bounded(g.imag, squares))
    return finite_within(g, largest_of(g.dtype, squares))


@bounded.defjvp
def _bounded_jvp(squares: str, primals: Any, tangents: Any) -> Any:
    x = bounded(primals[0], squares)
    return x, jnp.where(x == primals[0], tangents[0], jnp.zeros_like(tangents[0]))


def spoiled(u: Array, g: Array) -> Array:
    """u, and NaN where g is not finite: what is made of a bounded g must not hide that."""
    return u + 0 * g  # one operation, a fused multiply and add


def bounded_sq(square: Array, squares: str = "summed", terms: int = 1) -> Array:
    """A sum of so many squares, at most what it is if all are squares of the bound of `squarable`.

    The bound is on the sum: what XLA:CPU sums must be a plain product, or it is slow, or written to memory.
    """
    return jnp.minimum(square, terms * largest_of(square.dtype, squares) ** 2)


def sum_sq(x: Array, axes: Any = None) -> Array:
    """sum |x|^2 over all axes or some, which are kept with length 1; see `bounded_sq`."""
    terms = x.size if axes is None else math.prod(x.shape[i] for i in axes)
    return bounded_sq(jnp.sum(abs_sq(alone(x)), axes, keepdims=axes is not None), terms=terms)


def scaled(x: Array, factor: Array, squares: str = "summed") -> Array:
    """factor x for a factor made from squares that are `bounded_sq`: x bounded likewise, NaN where it is not finite."""
    return spoiled(squarable(x, squares) * factor, x)


def shrinking(size: Array, most: Any) -> Array:
    """The factor that brings a size down to `most`: 1 where it is no more, NaN where it is NaN."""
    inside = size <= most
    return jnp.where(inside, 1, most / jnp.where(inside, 1, size))


def largest(x: Array, axis: Any = None) -> Array:
    """The maximum, and NaN where there is one: `jnp.max` of some thousand numbers loses it on XLA:CPU."""
    top = jnp.max(x, axis)
    return jnp.where(jnp.any(jnp.isnan(x), axis), jnp.nan, top) if jnp.issubdtype(x.dtype, jnp.inexact) else top


def one_minus_pow(b: Any, t: Array) -> Array:
    """1 - b^t, the sum of the weights of an exponential moving average after t >= 1 steps.

    Evaluated as -expm1(t log b): the plain difference loses half of float32's digits for b near 1 and small t, and is
    zero for ever in bfloat16, where 0.999 rounds to 1.
    """
    if isinstance(b, int | float):
        return jnp.ones_like(t) if b == 0 else -jnp.expm1(t * math.log(b))
    return -jnp.expm1(t * jnp.log(b))


def debias(x: Array, b: Any, t: Array) -> Array:
    """x / (1 - b^t): an average begun at 0, corrected for it. One quotient for all, and a product per element."""
    return x * (1 / one_minus_pow(b, t))


def safe_increment(count: Any) -> Array:
    """count + 1, staying at the largest value of its dtype instead of wrapping to a negative one.

    Raises:
      ValueError: the count is neither an integer nor a real number.
    """
    count = jnp.asarray(count)
    if not jnp.issubdtype(count.dtype, jnp.integer) and not jnp.issubdtype(count.dtype, jnp.floating):
        raise ValueError(f"gdjax.safe_increment: count has dtype {count.dtype}, expected integers or real numbers")
    top = jnp.asarray((jnp.iinfo if jnp.issubdtype(count.dtype, jnp.integer) else jnp.finfo)(count.dtype).max)
    return jnp.where(count < top.astype(count.dtype), count + 1, top.astype(count.dtype)).astype(count.dtype)


safe_int32_increment = safe_increment


def at_least_float32(dtype: Any) -> Any:
    """`dtype`, or float32 where that is wider: 16-bit numbers are computed with in float32."""
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype("float32")


def real_dtype(dtype: Any) -> Any:
    """The dtype of the real part of `dtype`."""
    return jnp.finfo(dtype).dtype


def complex_dtype(dtype: Any) -> Any:
    """The complex dtype whose parts are at least as wide as the numbers, or their parts, of `dtype`."""
    return jnp.dtype("complex128" if real_dtype(dtype).itemsize == 8 else "complex64")


def widest_real(tree: Any) -> Any:
    """The widest real dtype among the floating leaves of a tree, float32 at least."""
    dtypes = [d for d in map(jnp.result_type, jax.tree.leaves(tree)) if jnp.issubdtype(d, jnp.inexact)]
    reals = [real_dtype(at_least_float32(d)) for d in dtypes]
    return max(reals, key=lambda d: d.itemsize, default=jnp.dtype("float32"))


def scalar(x: Any, real: Any) -> Any:
    """A hyperparameter in the dtype `real`; a Python number as it is, exact until it meets an array."""
    return x if isinstance(x, int | float) else jnp.asarray(x).astype(real)


def apart(x: Array, *others: Array) -> tuple[Array, ...]:
    """The arguments unchanged; an x of 16-bit numbers is one that XLA does not know, made from all of them.

    XLA:CPU then converts it to float32 where it is read. Else it would write it as float32, for a sum and all else that
    reads x, or before a loop in which x does not change; or compute it again, unrounded, from what x is made of.
    """
    if x.dtype.itemsize >= 4:
        return x, *others
    # On other devices one kernel may write both what is read and what is made of it.
    return jax.lax.platform_dependent(x, *others, cpu=_barrier, default=lambda *xs: xs)


def _barrier(*xs: Array) -> tuple[Array, ...]:
    return tuple(jax.lax.optimization_barrier(xs))


_widened: contextvars.ContextVar[Any] = contextvars.ContextVar("gdjax_widened", default=())


@contextlib.contextmanager
def widened(*pairs: tuple[Array | None, Array | None]) -> Iterator[None]:
    """Tells `alone` in this context of arrays and what they were widened from."""
    token = _widened.set(pairs)
    try:
        yield
    finally:
        _widened.reset(token)


def alone(x: Array, *others: Array) -> Array:
    """x for one sum: where it is what a rule was given, made from 16-bit numbers, made from them again; see `apart`.

    A second sum of the same x names what came of the first, or XLA would take the two for one.
    """
    narrow = next((narrow for wide, narrow in _widened.get() if wide is x), None)
    return x if narrow is None else apart(narrow, *others)[0].astype(x.dtype)


def widen(tree: Any, real: Any) -> Any:
    """The arrays of a tree in the dtype `real`, or complex with parts in `real`; PRNG keys as they are."""

    def leaf(x: Any) -> Array:
        x = jnp.asarray(x)
        if is_key(x):
            return x
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            return x.astype(jnp.complex128 if real.itemsize == 8 else jnp.complex64)
        return x.astype(real)

    return jax.tree.map(leaf, tree)


def python_numbers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy scalars as Python numbers, which take the dtype they meet."""
    return {k: v.item() if isinstance(v, np.number) or type(v) is np.ndarray else v for k, v in arguments.items()}
