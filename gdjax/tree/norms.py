"""Numbers of a whole tree: sums, inner products, norms, extremes, size.

Sums are taken in float32 or wider within each leaf and then pairwise over the leaves, so that they neither stall in 16
bits nor depend on the order of the leaves beyond rounding. None, `MaskedNode` and float0 leaves do not count.
"""

import builtins
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import checks, numerics
from gdjax.base import is_float0

Array = jax.Array

SMALL = 2.0**-80  # a sum of squares below this has lost digits to underflow


def global_norm(updates: Any) -> Array:
    """The Euclidean norm of all the numbers in a tree, sqrt(sum |x|^2): a scalar in float32 or wider.

    The tree is named `updates`, as in Optax; any will do. Where the sum of squares over- or underflows (float32 numbers
    near 1e20 or 1e-20), and only there, a second pass scales the numbers by about 2^-70 or 2^70.
    """
    leaves = _arrays(updates)
    if not leaves:
        return jnp.zeros((), jnp.float32)
    total = pairwise_sum(_sums_of_squares(leaves, [None] * len(leaves)))
    # The branches close over the leaves, so XLA reads them in place.
    return jax.lax.cond(
        (total >= SMALL) & jnp.isfinite(total),
        lambda: numerics.sqrt(total),
        lambda: _scaled_norm(leaves, jnp.where(total < SMALL, 2.0**70, 2.0**-70).astype(total.dtype)),
    )


def _arrays(tree: Any) -> list[Array]:
    return [jnp.asarray(x) for x in jax.tree.leaves(tree) if jnp.size(x) and not is_float0(x)]


def _scaled_norm(leaves: Sequence[Array], scale: Array) -> Array:
    # A factor that leaves of one shape share, XLA:CPU broadcasts to that shape in memory: each large leaf has its own.
    # Small ones share, so that their compiled loops are the same.
    own = np.array([i / len(leaves) if x.size > 2**13 else 0 for i, x in enumerate(leaves)])
    factors = [scale * (1 + a) if a else scale for a in own]
    norms = numerics.sqrt(_sums_of_squares(leaves, factors))
    norms = norms / (scale.astype(norms.dtype) * jnp.asarray(1 + own, norms.dtype))
    top = jnp.max(norms)
    usable = (top > 0) & jnp.isfinite(top)
    unit = jax.lax.stop_gradient(jnp.where(usable, top, 1))  # the result does not depend on it
    return jnp.where(usable, unit * numerics.sqrt(pairwise_sum(jnp.square(norms / unit))), top)


def _sums_of_squares(leaves: Sequence[Array], factors: Sequence[Any]) -> Array:
    """A vector of sum |factor x|^2, one for each leaf."""
    return _joined([_sum_of_squares(x, f) for x, f in zip(leaves, factors, strict=True)])


@jax.jit
def _sum_of_squares(x: Array, factor: Any) -> Array:
    x = _floating(x)
    if factor is not None:
        # Without the barrier XLA squares a constant x (zero gradients in a jitted step) and the factor apart: 0 inf.
        x = jax.lax.optimization_barrier(x * factor.astype(x.dtype))
    return jnp.sum(numerics.abs_sq(x)).reshape(1)


