"""What several projections share: radii, and trees as wide leaves or as one vector."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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


def as_vector(tree: ArrayTree) -> tuple[Array, Callable[[Array], Any]]:
    """The numbers of a tree as one wide vector, and the function that makes such a vector a tree."""
    leaves, structure = jax.tree.flatten(tree)
    with jax.numpy_dtype_promotion("standard"):
        vector = jnp.concatenate([wide(x).ravel() for x in leaves]) if leaves else jnp.zeros(0)
    ends = np.cumsum([math.prod(jnp.shape(x)) for x in leaves])

    def restore(vector: Array) -> Any:
        parts = jnp.split(vector, ends[:-1]) if leaves else []
        return structure.unflatten(
            [
                (part if jnp.iscomplexobj(x) else part.real).reshape(jnp.shape(x)).astype(floating_dtype(x))
                for part, x in zip(parts, leaves, strict=True)
            ]
        )

    return vector, restore
