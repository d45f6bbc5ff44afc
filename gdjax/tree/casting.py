"""Dtypes of trees."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.base import is_float0
from gdjax.core.types import ArrayTree, DTypeLike


def cast(tree: ArrayTree, dtype: DTypeLike | None) -> Any:
    """The tree in `dtype`; unchanged where that is None. Keys and float0 leaves stay what they are.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones(2)}
      >>> print(gdjax.tree.cast(params, jnp.bfloat16)["w"].dtype)
      bfloat16
    """
    return tree if dtype is None else jax.tree.map(lambda x: _cast(x, dtype), tree)


def cast_like(tree: ArrayTree, other_tree: ArrayTree) -> Any:
    """Each leaf of `tree` in the dtype of its counterpart in `other_tree`, or as it is where that has no dtype.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params, grads = {"w": jnp.ones(2, jnp.bfloat16)}, {"w": jnp.ones(2)}
      >>> print(gdjax.tree.cast_like(grads, params)["w"].dtype)
      bfloat16
    """
    return jax.tree.map(lambda x, like: _cast(x, like.dtype) if hasattr(like, "dtype") else x, tree, other_tree)


def _cast(x: Any, dtype: DTypeLike) -> Any:
    if any(jnp.issubdtype(d, jax.dtypes.extended) or d == jax.dtypes.float0 for d in (getattr(x, "dtype", int), dtype)):
        return x
    return (x if hasattr(x, "astype") else jnp.asarray(x)).astype(dtype)


def dtype(tree: ArrayTree, mixed_dtype_handler: str | None = None) -> Any:
    """The dtype of a tree; that of `jnp.asarray([])` for an empty one.

    Args:
      mixed_dtype_handler: what to do where the leaves differ: None is an error, "promote" gives the dtype that all
        promote to, "highest" that of the leaves' dtypes to which all others promote, "lowest" the one that promotes to
        all others.

    Raises:
      ValueError: the leaves differ, with None; two of them do not compare, with "highest" or "lowest"; another handler.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
      >>> print(gdjax.tree.dtype(params, "lowest"), gdjax.tree.dtype(params, "highest"))
      bfloat16 float32
    """
    label = "gdjax.tree.dtype"
    paths = [(k, x) for k, x in jax.tree_util.tree_flatten_with_path(tree)[0] if not is_float0(x)]
    dtypes = [jnp.asarray(x).dtype for _, x in paths]
    if not dtypes:
        return jnp.asarray([]).dtype
    if mixed_dtype_handler is not None:
        if mixed_dtype_handler not in HANDLERS:
            raise ValueError(
                f"{label}: mixed_dtype_handler must be None or one of {[*HANDLERS]}, got {mixed_dtype_handler!r}"
            )
        with jax.numpy_dtype_promotion("standard"):
            return functools.reduce(HANDLERS[mixed_dtype_handler], dtypes)
    odd = [f"tree{jax.tree_util.keystr(k)} is {d}" for (k, _), d in zip(paths, dtypes, strict=True) if d != dtypes[0]]
    if odd:
        raise ValueError(f"{label}: tree{jax.tree_util.keystr(paths[0][0])} is {dtypes[0]}, but {', '.join(odd)}")
    return dtypes[0]


def _higher(a: np.dtype, b: np.dtype) -> np.dtype:
    wide = jnp.promote_types(a, b)
    if wide not in (a, b):
        raise ValueError(f"gdjax.tree.dtype: neither of {a} and {b} promotes to the other")
    return wide


def _lower(a: np.dtype, b: np.dtype) -> np.dtype:
    return b if _higher(a, b) == a else a


HANDLERS: Mapping[str, Callable[[Any, Any], Any]] = {
    "promote": jnp.promote_types,
    "highest": _higher,
    "lowest": _lower,
}
