"""Sums over a tree in float32 or wider: within each leaf, and then over the leaves in pairs.

They do not stall in 16 bits, and the order of the leaves changes them by rounding alone.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.base import is_float0
from gdjax.core.types import Array, ArrayTree
from gdjax.xla.products import product


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
