"""The gradient of a batch that devices share, taken by each device of its part and added up once."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gdjax import numerics
from gdjax.combine import sharding
from gdjax.core import axis_kinds, meshes
from gdjax.core.types import Array, ArrayTree, Params
from gdjax.tree.sums import wide


def averaged(
    take: Callable[..., Any], mesh: Any, axis: str, parts: int, lie: Any, shares: Any, explicit: tuple[str, ...]
) -> Callable[..., Any]:
    """The mean of take(params, batch) over the devices of an axis; the gradients leave as their shares.

    Args:
      take: values and gradients of a part of the batch.
      mesh: all its axes are automatic here.
      parts: of the batch of each device; their gradients are added up before they are exchanged.
      lie: a tree like the parameters, of the shardings they have.
      shares: the same, of the shardings that the gradients get.
      explicit: the axes that are explicit outside. But for `axis` they are so in `take`.
    """
    n = mesh.shape[axis]
    take = _in_explicit_axes(take, tuple(name for name in explicit if name != axis), lie)
    only = lambda how: _only(how, (axis,))  # noqa: E731
    at = lambda how: next((i for i, entry in enumerate(how.spec) if axis in sharding.axes_of(entry)), None)  # noqa: E731

    def whole(p: Array, how: NamedSharding) -> Array:
        i = at(how)
        return meshes.varying(p, frozenset({axis})) if i is None else jax.lax.all_gather(p, axis, axis=i, tiled=True)

    def share(g: Array, how: NamedSharding) -> Array:
        i = at(how)
        add = jax.lax.psum if i is None else functools.partial(jax.lax.psum_scatter, scatter_dimension=i, tiled=True)
        return add(wide(g) / (n * parts), axis)

    def mean(x: Array) -> Array:
        return jax.lax.pmean(x.astype(numerics.at_least_float32(x.dtype)), axis).astype(x.dtype)

    def local(params: Params, batch: ArrayTree) -> Any:
        params = jax.tree.map(whole, params, lie)
        if parts == 1:
            found, grads = take(params, batch)
        else:
            split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)
            first = jax.eval_shape(take, params, jax.tree.map(lambda x: x[0], split))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, numerics.at_least_float32(x.dtype)), first)
            zeros = meshes.varying(zeros, frozenset({axis}))
            add = lambda x, y: x + y.astype(x.dtype)  # noqa: E731
            more = lambda sums, part: (jax.tree.map(add, sums, take(params, part)), None)  # noqa: E731
            (found, grads), _ = jax.lax.scan(more, zeros, split)
            found = jax.tree.map(lambda x: x / parts, found)
        # Sums of 16-bit numbers are wide, and so are those over devices: a CPU has none of 16 bits on several axes.
        grads = jax.tree.map(lambda g, how, p: share(g, how).astype(p.dtype), grads, shares, params)
        return jax.tree.map(mean, found), grads

    specs = jax.tree.map(only, lie), PartitionSpec(axis)
    out_specs = PartitionSpec(), jax.tree.map(only, shares)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out_specs, axis_names=frozenset({axis}))


def _only(how: NamedSharding, names: tuple[str, ...]) -> PartitionSpec:
    """What a sharding says of these axes of the mesh."""
    kept = [tuple(name for name in sharding.axes_of(entry) if name in names) for entry in how.spec]
    return PartitionSpec(*(entry[0] if len(entry) == 1 else entry or None for entry in kept))


def _in_explicit_axes(take: Callable[..., Any], names: tuple[str, ...], lie: Any) -> Callable[..., Any]:
    specs = jax.tree.map(lambda how: _only(how, names), lie), PartitionSpec()
    return axis_kinds.in_explicit_axes(take, names, specs)
