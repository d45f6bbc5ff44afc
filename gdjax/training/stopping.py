"""Which norm of the gradient tells that a run is at a minimum: with bounds that of the projected gradient."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.base import MaskedNode, is_float0
from gdjax.core.types import ArrayTree, Params, Transform
from gdjax.inspection.walk import Listed, Walk, is_lookahead, shapes_of
from gdjax.numerics import Array
from gdjax.optimizers.bfgs import scale_by_bfgs, scale_by_ssbroyden
from gdjax.optimizers.lbfgs import scale_by_lbfgs
from gdjax.projections.boxes import ends_of
from gdjax.training.step import norm_of
from gdjax.transforms.constraints import keep_params_nonnegative
from gdjax.tree.sums import wide

LABEL = "gdjax.minimize"


def projected_norm(tx: Transform, params: Params) -> Callable[[Params, Any], Array] | None:
    """The norm of the projected gradient p - P(p - g), a function of p and g; None where `tx` keeps to no bounds.

    P is the projection onto the bounds that `bfgs`, `lbfgs`, `ssbroyden` and `keep_params_nonnegative` keep to, in
    chains, masks and groups too. Where the gradient presses a number against its bound, that number counts as 0.
    """
    if is_lookahead(tx):
        return None
    with warnings.catch_warnings(action="ignore"):
        try:
            parts = Walk(tx, shapes_of(LABEL, params)).parts
        except Exception:  # labels and masks may be functions of values, which shapes do not have
            return None
    found = [(part, bounds) for part in parts if (bounds := _bounds_of(part)) is not None]
    leaves, structure = jax.tree.flatten(params)
    ends: list[list[tuple[Any, Any]]] = [[] for _ in leaves]
    for part, bounds in found:
        seen = [p if i in part.leaves else MaskedNode() for i, p in enumerate(leaves)]
        lower, upper = ends_of(LABEL, structure.unflatten(seen), bounds)
        for i, *pair in zip(sorted(part.leaves), jax.tree.leaves(lower), jax.tree.leaves(upper), strict=True):
            ends[i].append(tuple(pair))
    if not any(ends):
        return None

    def norm(params: Params, grads: ArrayTree) -> Array:
        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(grads), ends, strict=True)
        return norm_of([_projected(p, g, of) if of and not is_float0(g) else g for p, g, of in pairs])

    return norm


def _bounds_of(part: Listed) -> Any:
    if part.factory in (scale_by_bfgs, scale_by_lbfgs, scale_by_ssbroyden):
        return part.hyper["bounds"]
    return (0, None) if part.factory is keep_params_nonnegative else None


def _projected(p: Array, g: Array, ends: list[tuple[Any, Any]]) -> Array:
    """p - P(p - g), without the cancellation of that: g is exact where no bound is near."""
    p, g = wide(jnp.asarray(p)), wide(g)
    for lower, upper in ends:
        g = jnp.clip(g, p - wide(upper), p - wide(lower))
    return g
