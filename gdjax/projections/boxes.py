"""Projections onto boxes, hyperplanes and half-spaces."""

from typing import Any

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax import tree as trees
from gdjax.core import checks
from gdjax.core.types import ArrayLike, ArrayTree, Params
from gdjax.numerics import norms
from gdjax.projections.common import Array, each, floating_dtype, radius, wide

__all__ = [
    "projection_box", "projection_halfspace", "projection_hypercube", "projection_hyperplane", "projection_linf_ball",
    "projection_non_negative", "projection_vector",
]  # fmt: skip


def projection_non_negative(tree: ArrayTree) -> Any:
    """The nearest tree without negative numbers: max(x, 0), with derivative 0 at 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params, updates = jnp.array([1.0, 1.0]), jnp.array([-0.5, -3.0])
      >>> params = gdjax.apply_updates(params, updates)
      >>> print(gdjax.projections.projection_non_negative(params))  # projected descent
      [0.5 0. ]
    """
    return jax.tree.map(jax.nn.relu, tree)


def projection_box(tree: ArrayTree, lower: ArrayTree, upper: ArrayTree) -> Any:
    """The nearest tree with lower <= y <= upper.

    Args:
      tree: any pytree of real arrays.
      lower: a number for all leaves, or a tree like `tree` of numbers and of arrays that broadcast to the leaves; None
        for no bound.
      upper: likewise; at least `lower`.

    Raises:
      TypeError: a complex leaf.
      ValueError: a bound of another structure or shape; numbers with lower > upper.

    Whole numbers stay whole if their bounds are. In Optax a number fits no tree but a single array.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = {"a": jnp.array([-3.0, 0.5]), "b": jnp.array([9.0])}
      >>> y = gdjax.projections.projection_box(x, -1.0, {"a": 1.0, "b": 5.0})
      >>> print(y["a"], y["b"])
      [-1.   0.5] [5.]
    """
    return box("gdjax.projection_box", tree, lower, upper, ("lower", "upper"))


def box(
    label: str, tree: ArrayTree, lower: ArrayTree, upper: ArrayTree, names: tuple[str, str], of: str = "tree"
) -> Any:
    """`projection_box`; an error calls the bounds by `names`, and the tree `of`."""
    if isinstance(lower, checks.NUMBER) and isinstance(upper, checks.NUMBER) and not lower <= upper:
        raise ValueError(f"{label}: {names[0]} is {lower}, {names[1]} is {upper}: nothing lies between")
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    bounds = [
        [bound] * len(paths) if _is_number(bound) else checks.flatten_like(label, (of, name), structure, tree, bound)
        for name, bound in zip(names, (lower, upper), strict=True)
    ]
    clipped = []
    for (path, x), *ends in zip(paths, *bounds, strict=True):
        where = jax.tree_util.keystr(path)
        if jnp.iscomplexobj(x):
            raise TypeError(f"{label}: {of}{where} is complex, and has no order")
        for name, end in zip(names, ends, strict=True):
            shape = () if end is None else jnp.shape(end)
            if not _fits(shape, jnp.shape(x)):
                raise ValueError(
                    f"{label}: {name}{where} shape {shape} does not match {of}{where} shape {jnp.shape(x)}"
                )
        clipped.append(_clip(jnp.asarray(x), *ends))
    return structure.unflatten(clipped)


Bounds = tuple[ArrayTree, ArrayTree] | None  # lower and upper, each a number or a tree; None for none


def ends_of(label: str, params: Params, bounds: Bounds) -> list[Any]:
    """Lower and upper bounds as two trees of arrays shaped like the parameters; none where `bounds` is None.

    Raises:
      TypeError, ValueError: as `projection_box`.
    """
    if bounds is None:
        return []
    for path, p in jax.tree_util.tree_flatten_with_path(params)[0]:
        if jnp.iscomplexobj(p):
            where, kind = f"params{jax.tree_util.keystr(path)}", jnp.result_type(p)
            raise TypeError(f"{label}: {where}: bounds does not support complex numbers, which have no order ({kind})")

    full = lambda end: jax.tree.map(lambda p: jnp.full(jnp.shape(p), end, floating_dtype(p)), params)
    names = "bounds[0]", "bounds[1]"
    return [box(label, full(end), *bounds, names, "params") for end in (-jnp.inf, jnp.inf)]


def _is_number(bound: ArrayTree) -> bool:
    return bound is None or jax.tree.structure(bound) == jax.tree.structure(0) and jnp.ndim(bound) == 0


def _fits(shape: tuple[int, ...], onto: tuple[int, ...]) -> bool:
    """Whether an array of this shape broadcasts to the shape `onto`."""
    return len(shape) <= len(onto) and all(m in (1, n) for m, n in zip(shape[::-1], onto[::-1], strict=False))


