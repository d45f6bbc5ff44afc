"""Parts of a stack, in loops that XLA:CPU compiles once and runs without copies of the stack."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gdjax.core import meshes
from gdjax.core.platforms import by_platform
from gdjax.xla.write_order import never

Array = jax.Array

FEW = 4  # up to so many parts there is little to save


def parts(stack: Array, numbers: Sequence[int]) -> list[Array]:
    """The stack cut along its first axis into parts of these lengths.

    XLA:CPU compiles equal loops once. Loops that read parts of a stack differ in a constant, the start of the part, so
    each is compiled: 1,000 of 64 x 64 in 8.5 s. Here the start is the result of a condition that never holds, which XLA
    cannot know: 1.3 s. On other devices it is a constant.
    """
    starts = list(itertools.accumulate(numbers[:-1], initial=0))
    if len(numbers) <= FEW or stack.size == 0 or meshes.may_be_divided(stack):
        return [jax.lax.slice_in_dim(stack, a, a + n) for a, n in zip(starts, numbers, strict=True)]

    one = jnp.real(stack[(0,) * stack.ndim])
    places = [jnp.asarray(a, jnp.uint32) for a in starts]  # XLA would test a signed integer for being negative
    places = by_platform(one, places, cpu=_by_itself, default=lambda _, starts: starts)
    return [jax.lax.dynamic_slice_in_dim(stack, a, n) for a, n in zip(places, numbers, strict=True)]


def taken(stacks: Sequence[Array], i: ArrayLike) -> list[Array]:
    """Element i of each stack, none of them empty, for the body of a loop that writes over the stacks.

    XLA:CPU would read the elements again at each use, also after it has written new ones: so it copies the whole stacks
    in each iteration. Here a condition that never holds returns the elements, in memory of their own: SOAP of 48
    matrices of 384 x 384 takes 91 ms instead of 320. Only for a loop on a CPU.
    """
    xs = [jax.lax.dynamic_index_in_dim(x, i, keepdims=False) for x in stacks]
    return _by_itself(jnp.real(xs[0][(0,) * xs[0].ndim]), xs)


def _by_itself(e: Array, xs: list[Array]) -> list[Array]:
    """xs, as the result of a condition that never holds and that would return other arrays."""
    alike: dict[Any, list[int]] = {}
    for i, x in enumerate(xs):
        alike.setdefault((x.shape, x.dtype), []).append(i)
    other = {i: same[n - 1] for same in alike.values() for n, i in enumerate(same)}
    others = lambda xs: [x + 1 if other[i] == i else xs[other[i]] for i, x in enumerate(xs)]  # noqa: E731
    return meshes.cond(never(e), others, lambda xs: xs, xs)
