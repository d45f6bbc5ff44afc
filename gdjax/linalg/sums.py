"""Sums over one array that rules take the `total` of."""

import jax.numpy as jnp

from gdjax.numerics import Array
from gdjax.xla.sums import summand


def inner(x: Array, y: Array) -> Array:
    """The real inner product sum Re(conj(x) y) of two arrays."""
    return jnp.real(jnp.sum(jnp.conj(x) * y))


def bounded_inner(g: Array, y: Array) -> Array:
    """`inner` of a gradient, bounded as by `numerics.squarable`, and y."""
    return inner(summand(g), y)


def sum_abs(x: Array) -> Array:
    """sum |x|."""
    return jnp.sum(jnp.abs(x))