def _floating(x: Array) -> Array:
    """x in float32 or wider; whole numbers in the floating dtype that they promote to."""
    x = _wide(x)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    with jax.numpy_dtype_promotion("standard"):
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _wide(x: Array) -> Array:
    """x, where it is floating in float32 or wider."""
    return x.astype(numerics.at_least_float32(x.dtype)) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def _joined(xs: Sequence[Array]) -> Array:
    """Scalars as one vector, in the dtype that they promote to."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = functools.reduce(jnp.promote_types, [x.dtype for x in xs])
    return jax.lax.concatenate([x.astype(dtype).reshape(1) for x in xs], 0)


def pairwise_sum(x: Array) -> Array:
    """The sum of a vector, added up as a balanced tree: the error grows with log n, not n."""
    while x.size > 1:
        half = (x.size + 1) // 2
        x = x[:half] + jnp.pad(x[half:], (0, 2 * half - x.size))
    return x.reshape(())


def _total(xs: Sequence[Array], empty: float = 0) -> Array:
    return pairwise_sum(_joined(xs)) if xs else jnp.full((), empty, jnp.float32)


def sum(tree: Any, associative_reduction: bool = False) -> Array:  # noqa: A001
    """The sum of all the numbers in a tree; 0 in float32 for an empty one.

    Whole numbers are summed as such. Leaves of several dtypes give the dtype they promote to.

    Args:
      associative_reduction: Optax's switch for a balanced sum over the leaves, which this always is.
    """
    return _total([jnp.sum(_wide(x)) for x in _arrays(tree)])


def vdot(tree_x: Any, tree_y: Any) -> Array:
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
            products.append(jnp.sum(jnp.conj(_wide(jnp.asarray(x))) * _wide(jnp.asarray(y))))
    return _total(products)


def max(tree: Any) -> Array:  # noqa: A001
    """The largest number in a tree; -inf in float32 for an empty one. NaN where one is."""
    return _extreme(numerics.largest, tree, -math.inf)


def min(tree: Any) -> Array:  # noqa: A001
    """The smallest number in a tree; inf in float32 for an empty one. NaN where one is."""
    return _extreme(_smallest, tree, math.inf)


def _smallest(x: Array) -> Array:
    return -numerics.largest(-x) if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.min(x)


def _extreme(reduce: Callable[[Array], Array], tree: Any, empty: float) -> Array:
    xs = [reduce(x) for x in _arrays(tree)]
    return reduce(_joined(xs)) if xs else jnp.full((), empty, jnp.float32)


def size(tree: Any) -> int:
    """How many numbers there are in a tree."""
    return builtins.sum(jnp.size(x) for x in jax.tree.leaves(tree))


def norm(tree: Any, ord: Any = None, squared: bool = False) -> Array:  # noqa: A002
    """The norm of a tree as one long vector: a real scalar in float32 or wider, 0 for an empty tree.

    Args:
      ord: 2 or None for sqrt(sum |x|^2), see `global_norm`; 1 for sum |x|; infinity, "inf" or "infinity" for max |x|.
      squared: return the square of the norm. For 2 that is the sum of squares, without the root.

    Raises:
      ValueError: another `ord`.
    """
    if ord is None or ord == 2:
        return _total([_sum_of_squares(x, None) for x in _arrays(tree)]) if squared else global_norm(tree)
    sizes = [jnp.abs(_floating(x)) for x in _arrays(tree)]
    if ord == 1:
        value = _total([jnp.sum(x) for x in sizes])
    elif ord == math.inf or ord in ("inf", "infinity"):
        value = max([jnp.zeros((), jnp.float32), *sizes])
    else:
        raise ValueError(f"gdjax.tree.norm: ord must be None, 1, 2, inf, 'inf' or 'infinity', got {ord!r}")
    return jnp.square(value) if squared else value


def finite_square(tree: Any) -> Array:
    """The square of the norm, finite where the numbers are: large ones count as in `numerics.bounded_sq`."""
    return _total([_bounded_sum(x) for x in _arrays(tree)])


@jax.jit
def _bounded_sum(x: Array) -> Array:
    return jnp.sum(numerics.bounded_sq(_floating(x)))


def allclose(a: Any, b: Any, rtol: Any = 1e-05, atol: Any = 1e-08, equal_nan: bool = False) -> Array:
    """Whether |x - y| <= atol + rtol |y| for all numbers x of `a` and y of `b`: a boolean scalar, True for empty trees.

    Args:
      equal_nan: NaN equals NaN.
    """
    with jax.numpy_dtype_promotion("standard"):
        close = jax.tree.map(lambda x, y: jnp.allclose(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan), a, b)
    return jnp.all(jnp.asarray(jax.tree.leaves(close), bool))
