"""Keys of arguments: equal trees have equal ones."""

from collections.abc import Hashable
from typing import Any, TypeGuard

import jax
import numpy as np


def of_plain_dict(x: object) -> TypeGuard[dict[Any, Any]]:
    """Whether x is a dict and no subclass. JAX sorts its keys, which may not compare and whose order may matter."""
    return type(x) is dict


def key_of(x: Any) -> Hashable:
    """A key that equal trees of arguments share: the structure and the leaves.

    A leaf is compared by type and value, or by identity where it has no usable equality.
    """
    leaves, structure = jax.tree.flatten(x, is_leaf=of_plain_dict)
    return structure, tuple(map(identity, leaves))


def identity(leaf: object) -> Hashable:
    """The part of a leaf in `key_of`."""
    if of_plain_dict(leaf):
        return dict, tuple((identity(k), key_of(v)) for k, v in leaf.items())
    if isinstance(leaf, jax.Array | np.ndarray):
        return id(leaf)
    try:
        hash(leaf)
    except TypeError:
        return id(leaf)
    return type(leaf), leaf
