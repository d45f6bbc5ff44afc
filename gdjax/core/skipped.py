"""Gradients that are not there: None, as Equinox gives for what is no floating array, or what a mask hides.

Such a leaf is left alone, whatever its parameter and its part of the state are.
"""

from typing import Any

import jax


def is_skipped(g: Any) -> bool:
    """Whether a gradient is not there: None, or the `MaskedNode` of this library or of Optax."""
    return g is None or type(g).__name__ == "MaskedNode"


def without_skipped(updates: Any, params: Any) -> Any:
    """The parameters, with the gradient in the place of each whose gradient is not there.

    They are returned as they are where all gradients are there, or where the structures differ.
    """
    gradients, structure = jax.tree.flatten(updates, is_leaf=is_skipped)
    if params is None or not any(map(is_skipped, gradients)):
        return params
    try:
        ps = structure.flatten_up_to(params)
    except (ValueError, TypeError):
        return params
    return structure.unflatten([g if is_skipped(g) else p for g, p in zip(gradients, ps, strict=True)])
