"""The loss and the gradient of a batch whose parts lie on the devices of a mesh.

- The loss of a part: its mean, its weight, its auxiliary output; and how those of all parts become one.
- The gradient, taken by each device of its part and added up once, in two ways: `averaged` and `by_constraints`. In
  both the loss sees the rows of one part, so that they agree for any loss. Each is a function of parameters and rows,
  and returns ((value, aux), gradients).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gdjax import numerics
from gdjax.combine import sharding
from gdjax.core import meshes
from gdjax.core.paths import named_leaves
from gdjax.core.types import Array, ArrayTree, Params
from gdjax.training.agreement import check_rows
from gdjax.transforms.noise_scale import square_of
from gdjax.tree.norms import wide

Rows = tuple[ArrayTree, Any]  # of the batch, and their keys: one for each part, along the first axis; None for no key


def rows_of(label: str, batch: ArrayTree, key: Array | None, parts: int) -> Rows:
    """The batch and the keys of its parts, which are divided as the batch is; raises where there are no rows."""
    check_rows(label, batch)
    return batch, None if key is None else jax.random.split(key, parts)


def check_trainable(label: str, params: Params) -> None:
    """Raises for a leaf that takes no gradient; the loss takes one of every leaf."""
    for where, x in named_leaves("params", params):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            raise TypeError(
                f"{label}: {where} has dtype {x.dtype}, and takes no gradient: give it to the loss otherwise"
            )


def loss_of_part(
    label: str, loss: Callable[..., Any], has_aux: bool, weighted: bool, reduces: bool
) -> Callable[[Params, Rows], Any]:
    """A user's loss as f(params, rows of one part) -> mean, (weight, aux). Without `weighted` the weight is None.

    Args:
      label: of the step, for errors.
      loss: loss(params, batch), and `key=` where there are keys.
      has_aux, weighted: as of `sharded_step`.
      reduces: whether one aux is made of those of the parts.

    Raises:
      TypeError: (in a trace) the loss returns something else; aux has a leaf that is no number, if one is made of all.
    """

    def f(params: Params, rows: Rows) -> Any:
        batch, keys = rows
        value, aux = loss(params, batch, **({} if keys is None else {"key": keys[0]})), None
        if has_aux:
            value, aux = _pair(label, "with has_aux=True the loss returns a pair, the loss and more", value)
        aux = jax.tree_util.tree_map_with_path(lambda path, x: _numbers(label, path, x, reduces), aux)
        if not weighted:
            if isinstance(value, tuple | list) and len(value) == 2:
                hint = "" if has_aux else "has_aux=True for (loss, aux), "
                raise TypeError(f"{label}: the loss returned a pair; pass {hint}weighted=True for (total, weight)")
            return value, (None, aux)
        total, weight = map(jnp.asarray, _pair(label, "with weighted=True the loss returns (total, weight)", value))
        if total.shape or weight.shape or not jnp.issubdtype(total.dtype, jnp.floating):
            raise TypeError(
                f"{label}: with weighted=True the loss returns (total, weight), a real number and its weight; got "
                f"{total.dtype} of shape {total.shape} and {weight.dtype} of shape {weight.shape}"
            )
        # The mean, not the total, is what is differentiated: gradients of a total may overflow in 16 bits.
        weight = jax.lax.stop_gradient(weight).astype(numerics.at_least_float32(total.dtype))
        return (wide(total) / _or_one(weight)).astype(total.dtype), (weight, aux)

    return f


def counted(weight: Array | None, x: Array) -> Array:
    """x, or 0 where a part has the weight 0, whatever x is: a NaN times 0 is a NaN."""
    return x if weight is None else jnp.where(weight == 0, jnp.zeros((), x.dtype), x)


def weighed(weight: Array | None, x: Array) -> Array:
    """What a part adds to a sum: weight x, in float32 at least; of an integer x itself, in the dtype of `jnp.sum`."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x.astype(jax.eval_shape(jnp.sum, x).dtype)
    x = wide(counted(weight, x))
    return x if weight is None else _as_factor(weight, x) * x


