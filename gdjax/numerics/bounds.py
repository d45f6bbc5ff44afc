"""Bounds that keep squares, and sums of them, finite."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from gdjax.numerics.elementwise import Array, abs_sq, at_least_float32
from gdjax.xla.reads import alone, apart, finite_within, original, rounded

__all__ = ["bounded"]


def below_overflow(x: Array) -> Array:
    """x, at most a quarter of the largest number of its dtype: an average of squares must not be infinite for good."""
    return jnp.minimum(x, float(jnp.finfo(x.dtype).max) / 4)


def at_most(x: Array, bound: Array) -> Array:
    """min(x, bound), whose derivative takes the bound for a constant: that of a huge bound is not a number."""
    return jnp.minimum(x, jax.lax.stop_gradient(bound))


TERMS = {"each": 1, "summed": 2**32}  # how many squares are added up, at most


def largest_of(dtype: DTypeLike, squares: str) -> float:
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
    return jnp.maximum(jnp.minimum(x, bound), -bound)  # compiles to less than lax.clamp


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def bounded(g: Array, squares: str = "each") -> Array:
    """g, bounded so that its squares are finite, and NaN where g is not finite: the first line of a rule that squares.

    No finite gradient then makes a second moment infinite, which it would be for good. See `squarable` for the bounds:
    `squares` is "each" where the rule squares each element by itself, "summed" where it adds up squares over an array
    or over all steps.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> g = gdjax.bounded(jnp.array([1.0, 1e30, jnp.inf]))
      >>> print(jnp.isfinite(g**2))
      [ True  True False]
    """
    if jnp.iscomplexobj(g):
        return jax.lax.complex(bounded(g.real, squares), bounded(g.imag, squares))
    return finite_within(g, largest_of(g.dtype, squares))


@bounded.defjvp
def _bounded_jvp(squares: str, primals: tuple[Array], tangents: tuple[Array]) -> Any:
    x = bounded(primals[0], squares)
    return x, jnp.where(x == primals[0], tangents[0], jnp.zeros_like(tangents[0]))


def spoiled(u: Array, g: Array) -> Array:
    """u, and NaN where g is not finite: a result of a bounded g must not hide that."""
    return u + 0 * g  # one operation, a fused multiply and add


def bounded_sq(square: Array, squares: str = "summed", terms: int = 1) -> Array:
    """A sum of so many squares, at most what it is if all are squares of the bound of `squarable`.

    The bound is on the sum, not on its terms: a sum of plain products is fast, and writes nothing to memory first.
    """
    return jnp.minimum(square, terms * largest_of(square.dtype, squares) ** 2)


def sum_sq(x: Array, axes: Sequence[int] | None = None) -> Array:
    """sum |x|^2 over all axes or some, which are kept with length 1; see `bounded_sq`."""
    terms = x.size if axes is None else math.prod(x.shape[i] for i in axes)
    return bounded_sq(jnp.sum(abs_sq(alone(x)), axes, keepdims=axes is not None), terms=terms)


def scaled(x: Array, factor: Array, squares: str = "summed") -> Array:
    """factor x for a factor made from squares that are `bounded_sq`: x bounded likewise, NaN where it is not finite."""
    return spoiled(squarable(x, squares) * factor, x)


def shrinking(size: Array, most: ArrayLike) -> Array:
    """The factor that brings a size down to `most`: 1 where it is no more, NaN where it is NaN."""
    inside = size <= most
    return jnp.where(inside, 1, most / jnp.where(inside, 1, size))


def as_added(u: Array, p: Array) -> Array:
    """u, rounded as it is where it is added to a 16-bit parameter: for an update that a rule reads several times."""
    y = rounded(u, p)
    return u if y is u else apart(y.astype(original(p).dtype))[0].astype(u.dtype)
