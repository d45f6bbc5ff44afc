"""PRNG keys as arguments of transforms and in their states."""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def required(label: str, key: Any, seed: Any) -> Any:
    """`key`, or the older argument `seed` for it.

    Raises:
      ValueError: neither or both are given.
    """
    if key is not None and seed is not None:
        raise ValueError(f"{label}: give key or seed, not both")
    key = seed if key is None else key
    if key is None:
        raise ValueError(f"{label}: key is None; pass a PRNG key or an int")
    return key


def fresh(key: Any) -> Array:
    """A typed key array of its own: the state may be donated, the transform's key must stay."""
    if isinstance(key, int) or jnp.issubdtype(key.dtype, jnp.integer) and not jnp.ndim(key):
        return jax.random.key(key)
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.array(jax.random.key_data(key)), impl=jax.random.key_impl(key))
    return jax.random.wrap_key_data(jnp.array(key))
