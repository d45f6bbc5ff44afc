"""Stacks of matrices that go to their owner devices, and come back."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gdjax.core import meshes
from gdjax.core.types import Array


def dealt(stack: Array) -> Array:
    """A stack (number, ...) on its owners: (k, D, ...) as `meshes.dealt` has it, filled up with zeros."""
    home, lead = meshes.mesh(), meshes.dealt(len(stack))
    if home is None:
        return stack
    full = _filled(stack, math.prod(lead) - len(stack)).reshape(*lead, *stack.shape[1:])
    return _along(full, home, range(len(home.axis_names) + 1))


def gathered(stack: Array, number: int) -> Array:
    """The stack that was `dealt`, or that its owners made."""
    home = meshes.mesh()
    if home is None:
        return stack
    return meshes.undealt(_along(stack, home, reversed(range(len(home.axis_names) + 1))), number)


def by_owners(f: Callable[..., Any], stacks: Any, common: Any = None) -> Any:
    """What each owner makes of its own matrices: a tree of stacks that are dealt.

    Args:
      f: f(owner, stacks, common), where the stacks are those of the owner, (k, ...), to a tree of such stacks.
      stacks: a tree, dealt.
      common: a tree of arrays, and of settings, that all owners see.
    """
    home = meshes.mesh()
    if home is None:
        return f(0, stacks, common)
    spec, names = PartitionSpec(None, home.axis_names), frozenset(home.axis_names)
    leaves, structure = jax.tree.flatten(common)
    places = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array)]

    def of_owner(stacks: Any, arrays: list[Array]) -> Any:
        known = dict(enumerate(leaves)) | dict(zip(places, arrays, strict=True))
        with meshes.owned_by(None):
            shares = jax.tree.map(lambda x: x[:, 0], stacks)
            made = f(jax.lax.axis_index(home.axis_names), shares, structure.unflatten(known.values()))
        return jax.tree.map(lambda x: x[:, None], made)

    # Unchecked: a TPU's eigh is a loop that JAX writes without types of what varies.
    specs: Any = {"in_specs": (spec, PartitionSpec()), "out_specs": spec}
    mapped = jax.shard_map(of_owner, mesh=home, axis_names=names, check_vma=False, **specs)
    return mapped(stacks, [leaves[i] for i in places])


def computed(f: Callable[[Array], Array], stack: Array) -> Array:
    """f of a stack (number, ...), each owner computing its share."""
    return gathered(by_owners(lambda _, x, __: f(x), dealt(stack)), len(stack))


def together(f: Callable[[Array], Array], stacks: Sequence[Array]) -> list[Array]:
    """f of stacks (number, rows, columns) that differ in columns, the widest first, with one matrix per device in all.

    Each stack goes unpadded to its owner devices, where the others have zeros. There it is padded to the widest.
    """
    home, (rows, width), dtype = meshes.mesh(), stacks[0].shape[1:], stacks[0].dtype
    stack, first, places = jnp.zeros((1, home.size, rows, width), dtype), 0, []
    for x in stacks:
        places.append(slice(first, first + len(x)))
        part = dealt(jnp.pad(x, ((first, home.size - first - len(x)), (0, 0), (0, 0))))
        stack += jnp.pad(part, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[2])))
        first += len(x)
    made = by_owners(lambda _, x, __: f(x), stack)
    results = [gathered(made[..., : x.shape[2]], home.size) for x in stacks]
    return [y[place] for y, place in zip(results, places, strict=True)]


def tiles_of(shapes: Any, shares: Any) -> list[Any]:
    """How matrices lie where they are shares of leaves: ((rows, columns), the axes of the mesh that divide either).

    A hint, by shape: a partitioner does not find out by itself how a stack lies that comes back to them, and gathers
    it.
    """
    tiles: dict[tuple[int, ...], tuple[Any, ...]] = {}
    for x, how in zip(jax.tree.leaves(shapes), jax.tree.leaves(shares), strict=True):
        axes = [entry if isinstance(entry, tuple) else (entry,) if entry else () for entry in how.spec]
        axes += [()] * (len(x.shape) - len(axes))
        if len(axes) > 1 and not any(axes[:-2]):
            tiles.setdefault(tuple(x.shape[-2:]), tuple(axes[-2:]))
            tiles.setdefault(tuple(x.shape[:-3:-1]), tuple(axes[:-3:-1]))
    return list(tiles.items())


def _filled(stack: Array, missing: int) -> Array:
    return jnp.concatenate([stack, jnp.zeros((missing, *stack.shape[1:]), stack.dtype)]) if missing else stack


def _along(stack: Array, home: Any, numbers: Iterable[int]) -> Array:
    """A stack (k, D, ...) with its second axis divided over the first n axes of the mesh, for each n in turn.

    Axes of the mesh come one at a time: a partitioner exchanges over one, but copies everything for two. They begin
    with none: otherwise an array that the stack is cut from would be exchanged as a whole. The matrices themselves are
    divided over the rest of the axes, as `tiles_of` has it.
    """
    tile = dict(meshes.owners()[1]).get(stack.shape[2:]) if len(home.axis_names) > 1 else None
    for n in numbers:
        if n == len(home.axis_names):
            rest = [None] * (stack.ndim - 2)
        elif tile is None:
            rest = [PartitionSpec.UNCONSTRAINED] * (stack.ndim - 2)
        else:
            rest = [tuple(a for a in axes if a not in home.axis_names[:n]) or None for axes in tile]
        spec = PartitionSpec(None, home.axis_names[:n] or None, *rest)
        stack = jax.lax.with_sharding_constraint(stack, NamedSharding(home, spec))
    return stack
