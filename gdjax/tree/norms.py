"""Norms and sums of trees.

Sums are in float32 or wider, so that they do not stall in 16 bits, and the order of the leaves changes them by rounding
alone. None, `MaskedNode` and float0 leaves do not count.
"""

import builtins
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks, meshes
from gdjax.core.base import is_float0
from gdjax.core.types import Array, ArrayTree, Scalar, Updates
from gdjax.numerics import real_dtype
from gdjax.numerics.norms import scale, small, three_sums
from gdjax.xla.reads import apart
from gdjax.xla.write_order import own_factor, product

__all__ = ["allclose", "global_norm", "max", "min", "norm", "pairwise_sum", "size", "sum", "vdot"]


def arrays(tree: ArrayTree) -> list[Array]:
    """The leaves that have numbers; None, `MaskedNode` and float0 leaves do not count."""
    return [jnp.asarray(x) for x in jax.tree.leaves(tree) if jnp.size(x) and not is_float0(x)]


def wide(x: Array) -> Array:
    """x, in float32 or wider if it is floating."""
    return x.astype(numerics.at_least_float32(x.dtype)) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def floating(x: Array) -> Array:
    """x in float32 or wider; whole numbers in the floating dtype that they promote to."""
    return x.astype(floating_dtype(x))


def floating_dtype(x: Array) -> Any:
    """The dtype of `floating(x)`."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return numerics.at_least_float32(x.dtype)
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(x.dtype, jnp.float32)


def concatenated(xs: Sequence[Array]) -> Array:
    """Scalars as a vector, arrays one behind the other, in the dtype that they promote to."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = functools.reduce(jnp.promote_types, [x.dtype for x in xs])
    return jax.lax.concatenate([(x if x.ndim else x.reshape(1)).astype(dtype) for x in xs], 0)


def pairwise_sum(x: Array) -> Array:
    """The sum over the first axis, added up as a balanced tree: the error grows with log n, not n."""
    while len(x) > 1:
        half = (len(x) + 1) // 2
        x = x[:half] + jnp.pad(x[half:], [(0, 2 * half - len(x))] + [(0, 0)] * (x.ndim - 1))
    return x.reshape(x.shape[1:])


def total(xs: Sequence[Array]) -> Array:
    """The sum of scalars; 0 in float32 for none."""
    return pairwise_sum(concatenated(xs)) if xs else jnp.zeros((), jnp.float32)


@jax.jit
def sum_of_squares(x: Array, factor: Array | None = None) -> Array:
    """sum |factor x|^2 in float32 or wider, of shape (1,)."""
    x = floating(x)
    return jnp.sum(numerics.abs_sq(x if factor is None else product(x, factor))).reshape(1)


def global_norm(updates: Updates) -> Array:
    """The Euclidean norm of all the numbers in a tree, sqrt(sum |x|^2): a scalar in float32 or wider.

    The tree is named `updates`, as in Optax; any will do. Where the sum of squares over- or underflows (float32 numbers
    near 1e20 or 1e-20), that of the numbers times 2^-70 or 2^70 takes its place (2^-560 or 2^560 where all are
    float64). On CPU that is a second pass, taken only then; elsewhere the one pass adds up all three.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.global_norm({"w": jnp.array([3.0]), "b": jnp.array([4.0])}))
      5.0
      >>> print(gdjax.global_norm(jnp.array([3e30, 4e30])))  # whose squares overflow
      5e+30
    """
    leaves = arrays(updates)
    return _norm(leaves) if leaves else jnp.zeros((), jnp.float32)


@jax.custom_jvp
def _norm(leaves: Sequence[Array]) -> Array:
    return _by_passes(leaves, _sums, _may_repeat)


