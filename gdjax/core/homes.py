"""Homes: each matrix of a stack is computed on one device of a mesh, where it goes and whence its result comes back.

What a method computes of a whole matrix, a polar factor say, would else be exchanged in every product. This is decided
by the step around the optimizer, for as long as it is traced.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gdjax.core.types import Array

_HOMES: list[Any] = []  # of the trace that runs; the innermost last


@contextlib.contextmanager
def of(mesh: Any) -> Iterator[None]:
    """While a function is traced here, each matrix of a stack is computed on one device of the mesh."""
    _HOMES.append(mesh)
    try:
        yield
    finally:
        _HOMES.pop()


def mesh() -> Any:
    """The mesh over whose devices stacks of matrices are divided; None for none."""
    return _HOMES[-1] if _HOMES else None


def computed(f: Callable[..., Any], *stacks: Array) -> Any:
    """f of stacks (number, ...), each device computing its part of them; the results are such stacks, in any tree.

    A stack is filled up with zeros to a multiple of the devices.
    """
    home = mesh()
    number, missing = len(stacks[0]), -len(stacks[0]) % home.size
    given = [_along(_filled(x, missing), home, range(len(home.axis_names) + 1)) for x in stacks]
    # The barrier: a compiler that chooses the matrices before it computes them has too few to divide.
    made = jax.lax.optimization_barrier(f(*given))
    return jax.tree.map(lambda y: _along(y, home, range(len(home.axis_names), -1, -1))[:number], made)


def _filled(stack: Array, missing: int) -> Array:
    return jnp.concatenate([stack, jnp.zeros((missing, *stack.shape[1:]), stack.dtype)]) if missing else stack


def _along(stack: Array, home: Any, numbers: Iterable[int]) -> Array:
    """The first axis divided over the first n axes of the mesh, for each n.

    One axis of the mesh after the other: a partitioner exchanges over one, and copies everything for two. And from none
    of them on: what a stack is cut out of would else be exchanged as a whole.
    """
    free = [PartitionSpec.UNCONSTRAINED] * (stack.ndim - 1)
    for n in numbers:
        rest = [None] * (stack.ndim - 1) if n == len(home.axis_names) else free
        spec = PartitionSpec(home.axis_names[:n] or None, *rest)
        stack = jax.lax.with_sharding_constraint(stack, NamedSharding(home, spec))
    return stack
