"""A tree as one vector: its leaves, those that have a gradient, in a row."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import base, checks
from gdjax.core.skipped import is_skipped
from gdjax.core.types import ArrayTree, DTypeLike, Updates
from gdjax.numerics import Array

Vector = list[Any]
Gaps = list[int | None]


def trained(label: str, x: ArrayTree, updates: Updates) -> Vector:
    """The leaves of `x` for which `updates` holds a gradient."""
    return [jnp.asarray(leaf) for leaf, g in _with_gradients(label, x, updates) if not base.is_float0(g)]


def replaced(label: str, x: ArrayTree, updates: Updates, leaves: Vector) -> Any:
    """`x` with these leaves in place of those that `trained` gives, in the dtypes they have there."""
    new = iter(leaves)
    pairs = _with_gradients(label, x, updates)
    return jax.tree.structure(updates).unflatten(
        [o if base.is_float0(g) else next(new).astype(jnp.result_type(o)) for o, g in pairs]
    )


def _with_gradients(label: str, x: ArrayTree, updates: Updates) -> Iterable[tuple[Any, Any]]:
    gs, structure = jax.tree.flatten(updates)
    return zip(checks.flatten_like(label, ("updates", "state"), structure, updates, x), gs, strict=True)


def reals(x: ArrayTree) -> int:
    """How many real numbers the floating leaves of a tree are: two for each complex one."""
    leaves = [x for x in jax.tree.leaves(x) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return sum(math.prod(np.shape(x)) * (1 + jnp.iscomplexobj(x)) for x in leaves)


def gaps(updates: Updates, like: ArrayTree) -> Gaps:
    """Of every place in `updates`: None where a gradient is, else how many numbers `like` has there."""
    gs, structure = jax.tree.flatten(updates, is_leaf=is_skipped)
    there = zip(gs, structure.flatten_up_to(like), strict=True)
    return [reals(x) if is_skipped(g) or base.is_float0(g) else None for g, x in there]


def as_vector(leaves: Vector, where: Gaps, dtype: DTypeLike) -> Array:
    """The leaves as one vector, real and imaginary parts one after the other, with zeros in the gaps."""
    new = iter(leaves)
    parts = [_parts(next(new)) if gap is None else [jnp.zeros(gap)] for gap in where]
    return jnp.concatenate([x.ravel().astype(dtype) for xs in parts for x in xs] or [jnp.zeros(0, dtype)])


def as_leaves(v: Array, leaves: Vector, where: Gaps) -> Vector:
    """The inverse of `as_vector`: arrays of the shapes of `leaves`, complex ones where these are."""
    new, found, start = iter(leaves), [], 0
    for gap in where:
        if gap is not None:
            start += gap
            continue
        parts = []
        for x in _parts(like := next(new)):
            parts.append(v[start : start + x.size].reshape(x.shape))
            start += x.size
        found.append(jax.lax.complex(*parts) if jnp.iscomplexobj(like) else parts[0])
    return found


def _parts(x: Array) -> list[Array]:
    return [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
