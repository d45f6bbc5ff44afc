"""An array times one number, where a plain product would be taken apart, copied, or slower than it need be."""

import jax
import jax.numpy as jnp

from gdjax.xla.write_order import after

Array = jax.Array

OWN = 2**13  # elements of an array from which on a copy of its factor matters; small arrays share compiled loops


# Up to JAX 0.11 XLA:CPU drops a barrier in time to fuse what is on its two sides. Since 0.12 it writes what the barrier
# holds to memory: a sum of squares takes ten times as long.
LASTING = jax.__version_info__ >= (0, 12)


def product(x: Array, factor: Array) -> Array:
    """The product, as one number in a square: of a constant x, XLA would square x and the factor each by itself.

    Where x is 0 these may be 0 and inf.
    """
    factor = factor.astype(x.dtype)
    y = x * factor
    if LASTING:
        # y itself: -0 changes no number, and XLA cannot know that it is added. No minimum with infinity: XLA:CPU loses
        # NaN in a minimum whose results it adds up.
        return y + jnp.where(jnp.isnan(factor), factor, -jnp.zeros_like(factor))
    return jax.lax.optimization_barrier(y)


def selected_product(x: Array, factor: Array) -> Array:
    """`product` for other devices, on which the barrier would copy. On a CPU this one copies."""
    always, factor = jax.lax.optimization_barrier((jnp.asarray(True), factor))
    return jnp.where(always, x * factor.astype(x.dtype), x)


def own_factor(x: Array, factor: Array) -> Array:
    """The factor, a number of its own for a large x: one that arrays of a shape share XLA:CPU broadcasts in memory."""
    return after(x, factor) if x.size > OWN else factor
