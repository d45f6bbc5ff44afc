"""What proximal maps share: weights and steps for each leaf, and the factor by which a size shrinks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core import checks
from gdjax.core.paths import check_prefix, named_leaves
from gdjax.core.types import Array, ArrayTree, Number
from gdjax.numerics.elementwise import quotient
from gdjax.projections.common import floating_dtype, wide

Prox = Callable[..., Any]  # (tree, step) -> tree
Shape = tuple[int, ...]


def elements(shape: Shape) -> Shape:
    """The groups of a leaf that are its elements."""
    return shape


def at_least_0(label: str, **numbers: ArrayTree) -> None:
    """Raises unless the leaves of these trees are arrays or numbers, the numbers at least 0."""
    for name, tree in numbers.items():
        for where, x in named_leaves(name, tree):
            if isinstance(x, bool) or not isinstance(x, Number):
                raise TypeError(f"{label}: {where} must be a number or an array, got {x!r}")
            if isinstance(x, checks.NUMBER) and not x >= 0:
                raise ValueError(f"{label}: {where} must be at least 0, got {x}")


def map_of(
    name: str, f: Callable[..., Array], groups: Callable[[Shape], Shape] = elements, ordered: bool = False,
    **weights: ArrayTree,
) -> Prox:  # fmt: skip
    """The map of `f(leaf, step, *weights)` for each leaf, made wide; the result in the dtype of the leaf.

    Args:
      name: of the map, for errors.
      groups: from the shape of a leaf to that of its groups, with all axes. A step and each weight, which reach `f` in
        that shape, broadcast to it. A ValueError of it is raised with the name of the leaf.
      ordered: whether `f` needs an order, which complex numbers do not have.

    A leaf whose first weight is the number 0 stays as it is, but where there is an order.
    """
    label = f"gdjax.prox.{name}"
    at_least_0(label, **weights)

    def mapped(where: str, leaf: Any, step: Any, *numbers: Any) -> Array:
        checks.number(label, where, leaf)
        x, dtype = wide(leaf), floating_dtype(leaf)
        if ordered and jnp.iscomplexobj(x):
            raise TypeError(f"{label}: {where} is complex ({x.dtype}), and has no order")
        if isinstance(numbers[0], checks.NUMBER) and numbers[0] == 0 and not ordered:
            return x.astype(dtype)
        try:
            named = zip(["step", *weights], [step, *numbers], strict=True)
            of_groups = [_of_groups(k, n, groups(x.shape), x) for k, n in named]
        except ValueError as e:
            raise ValueError(f"{label}: {where}: {e}") from None
        with jax.numpy_dtype_promotion("standard"):  # x may be complex
            return f(x, *of_groups).astype(dtype)

    def prox(tree: ArrayTree, step: ArrayTree = 1.0) -> Any:
        at_least_0(label, step=step)
        columns = [_spread(label, k, x, tree) for k, x in {"step": step, **weights}.items()]
        leaves = [mapped(*leaf, *row) for leaf, *row in zip(named_leaves("tree", tree), *columns, strict=True)]
        return jax.tree.structure(tree).unflatten(leaves)

    return prox


def _spread(label: str, name: str, prefix: ArrayTree, tree: ArrayTree) -> list[Any]:
    """For each leaf of a tree the entry of a prefix of it."""
    entries: list[Any] = []
    if jax.tree.leaves(tree):
        check_prefix(label, name, prefix, tree)
        jax.tree.map(lambda x, part: entries.extend([x] * len(jax.tree.leaves(part))), prefix, tree)
    return entries


def _of_groups(name: str, x: Any, shape: Shape, leaf: Array) -> Array:
    """A step or a weight in the shape of the groups of a leaf, and in its real dtype."""
    own = jnp.shape(x)
    if len(own) > len(shape) or any(m not in (1, n) for m, n in zip(own[::-1], shape[::-1], strict=False)):
        of = "elements" if shape == leaf.shape else "groups, which take one number each,"
        raise ValueError(f"{name} has shape {own}; the {of} of a leaf of shape {leaf.shape} have shape {shape}")
    return jnp.broadcast_to(jnp.asarray(x).astype(leaf.real.dtype), shape)


def remaining(size: Array, less: Array) -> Array:
    """max(size - less, 0) / size, for both at least 0; 1 where both are 0. Its derivative is finite."""
    some = ~(size <= less)  # NaN too
    return jnp.where(some, 1 - quotient(less, jnp.where(some, size, 1)), jnp.where(less == 0, 1.0, 0.0))