def mean_of(weight: Any, total: Array, dtype: Any) -> Array:
    """The mean, in this dtype, of a sum of what is `weighed`; 0 for a weight of 0. A sum of integers stays one."""
    if not jnp.issubdtype(total.dtype, jnp.inexact):
        return total
    return (total / (weight if isinstance(weight, int) else _as_factor(_or_one(weight), total))).astype(dtype)


def _or_one(weight: Array) -> Array:
    return jnp.where(weight == 0, jnp.ones((), weight.dtype), weight)


def _as_factor(weight: Array, x: Array) -> Array:
    return weight.astype(numerics.real_dtype(x.dtype)).astype(x.dtype)


def _pair(label: str, wanted: str, x: Any) -> Any:
    if isinstance(x, tuple | list) and len(x) == 2:
        return x
    raise TypeError(f"{label}: {wanted}; got {x!r}")


def _numbers(label: str, path: Any, x: Any, reduces: bool) -> Array:
    x = jnp.asarray(x)
    if reduces and not jnp.issubdtype(x.dtype, jnp.number):
        raise TypeError(
            f"{label}: aux{jax.tree_util.keystr(path)} is {x.dtype}, of which parts of a batch have neither a mean nor "
            'a sum: return an int or a float, or pass aux="stack" for what each part has'
        )
    return x


def averaged(
    f: Callable[..., Any], mesh: Any, axis: str, parts: int, shardings: Any, shares: Any, explicit: tuple[str, ...],
    stack: bool, noise_scale: bool = False,
) -> Callable[..., Any]:  # fmt: skip
    """Value and gradient in `jax.shard_map` over an axis; the gradients leave as their shares.

    With `noise_scale` it also returns `parts`, `weight` and `squares` of a `NoiseScaleState`. The weight of a part is
    its number of rows, where the loss has none.

    Args:
      f: of `loss_of_part`.
      mesh: all its axes are automatic here.
      parts: of the rows of each device; their gradients are added up before they are exchanged.
      shardings: a tree like the parameters, of those they have.
      shares: the same, of the shardings that the gradients get.
      explicit: the axes that are explicit outside. But for `axis` they are so in f.
      stack: aux is that of each part, along a new first axis.
    """
    names = tuple(name for name in explicit if name != axis)
    specs = jax.tree.map(lambda how: _only(how, names), shardings), PartitionSpec()
    value_and_grad = meshes.in_explicit_axes(jax.value_and_grad(f, has_aux=True), names, specs)

    def sums(params: Params, rows: Rows) -> Any:
        """What a part adds to the sums, its aux where that is stacked, and value and aux where they are reduced."""
        (value, (weight, aux)), grads = value_and_grad(params, rows)
        reduced, stacked = ((value, None), aux) if stack else ((value, aux), None)
        noise = _noise(rows, weight, grads, axis) if noise_scale else []
        # Sums of 16-bit numbers are wide, and so are those over devices: a CPU has none of 16 bits on several axes.
        return (weight, *jax.tree.map(functools.partial(weighed, weight), (reduced, grads)), *noise), stacked, reduced

    def local(params: Params, rows: Rows) -> Any:
        of_rows = functools.partial(sums, jax.tree.map(functools.partial(_gathered, axis), params, shardings))
        (weight, reduced, grads, *noise), stacked, like = _over_parts(of_rows, rows, parts, axis)
        total = mesh.shape[axis] * parts if weight is None else jax.lax.psum(weight, axis)
        value, aux = jax.tree.map(lambda x, old: mean_of(total, jax.lax.psum(x, axis), old.dtype), reduced, like)
        grads = jax.tree.map(lambda g, how, p: mean_of(total, _shared(axis, g, how), p.dtype), grads, shares, params)
        return (value, stacked if stack else aux), grads, *(jax.lax.psum(x, axis) for x in noise)

    param_specs, share_specs = (jax.tree.map(lambda how: _only(how, (axis,)), hows) for hows in (shardings, shares))
    of_loss = PartitionSpec(), PartitionSpec(axis) if stack else PartitionSpec()
    in_specs = param_specs, PartitionSpec(axis)
    out_specs = of_loss, share_specs, *[PartitionSpec()] * 3 * noise_scale
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=frozenset({axis}))


