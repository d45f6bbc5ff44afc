"""What several projections share: radii, and trees as wide leaves or as one vector."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from gdjax import numerics
from gdjax.core import checks
from gdjax.core.types import Array, ArrayLike, ArrayTree


def radius(label: str, scale: ArrayLike) -> Any:
    """`scale`, a Python number as it is, anything else as a scalar array; at least 0 where it is a number.

    Raises:
      TypeError: not a number.
      ValueError: below 0 or NaN, or not a scalar.
    """
    if isinstance(scale, checks.NUMBER):
        if not scale >= 0:
            raise ValueError(f"{label}: scale must be at least 0, got {scale}")
        return scale
    scale = jnp.asarray(scale)
    if scale.shape != ():
        raise ValueError(f"{label}: scale must be a scalar, got shape {scale.shape}")
    return scale


def wide(x: ArrayLike) -> Array:
    """x as a floating array in float32 or wider."""
    return jnp.asarray(x).astype(numerics.at_least_float32(floating_dtype(x)))


def floating_dtype(x: ArrayLike) -> Any:
    """The dtype of x, or the default one where x holds whole numbers."""
    dtype = jnp.result_type(x)
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.result_type(float)


def each(f: Callable[..., Any], tree: ArrayTree, *others: ArrayTree) -> Any:
    """`f` of corresponding leaves, each made wide; the result in the dtype of the leaf of `tree`."""

    def apply(x: ArrayLike, *ys: ArrayLike) -> Array:
        with jax.numpy_dtype_promotion("standard"):
            return f(wide(x), *map(wide, ys)).astype(floating_dtype(x))

    return jax.tree.map(apply, tree, *others)


def of_vector(f: Callable[[Array], Array], tree: ArrayTree) -> Any:
    """`f` of the numbers of a tree as one wide vector, as such a tree; one without numbers as it is."""
    with jax.numpy_dtype_promotion("standard"):
        vector, restore = ravel_pytree(jax.tree.map(wide, tree))
        if not vector.size:
            return tree
        return jax.tree.map(lambda x, y: y.astype(floating_dtype(x)), tree, restore(f(vector)))
