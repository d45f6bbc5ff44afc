"""Sums and means of one array, and slots that others are made of; how each is written `xla` knows."""

import jax.numpy as jnp

from gdjax.numerics import Array
from gdjax.xla.sums import limited, mean_sq_of_quotient, means, means_of_squares, share_of_nonzeros, summand
from gdjax.xla.write_order import held

__all__ = [
    "bounded_inner", "in_memory", "inner", "limited", "mean_sq_of_quotient", "means", "means_of_squares",
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
