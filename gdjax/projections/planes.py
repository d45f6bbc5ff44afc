"""Projections onto a line, a hyperplane and a halfspace."""

from typing import Any

import jax
import jax.numpy as jnp

from gdjax import tree as trees
from gdjax.core import checks
from gdjax.core.types import ArrayLike, ArrayTree
from gdjax.projections.common import Array, each, wide


def projection_vector(x: ArrayTree, a: ArrayTree) -> Any:
    """The nearest multiple of `a`; zeros where `a` is zero, in Optax NaN.

        y = <a, x> / <a, a> a

    Args:
      x: any pytree of arrays.
      a: a tree of the same structure and shapes.

    Raises:
      ValueError: the structures or shapes differ.

    For complex trees <a, x> conjugates a; Optax conjugates x, which is not the nearest multiple.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x, a = jnp.array([2.0, 5.0]), jnp.array([0.0, 4.0])
      >>> print(gdjax.projections.projection_vector(x, a))
      [0. 5.]
    """
    _, u = _norm_and_unit("gdjax.projection_vector", x, a)
    along = trees.vdot(u, jax.tree.map(wide, x))
    return each(lambda _, e: along * e, x, u)


def projection_hyperplane(x: ArrayTree, a: ArrayTree, b: ArrayLike) -> Any:
    """The nearest tree y with <a, y> = b.

        y = x + (b - <a, x>) / <a, a> a

    Args:
      x: any pytree of arrays.
      a: the normal, a tree of the same structure and shapes. Zeros give x where b = 0, and NaN where no y can be.
      b: the offset, a scalar.

    Raises:
      ValueError: the structures or shapes differ.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x, ones = jnp.array([3.0, 5.0]), jnp.ones(2)
      >>> y = gdjax.projections.projection_hyperplane(x, ones, 10.0)
      >>> [round(float(x), 3) for x in y]
      [4.0, 6.0]
    """
    u, gap = _gap("gdjax.projection_hyperplane", x, a, b)
    return each(lambda v, e: v + gap * e, x, u)


def projection_halfspace(x: ArrayTree, a: ArrayTree, b: ArrayLike) -> Any:
    """The nearest tree y with <a, y> <= b, which is x where x fulfils it.

        y = x + min(0, b - <a, x>) / <a, a> a

    Args:
      x: any pytree of real arrays.
      a: the outer normal, a tree of the same structure and shapes. Zeros give x where b >= 0, else
        NaN, since then there is no y.
      b: the offset, a scalar.

    Raises:
      ValueError: the structures or shapes differ.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x, ones = jnp.array([3.0, 5.0]), jnp.ones(2)
      >>> y = gdjax.projections.projection_halfspace(x, ones, 6.0)  # sum y <= 6
      >>> [round(float(x), 3) for x in y]
      [2.0, 4.0]
    """
    u, gap = _gap("gdjax.projection_halfspace", x, a, b)
    return each(lambda v, e: v + jnp.minimum(gap, 0) * e, x, u)


def _gap(label: str, x: ArrayTree, a: ArrayTree, b: ArrayLike) -> tuple[Any, Array]:
    """The unit normal, and how far along it the hyperplane lies; infinitely far where it does not exist."""
    norm, u = _norm_and_unit(label, x, a)
    b = jnp.asarray(b).astype(norm.dtype)
    zero = norm == 0
    nowhere = jnp.where(b == 0, 0, jnp.where(b > 0, jnp.inf, -jnp.inf))
    with jax.numpy_dtype_promotion("standard"):
        return u, jnp.where(zero, nowhere, b / jnp.where(zero, 1, norm) - trees.vdot(u, jax.tree.map(wide, x)))


def _norm_and_unit(label: str, x: ArrayTree, a: ArrayTree) -> tuple[Array, Any]:
    """|a|, and a / |a| in float32 or wider; zeros where a is."""
    paths, structure = jax.tree_util.tree_flatten_with_path(x)
    for (path, leaf), normal in zip(paths, checks.flatten_like(label, ("x", "a"), structure, x, a), strict=True):
        if jnp.shape(leaf) != jnp.shape(normal):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"{label}: a{where} shape {jnp.shape(normal)} does not match x{where} shape {jnp.shape(leaf)}"
            )
    norm = trees.global_norm(a)
    length = jnp.where(norm == 0, 1, norm)
    with jax.numpy_dtype_promotion("standard"):
        return norm, jax.tree.map(lambda e: (wide(e) / length).astype(wide(e).dtype), a)
