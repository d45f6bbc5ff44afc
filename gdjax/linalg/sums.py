"""Sums and means of one array, by what they are; how each is written, so that nothing is kept for it, `xla` knows."""

import jax.numpy as jnp

from gdjax.numerics import Array
from gdjax.xla.sums import limited, mean_sq_of_quotient, means, means_of_squares, share_of_nonzeros, summand

__all__ = [
    "bounded_inner", "inner", "limited", "mean_sq_of_quotient", "means", "means_of_squares", "share_of_nonzeros",
    "sum_abs",
]  # fmt: skip


def inner(x: Array, y: Array) -> Array:
    """The real inner product sum Re(conj(x) y) of two arrays."""
    return jnp.real(jnp.sum(jnp.conj(x) * y))


def bounded_inner(g: Array, y: Array) -> Array:
    """`inner` of a gradient, bounded as by `numerics.squarable`, and y."""
    return inner(summand(g), y)


def sum_abs(x: Array) -> Array:
    """sum |x|."""
    return jnp.sum(jnp.abs(x))
