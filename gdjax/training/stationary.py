"""What is 0 at a minimum: the gradient, or what bounds and proximal maps leave of it."""

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
from gdjax.optimizers.mirror_descent import mirror_descent
from gdjax.optimizers.proximal import proximal, proximal_gradient
from gdjax.projections.balls import projection_simplex
from gdjax.projections.boxes import ends_of
from gdjax.training.step import norm_of
from gdjax.transforms.constraints import keep_params_nonnegative
from gdjax.tree.norms import wide

PROXIMAL = proximal_gradient, proximal
BOUNDED = scale_by_bfgs, scale_by_lbfgs, scale_by_ssbroyden
Mapping = Callable[[Params, ArrayTree], Any]  # from parameters and gradients to a tree like them


def gradient_mapping(label: str, tx: Transform, params: Params) -> Mapping | None:
    """The gradient mapping G(p, g) = p - prox(p - g) of an optimizer; None where it is the gradient.

    prox is the proximal map of `proximal_gradient` and `proximal`, the projection onto the simplex of `mirror_descent`,
    or that onto the bounds that `bfgs`, `lbfgs`, `ssbroyden` and `keep_params_nonnegative` keep to, in chains, masks
    and groups too. G is 0 at a minimum, also where g is not: at a bound, or at a kink of the penalty.
    """
    return _mapping(label, parts_of(label, tx, params))


def projected_norm(label: str, tx: Transform, params: Params) -> Callable[[Params, Any], Array] | None:
    """The norm of the gradient mapping, a function of p and g; None where it is that of the gradient.

    With a proximal map it is at least eps |p|: p - prox(p - g) is rounded so, and 0 need not mean that g is small.
    """
    parts = parts_of(label, tx, params)
    mapping = _mapping(label, parts)
    rounded = frozenset[int]().union(*(part.leaves for part in parts if _prox_of(part)))

    def norm(params: Params, grads: ArrayTree) -> Array:
        size = norm_of(mapping(params, grads))  # type: ignore[misc]
        ps = [p for i, p in enumerate(jax.tree.leaves(params)) if i in rounded]
        eps = float(jnp.finfo(size.dtype).eps)
        return jnp.maximum(size, eps * norm_of(ps).astype(size.dtype)) if ps else size

    return None if mapping is None else norm


def _mapping(label: str, parts: list[Listed]) -> Mapping | None:
    maps = [(part.leaves, f) for part in parts if (f := _mapping_of(label, part)) is not None]
    if not maps:
        return None

    def mapping(params: Params, grads: ArrayTree) -> Any:
        ps, structure = jax.tree.flatten(params)
        gs = structure.flatten_up_to(grads)
        for leaves, f in maps:
            shown = [i in leaves and not is_float0(g) for i, g in enumerate(gs)]
            seen = [_visible(structure, xs, shown) for xs in (ps, gs)]
            new = iter(jax.tree.leaves(f(*seen)))
            gs = [next(new) if x else g for x, g in zip(shown, gs, strict=True)]
        return structure.unflatten(gs)

    return mapping


def _visible(structure: Any, xs: list[Any], shown: list[bool]) -> Any:
    return structure.unflatten([x if visible else MaskedNode() for x, visible in zip(xs, shown, strict=True)])


def parts_of(label: str, tx: Transform, params: Params) -> list[Listed]:
    """The parts of an optimizer with the leaves that reach each; none where that cannot be known."""
    if is_lookahead(tx):
        return []
    with warnings.catch_warnings(action="ignore"):
        try:
            return Walk(tx, shapes_of(label, params)).parts
        except Exception:  # labels and masks may be functions of values, which shapes do not have
            return []


def _mapping_of(label: str, part: Listed) -> Mapping | None:
    if prox := _prox_of(part):
        return lambda p, g: _beyond(prox, p, g)
    bounds = part.arguments["bounds"] if part.factory in BOUNDED else None
    bounds = (0, None) if part.factory is keep_params_nonnegative else bounds
    return None if bounds is None else lambda p, g: _within_bounds(label, p, g, bounds)


def _prox_of(part: Listed) -> Callable[..., Any] | None:
    if part.factory in PROXIMAL:
        return part.arguments["prox"]
    if part.rule is None or part.rule.factory is not mirror_descent:
        return None
    axis = part.hyper["axis"]

    def onto_simplex(x: Array) -> Array:
        rows = x.reshape(-1, x.shape[-1]) if axis is not None and x.ndim else x.reshape(1, -1)
        return jax.vmap(projection_simplex)(rows).reshape(x.shape)

    return lambda tree, step: jax.tree.map(onto_simplex, tree)


def _beyond(prox: Callable[..., Any], params: Params, grads: ArrayTree) -> Any:
    """p - prox(p - g), in float32 or wider."""
    ps = jax.tree.map(lambda p: wide(jnp.asarray(p)), params)
    moved = prox(jax.tree.map(lambda p, g: p - g.astype(p.dtype), ps, grads), 1.0)
    return jax.tree.map(jnp.subtract, ps, moved)


def _within_bounds(label: str, params: Params, grads: ArrayTree, bounds: Any) -> Any:
    """p - P(p - g), without the cancellation of that: g is exact where no bound is near."""

    def leaf(p: Array, g: Array, lower: Array, upper: Array) -> Array:
        p = wide(jnp.asarray(p))
        return jnp.clip(wide(g), p - wide(upper), p - wide(lower))

    ends = ends_of(label, params, bounds)
    return jax.tree.map(leaf, params, grads, *ends) if ends else grads
