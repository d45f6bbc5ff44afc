"""Updates that are made on a condition; and a transform that knows parameters for evaluation.

A branch that is to cost nothing must hand its operands on as they are, in their places: then no byte of them is moved.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.core import base, checks, meshes
from gdjax.core.contexts import PASS, within
from gdjax.core.parts import state_arrays
from gdjax.core.structures import as_formed
from gdjax.core.types import ArrayTree, OptState, Params, Transform, Updates, boxed_like, is_skipped, unboxed
from gdjax.lift.all_leaves import Selection
from gdjax.lift.order import averages
from gdjax.numerics import Array
from gdjax.xla import sums
from gdjax.xla.write_order import after, new_parameter

__all__ = ["eval_params"]


def as_before(new: Any, old: Any) -> Any:
    """The new state in the form of the old one: in its structure and classes, dtypes and places.

    The classes of the old one may be Optax's, and the branches of a condition must agree in them.
    """
    leaves, structure = jax.tree.flatten(as_formed(new, old))
    before = jax.tree.leaves(old)
    if len(leaves) != len(before):
        raise ValueError(
            f"gdjax: a transform returned a state of {len(leaves)} arrays, {structure}, for one of "
            f"{len(before)}, {jax.tree.structure(old)}; {checks.RESTORE}"
        )
    cast = tree.cast_like(leaves, before)
    return jax.tree.structure(old).unflatten(map(meshes.as_typed, cast, before))


def apply_or(
    chosen: Array, apply: Callable[[Any], tuple[Any, Any]], other: Callable[[], Any], state: OptState
) -> tuple[Any, Any]:
    """`apply(state)`, updates and a new state, where `chosen`; else `other()` and the state as it is."""

    def applied(state: OptState) -> tuple[Any, Any]:
        with within(PASS, selection=None):
            new, new_state = apply(state)
        return as_before(new, jax.eval_shape(other)), as_before(new_state, state)

    return meshes.cond(chosen, applied, lambda state: (other(), state), state)


def apply_where(
    chosen: Array, tx: Transform, updates: Updates, state: OptState, params: Params, extra_args: dict[str, Any]
) -> tuple[Any, Any]:
    """The update of `tx` where `chosen`; else updates of 0 and the state as it is.

    There is no branch, whose updates would be written to memory. The rules inside select each number where they compute
    it; what no rule has selected is selected here. `tx` runs in any case, on gradients of 0 where it is
    not chosen, so that nothing there is infinite or NaN.
    """
    gradients = base.map_arrays(functools.partial(or_zero, chosen), updates)
    selection = Selection(chosen, {})
    with within(PASS, selection=selection):
        new, new_state = base.call_update(tx, gradients, state, params, extra_args)
    us, structure = jax.tree.flatten(as_before(new, jax.eval_shape(lambda: zeros(updates))))
    news, state_structure = jax.tree.flatten(as_before(new_state, state))
    olds, ps = jax.tree.leaves(state), jax.tree.leaves(params)
    known = list(map(jnp.shape, ps)) == list(map(jnp.shape, us))
    # One call for what belongs together: it is traced once for all that is alike.
    for k, places in owners(tx, state, updates).items():
        places = [i for i in places if not selection.has(news[i], olds[i])]
        u = us[k] if isinstance(k, int) and not base.is_float0(us[k]) else None
        if not places and (u is None or selection.has(u)):
            continue
        p = ps[k] if u is not None and known else None
        chosen_u, selected = _choose(chosen, p, u, [news[i] for i in places], [olds[i] for i in places])
        if u is not None:
            us[k] = chosen_u
        for i, x in zip(places, selected, strict=True):
            news[i] = x
    return structure.unflatten(us), state_structure.unflatten(news)


@jax.jit
def or_zero(chosen: Array, x: Any) -> Array:
    """x where `chosen`; else zeros."""
    return jax.lax.select(chosen, x, jnp.zeros_like(x))


@jax.jit
def _choose(chosen: Array, p: Any, u: Any, news: Any, olds: Any) -> tuple[Any, Any]:
    """The update u or 0, and the new or the old arrays of a state."""
    u = None if u is None else or_zero(chosen, u)
    selected = [jax.lax.select(chosen, new, old) for new, old in zip(news, olds, strict=True)]
    # Everything here is computed from the old state: the parameters come first, so that it can be overwritten in place.
    first = None if u is None else new_parameter(p, u)
    return u, [x if first is None or not jnp.issubdtype(x.dtype, jnp.inexact) else after(first, x) for x in selected]


def owners(tx: Transform, state: OptState, updates: Updates) -> dict[Any, list[int]]:
    """For each leaf of `updates`, by index, the indices of the arrays of a state that belong to it and have its shape.

    All others are listed under their shapes.
    """
    shapes = list(map(jnp.shape, jax.tree.leaves(updates)))
    places: dict[Any, list[int]] = {k: [] for k in range(len(shapes))}
    for i, x in enumerate(state_arrays(tx, state, updates)):
        shape = jnp.shape(x.array)
        places.setdefault(x.leaf if x.leaf is not None and shapes[x.leaf] == shape else shape, []).append(i)
    return places


def all_finite(tree: ArrayTree) -> Array:
    """Whether no number of a tree is infinite or NaN: a boolean scalar."""
    leaves = [x if hasattr(x, "dtype") else jnp.asarray(x) for x in jax.tree.leaves(tree)]
    leaves = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]  # not integers, keys, float0
    return sums.none_set([sums.not_finite(x) for x in leaves])


def zeros(updates: Updates) -> Any:
    """Updates of 0; a float0 leaf stays what it is."""
    return base.map_arrays(jnp.zeros_like, updates)


LABEL = "gdjax.eval_params"


def eval_params(tx: Transform, state: OptState, params: Params) -> Params:
    """The parameters to evaluate, keep and serve.

    These are the averages of `params_ema` and `swa`, the blend of `tail_ema`, x of `schedule_free`, `gpa` and
    `ema_nesterov`, the slow parameters of `lookahead` and `snoo`; for any other optimizer `params` themselves. They are
    found in the state of chains, masks, groups, accumulation, guards and other wrappers, Optax's too, and so is x of
    Optax's own `schedule_free`. A leaf that an average does not cover, in another group for instance, keeps its
    parameter. Of an average around another the outer one counts.

    A state class of your own takes part with a method `eval_params(self, params)`.

    Args:
      tx: the optimizer.
      state: the state that `update` returned, or the `opt_state` of `nnx.Optimizer`.
      params: the parameters after that update; of an nnx model `nnx.state(model, nnx.Param)`.

    Returns:
      A tree like params, in its dtypes.

    Raises:
      ValueError: an average has another structure than params, as inside `flatten`.
      TypeError: tx is no transform, as where the state comes first.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> averaged = gdjax.params_ema(gdjax.sgd(1.0), decay=0.0, every=2)
      >>> tx = gdjax.apply_if_finite(averaged, max_consecutive_errors=5)
      >>> run = gdjax.minimize(lambda p: p, jnp.array(4.0), tx, steps=3)  # to 3.0, 2.0, 1.0
      >>> print(run.params, gdjax.eval_params(tx, run.state, run.params))
      1.0 2.0
    """
    base.check_transform(LABEL, "tx", tx)
    for average in averages(unboxed(state)):  # nnx has another kind of box in the state than in the parameters
        values = average.eval_params(unboxed(params))
        fits = jax.tree.structure(values) == jax.tree.structure(unboxed(params))
        # Where it does not fit it is of a part of them, as of `lookahead`.
        params = boxed_like(params, values) if fits else average.eval_params(params)
    return params


def evaluated(f: Callable[[Any, Any], Any], slot: Any, params: Params) -> Params:
    """f of a slot and its parameter, leaf by leaf; the parameter where a mask hides the slot."""
    try:
        return jax.tree.map(lambda x, p: p if is_skipped(x) else f(x, p), slot, params, is_leaf=is_skipped)
    except ValueError as e:
        raise ValueError(f"{LABEL}: the state has an average of another structure than the parameters: {e}") from e
