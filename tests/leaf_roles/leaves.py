"""Trees of leaves by their paths and shapes, and what is read of them."""

import functools
from typing import Any

import jax

import gdjax

SHAPES = {"layer/kernel": (8, 4), "layer/bias": (4,), "last/kernel": (4, 3)}


def tree_of(shapes: dict[str, tuple[int, ...]]) -> Any:
    """A nested dict of normal arrays."""
    tree: Any = {}
    for i, (path, shape) in enumerate(shapes.items()):
        *places, last = path.split("/")
        part = tree
        for key in places:
            part = part.setdefault(key, {})
        part[last] = jax.random.normal(jax.random.key(i), shape)
    return tree


def roles(shapes: dict[str, tuple[int, ...]], overrides: Any = None) -> dict[str, str]:
    return {row.path: f"{row.role} {row.matrices}".rstrip() for row in gdjax.roles(tree_of(shapes), overrides)}


def axes_of(shapes: dict[str, tuple[int, ...]], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """For each path the axes of the matrix, None for no matrix."""
    found = gdjax.matrices_by_role(*args, **kwargs)(tree_of(shapes))
    return {path: functools.reduce(dict.__getitem__, path.split("/"), found) for path in shapes}