def _over_parts(sums: Callable[[Rows], Any], rows: Rows, parts: int, axis: str) -> Any:
    """`sums` of the rows of a device: added up over its parts, stacked, and the types of what is reduced."""
    if parts == 1:
        total, stacked, like = sums(rows)
        return total, jax.tree.map(lambda x: x[None], stacked), like
    split = _in_parts(rows, parts)
    first, _, like = jax.eval_shape(sums, jax.tree.map(lambda x: x[0], split))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)

    def add(total: Any, rows: Rows) -> Any:
        new, stacked, _ = sums(rows)
        return jax.tree.map(jnp.add, total, new), stacked

    return *jax.lax.scan(add, meshes.varying(zeros, frozenset({axis})), split), like


def _in_parts(rows: Rows, parts: int) -> Rows:
    return jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), rows)


def _noise(rows: Rows, weight: Array | None, grads: Params, axis: str) -> list[Array]:
    """What a part adds to `parts`, `weight` and `squares` of a `NoiseScaleState`."""
    number = next((len(x) for x in jax.tree.leaves(rows) if len(x)), 1)
    w = jnp.float32(number) if weight is None else weight
    return meshes.varying([(w > 0).astype(jnp.int32), w, square_of(grads, w)], frozenset({axis}))


def _gathered(axis: str, p: Array, how: NamedSharding) -> Array:
    """A parameter whose shares along an axis of the mesh lie so."""
    i = _place_of(axis, how)
    return meshes.varying(p, frozenset({axis})) if i is None else jax.lax.all_gather(p, axis, axis=i, tiled=True)


def _shared(axis: str, g: Array, how: NamedSharding) -> Array:
    """The share of the sum of a gradient over an axis of the mesh; the sum where it is not divided."""
    i = _place_of(axis, how)
    if i is None:
        return jax.lax.psum(g, axis)
    return jax.lax.psum_scatter(g, axis, scatter_dimension=i, tiled=True)


def _place_of(axis: str, how: NamedSharding) -> int | None:
    """The axis of an array that an axis of the mesh divides."""
    return next((i for i, entry in enumerate(how.spec) if axis in sharding.axes_of(entry)), None)


def by_constraints(f: Callable[..., Any], mesh: Any, axis: str, stack: bool) -> Callable[..., Any]:
    """Value and gradient of the mean over the devices of an axis, whose sum the compiler makes.

    Args:
      f: of `loss_of_part`, without weights: a NaN of a part of weight 0 would be in the sum.
      stack: aux is that of each part, along a new first axis.
    """
    n, by_parts = mesh.shape[axis], NamedSharding(mesh, PartitionSpec(axis))

    def mean(x: Array) -> Array:
        return mean_of(n, jnp.sum(weighed(None, x), axis=0), x.dtype)

    def of_all(params: Params, rows: Rows) -> Any:
        split = jax.lax.with_sharding_constraint(_in_parts(rows, n), by_parts)
        value, (_, aux) = jax.vmap(f, (None, 0), spmd_axis_name=axis)(params, split)
        return mean(value), aux if stack else jax.tree.map(mean, aux)

    return jax.value_and_grad(of_all, has_aux=True)


def _only(how: NamedSharding, names: tuple[str, ...]) -> PartitionSpec:
    """What a sharding says of these axes of the mesh."""
    entries = [tuple(name for name in sharding.axes_of(entry) if name in names) for entry in how.spec]
    return PartitionSpec(*(entry[0] if len(entry) == 1 else entry or None for entry in entries))
