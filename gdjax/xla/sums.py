"""What XLA:CPU adds up without writing it to memory first."""

import jax
import jax.numpy as jnp

from gdjax.numerics.bounds import largest_of
from gdjax.numerics.elementwise import Array
from gdjax.xla.write_order import after


def summand(x: Array) -> Array:
    """`numerics.squarable(x, "summed")` as an expression that XLA:CPU sums as it is computed.

    It would write to memory first what is needed twice, a bound that arrays of one shape share, and what it makes of a
    minimum and a maximum with constants: here each array has a bound of its own, and minima alone.
    """
    if jnp.iscomplexobj(x):
        return jax.lax.complex(summand(x.real), summand(x.imag))
    bound = after(x, jnp.asarray(largest_of(x.dtype, "summed"), x.dtype))
    return -jnp.minimum(-jnp.minimum(x, bound), bound)
