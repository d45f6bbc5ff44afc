"""The boxes of Flax, each around one array: nnx `Param` and `VariableState`, linen `Partitioned`."""

from typing import Any

import jax

from gdjax.core.types import ArrayTree


def is_box(x: object) -> bool:
    """Whether x is a box of Flax: one array under the key `value`, with its kind or its sharding."""
    names = {c.__name__ for c in type(x).__mro__ if c.__module__.startswith("flax.")}
    return bool(names & {"Variable", "VariableState", "AxisMetadata"})


def unboxed(tree: ArrayTree) -> Any:
    """The tree with the array of each box in place of the box."""

    def content(x: object) -> Any:
        inside = jax.tree.leaves(x, is_leaf=lambda y: y is not x) if is_box(x) else []
        return inside[0] if len(inside) == 1 else x

    return jax.tree.map(content, tree, is_leaf=is_box) if _has_boxes(tree) else tree


def boxed_like(old: Any, new: Any) -> Any:
    """`new` in the boxes of `old`, if it fits their contents; else `new` itself."""
    if not _has_boxes(old) or _has_boxes(new) or jax.tree.structure(unboxed(old)) != jax.tree.structure(new):
        return new
    return jax.tree.structure(old).unflatten(jax.tree.leaves(new))


def _has_boxes(tree: ArrayTree) -> bool:
    return any(map(is_box, jax.tree.leaves(tree, is_leaf=is_box)))
