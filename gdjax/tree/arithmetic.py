"""Arithmetic on trees, leaf by leaf.

The dtype of a result is that of JAX's standard promotion, whichever promotion is in force. Where it has 16 bits, the
leaf is computed in float32 and rounded once: no scalar is rounded to the dtype of a leaf.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks
from gdjax.core.types import Array, ArrayLike, ArrayTree, DTypeLike, Updates


def _leaves(
    name: str, f: Callable[..., Any], tree: ArrayTree, *others: ArrayTree, is_leaf: Callable[[Any], bool] | None = None
) -> Any:
    """`f` of corresponding leaves; an error names the function and the leaf."""
    label = f"gdjax.tree.{name}"
    paths, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    columns = [checks.flatten_like(label, ("tree_x", "tree_y"), structure, tree, other) for other in others]
    out = []
    for (path, x), *ys in zip(paths, *columns, strict=True):
        try:
            out.append(f(x, *ys))
        except (TypeError, ValueError) as e:
            if type(e) not in (TypeError, ValueError):
                raise  # JAX's own, about tracers
            raise type(e)(f"{label}: tree{jax.tree_util.keystr(path)}: {e}") from e
    return structure.unflatten(out)


def _wide(f: Callable[..., Any], *scalars: ArrayLike) -> Callable[..., Any]:
    """`f` of leaves and the scalars, see the module."""

    def apply(*leaves: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            args: tuple[Any, ...] = *leaves, *scalars
            if not any(_is_short(x) for x in leaves):
                return f(*args)
            dtype = jnp.result_type(*args)
            if not _is_short(dtype):
                return f(*args)
            return f(*(x.astype(jnp.float32) if hasattr(x, "dtype") else x for x in args)).astype(dtype)

    return apply


def _is_short(x: object) -> bool:
    x = getattr(x, "dtype", x)
    return jnp.issubdtype(x, jnp.floating) and jnp.dtype(x).itemsize < 4 if isinstance(x, jnp.dtype) else False


def add(tree_x: ArrayTree, tree_y: ArrayTree, *other_trees: ArrayTree) -> Any:
    """x + y + ..., leaf by leaf.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x, y = {"w": jnp.array([1.0])}, {"w": jnp.array([2.0])}
      >>> print(gdjax.tree.add(x, y, y)["w"])
      [5.]
    """
    return _leaves("add", _wide(lambda *xs: functools.reduce(operator.add, xs)), tree_x, tree_y, *other_trees)


def sub(tree_x: ArrayTree, tree_y: ArrayTree) -> Any:
    """x - y, leaf by leaf."""
    return _leaves("sub", _wide(operator.sub), tree_x, tree_y)


def mul(tree_x: ArrayTree, tree_y: ArrayTree) -> Any:
    """x y, leaf by leaf."""
    return _leaves("mul", _wide(operator.mul), tree_x, tree_y)


def div(tree_x: ArrayTree, tree_y: ArrayTree) -> Any:
    """x / y, leaf by leaf."""
    return _leaves("div", _wide(operator.truediv), tree_x, tree_y)


def scale(scalar: ArrayLike, tree: ArrayTree) -> Any:
    """scalar x, leaf by leaf."""
    return _leaves("scale", _wide(operator.mul, scalar), tree)


def add_scale(tree_x: ArrayTree, scalar: ArrayLike, tree_y: ArrayTree) -> Any:
    """x + scalar y, leaf by leaf; None where x is.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x, y = {"w": jnp.array([1.0])}, {"w": jnp.array([2.0])}
      >>> print(gdjax.tree.add_scale(x, -0.5, y)["w"])
      [0.]
    """
    f = _wide(lambda x, y, a: x + a * y, scalar)
    return _leaves("add_scale", lambda x, y: None if x is None else f(x, y), tree_x, tree_y, is_leaf=_is_none)


def conj(tree: ArrayTree) -> Any:
    """The complex conjugate, leaf by leaf."""
    return jax.tree.map(jnp.conj, tree)


def real(tree: ArrayTree) -> Any:
    """The real part, leaf by leaf."""
    return jax.tree.map(jnp.real, tree)


def clip(tree: ArrayTree, min_value: ArrayLike | None = None, max_value: ArrayLike | None = None) -> Any:
    """Every number moved into [min_value, max_value], leaf by leaf; None is no bound.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.tree.clip({"w": jnp.array([-3.0, 0.5, 3.0])}, -1.0, 1.0)["w"])
      [-1.   0.5  1. ]
    """
    bounds = {name: x for name, x in (("min", min_value), ("max", max_value)) if x is not None}
    f = lambda x, *given: jnp.clip(x, **dict(zip(bounds, given, strict=True)))  # noqa: E731
    return _leaves("clip", _wide(f, *bounds.values()), tree)


def where(condition: ArrayLike, tree_x: ArrayTree, tree_y: ArrayTree) -> Any:
    """x where the condition is true, y elsewhere, leaf by leaf.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> new, old = {"w": jnp.ones(2)}, {"w": jnp.zeros(2)}
      >>> print(gdjax.tree.where(jnp.array(True), new, old)["w"])
      [1. 1.]
    """
    with jax.numpy_dtype_promotion("standard"):
        return _leaves("where", lambda x, y: jnp.where(condition, x, y), tree_x, tree_y)


def zeros_like(tree: ArrayTree, dtype: DTypeLike | None = None) -> Any:
    """Zeros shaped like the leaves, in their dtypes or in `dtype`."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=dtype), tree)


