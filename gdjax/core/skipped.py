"""Missing gradients: None, which Equinox returns for a leaf that is no floating array, or a leaf hidden by a mask.

Such a leaf stays untouched, whatever its parameter and its state are.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from gdjax.core.contexts import WHERE, within
from gdjax.core.types import Params, Updates


def is_hidden(x: object) -> bool:
    """Whether `x` stands for a leaf that a mask hides: the `MaskedNode` of this library or of Optax."""
    return type(x).__name__ == "MaskedNode"


def is_skipped(g: object) -> bool:
    """Whether a gradient is missing: None, or hidden by a mask."""
    return g is None or is_hidden(g)


def without_skipped(updates: Updates, params: Params) -> Params:
    """The parameters; where a gradient is missing, its placeholder also replaces the parameter.

    The same object if no gradient is missing, or if the structures differ.
    """
    if params is None or not any(map(is_skipped, jax.tree.leaves(updates, is_leaf=is_skipped))):
        return params
    try:
        return jax.tree.map(lambda g, p: g if is_skipped(g) else p, updates, params, is_leaf=is_skipped)
    except (ValueError, TypeError):
        return params


@contextlib.contextmanager
def fitted(updates: Updates, params: Params) -> Iterator[Params]:
    """`without_skipped`; in this context `left_out` finds the parameters that were replaced."""
    fit = without_skipped(updates, params)
    known = WHERE.get().params
    with within(WHERE, params=params if known is None and fit is not params else known):
        yield fit


def left_out(updates: Updates) -> dict[Any, Any]:
    """By path, the parameters given to `update` where `updates` has None; {} if it was given none."""
    paths = jax.tree_util.tree_leaves_with_path(updates, is_leaf=lambda x: x is None)
    missing = {path for path, g in paths if g is None}
    flat = jax.tree_util.tree_leaves_with_path(WHERE.get().params) if missing else []
    return {path: p for path, p in flat if path in missing and hasattr(p, "shape")}
