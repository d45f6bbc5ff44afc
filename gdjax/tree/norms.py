"""Numbers of a whole tree: sums, inner products, norms, extremes, size.

Sums are those of `tree.sums`, in float32 or wider. None, `MaskedNode` and float0 leaves do not count.
"""

import builtins
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks
from gdjax.core.base import is_float0
from gdjax.core.types import Array, ArrayTree, Scalar
from gdjax.tree.euclidean import global_norm
from gdjax.tree.sums import arrays, concatenated, floating, sum_of_squares, total, wide


def sum(tree: ArrayTree, associative_reduction: bool = False) -> Array:  # noqa: A001
    """The sum of all the numbers in a tree; 0 in float32 for an empty one.

    Whole numbers are summed as such. Leaves of several dtypes give the dtype they promote to.

    Args:
      associative_reduction: Optax's switch for a balanced sum over the leaves, which this always is.
    """
    return total([jnp.sum(wide(x)) for x in arrays(tree)])


def vdot(tree_x: ArrayTree, tree_y: ArrayTree) -> Array:
    """The inner product of two trees, sum conj(x) y: a scalar, complex where a leaf is; 0 in float32 for empty trees.

    Raises:
      ValueError: structures or shapes differ; the message names the leaf.
    """
    label, products = "gdjax.tree.vdot", []
    paths, structure = jax.tree_util.tree_flatten_with_path(tree_x)
    ys = checks.flatten_like(label, ("tree_x", "tree_y"), structure, tree_x, tree_y)
    for (path, x), y in zip(paths, ys, strict=True):
        if is_float0(x) or is_float0(y) or jnp.size(x) == jnp.size(y) == 0:
            continue
        if jnp.shape(x) != jnp.shape(y):
            where = jax.tree_util.keystr(path)
            raise ValueError(f"{label}: tree_x{where} has shape {jnp.shape(x)}, tree_y{where} {jnp.shape(y)}")
        with jax.numpy_dtype_promotion("standard"):
            products.append(jnp.sum(jnp.conj(wide(jnp.asarray(x))) * wide(jnp.asarray(y))))
    return total(products)


def max(tree: ArrayTree) -> Array:  # noqa: A001
    """The largest number in a tree; -inf in float32 for an empty one. NaN where one is."""
    return _extreme(numerics.largest, tree, -math.inf)


def min(tree: ArrayTree) -> Array:  # noqa: A001
    """The smallest number in a tree; inf in float32 for an empty one. NaN where one is."""
    return _extreme(_smallest, tree, math.inf)


def _smallest(x: Array) -> Array:
    return -numerics.largest(-x) if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.min(x)


def _extreme(reduce: Callable[[Array], Array], tree: ArrayTree, empty: float) -> Array:
    xs = [reduce(x) for x in arrays(tree)]
    return reduce(concatenated(xs)) if xs else jnp.full((), empty, jnp.float32)


def size(tree: ArrayTree) -> int:
    """How many numbers there are in a tree."""
    return builtins.sum(jnp.size(x) for x in jax.tree.leaves(tree))


def norm(tree: ArrayTree, ord: Literal["inf", "infinity"] | float | None = None, squared: bool = False) -> Array:  # noqa: A002
    """The norm of a tree as one long vector: a real scalar in float32 or wider, 0 for an empty tree.

    Args:
      ord: 2 or None for sqrt(sum |x|^2), which does not overflow; 1 for sum |x|; infinity, "inf" or "infinity" for
        max |x|.
      squared: return the square of the norm. For 2 that is the sum of squares, without the root.

    Raises:
      ValueError: another `ord`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = {"w": jnp.array([3.0]), "b": jnp.array([-4.0])}
      >>> print(gdjax.tree.norm(x), gdjax.tree.norm(x, ord=1), gdjax.tree.norm(x, ord="inf"))
      5.0 7.0 4.0
    """
    if ord is None or ord == 2:
        return total([sum_of_squares(x) for x in arrays(tree)]) if squared else global_norm(tree)
    sizes = [jnp.abs(floating(x)) for x in arrays(tree)]
    if ord == 1:
        value = total([jnp.sum(x) for x in sizes])
    elif ord == math.inf or ord in ("inf", "infinity"):
        value = max([jnp.zeros((), jnp.float32), *sizes])
    else:
        raise ValueError(f"gdjax.tree.norm: ord must be None, 1, 2, inf, 'inf' or 'infinity', got {ord!r}")
    return jnp.square(value) if squared else value


def finite_square(tree: ArrayTree) -> Array:
    """The square of the norm, finite where the numbers are: see `numerics.bounded_sq`."""
    return total([_bounded_sum(x) for x in arrays(tree)])


@jax.jit
def _bounded_sum(x: Array) -> Array:
    return numerics.sum_sq(floating(x))


def allclose(a: ArrayTree, b: ArrayTree, rtol: Scalar = 1e-05, atol: Scalar = 1e-08, equal_nan: bool = False) -> Array:
    """Whether |x - y| <= atol + rtol |y| for all numbers x of `a` and y of `b`: a boolean scalar, True for empty trees.

    Args:
      equal_nan: NaN equals NaN.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.allclose({"w": jnp.ones(2)}, {"w": jnp.ones(2) + 1e-6}))
      True
    """
    with jax.numpy_dtype_promotion("standard"):
        close = jax.tree.map(lambda x, y: jnp.allclose(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan), a, b)
    return jnp.all(jnp.asarray(jax.tree.leaves(close), bool))
