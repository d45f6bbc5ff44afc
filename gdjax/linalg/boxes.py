"""Steps within bounds: Bertsekas' two-metric projection, along a straight line."""

import jax
import jax.numpy as jnp

from gdjax.core.arrays import add
from gdjax.numerics import Array

NEAR = 0.01  # of a number's own step: the distance at which a bound counts as reached
SHARES = tuple(0.5**k for k in range(31))
ENOUGH = 0.1  # of the descent that the step promises without bounds


def pressed(p: Array, g: Array, diagonal: Array, lower: Array, upper: Array) -> Array:
    """Which numbers the gradient presses against a bound, at it or so near that the step d = diagonal g would cross it.

    Their direction is not the method's: H would move the others as if these could move too.
    """
    near = NEAR * diagonal * g
    return (g > 0) & (p - lower <= near) | (g < 0) & (upper - p <= -near)


def within(p: Array, g: Array, d: Array, fixed: Array, lower: Array, upper: Array) -> Array:
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


def rounded(u: Array, p: Array, lower: Array, upper: Array) -> Array:
    """u, a number less far where rounding would bring p - u out of the bounds."""
    new, fixed = add(p, -u), jax.lax.stop_gradient(u)
    nearer = jnp.nextafter(fixed, jnp.zeros_like(u)) - fixed
    return u + jnp.where((new < lower) | (new > upper), nearer, 0)
