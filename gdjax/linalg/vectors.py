"""Trees as vectors: sums, products, and bounds."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core import base, checks, meshes
from gdjax.core.arrays import add
from gdjax.core.types import ArrayTree, DTypeLike, Updates, is_skipped
from gdjax.numerics import Array
from gdjax.xla.sums import limited, means, means_of_squares, share_of_nonzeros, summand
from gdjax.xla.write_order import held

__all__ = [
    "bounded_inner", "in_memory", "inner", "limited", "means", "means_of_squares",
    "share_of_nonzeros", "sum_abs",
]  # fmt: skip


def in_memory(old: Array, new: Array) -> Array:
    """`new`, a slot that is written over `old` before other outputs of the rule, which are made of it, read it."""
    return held(old, new)


def inner(x: Array, y: Array) -> Array:
    """The real inner product sum Re(conj(x) y) of two arrays."""
    return jnp.real(jnp.sum(jnp.conj(x) * y))


def bounded_inner(g: Array, y: Array) -> Array:
    """`inner` of a gradient, bounded as by `numerics.squarable`, and y."""
    return inner(summand(g), y)


def sum_abs(x: Array) -> Array:
    """sum |x|."""
    return jnp.sum(jnp.abs(x))


NEAR = 0.01  # of a number's own step: the distance at which a bound counts as reached
SHARES = tuple(0.5**k for k in range(31))
ENOUGH = 0.1  # of the descent that the step promises without bounds


def pressed_to_bounds(p: Array, g: Array, diagonal: Array, lower: Array, upper: Array) -> Array:
    """Which numbers the gradient presses against a bound, at it or so near that the step d = diagonal g would cross it.

    Their direction is not the method's: H would move the others as if these could move too.
    """
    near = NEAR * diagonal * g
    return (g > 0) & (p - lower <= near) | (g < 0) & (upper - p <= -near)


def within_bounds(p: Array, g: Array, d: Array, fixed: Array, lower: Array, upper: Array) -> Array:
    """A step u downhill, such that p - eta u is within the bounds for every eta from 0 to 1.

    Numbers that are `fixed` go to their bounds. The others go to the projection of p - a d, with the first a of 1, 1/2,
    1/4, ... that leaves a part of the descent: clipping a part of d might turn it uphill, but as a goes to
    0 it only stops numbers at a bound which d, and not g, presses against it.
    """
    free = jnp.where(fixed, 0, g)
    gd = free @ d

    def step(a: float | Array) -> Array:
        return p - jnp.clip(p - a * d, lower, upper)

    enough = jnp.stack([free @ step(a) >= ENOUGH * a * gd for a in SHARES])
    a = jnp.asarray(SHARES, p.dtype)[jnp.argmax(enough)]
    return jnp.where(fixed, p - jnp.where(g > 0, lower, upper), step(a))


def rounded_within_bounds(u: Array, p: Array, lower: Array, upper: Array) -> Array:
    """u, a number less far where rounding would bring p - u out of the bounds."""
    new, fixed = add(p, -u), jax.lax.stop_gradient(u)
    nearer = jnp.nextafter(fixed, jnp.zeros_like(u)) - fixed
    return u + jnp.where((new < lower) | (new > upper), nearer, 0)


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


def zeros_of(p: Array, *lead: int) -> Array:
    """Zeros like a parameter and divided as it is, after axes of the lengths `lead`."""
    return meshes.zeros_along(p, range(jnp.ndim(p)), jnp.result_type(p), lead)


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
