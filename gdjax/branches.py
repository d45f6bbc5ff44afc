"""Steps that are made or not, inside a compiled program: the branches of `jax.lax.cond`.

A branch that is to cost nothing must hand its operands on as they are, in their places: XLA then moves no byte of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax import base, checks, numerics, tree
from gdjax.numerics import Array


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


def all_finite(tree: Any) -> Array:
    """Whether no number of a tree is infinite or NaN: a boolean scalar."""
    leaves = [x if hasattr(x, "dtype") else jnp.asarray(x) for x in jax.tree.leaves(tree)]
    leaves = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]  # not integers, keys, float0
    return jnp.all(jnp.asarray([_is_finite(x) for x in leaves], bool))


@jax.jit
def _is_finite(x: Array) -> Array:
    # x - x is 0 or NaN. XLA:CPU sums this in one pass; what jnp.isfinite returns it would write to memory first, the
    # maximum of |x| misses NaN there, and 0 (c x) is simplified to 0 x.
    parts = [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
    wide = [p.astype(numerics.at_least_float32(p.dtype)) for p in parts]
    return jnp.all(jnp.asarray([jnp.sum(p - p) == 0 for p in wide]))


def zeros(updates: Any) -> Any:
    """Updates of 0; a float0 leaf stays what it is."""
    return jax.tree.map(lambda g: g if base.is_float0(g) else jnp.zeros_like(g), updates)
