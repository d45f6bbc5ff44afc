"""Boolean scalars computed from many arrays, or from the device, without writing more than scalars to memory."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gdjax.numerics import Array, at_least_float32
from gdjax.xla.reads import apart


def on_gpu() -> Array:
    """Whether the program runs on a GPU; a constant after compilation."""
    yes, no = (functools.partial(jnp.asarray, answer) for answer in (True, False))
    return jax.lax.platform_dependent(cuda=yes, rocm=yes, default=no)


@jax.jit
def not_finite(x: Array) -> Array:
    """A flag, set if a number of the array is infinite or NaN."""
    # x - x is 0 or NaN, and XLA:CPU sums it in one pass. It would write the result of jnp.isfinite to memory first; its
    # maximum of |x| misses NaN; and it simplifies 0 (c x) to 0 x.
    (x,) = apart(x)
    parts = [x.real, x.imag] if jnp.iscomplexobj(x) else [x]
    wide = [p.astype(at_least_float32(p.dtype)) for p in parts]
    return flag(jnp.any(jnp.asarray([jnp.sum(p - p) != 0 for p in wide])))


def flag(bad: Array) -> Array:
    """A boolean scalar for `none`."""
    return bad.reshape(1).astype(jnp.float32)


def none(flags: Sequence[Array]) -> Array:
    """Whether no flag is set; each is made by `flag`."""
    # XLA repeats all the additions in each loop that reads the answer, but not a root.
    return jnp.sqrt(jnp.sum(jnp.concatenate([jnp.zeros(1, jnp.float32), *flags]))) == 0