@_norm.defjvp
def _norm_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """sum Re(conj(x) dx) / norm, and 0 where the norm is."""
    norm = _norm(*primals)
    # Two factors: for norms below 1e-38 or above 8e37 the reciprocal would be infinite or denormal.
    root = 1 / jnp.sqrt(jnp.where(norm == 0, 1, norm))
    products = []
    for x, dx in zip(*primals, *tangents, strict=True):
        if not is_float0(dx):
            with jax.numpy_dtype_promotion("standard"):
                unit = floating(x) * root * root
                products.append(jnp.sum(jnp.real(jnp.conj(unit) * wide(dx))))
    slope = pairwise_sum(concatenated(products)) if products else jnp.zeros_like(norm)
    return norm, slope.astype(norm.dtype)


def _by_passes(leaves: Sequence[Array], sums: Callable[..., list[Array]], may_repeat: Callable[[], Any]) -> Array:
    """The norm from one pass over the leaves and, if squares are lost in that and a repetition is allowed, another.

    The two passes are a loop, which is one piece of program; a condition would make it two.
    """
    with jax.numpy_dtype_promotion("standard"):
        dtypes = [real_dtype(floating_dtype(x)) for x in leaves]
        dtype = functools.reduce(jnp.promote_types, dtypes)
    narrowest = builtins.min(
        dtypes, key=lambda x: jnp.finfo(x).bits
    )  # the factor must be a number of it, and so its sums
    least, factor_of = small(narrowest), scale(narrowest)

    def go(carry: Any) -> Any:
        passes, factor, _ = carry
        each = [sums(x, factor, factor_of) for x in leaves]
        total, large, few = (pairwise_sum(concatenated(xs)) for xs in zip(*each, strict=True))
        precise = (total >= least) & jnp.isfinite(total)
        wanted = jnp.where(precise, 1, jnp.where(total < least, factor_of, 1 / factor_of)).astype(dtype)
        factor = jnp.where(passes == 0, wanted, factor)
        square = jnp.where(factor == 1, total, jnp.where(factor > 1, large, few))
        return passes + 1, factor, square

    def unfinished(carry: Any) -> Any:
        passes, factor, _ = carry
        return (passes == 0) | (passes == 1) & (factor != 1) & may_repeat()

    start = jnp.int32(0), jnp.ones((), dtype), jnp.zeros((), dtype)
    _, factor, square = meshes.while_loop(unfinished, go, start)
    return jnp.sqrt(square) / factor


def _may_repeat() -> Array:
    """Whether there may be a second pass, because `_sums` takes one sum only: a constant of the compiled program."""
    return jax.lax.platform_dependent(cpu=lambda: jnp.asarray(True), default=lambda: jnp.asarray(False))


@functools.partial(jax.jit, static_argnums=2)
def _sums(x: Array, factor: Array, scale: float) -> list[Array]:
    """Three sums |f x|^2 of shape (1,): on CPU all for f = factor, elsewhere for f = 1, `scale` and 1 / `scale`."""
    here, elsewhere = functools.partial(_one_sum, scale=scale), functools.partial(_three_sums, scale=scale)
    return jax.lax.platform_dependent(*meshes.alike(x, factor), cpu=here, default=elsewhere)


def _one_sum(x: Array, factor: Array, scale: float) -> list[Array]:
    return [sum_of_squares(*apart(x, own_factor(x, factor)))] * 3


def _three_sums(x: Array, _: Array, scale: float) -> list[Array]:
    x = x if jnp.issubdtype(x.dtype, jnp.inexact) else floating(x)
    # Not one array of the three, which would be one more kernel for each leaf.
    return [total.reshape(1) for total in three_sums(x, tuple(range(x.ndim)), scale)]


def sum(tree: ArrayTree, associative_reduction: bool = False) -> Array:
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


def max(tree: ArrayTree) -> Array:
    """The largest number in a tree; -inf in float32 for an empty one. NaN where one is."""
    return _extreme(numerics.largest, tree, -math.inf)


def min(tree: ArrayTree) -> Array:
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


def norm(tree: ArrayTree, ord: Literal["inf", "infinity"] | float | None = None, squared: bool = False) -> Array:
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
