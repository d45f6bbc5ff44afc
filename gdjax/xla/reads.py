"""What an array of 16 bits is where it is read: XLA:CPU would write it to memory in 32."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def apart(x: Array, *others: Array) -> tuple[Array, ...]:
    """The arguments unchanged, an x of 16-bit numbers behind a barrier: every reader converts it from 16 bits itself.

    Without it XLA:CPU would write x as float32, for a sum and all else that reads x, or before a loop in which x does
    not change; or compute it again, unrounded, from what x is made of.
    """
    if x.dtype.itemsize >= 4:
        return x, *others
    # On other devices one kernel may write both what is read and what is made of it.
    return jax.lax.platform_dependent(x, *others, cpu=_barrier, default=lambda *xs: xs)


def _barrier(*xs: Array) -> tuple[Array, ...]:
    return tuple(jax.lax.optimization_barrier(xs))


_widened: contextvars.ContextVar[Any] = contextvars.ContextVar("gdjax_widened", default=())


@contextlib.contextmanager
def widened(*pairs: tuple[Array | None, Array | None]) -> Iterator[None]:
    """Tells `alone` in this context of arrays and what they were widened from."""
    token = _widened.set(pairs)
    try:
        yield
    finally:
        _widened.reset(token)


def original(x: Array) -> Array:
    """What an array that a rule was given was widened from; any other array as it is."""
    return next((narrow for wide, narrow in _widened.get() if wide is x), x)


def rounded(x: Array, like: Array) -> Array:
    """x, rounded to the dtype that `like`, what a rule was given, was widened from; in the dtype that x has.

    Not by two casts: XLA leaves such a pair out.
    """
    dtype = original(like).dtype if original(like) is not like else x.dtype
    if dtype.itemsize >= x.dtype.itemsize or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    form = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, form.nexp, form.nmant)


def alone(x: Array, *others: Array) -> Array:
    """x, converted again from its 16-bit original, for one sum; other arrays are returned as they are. See `apart`.

    A second sum of the same x names the result of the first in `others`, or XLA would take the two for one.
    """
    narrow = original(x)
    return x if narrow is x else apart(narrow, *others)[0].astype(x.dtype)
