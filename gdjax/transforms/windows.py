"""What transforms that accumulate gradients have in common: the sums of each leaf, and a step in some of the calls."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.combine.chain import of_leaf_rules
from gdjax.combine.conditional import as_before, or_zero
from gdjax.core import base, checks, meshes
from gdjax.core.base import MaskedNode
from gdjax.core.types import Array, DTypeLike, OptState, Params, Transform, Updates
from gdjax.xla.branches import before, within
from gdjax.xla.flags import on_gpu
from gdjax.xla.write_order import after, bound_for, written


class WindowLeaves(NamedTuple):
    """A tree of gradients, and what belongs to each leaf."""

    structure: Any
    gs: list[Any]
    accs: list[Any]  # the accumulated gradients
    ps: list[Any]  # the parameters; the gradients where `update` got none
    trained: list[int]  # the places of the leaves that have a gradient
    paths: list[Any]

    def chosen(self) -> list[tuple[Array, Array, Array]]:
        """Gradient, accumulated gradient and parameter of each leaf that has a gradient."""
        return [(self.gs[i], self.accs[i], self.ps[i]) for i in self.trained]

    def tree(self, olds: Sequence[Any], news: Sequence[Any]) -> Any:
        """The tree with new entries for the leaves that have a gradient, and the old ones for the rest."""
        entries = list(olds)
        for i, new in zip(self.trained, news, strict=True):
            entries[i] = new
        return self.structure.unflatten(entries)


def leaves_of(label: str, updates: Updates, field: str, sums: Updates, params: Params) -> WindowLeaves:
    """The gradients, and the sums of each, which are this field of the state."""
    paths, structure = jax.tree_util.tree_flatten_with_path(updates)
    gs = [g if hasattr(g, "dtype") else jnp.asarray(g) for _, g in paths]
    accs = checks.flatten_like(label, ("updates", f"state.{field}"), structure, updates, sums)
    ps = gs if params is None else checks.flatten_like(label, ("updates", "params"), structure, updates, params)
    trained = [i for i, g in enumerate(gs) if not base.is_float0(g)]
    for i in trained:
        checks.slot(label, f"params{jax.tree_util.keystr(paths[i][0])}", field, accs[i], gs[i].shape)
    return WindowLeaves(structure, gs, accs, ps, trained, [path for path, _ in paths])


def inner_update(
    inner: Transform, means: Sequence[Array], flat: WindowLeaves, inner_state: OptState, params: Params,
    extra_args: dict[str, Any],
) -> tuple[list[Any], OptState]:  # fmt: skip
    """The updates that a transform makes of the means of gradients, and its new state in the form of the old."""
    with bound_for("gradient"):
        new, state = base.call_update(inner, flat.tree(flat.gs, means), inner_state, params, extra_args)
    news = flat.structure.flatten_up_to(new)
    return [news[i] for i in flat.trained], as_before(state, inner_state)


def step_if(
    emit: Array, inner: Transform, sums: list[Array], flat: WindowLeaves, inner_state: OptState, params: Params,
    extra_args: dict[str, Any], add: Callable[[list[Array]], list[Array]] | None = None,
    mean: Callable[[Array, Array], Array] = lambda x, p: x,
) -> Any:  # fmt: skip
    """The inner updates in the place of the accumulated gradients, and the inner state, if `emit`; else the sums.

    Args:
      add: makes of the old sums the new ones, of the same dtypes; None where it is done.
      mean: makes of a sum, and its parameter, what the inner transform gets.
    """
    summed = (lambda x: x) if add is None else functools.partial(within, add)

    def step(sums: list[Array], inner_state: OptState) -> Any:
        given = [or_zero(kept, x) for x in summed(sums)]
        means = [mean(x, p) for x, (*_, p) in zip(given, flat.chosen(), strict=True)]
        news, state = inner_update(inner, means, flat, inner_state, params, extra_args)
        return tree.cast_like(news, sums), state

    # Without the inner update the state comes out as it went in: nothing of it is copied, and no array is made for
    # updates that are zero. A GPU would copy it all the same, and wait for `emit`: there an inner update of a few
    # passes over the leaves is always computed.
    gpu = on_gpu() if of_leaf_rules(inner) else jnp.asarray(False)
    kept = emit | ~gpu
    sums = sums if add is None else before(add, sums)
    made = meshes.cond(emit | gpu, step, lambda sums, state: (summed(sums), state), sums, inner_state)
    return jax.tree.map(functools.partial(jax.lax.select, kept), made, (summed(sums), inner_state))


def accumulator(p: Array, dtype: DTypeLike) -> Any:
    own = jax.dtypes.canonicalize_dtype(p.dtype if hasattr(p, "dtype") else type(p))
    if not jnp.issubdtype(own, jnp.inexact):
        return MaskedNode()  # an integer parameter has no gradient
    if dtype is None or jnp.issubdtype(own, jnp.complexfloating):
        dtype = own
    elif jnp.dtype(dtype) == jnp.float32:
        dtype = numerics.at_least_float32(own)
    return jnp.zeros_like(p, dtype=dtype)


@functools.partial(jax.jit, static_argnums=5)
def release(emit: Array, x: Array, g: Array, acc: Array, p: Array, to: str | None) -> tuple[Array, Array]:
    """The update of p and the new accumulated gradient: x is one of the two, the other is zero."""
    update, new = jnp.where(emit, x, 0).astype(g.dtype), jnp.where(emit, 0, x).astype(acc.dtype)
    first = written(to, p, update)
    return update, new if first is None else after(first, new)
