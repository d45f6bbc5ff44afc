"""The norm of a whole tree, without overflow, in as few passes over it as the device allows."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core import meshes
from gdjax.core.base import is_float0
from gdjax.core.types import Array, Updates
from gdjax.numerics import real_dtype
from gdjax.numerics.norms import SCALE, SMALL, precise, three_sums
from gdjax.tree.sums import arrays, concatenated, floating, floating_dtype, pairwise_sum, sum_of_squares, wide
from gdjax.xla.products import own_factor
from gdjax.xla.reads import apart


def global_norm(updates: Updates) -> Array:
    """The Euclidean norm of all the numbers in a tree, sqrt(sum |x|^2): a scalar in float32 or wider.

    The tree is named `updates`, as in Optax; any will do. Where the sum of squares over- or underflows (float32 numbers
    near 1e20 or 1e-20), that of the numbers times 2^-70 or 2^70 takes its place. On CPU that is a second pass,
    taken only then; elsewhere the one pass adds up all three.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.global_norm({"w": jnp.array([3.0]), "b": jnp.array([4.0])}))
      5.0
      >>> print(gdjax.global_norm(jnp.array([3e30, 4e30])))  # whose squares overflow
      5e+30
    """
    leaves = arrays(updates)
    return _norm(leaves) if leaves else jnp.zeros((), jnp.float32)


@jax.custom_jvp
def _norm(leaves: Sequence[Array]) -> Array:
    return _by_passes(leaves, _sums, _may_repeat)


@_norm.defjvp
def _norm_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """sum Re(conj(x) dx) / norm, and 0 where the norm is."""
    norm = _norm(*primals)
    # Two factors: for norms below 1e-38 or above 8e37 the reciprocal would be infinite or denormal.
    root = 1 / jnp.sqrt(jnp.where(norm == 0, 1, norm))
    products = []
    for x, dx in zip(*primals, *tangents, strict=True):
        if not is_float0(dx):
            with jax.numpy_dtype_promotion("standard"):
                unit = floating(x) * root * root
                products.append(jnp.sum(jnp.real(jnp.conj(unit) * wide(dx))))
    slope = pairwise_sum(concatenated(products)) if products else jnp.zeros_like(norm)
    return norm, slope.astype(norm.dtype)


def _by_passes(leaves: Sequence[Array], sums: Callable[..., list[Array]], may_repeat: Callable[[], Any]) -> Array:
    """The norm from one pass over the leaves and, if squares are lost in that and a repetition is allowed, another.

    The two passes are a loop, which is one piece of program; a condition would make it two.
    """
    with jax.numpy_dtype_promotion("standard"):
        dtype = functools.reduce(jnp.promote_types, [real_dtype(floating_dtype(x)) for x in leaves])

    def go(carry: Any) -> Any:
        passes, factor, _ = carry
        each = [sums(x, factor) for x in leaves]
        total, large, small = (pairwise_sum(concatenated(xs)) for xs in zip(*each, strict=True))
        wanted = jnp.where(precise(total), 1, jnp.where(total < SMALL, SCALE, 1 / SCALE)).astype(dtype)
        factor = jnp.where(passes == 0, wanted, factor)
        square = jnp.where(factor == 1, total, jnp.where(factor > 1, large, small))
        return passes + 1, factor, square

    def unfinished(carry: Any) -> Any:
        passes, factor, _ = carry
        return (passes == 0) | (passes == 1) & (factor != 1) & may_repeat()

    start = jnp.int32(0), jnp.ones((), dtype), jnp.zeros((), dtype)
    _, factor, square = meshes.while_loop(unfinished, go, start)
    return jnp.sqrt(square) / factor


def _may_repeat() -> Array:
    """Whether there may be a second pass, because `_sums` takes one sum only: a constant of the compiled program."""
    return jax.lax.platform_dependent(cpu=lambda: jnp.asarray(True), default=lambda: jnp.asarray(False))


@jax.jit
def _sums(x: Array, factor: Array) -> list[Array]:
    """Three sums |f x|^2 of shape (1,): on CPU all for f = factor, elsewhere for f = 1, SCALE and 1 / SCALE."""
    return jax.lax.platform_dependent(*meshes.alike(x, factor), cpu=_one_sum, default=_three_sums)


def _one_sum(x: Array, factor: Array) -> list[Array]:
    return [sum_of_squares(*apart(x, own_factor(x, factor)))] * 3


def _three_sums(x: Array, _: Array) -> list[Array]:
    x = x if jnp.issubdtype(x.dtype, jnp.inexact) else floating(x)
    # Not one array of the three, which would be one more kernel for each leaf.
    return [total.reshape(1) for total in three_sums(x, tuple(range(x.ndim)))]
