"""Readers of a 16-bit array convert it themselves: XLA:CPU would write it to memory as float32."""

from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp

from gdjax.core.contexts import PASS, within

Array = jax.Array


def apart(x: Array, *others: Array) -> tuple[Array, ...]:
    """The arguments unchanged; a 16-bit x behind a barrier, so that every reader converts it from 16 bits itself.

    Without the barrier XLA:CPU writes x as float32, for a sum and other readers or before a loop in which x does not
    change; or it computes x again, unrounded, from its inputs.
    """
    if x.dtype.itemsize >= 4:
        return x, *others
    # On other devices one kernel may write both x and the results from it.
    return jax.lax.platform_dependent(x, *others, cpu=_barrier, default=lambda *xs: xs)


def _barrier(*xs: Array) -> tuple[Array, ...]:
    return tuple(jax.lax.optimization_barrier(xs))


def widened(*pairs: tuple[Array | None, Array | None]) -> AbstractContextManager[None]:
    """Tells `alone` in this context of arrays and what they were widened from."""
    return within(PASS, widened=pairs)


def original(x: Array) -> Array:
    """What an array that a rule was given was widened from; any other array as it is."""
    return next((narrow for wide, narrow in PASS.get().widened if wide is x), x)


def rounded(x: Array, like: Array) -> Array:
    """x, rounded to the dtype of the original of `like`, an argument of a rule; it keeps its own dtype.

    Two casts would not do: XLA removes such a pair.
    """
    dtype = original(like).dtype if original(like) is not like else x.dtype
    if dtype.itemsize >= x.dtype.itemsize or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    form = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, form.nexp, form.nmant)


def alone(x: Array, *others: Array) -> Array:
    """x, converted again from its 16-bit original for one sum, see `apart`; other arrays are returned as they are.

    A second sum of the same x names the result of the first in `others`, or XLA would merge both conversions.
    """
    narrow = original(x)
    return x if narrow is x else apart(narrow, *others)[0].astype(x.dtype)