def ones_like(tree: ArrayTree, dtype: DTypeLike | None = None) -> Any:
    """Ones shaped like the leaves, in their dtypes or in `dtype`."""
    return jax.tree.map(lambda x: jnp.ones_like(x, dtype=dtype), tree)


def full_like(tree: ArrayTree, fill_value: ArrayLike, dtype: DTypeLike | None = None) -> Any:
    """Arrays of `fill_value` shaped like the leaves, in their dtypes or in `dtype`."""
    return jax.tree.map(lambda x: jnp.full_like(x, fill_value, dtype=dtype), tree)


def batch_shape(tree: ArrayTree, shape: tuple[int, ...] = ()) -> Any:
    """The leaves repeated along new leading axes of the given sizes."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *jnp.shape(x))), tree)


def update_moment(updates: Updates, moments: Updates, decay: float | Array, order: int) -> Any:
    """The moving average of a power: (1 - decay) g^order + decay m, leaf by leaf; None where g is.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> g, nu = {"w": jnp.array([4.0])}, {"w": jnp.zeros(1)}
      >>> print(gdjax.tree.update_moment(g, nu, 0.5, order=2)["w"])
      [8.]
    """
    return _moment("update_moment", lambda g, m, b: (1 - b) * g**order + b * m, updates, moments, decay)


def update_moment_per_elem_norm(updates: Updates, moments: Updates, decay: float | Array, order: int) -> Any:
    """The moving average of a power of the size: (1 - decay) |g|^order + decay m, leaf by leaf; None where g is."""
    return _moment(
        "update_moment_per_elem_norm", lambda g, m, b: (1 - b) * _size_to(g, order) + b * m, updates, moments, decay
    )


def _size_to(g: ArrayLike, order: int) -> Array:
    square = numerics.abs_sq(jnp.asarray(g))
    return square ** (order // 2) if order % 2 == 0 else numerics.sqrt(square) ** order


def update_infinity_moment(updates: Updates, moments: Updates, decay: float | Array, eps: float | Array) -> Any:
    """The decayed maximum, Adamax's second moment: max(|g| + eps, decay m), leaf by leaf; None where g is."""
    return _moment(
        "update_infinity_moment", lambda g, m, b, e: jnp.maximum(jnp.abs(g) + e, b * m), updates, moments, decay, eps
    )


def _moment(name: str, f: Callable[..., Any], updates: Updates, moments: Updates, *scalars: ArrayLike) -> Any:
    f = _wide(f, *scalars)
    return _leaves(name, lambda g, m: None if g is None else f(g, m), updates, moments, is_leaf=_is_none)


def bias_correction(moment: Updates, decay: float | Array, count: int | Array) -> Any:
    """Corrects moving averages that began at 0, leaf by leaf, in their dtypes.

        m_hat = m / (1 - decay^count)

    Args:
      count: how many numbers have been averaged, at least 1.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> m = gdjax.tree.update_moment({"w": jnp.array([4.0])}, {"w": jnp.zeros(1)}, 0.5, 1)
      >>> print(m["w"], gdjax.tree.bias_correction(m, 0.5, 1)["w"])
      [2.] [4.]
    """

    def debias(m: ArrayLike) -> Array:
        m = jnp.asarray(m)
        wide = numerics.at_least_float32(m.dtype)
        t = jnp.asarray(count).astype(numerics.real_dtype(wide))
        return numerics.debias(m.astype(wide), decay, t).astype(m.dtype)

    with jax.numpy_dtype_promotion("standard"):
        return jax.tree.map(debias, moment)


def scale_gradient(inputs: ArrayTree, scale: float | Array) -> Any:
    """The tree unchanged, but its gradient is multiplied by a number, which may be traced; forward and reverse mode.

    Args:
      inputs: a tree; leaves that are not differentiable stay what they are.
      scale: the factor. The Python number 0 stops the gradient, an infinite one too.

    Example:
      >>> import gdjax, jax
      >>> def f(x):
      ...     return gdjax.scale_gradient(x, 0.5) ** 2
      >>> print(f(3.0), jax.grad(f)(3.0))  # without it the gradient is 6
      9.0 3.0
    """
    if isinstance(scale, int | float) and scale == 0:
        return jax.lax.stop_gradient(inputs)
    return jax.tree.map(lambda x: _scale_gradient(x, scale) if _differentiable(x) else x, inputs)


def _differentiable(x: object) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


@jax.custom_jvp
def _scale_gradient(x: Array, scale: ArrayLike) -> Array:
    return x


@_scale_gradient.defjvp
def _scale_gradient_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> Any:
    (x, scale), (dx, _) = primals, tangents
    wide = numerics.at_least_float32(dx.dtype)
    return x, (dx.astype(wide) * jnp.asarray(scale).astype(wide)).astype(dx.dtype)


def _is_none(x: object) -> bool:
    return x is None
