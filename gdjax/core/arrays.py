"""Arrays and PRNG keys."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import base, callers
from gdjax.core.types import Array, KeyLike


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


def required_key(label: str, key: KeyLike | None, seed: int | None) -> KeyLike:
    """`key`, or the older argument `seed` for it.

    Raises:
      ValueError: neither or both are given.
    """
    key = _either(label, key, seed)
    if key is None:
        raise ValueError(f"{label}: key is None; pass a PRNG key or an int")
    return key


def key_or_zero(label: str, key: KeyLike | None, seed: int | None) -> KeyLike:
    """`key`, or the older argument `seed` for it; 0 with a warning where neither is given.

    For noise that need not be secret.

    Raises:
      ValueError: both are given.
    """
    key = _either(label, key, seed)
    if key is None:
        callers.warn(
            f"{label}: no key: the noise is that of key=0, in every run the same; pass key=, a PRNG key or an int"
        )
    return 0 if key is None else key


def _either(label: str, key: KeyLike | None, seed: int | None) -> KeyLike | None:
    if key is not None and seed is not None:
        raise ValueError(f"{label}: give key or seed, not both")
    return seed if key is None else key


def fresh_key(key: KeyLike) -> Array:
    """A copy of the key as a typed key array, so that donating the state does not delete the transform's own key."""
    if isinstance(key, int) or jnp.issubdtype(key.dtype, jnp.integer) and not jnp.ndim(key):
        return jax.random.key(key)
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.array(jax.random.key_data(key)), impl=jax.random.key_impl(key))
    return jax.random.wrap_key_data(jnp.array(key))