def _clip(x: Array, low: ArrayLike | None, high: ArrayLike | None) -> Array:
    ends = [None if end is None else jnp.asarray(end) for end in (low, high)]
    with jax.numpy_dtype_promotion("standard"):
        common = jnp.result_type(x, *(end for end in ends if end is not None))
        computed = numerics.at_least_float32(common) if jnp.issubdtype(common, jnp.inexact) else common
        low, high = (None if end is None else jnp.broadcast_to(end.astype(computed), x.shape) for end in ends)
        own = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else common
        return jnp.clip(x.astype(computed), low, high).astype(own)


def projection_hypercube(tree: ArrayTree, scale: ArrayTree = 1) -> Any:
    """The nearest tree with 0 <= y <= scale.

    Args:
      tree: any pytree of real arrays.
      scale: the length of the edges, at least 0: a number for all leaves, or a tree like `tree` of numbers and of
        arrays that broadcast to the leaves.

    Raises:
      TypeError: a complex leaf.
      ValueError: a scale of another structure or shape, or a negative number.

    In Optax only a single array can be projected.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = jnp.array([-3.0, 0.5, 3.0])
      >>> print(gdjax.projections.projection_hypercube(x, scale=2.0))
      [0.  0.5 2. ]
    """
    return box("gdjax.projection_hypercube", tree, 0, scale, ("the origin", "scale"))


def projection_linf_ball(tree: ArrayTree, scale: ArrayTree = 1) -> Any:
    """The nearest tree with max |y| <= scale.

    Args:
      tree: any pytree of real arrays.
      scale: the radius, a scalar of at least 0.

    Raises:
      TypeError: a complex leaf.
      ValueError: a negative radius.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> x = jnp.array([-3.0, 0.5, 3.0])
      >>> print(gdjax.projections.projection_linf_ball(x, scale=2.0))
      [-2.   0.5  2. ]
    """
    label = "gdjax.projection_linf_ball"
    scale = radius(label, scale)
    return box(label, tree, -scale, scale, ("-scale", "scale"))


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
    _, normal, square = _scaled("gdjax.projection_vector", x, a)
    with jax.numpy_dtype_promotion("standard"):
        along = trees.vdot(normal, jax.tree.map(wide, x)) / jnp.where(square == 0, 1, square)
    return each(lambda _, e: along * e, x, normal)


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
    normal, gap = _gap("gdjax.projection_hyperplane", x, a, b)
    return each(lambda v, e: v + gap * e, x, normal)


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
    normal, gap = _gap("gdjax.projection_halfspace", x, a, b)
    return each(lambda v, e: v + jnp.minimum(gap, 0) * e, x, normal)


def _gap(label: str, x: ArrayTree, a: ArrayTree, b: ArrayLike) -> tuple[Any, Array]:
    """A normal, and how many of it the hyperplane lies away; infinitely many where it does not exist."""
    unit, normal, square = _scaled(label, x, a)
    b = jnp.asarray(b).astype(square.dtype)
    nowhere = jnp.where(b == 0, 0, jnp.where(b > 0, jnp.inf, -jnp.inf))
    with jax.numpy_dtype_promotion("standard"):
        missing = b / unit - trees.vdot(normal, jax.tree.map(wide, x))
        return normal, jnp.where(square == 0, nowhere, missing / jnp.where(square == 0, 1, square))


def _scaled(label: str, x: ArrayTree, a: ArrayTree) -> tuple[Array, Any, Array]:
    """A power of two, a over it in float32 or wider, and the square of that, which neither over- nor underflows."""
    of_shapes(label, x, a, "a")
    largest = [jnp.max(jnp.abs(wide(e)), initial=0) for e in jax.tree.leaves(a)]
    with jax.numpy_dtype_promotion("standard"):
        unit = norms.power_of_two(jnp.stack([jnp.zeros(()), *largest]))
        normal = jax.tree.map(lambda e: (wide(e) / unit).astype(wide(e).dtype), a)
    return unit, normal, trees.norm(normal, squared=True)


def of_shapes(label: str, x: ArrayTree, a: ArrayTree, name: str) -> None:
    """Raises unless `a`, called `name` in the message, has the structure and the shapes of x."""
    paths, structure = jax.tree_util.tree_flatten_with_path(x)
    for (path, leaf), other in zip(paths, checks.flatten_like(label, ("x", name), structure, x, a), strict=True):
        if jnp.shape(leaf) != jnp.shape(other):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"{label}: {name}{where} shape {jnp.shape(other)} does not match x{where} shape {jnp.shape(leaf)}"
            )
