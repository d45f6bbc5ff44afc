"""Missing gradients: None, as Equinox gives for a leaf that is no floating array, or a leaf that a mask hides.

Such a leaf is left alone, whatever its parameter and its part of the state are.
"""

from typing import Any

import jax

from gdjax.core.types import Params, Updates


def is_skipped(g: Any) -> bool:
    """Whether a gradient is missing: None, or the `MaskedNode` of this library or of Optax."""
    return g is None or type(g).__name__ == "MaskedNode"


def without_skipped(updates: Updates, params: Params) -> Params:
    """The parameters, each one without a gradient replaced by what stands in the gradient's place.

    They are returned as they are where no gradient is missing, or where the structures differ.
    """
    gradients, structure = jax.tree.flatten(updates, is_leaf=is_skipped)
    if params is None or not any(map(is_skipped, gradients)):
        return params
    try:
        ps = structure.flatten_up_to(params)
    except (ValueError, TypeError):
        return params
    return structure.unflatten([g if is_skipped(g) else p for g, p in zip(gradients, ps, strict=True)])
