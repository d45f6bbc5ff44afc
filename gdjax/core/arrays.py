"""PRNG keys, shapes of arrays, and the sum of a parameter and its update."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import base


def is_key(x: Any) -> bool:
    """Whether `x` is an array of typed PRNG keys."""
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.extended)


def shape_of(p: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of `p`: an array, a number, or already a shape."""
    dtype = getattr(p, "dtype", type(p))
    return jax.ShapeDtypeStruct(np.shape(p), dtype if is_key(p) else jax.dtypes.canonicalize_dtype(dtype))


def add(p: Any, u: Any) -> Any:
    """p + u in a dtype that holds both, rounded once to p's; p itself where u is a float0 (p takes no gradient)."""
    if base.is_float0(u):
        return p
    p, u = jnp.asarray(p), jnp.asarray(u)
    if p.dtype == u.dtype:
        return p + u
    with jax.numpy_dtype_promotion("standard"):  # `strict` is for a user's mixes, not for this one
        wide = jnp.promote_types(p.dtype, u.dtype)
    return (p.astype(wide) + u.astype(wide)).astype(p.dtype)
