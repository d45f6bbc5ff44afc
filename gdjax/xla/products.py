"""An array times one number, where a plain product would be taken apart, copied, or slower than it need be."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array

OWN = 2**13  # elements of an array from which on a copy of its factor matters; small arrays share compiled loops


def product(x: Array, factor: Array) -> Array:
    """The product, as one number in a square: of a constant x, XLA would square x and the factor each by itself.

    Where x is 0 these may be 0 and inf. XLA:CPU drops the barrier in time to fuse the product with what reads it.
    """
    return jax.lax.optimization_barrier(x * factor.astype(x.dtype))


def selected_product(x: Array, factor: Array) -> Array:
    """`product` for other devices, on which the barrier would copy. On a CPU this one copies."""
    always, factor = jax.lax.optimization_barrier((jnp.asarray(True), factor))
    return jnp.where(always, x * factor.astype(x.dtype), x)


def places_of_factors(xs: Sequence[Array]) -> list[int]:
    """For each array the place of its factor in a vector of equal factors, one for each array.

    Every large array reads a number of its own: if arrays of one shape shared one, XLA:CPU would broadcast it in
    memory. Small arrays share the first.
    """
    return [i if x.size > OWN else 0 for i, x in enumerate(xs)]
