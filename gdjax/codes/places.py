"""Numbers of at most 1 as places on a scale of codes, and which of the two codes beside a place is taken."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def rounded(place: Array, shares: Array, value: Callable[[Array], Array]) -> Array:
    """One of the two whole numbers beside a place, at random, so that the mean of what it stands for is right.

    Args:
      place: at least 0.
      shares: in [0, 1); 0.5 for the one whose value is nearer.
      value: what a place stands for, over the scale.
    """
    near, below = jnp.round(place), jnp.floor(place)
    less = value(below)
    up = shares * (value(below + 1) - less) < value(place) - less
    # What was decoded gets its code again, where division by the scale has moved it a little.
    known = jnp.abs(place - near) <= near * np.float32(2.0**-19)
    return jnp.where(known, near, below + up.astype(jnp.float32))


def share(k: Array, n: float) -> Array:
    """k / n, and 1 for n: a compiler may take 1 / n into the scale, which must not grow by a last place a step."""
    return jnp.where(jnp.abs(k) == n, jnp.sign(k), k / n)


def rounded_softsign(size: Array, shares: Array, n: float) -> Array:
    return rounded(2 * n * size / (1 + size), shares, lambda k: inverse_softsign(k, n))


def inverse_softsign(k: Array, n: float) -> Array:
    """r of the code k = n * 2 r / (1 + |r|)."""
    return k / (2 * n - jnp.abs(k))


def rounded_float8(size: Array, shares: Array, largest: float) -> Array:
    """One of the two floats with 3 bits behind the leading one, and a least exponent of -6, beside `largest * size`."""
    size = largest * size
    step = jnp.exp2(jnp.floor(jnp.log2(jnp.maximum(size, np.float32(2.0**-6)))) - 3)
    return rounded(size / step, shares, lambda k: k) * step


def up_to_bfloat16(x: Array) -> Array:
    """The least bfloat16 that is at least x, which is not negative; as float32."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    up = jax.lax.bitcast_convert_type((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), jnp.minimum(up, float(jnp.finfo(jnp.bfloat16).max)), x)
