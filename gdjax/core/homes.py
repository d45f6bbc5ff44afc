"""Homes: each matrix of a stack is computed on one device of a mesh, where it goes and whence its result comes back.

What a method computes of a whole matrix, a polar factor say, would else be exchanged in every product. This is decided
by the step around the optimizer, for as long as it is traced.
"""

import contextlib
from collections.abc import Iterable, Iterator
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


def sent(stack: Array) -> Array:
    """A stack (number, ...), filled up with zeros to a multiple of the devices and divided over them by its first axis.

    One axis of the mesh after the other: a partitioner exchanges over one, and copies everything for two.
    """
    home = mesh()
    missing = -len(stack) % home.size
    if missing:
        stack = jnp.concatenate([stack, jnp.zeros((missing, *stack.shape[1:]), stack.dtype)])
    return _over(stack, home, range(1, len(home.axis_names) + 1))


def back(stack: Array) -> Array:
    """The way back: what takes the stack says where it ends."""
    home = mesh()
    return _over(stack, home, range(len(home.axis_names), 0, -1))


def _over(stack: Array, home: Any, numbers: Iterable[int]) -> Array:
    free = [PartitionSpec.UNCONSTRAINED] * (stack.ndim - 1)
    for n in numbers:
        rest = [None] * (stack.ndim - 1) if n == len(home.axis_names) else free
        stack = jax.lax.with_sharding_constraint(stack, NamedSharding(home, PartitionSpec(home.axis_names[:n], *rest)))
    return stack
