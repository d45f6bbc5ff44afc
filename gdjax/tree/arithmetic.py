"""Arithmetic of trees, their dtypes, and random ones.

The dtype of a result is that of JAX's standard promotion, whichever promotion is in force. Where it has 16 bits, the
leaf is computed in float32 and rounded once: no scalar is rounded to the dtype of a leaf.
"""

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics
from gdjax.core import checks
from gdjax.core.arrays import is_key
from gdjax.core.base import is_float0, map_arrays
from gdjax.core.types import Array, ArrayLike, ArrayTree, DTypeLike, Updates

__all__ = [
    "add", "add_scale", "batch_shape", "bias_correction", "cast", "cast_like", "clip", "conj", "div", "dtype",
    "full_like", "mul", "ones_like", "random_like", "real", "scale", "split_key_like", "sub", "unwrap_random_key_data",
    "update_infinity_moment", "update_moment", "update_moment_per_elem_norm", "where", "zeros_like",
]  # fmt: skip


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
    f = lambda x, *given: jnp.clip(x, **dict(zip(bounds, given, strict=True)))
    return _leaves("clip", _wide(f, *bounds.values()), tree)


def where(condition: ArrayTree, tree_x: ArrayTree, tree_y: ArrayTree) -> Any:
    """x where the condition is true, y elsewhere, leaf by leaf; a tree of conditions has one for each leaf.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> new, old = {"w": jnp.ones(2)}, {"w": jnp.zeros(2)}
      >>> print(gdjax.tree.where(jnp.array(True), new, old)["w"])
      [1. 1.]
    """
    with jax.numpy_dtype_promotion("standard"):
        if jax.tree_util.all_leaves([condition]):
            return _leaves("where", lambda x, y: jnp.where(condition, x, y), tree_x, tree_y)
        checks.flatten_like("gdjax.tree.where", ("tree_x", "condition"), jax.tree.structure(tree_x), tree_x, condition)
        return _leaves("where", lambda x, y, c: jnp.where(c, x, y), tree_x, tree_y, condition)


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
