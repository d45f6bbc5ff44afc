"""The parts of a stack, for which XLA:CPU compiles one loop, not one for each part."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gdjax.core import meshes
from gdjax.xla.write_order import never

Array = jax.Array

FEW = 4  # parts, up to which there is little to save


def parts(stack: Array, numbers: Sequence[int]) -> list[Array]:
    """The stack cut along its first axis into parts of these lengths.

    XLA:CPU compiles equal loops once. A loop that reads a part of a stack has the place of the part as a constant, so
    no two are equal: 1,000 of 64 x 64 took 8.5 s to compile, and take 1.3 s. Here the place is what a condition returns
    that never holds, which XLA cannot tell. On other devices it is a constant.
    """
    starts = list(itertools.accumulate(numbers[:-1], initial=0))
    if len(numbers) <= FEW or stack.size == 0 or meshes.may_be_divided(stack):
        return [jax.lax.slice_in_dim(stack, a, a + n) for a, n in zip(starts, numbers, strict=True)]

    def hidden(e: Array, starts: list[Array]) -> list[Array]:
        return meshes.cond(never(e), lambda xs: [x + 1 for x in xs], lambda xs: xs, starts)

    one = jnp.real(stack[(0,) * stack.ndim])
    places = [jnp.asarray(a, jnp.int32) for a in starts]
    places = jax.lax.platform_dependent(one, places, cpu=hidden, default=lambda _, starts: starts)
    return [jax.lax.dynamic_slice_in_dim(stack, a, n) for a, n in zip(places, numbers, strict=True)]
