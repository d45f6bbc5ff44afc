"""Steps that are made or not, inside a compiled program: the branches of `jax.lax.cond`, or selections.

A branch that is to cost nothing must hand its operands on as they are, in their places: XLA then moves no byte of them.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import base, checks, numerics, tree
from gdjax.numerics import Array
from gdjax.ordering import after
from gdjax.updates import add


def as_before(new: Any, old: Any) -> Any:
    """The arrays of a new state in the structure and the dtypes of the old one.

    The classes of the two may differ: the old state may be one of Optax's. The branches of a condition may not.
    """
    leaves, structure = jax.tree.flatten(new)
    before = jax.tree.leaves(old)
    if len(leaves) != len(before):
        raise ValueError(
            f"gdjax: a transform returned a state of {len(leaves)} arrays, {jax.tree.structure(new)}, for one of "
            f"{len(before)}, {jax.tree.structure(old)}; {checks.RESTORE}"
        )
    return jax.tree.unflatten(jax.tree.structure(old), tree.cast_like(leaves, before))


def apply_or(
    chosen: Array, apply: Callable[[Any], tuple[Any, Any]], other: Callable[[], Any], state: Any
) -> tuple[Any, Any]:
    """`apply(state)`, updates and a new state, where `chosen`; else `other()` and the state as it is."""

    def applied(state: Any) -> tuple[Any, Any]:
        new, new_state = apply(state)
        return as_before(new, jax.eval_shape(other)), as_before(new_state, state)

    return jax.lax.cond(chosen, applied, lambda state: (other(), state), state)


def apply_where(
    chosen: Array, apply: Callable[[Any, Any], tuple[Any, Any]], updates: Any, state: Any, params: Any
) -> tuple[Any, Any]:
    """`apply(updates, state)` where `chosen`; else updates of 0 and the state as it is.

    Without a branch, whose updates would be written to memory: XLA selects in the loops that compute them. `apply` is
    run in any case, on gradients of 0 where it is not chosen, so that nothing there is infinite or NaN.
    """
    none = zeros(updates)
    new, new_state = apply(_select(chosen, updates, none), state)
    new = _select(chosen, as_before(new, jax.eval_shape(lambda: none)), none)
    leaves, structure = jax.tree.flatten(_select(chosen, as_before(new_state, state), state))
    # Everything is computed from the old state here: the parameters first, or XLA:CPU copies it, see `ordering.after`.
    ps, us = jax.tree.leaves(params), jax.tree.leaves(new)
    if list(map(jnp.shape, ps)) == list(map(jnp.shape, us)):
        owners = companions(us, leaves)
        for k, (p, u) in enumerate(zip(ps, us, strict=True)):
            mine = [i for i in owners.get(k, ()) if jnp.issubdtype(leaves[i].dtype, jnp.inexact)]
            for i, x in zip(mine, after(add(p, u), [leaves[i] for i in mine]), strict=True):
                leaves[i] = x
    return new, structure.unflatten(leaves)


def _select(chosen: Array, tree: Any, other: Any) -> Any:
    def leaf(x: Any, y: Any) -> Any:
        return x if base.is_float0(x) else jax.lax.select(chosen, jnp.asarray(x), jnp.asarray(y))

    return jax.tree.map(leaf, tree, other)


def companions(tree: Any, others: Any) -> dict[Any, list[int]]:
    """For each leaf of `tree`, by its index, the indices of the leaves of `others` that seem to belong to it.

    Those of one shape go with the leaves of that shape in their order, and again from the first: as moments do. Leaves
    of a shape that `tree` has not are under that shape.
    """
    places: dict[Any, list[int]] = {}
    for i, x in enumerate(jax.tree.leaves(tree)):
        places.setdefault(jnp.shape(x), []).append(i)
    rounds = {shape: itertools.cycle(found) for shape, found in places.items()}
    owners: dict[Any, list[int]] = {}
    for i, shape in enumerate(map(jnp.shape, jax.tree.leaves(others))):
        owners.setdefault(next(rounds[shape]) if shape in rounds else shape, []).append(i)
    return owners


def all_finite(tree: Any) -> Array:
    """Whether no number of a tree is infinite or NaN: a boolean scalar."""
    leaves = [x if hasattr(x, "dtype") else jnp.asarray(x) for x in jax.tree.leaves(tree)]
    leaves = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]  # not integers, keys, float0
    return none([~_is_finite(x) for x in leaves])


@jax.jit
def _is_finite(x: Array) -> Array:
    # x - x is 0 or NaN. XLA:CPU sums this in one pass; what jnp.isfinite returns it would write to memory first, the
    # maximum of |x| misses NaN there, and 0 (c x) is simplified to 0 x.
    parts = [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
    wide = [p.astype(numerics.at_least_float32(p.dtype)) for p in parts]
    return jnp.all(jnp.asarray([jnp.sum(p - p) == 0 for p in wide]))


def none(flags: Sequence[Array]) -> Array:
    """Whether no flag is set."""
    # The root is an operation that XLA does not repeat in each loop that asks, as it would all the additions.
    return jnp.sqrt(jnp.sum(jnp.asarray(flags, jnp.float32))) == 0


def zeros(updates: Any) -> Any:
    """Updates of 0; a float0 leaf stays what it is."""
    return jax.tree.map(lambda g: g if base.is_float0(g) else jnp.zeros_like(g), updates)
