"""A training step on a mesh, in which each device updates its share of the parameters."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax import numerics
from gdjax.combine import sharding
from gdjax.core import base, checks, homes, meshes
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform
from gdjax.tree.sums import wide
from gdjax.tree.updates import apply_updates
from gdjax.xla.exchanges import REDUCES_AND_DIVIDES

LABEL = "gdjax.sharded_step"


class ShardedStep:
    """What `sharded_step` returns: `params, state, loss = step(params, state, batch)`.

    Attributes:
      params_sharding: a tree like the parameters: where they lie, before and after a step.
      state_sharding: a tree like the state: its shares.
    """

    def __init__(self, tx: Transform, mesh: Mesh, params_sharding: Any, state_sharding: Any, step: Any, checked: Any):
        self.tx, self.mesh = tx, mesh
        self.params_sharding, self.state_sharding = params_sharding, state_sharding
        self._step, self._checked = step, checked

    def init(self, params: Params) -> tuple[Params, OptState]:
        """The parameters, where the step wants them, and the state, of which no device ever makes the whole."""
        # A copy, because the step writes over its arguments.
        params = jax.jit(lambda p: jax.tree.map(jnp.copy, p), out_shardings=self.params_sharding)(params)
        return params, jax.jit(self.tx.init, out_shardings=self.state_sharding)(params)

    def __call__(self, params: Params, state: OptState, batch: ArrayTree) -> tuple[Params, OptState, Any]:
        return self._told(self._step, params, state, batch)

    def lower(self, params: Params, state: OptState, batch: ArrayTree) -> Any:
        """The lowered step, as of `jax.jit`: of arrays or of shapes."""
        return self._told(self._step.lower, params, state, batch)

    def _told(self, f: Callable[..., Any], *args: Any) -> Any:
        """f(*args). JAX refuses what the step was not made for; what is looked up then costs a good step nothing."""
        try:
            return f(*args)
        except (ValueError, TypeError):
            self._checked(*args)
            raise


def sharded_step(
    loss: Callable[..., Any],
    tx: Transform,
    params: Params,
    mesh: Mesh,
    axis: str = "data",
    *,
    micro_batches: int = 1,
    has_aux: bool = False,
    min_bytes: int = 2**14,
) -> ShardedStep:
    """A compiled training step for any optimizer on any mesh, whose state is divided over an axis, as in ZeRO.

        step = gdjax.sharded_step(loss, adamw, params, mesh)
        params, state = step.init(params)
        params, state, value = step(params, state, batch)

    Each device takes the gradient of the loss of its part of the batch. The gradients are averaged and divided in one
    operation a leaf, a reduce-scatter; the optimizer updates the share of the device; the new parameters are gathered.
    Where a parameter is divided over `axis` already (FSDP), it is gathered for the loss, its gradient reduced to where
    it lies, and its update moves nothing. Parameters may be divided over other axes of the mesh, too (tensor parallel),
    and stay so. The updates are those of one device, up to the rounding of sums.

    On a TPU that is said to the compiler by constraints, and it makes a reduce-scatter of them; elsewhere, and with
    several micro-batches, gradients are taken in `jax.shard_map` over `axis`: there the loss must not name that axis
    itself.

    Muon and its kin compute each polar factor on one device: the matrices of a shape are exchanged once on their way
    in and once on their way out, whatever the number of leaves and of Newton-Schulz steps.

    Args:
      loss: loss(params, batch), a mean over the examples of the batch; with `has_aux` also anything of arrays, whose
        mean over the devices is returned.
      tx: any optimizer. If it takes extra arguments it gets the value, `value=`.
      params: arrays, or their shapes. How they are divided is read from their shardings.
      mesh: of automatic axes.
      axis: the axis of the mesh that the batch is divided over, and the state.
      micro_batches: each device's part of the batch is divided into as many, whose gradients are added up before the
        one reduction.
      has_aux: as of `jax.grad`.
      min_bytes: smaller leaves are not divided: their gradients are reduced together, and each device updates them.

    Returns:
      A `ShardedStep`. It writes over its arguments: go on with what it returns. `step.state_sharding` is what
      `gdjax.state_sharding` returns, for `jax.jit` or for a checkpoint.

    Raises:
      ValueError: the mesh has no such axis, or lacks one over which a parameter is divided, or its axes are explicit;
        (in a step) the devices and micro-batches do not divide the batch; parameters or state lie on another mesh.
      TypeError: tx is no transform; mesh is no mesh; micro_batches is no int.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
      >>> params = {"w": jnp.zeros((128, 64))}
      >>> loss = lambda params, x: jnp.mean((x @ params["w"] - 1.0) ** 2)
      >>> step = gdjax.sharded_step(loss, gdjax.adam(1e-3), params, mesh)
      >>> _, _, value = step(*step.init(params), jnp.ones((16, 128)))
      >>> float(value)
      1.0

    Reference:
      Rajbhandari et al. 2020, ZeRO: memory optimizations toward training trillion parameter models, sections 5.1 and
      5.2, https://arxiv.org/abs/1910.02054
    """
    base.check_transform(LABEL, "tx", tx)
    sharding.check_axis(LABEL, mesh, axis)
    checks.structural(LABEL, "micro_batches", micro_batches, 1)
    check_places(LABEL, mesh)
    lie, shares = sharding.shares(LABEL, params, mesh, axis, min_bytes)
    state_sharding = sharding.state_sharding(tx, params, mesh, axis, min_bytes=min_bytes)
    in_parts = micro_batches > 1 or mesh.devices.flat[0].platform not in REDUCES_AND_DIVIDES
    take = jax.value_and_grad(loss, has_aux=has_aux)
    if in_parts:
        take = _in_parts(take, mesh, axis, micro_batches, lie, shares)

    def step(params: Params, state: OptState, batch: ArrayTree) -> Any:
        found, grads = take(params, batch)
        grads = jax.lax.with_sharding_constraint(grads, shares)
        own = jax.lax.with_sharding_constraint(params, shares)
        with homes.of(mesh):
            updates, state = base.call_update(tx, grads, state, own, {"value": found[0] if has_aux else found})
        # Without this the compiler may gather both terms of the sum instead of the sum.
        own = jax.lax.with_sharding_constraint(apply_updates(own, updates), shares)
        return jax.lax.with_sharding_constraint(own, lie), state, found

    compiled = jax.jit(
        step,
        in_shardings=(lie, state_sharding, NamedSharding(mesh, PartitionSpec(axis))),
        out_shardings=(lie, state_sharding, NamedSharding(mesh, PartitionSpec())),
        donate_argnums=(0, 1),
    )
    checked = Checks(LABEL, mesh, (axis,), micro_batches, lie, state_sharding)
    return ShardedStep(tx, mesh, lie, state_sharding, compiled, checked)


def _in_parts(take: Callable[..., Any], mesh: Mesh, axis: str, parts: int, lie: Any, shares: Any) -> Callable[..., Any]:
    """Values and gradients of each device's part of the batch; the gradients leave as their shares of the mean."""
    n = mesh.shape[axis]
    only = lambda how: PartitionSpec(*(axis if axis in sharding.axes_of(entry) else None for entry in how.spec))  # noqa: E731
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


