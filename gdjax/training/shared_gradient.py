"""The gradient of a batch that devices share, taken by each device of its part and added up once.

Two ways make it, `averaged` and `by_constraints`. In both the loss sees the rows of one part, so that they agree for
any loss. Each is a function of parameters and rows, and returns ((value, aux), gradients).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gdjax.combine import sharding
from gdjax.core import axis_kinds, meshes
from gdjax.core.types import Array, Params
from gdjax.training.parts import Rows, mean_of, weighed


def averaged(
    f: Callable[..., Any], mesh: Any, axis: str, parts: int, lie: Any, shares: Any, explicit: tuple[str, ...],
    stack: bool,
) -> Callable[..., Any]:  # fmt: skip
    """Value and gradient in `jax.shard_map` over an axis; the gradients leave as their shares.

    Args:
      f: of `parts.of_part`.
      mesh: all its axes are automatic here.
      parts: of the rows of each device; their gradients are added up before they are exchanged.
      lie: a tree like the parameters, of the shardings they have.
      shares: the same, of the shardings that the gradients get.
      explicit: the axes that are explicit outside. But for `axis` they are so in f.
      stack: aux is that of each part, along a new first axis.
    """
    n = mesh.shape[axis]
    names = tuple(name for name in explicit if name != axis)
    take = _in_explicit_axes(jax.value_and_grad(f, has_aux=True), names, lie)
    only = lambda how: _only(how, (axis,))  # noqa: E731
    at = lambda how: next((i for i, entry in enumerate(how.spec) if axis in sharding.axes_of(entry)), None)  # noqa: E731

    def whole(p: Array, how: NamedSharding) -> Array:
        i = at(how)
        return meshes.varying(p, frozenset({axis})) if i is None else jax.lax.all_gather(p, axis, axis=i, tiled=True)

    def share(g: Array, how: NamedSharding) -> Array:
        i = at(how)
        add = jax.lax.psum if i is None else functools.partial(jax.lax.psum_scatter, scatter_dimension=i, tiled=True)
        return add(g, axis)

    def sums(params: Params, rows: Rows) -> Any:
        """What a part adds to the sums, what it tells by itself, and what is told of all as this part has it."""
        (value, (weight, aux)), grads = take(params, rows)
        told, each = ((value, None), aux) if stack else ((value, aux), None)
        # Sums of 16-bit numbers are wide, and so are those over devices: a CPU has none of 16 bits on several axes.
        return (weight, *jax.tree.map(functools.partial(weighed, weight), (told, grads))), each, told

    def local(params: Params, rows: Rows) -> Any:
        as_whole = jax.tree.map(whole, params, lie)
        if parts == 1:
            total, each, like = sums(as_whole, rows)
            each = jax.tree.map(lambda x: x[None], each)
        else:
            split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), rows)
            first, _, like = jax.eval_shape(sums, as_whole, jax.tree.map(lambda x: x[0], split))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)

            def more(total: Any, rows: Rows) -> Any:
                found, each, _ = sums(as_whole, rows)
                return jax.tree.map(jnp.add, total, found), each

            total, each = jax.lax.scan(more, meshes.varying(zeros, frozenset({axis})), split)
        weight, told, grads = total
        by = n * parts if weight is None else jax.lax.psum(weight, axis)
        value, aux = jax.tree.map(lambda x, old: mean_of(by, jax.lax.psum(x, axis), old.dtype), told, like)
        grads = jax.tree.map(lambda g, how, p: mean_of(by, share(g, how), p.dtype), grads, shares, params)
        return (value, each if stack else aux), grads

    specs = jax.tree.map(only, lie), PartitionSpec(axis)
    out_specs = (PartitionSpec(), PartitionSpec(axis) if stack else PartitionSpec()), jax.tree.map(only, shares)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out_specs, axis_names=frozenset({axis}))


def by_constraints(f: Callable[..., Any], mesh: Any, axis: str, stack: bool) -> Callable[..., Any]:
    """Value and gradient of the mean over the devices of an axis, whose sum the compiler makes.

    Args:
      f: of `parts.of_part`, without weights: a NaN of a part of weight 0 would be in the sum.
      stack: aux is that of each part, along a new first axis.
    """
    n, by_parts = mesh.shape[axis], NamedSharding(mesh, PartitionSpec(axis))

    def mean(x: Array) -> Array:
        return mean_of(n, jnp.sum(weighed(None, x), axis=0), x.dtype)

    def of_all(params: Params, rows: Rows) -> Any:
        split = jax.tree.map(lambda x: x.reshape(n, x.shape[0] // n, *x.shape[1:]), rows)
        split = jax.lax.with_sharding_constraint(split, by_parts)
        value, (_, aux) = jax.vmap(f, (None, 0), spmd_axis_name=axis)(params, split)
        return mean(value), aux if stack else jax.tree.map(mean, aux)

    return jax.value_and_grad(of_all, has_aux=True)


def _only(how: NamedSharding, names: tuple[str, ...]) -> PartitionSpec:
    """What a sharding says of these axes of the mesh."""
    kept = [tuple(name for name in sharding.axes_of(entry) if name in names) for entry in how.spec]
    return PartitionSpec(*(entry[0] if len(entry) == 1 else entry or None for entry in kept))


def _in_explicit_axes(take: Callable[..., Any], names: tuple[str, ...], lie: Any) -> Callable[..., Any]:
    specs = jax.tree.map(lambda how: _only(how, names), lie), PartitionSpec()
    return axis_kinds.in_explicit_axes(take, names, specs)
