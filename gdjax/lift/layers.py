"""Leading axes of leaves that are layers: a rule that reduces an array to a number then does so for each layer.

A rule asks for this by an argument `layer_axes` with the default None, and never reads it: where a leaf has layers, the
rule is mapped over them and sees one.
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import callers, checks
from gdjax.core.part import all_axes
from gdjax.core.paths import check_prefix, matches, paths_of, warn_of_idle
from gdjax.core.types import ArrayTree, LayerAxes
from gdjax.lift.slots import (
    Factor,
    Hyperparameters,
    Integer,
    Key,
    New,
    Planned,
    Shared,
    Stored,
    Tree,
    Whole,
    is_like_parameter,
)

LAYERS = "layer_axes"


def of_tree(label: str, layer_axes: LayerAxes, tree: ArrayTree, warn: bool = False) -> list[int]:
    """For each leaf the number of its leading axes that are layers.

    Args:
      layer_axes: an int for all leaves, a leaf with fewer axes counting all of them; a pattern of paths, whose leaves
        have one such axis; a dict from patterns to ints, of which the first that matches counts; a function from the
        tree to a tree of ints or a prefix of one; or an object with such a function as its method `layers`.
      warn: whether to warn of patterns that decide for no leaf.

    Raises:
      TypeError: the number of a leaf is no int.
      ValueError: a leaf has fewer axes; no prefix.
    """
    items = paths_of(tree)
    if layer_axes is None or not items:
        return [0] * len(items)
    if isinstance(layer_axes, str | re.Pattern):
        layer_axes = {layer_axes: 1}
    if isinstance(layer_axes, Mapping):
        matching_each = [
            [k for k, pattern in enumerate(layer_axes) if matches(label, pattern, *item)] for item in items
        ]
        if warn:
            warn_of_idle(label, f"given {LAYERS}", layer_axes, tree, [path for path, _ in items], matching_each)
        numbers = list(layer_axes.values())
        each = [numbers[matching[0]] if matching else 0 for matching in matching_each]
    elif callable(layer_axes):
        prefix = callers.of_tree(label, LAYERS, getattr(layer_axes, "layers", layer_axes), tree)
        checks.returned(label, f"the function of {LAYERS}", prefix)
        check_prefix(label, LAYERS, prefix, tree)
        each = jax.tree.leaves(jax.tree.map(lambda n, part: jax.tree.map(lambda _: n, part), prefix, tree))
    else:
        each = [
            min(layer_axes, np.ndim(x)) if isinstance(layer_axes, int | np.integer) else layer_axes for _, x in items
        ]
    for n, (path, x) in zip(each, items, strict=True):
        if isinstance(n, bool) or not isinstance(n, int | np.integer):
            raise TypeError(f"{label}: {LAYERS} of {path or 'the leaf'} is {n!r}, not the number of its axes of layers")
        if not 0 <= n <= np.ndim(x):
            raise ValueError(f"{label}: {path or 'the leaf'} of shape {np.shape(x)} has no {n} leading axes of layers")
    return [int(n) for n in each]


def of_leaf(tree: Tree, layer_axes: LayerAxes) -> list[int]:
    """`of_tree` for the leaves with gradients, in the form that `static` of `leafwise` takes."""
    return tree.of_each(of_tree(tree.label, layer_axes, tree.structure.unflatten(tree.entries)))


def mapped(rule: Callable[..., Any]) -> Callable[..., Any]:
    """The rule, mapped over the first `layer_axes` axes of the arrays of a leaf."""

    @functools.wraps(rule)
    def applied(*args: Any, layer_axes: int | None = None, **hyper: Any) -> Any:
        if not layer_axes:
            return rule(*args, **hyper)
        *gs, s, p, t = args
        shape, lead = gs[0].shape, gs[0].shape[:layer_axes]

        def spread(x: Any) -> Any:  # a hyperparameter that differs within the leaf
            whole = jnp.reshape(x, (1,) * (len(shape) - jnp.ndim(x)) + jnp.shape(x))
            return jnp.broadcast_to(whole, lead + whole.shape[layer_axes:])

        within = {k for k, x in hyper.items() if isinstance(x, jax.Array) and x.ndim > len(shape) - layer_axes}

        def of_layer(gs: Any, slots: Any, p: Any, arrays: Any) -> Any:
            u, state = rule(*gs, s._replace(**slots), p, t, **{**hyper, **arrays})
            return u, {f: getattr(state, f) for f in slots}

        slots = {f: x for f, x in s._asdict().items() if f != "count"}
        for _ in range(layer_axes):
            of_layer = jax.vmap(of_layer)
        u, news = of_layer(gs, slots, p, {k: spread(hyper[k]) for k in within})
        return u, s._replace(**news)

    return applied


def along(slot: Any, n: int) -> Any:
    """The slot of a leaf with n leading axes of layers: a slot for each layer, stacked along these axes."""
    if not n or is_like_parameter(slot) or isinstance(slot, Integer) and slot.each:
        return slot
    if isinstance(slot, Stored):
        return replace(slot, slot=along(slot.slot, n))
    if isinstance(slot, Factor):
        later = lambda a: a if isinstance(a, New) or a < 0 else n + a
        shifted = lambda axes: (*range(n), *map(later, axes))
        return replace(slot, axes=lambda shape, hyper: slot._of_each(shape[n:], hyper, shifted))

    def of_each(p: Any, hyper: Hyperparameters) -> Any:
        if isinstance(p, jax.ShapeDtypeStruct):
            one = slot(jax.ShapeDtypeStruct(p.shape[n:], p.dtype), hyper)
            return jax.tree.map(lambda x: jnp.broadcast_to(x, p.shape[:n] + jnp.shape(x)), one)
        f = lambda p: slot(p, hyper)
        for _ in range(n):
            f = jax.vmap(f)
        return f(p)

    return of_each


def axes_of(slot: Any, hyper: Hyperparameters) -> Callable[[tuple[int, ...], int], Any] | None:
    """The `axes` of `Kept` for a slot; None if a function makes the slot."""
    slot = slot.slot if isinstance(slot, Stored) else slot
    if isinstance(slot, Factor):
        return lambda shape, layers: along(slot, layers)._followed(shape, hyper)
    if is_like_parameter(slot) or isinstance(slot, Integer) and slot.each:
        return all_axes
    return (lambda shape, layers: tuple(range(layers))) if isinstance(slot, Integer | Key) else None


def check(slots: Mapping[str, Any]) -> None:
    """Raises if a rule with `layer_axes` has a field that cannot exist once per layer."""
    alone = [f for f, slot in slots.items() if isinstance(slot, Key | Shared | Whole | Planned)]
    if alone:
        text = f"{', '.join(alone)} of its state is of the whole leaf or tree"
        raise TypeError(f"gdjax.leafwise: a rule with {LAYERS} sees one layer: {text}")