def check_places(label: str, mesh: Mesh) -> None:
    """Raises unless the mesh has devices, and automatic axes."""
    if not isinstance(mesh, Mesh):
        raise TypeError(f"{label}: mesh must be a jax.sharding.Mesh, of devices, got {mesh!r}")
    if explicit := [name for name, kind in zip(mesh.axis_names, meshes.kinds(mesh), strict=True) if "Auto" not in kind]:
        raise ValueError(
            f"{label}: the axes {', '.join(map(repr, explicit))} of the mesh are not automatic; make it with "
            "axis_types=(jax.sharding.AxisType.Auto, ...)"
        )


class Checks:
    """What a step is given, against what it was made for: the batch is divided over these axes, and into parts."""

    def __init__(self, label: str, mesh: Mesh, axes: tuple[str, ...], parts: int, lie: Any, state_sharding: Any):
        self.label, self.axes, self.parts = label, axes, parts
        self.devices = math.prod(mesh.shape[axis] for axis in axes)
        self.wanted = {"params": lie, "state": state_sharding}

    def __call__(self, params: Params, state: OptState, batch: ArrayTree) -> None:
        parts = self.devices * self.parts
        for path, x in jax.tree_util.tree_flatten_with_path(batch)[0]:
            size = jnp.shape(x)
            if not size or size[0] % parts:
                by = f"{self.devices} devices of {' and '.join(map(repr, self.axes))}"
                by += f" times {self.parts} micro-batches" if self.parts > 1 else ""
                where = f"batch{jax.tree_util.keystr(path)}"
                raise ValueError(f"{self.label}: {where} has shape {size}; its first axis is not divided by {by}")
        for name, tree in (("params", params), ("state", state)):
            self._lies(name, tree)

    def _lies(self, name: str, tree: Any) -> None:
        wanted = self.wanted[name]
        if jax.tree.structure(tree) != jax.tree.structure(wanted):
            raise ValueError(
                f"{self.label}: {name} has another structure than the one the step was made for; step.init makes both. "
                f"Got {jax.tree.structure(tree)}, wanted {jax.tree.structure(wanted)}"
            )
        for (path, x), how in zip(jax.tree_util.tree_flatten_with_path(tree)[0], jax.tree.leaves(wanted), strict=True):
            got = getattr(x, "sharding", None)
            if got is None or got is how or got == how or got.is_equivalent_to(how, jnp.ndim(x)):
                continue
            raise ValueError(
                f"{self.label}: {name}{jax.tree_util.keystr(path)} lies as {got}, and the step was made for {how}; "
                f"move it by jax.device_put(params, step.params_sharding) or jax.device_put(state, step.state_sharding)"
            )
