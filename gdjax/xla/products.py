"""An array times one number, where XLA would rewrite, copy or slow down a plain product."""

import jax
import jax.numpy as jnp

from gdjax.xla.write_order import after

Array = jax.Array

OWN = 2**13  # from so many elements on a copy of the factor costs; small arrays share compiled loops


# Up to JAX 0.11 XLA:CPU drops a barrier early enough to fuse both sides. Since 0.12 it writes the operand of a barrier
# to memory: a sum of squares takes ten times as long.
LASTING = jax.__version_info__ >= (0, 12)


def product(x: Array, factor: Array) -> Array:
    """The product, safe to square: XLA would square a constant x and the factor separately, maybe 0 times inf."""
    factor = factor.astype(x.dtype)
    y = x * factor
    if LASTING:
        # This is y: adding -0 changes no number, and XLA cannot know that it is -0. A minimum with infinity would not
        # do: XLA:CPU loses NaN in a minimum whose results it adds up.
        return y + jnp.where(jnp.isnan(factor), factor, -jnp.zeros_like(factor))
    return jax.lax.optimization_barrier(y)


def selected_product(x: Array, factor: Array) -> Array:
    """`product` for devices on which the barrier would copy. On a CPU this one copies."""
    always, factor = jax.lax.optimization_barrier((jnp.asarray(True), factor))
    return jnp.where(always, x * factor.astype(x.dtype), x)


def own_factor(x: Array, factor: Array) -> Array:
    """The factor, separate for each large x: XLA:CPU broadcasts to memory a factor that equal shapes share."""
    return after(x, factor) if x.size > OWN else factor
