"""Random trees."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.arrays import is_key
from gdjax.core.base import map_arrays
from gdjax.core.types import Array, ArrayTree, DTypeLike


def random_like(
    rng_key: Array, target_tree: ArrayTree, sampler: Callable[..., Array] = jax.random.normal,
    dtype: DTypeLike | None = None,
) -> Any:  # fmt: skip
    """A tree like `target_tree` of independent samples, one subkey a leaf.

    Args:
      rng_key: the key; the samples are Optax's for the same one.
      target_tree: gives structure, shapes and dtypes. float0 leaves stay what they are.
      sampler: `(key, shape, dtype) -> array`; one that takes `out_sharding` is given that of the leaf.
      dtype: of the samples, by default that of each leaf. 16-bit ones are sampled in float32 and rounded.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2, jnp.bfloat16)}
      >>> noise = gdjax.tree.random_like(jax.random.key(0), params)
      >>> print(noise["w"].shape, noise["b"].dtype)
      (3, 2) bfloat16
    """
    sharded = hasattr(jax, "typeof") and "out_sharding" in inspect.signature(sampler).parameters

    def sample(x: Any, key: Array) -> Any:
        of = jnp.dtype(x.dtype if dtype is None else dtype)
        wide = numerics.at_least_float32(of) if jnp.issubdtype(of, jnp.inexact) else of
        out = {"out_sharding": jax.typeof(x).sharding} if sharded else {}
        return sampler(key, jnp.shape(x), wide, **out).astype(of)

    return map_arrays(sample, target_tree, split_key_like(rng_key, target_tree))


def split_key_like(rng_key: Array, target_tree: ArrayTree) -> Any:
    """A tree like `target_tree` of independent keys."""
    structure = jax.tree.structure(target_tree)
    return structure.unflatten(list(jax.random.split(rng_key, structure.num_leaves)))


def unwrap_random_key_data(input_tree: ArrayTree) -> Any:
    """The tree with every typed key replaced by its data, an array of integers, which can be compared and stored."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if isinstance(x, jax.Array) and is_key(x) else x, input_tree)
