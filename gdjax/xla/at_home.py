"""Sends the matrices of stacks to their owner devices and back, so that XLA exchanges them once each way."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gdjax.core import homes
from gdjax.core.types import Array


def computed(f: Callable[..., Any], *trees: Any) -> Any:
    """f of trees of stacks (number, ...), each device computing its share; the results are a tree of stacks.

    A stack is padded with zeros to a multiple of the number of devices.
    """
    home, number = homes.mesh(), len(jax.tree.leaves(trees)[0])
    way = range(len(home.axis_names) + 1)
    made = f(*jax.tree.map(lambda x: _along(_filled(x, -number % home.size), home, way), trees))
    return jax.tree.map(lambda y: _along(y, home, reversed(way))[:number], made)


def together(f: Callable[[Array], Array], stacks: Sequence[Array]) -> list[Array]:
    """f of stacks (number, rows, columns) that differ in columns, the widest first, with one matrix per device in all.

    Each stack goes unpadded to its owner devices, where the others have zeros. There it is padded to the widest.
    """
    home, (rows, width), dtype = homes.mesh(), stacks[0].shape[1:], stacks[0].dtype
    way = range(len(home.axis_names) + 1)
    given, first, places = jnp.zeros((home.size, rows, width), dtype), 0, []
    for x in stacks:
        places.append(slice(first, first + len(x)))
        own = _along(jnp.pad(x, ((first, home.size - first - len(x)), (0, 0), (0, 0))), home, way)
        given += jnp.pad(own, ((0, 0), (0, 0), (0, width - x.shape[2])))
        first += len(x)
    # Constrained before the cut, or one of the stacks is exchanged twice; the other axes stay unconstrained until then.
    still = PartitionSpec(home.axis_names, PartitionSpec.UNCONSTRAINED, PartitionSpec.UNCONSTRAINED)
    made = jax.lax.with_sharding_constraint(f(given), NamedSharding(home, still))
    results = [_along(made[..., : x.shape[2]], home, reversed(way)) for x in stacks]
    return [y[place] for y, place in zip(results, places, strict=True)]


def _filled(stack: Array, missing: int) -> Array:
    return jnp.concatenate([stack, jnp.zeros((missing, *stack.shape[1:]), stack.dtype)]) if missing else stack


def _along(stack: Array, home: Any, numbers: Iterable[int]) -> Array:
    """The stack with its first axis divided over the first n axes of the mesh, for each n in turn.

    Axes of the mesh come one at a time: a partitioner exchanges over one, but copies everything for two. They begin
    with none: otherwise an array that the stack is cut from would be exchanged as a whole.
    """
    free = [PartitionSpec.UNCONSTRAINED] * (stack.ndim - 1)
    for n in numbers:
        rest = [None] * (stack.ndim - 1) if n == len(home.axis_names) else free
        spec = PartitionSpec(home.axis_names[:n] or None, *rest)
        stack = jax.lax.with_sharding_constraint(stack, NamedSharding(home, spec))
    return stack
