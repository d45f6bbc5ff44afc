"""A training step on a mesh, in which each device updates its share of the parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax.combine import sharding
from gdjax.core import axis_kinds, base, checks, homes
from gdjax.core.types import ArrayTree, OptState, Params, Transform
from gdjax.training.agreement import Checks, check_mesh
from gdjax.training.shared_gradient import averaged
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
        init = axis_kinds.in_automatic_axes(tx.init, mesh, specs_of(state_sharding))
        self._init = jax.jit(init, out_shardings=state_sharding)

    def init(self, params: Params) -> tuple[Params, OptState]:
        """The parameters, where the step wants them, and the state, of which no device ever makes the whole."""
        # A copy, because the step writes over its arguments.
        params = jax.jit(lambda p: jax.tree.map(jnp.copy, p), out_shardings=self.params_sharding)(params)
        return params, self._init(params)

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
    several micro-batches or explicit axes, gradients are taken in `jax.shard_map` over `axis`: there the loss must not
    name that axis itself. Other explicit axes of the mesh are so in the loss; in the update all are automatic.

    Muon and its kin compute each polar factor on one device: the matrices of a shape are exchanged once on their way
    in and once on their way out, whatever the number of leaves and of Newton-Schulz steps.

    Args:
      loss: loss(params, batch), a mean over the examples of the batch; with `has_aux` also anything of arrays, whose
        mean over the devices is returned.
      tx: any optimizer. If it takes extra arguments it gets the value, `value=`.
      params: arrays, or their shapes. How they are divided is read from their shardings.
      mesh: of automatic or explicit axes.
      axis: the axis of the mesh that the batch is divided over, and the state.
      micro_batches: each device's part of the batch is divided into as many, whose gradients are added up before the
        one reduction.
      has_aux: as of `jax.grad`.
      min_bytes: smaller leaves are not divided: their gradients are reduced together, and each device updates them.

    Returns:
      A `ShardedStep`. It writes over its arguments: go on with what it returns. `step.state_sharding` is what
      `gdjax.state_sharding` returns, for `jax.jit` or for a checkpoint.

    Raises:
      ValueError: the mesh has no such axis, or lacks one over which a parameter is divided; (in a step) the
        devices and micro-batches do not divide the batch; parameters or state lie on another mesh.
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
    check_mesh(LABEL, mesh, explicit=True)
    lie, shares = sharding.shares(LABEL, params, mesh, axis, min_bytes)
    state_sharding = sharding.state_sharding(tx, params, mesh, axis, min_bytes=min_bytes)
    explicit, inside = axis_kinds.not_automatic(mesh), axis_kinds.automatic(mesh)
    lying, shared = (jax.tree.map(lambda how: NamedSharding(inside, how.spec), hows) for hows in (lie, shares))
    take = jax.value_and_grad(loss, has_aux=has_aux)
    if explicit or micro_batches > 1 or mesh.devices.flat[0].platform not in REDUCES_AND_DIVIDES:
        take = averaged(take, inside, axis, micro_batches, lying, shared, explicit)

    def step(params: Params, state: OptState, batch: ArrayTree) -> Any:
        found, grads = take(params, batch)
        grads = jax.lax.with_sharding_constraint(grads, shared)
        own = jax.lax.with_sharding_constraint(params, shared)
        with homes.of(inside):
            updates, state = base.call_update(tx, grads, state, own, {"value": found[0] if has_aux else found})
        # Without this the compiler may gather both terms of the sum instead of the sum.
        own = jax.lax.with_sharding_constraint(apply_updates(own, updates), shared)
        return jax.lax.with_sharding_constraint(own, lying), state, found

    places = lie, state_sharding
    compiled = jax.jit(
        axis_kinds.in_automatic_axes(step, mesh, (*map(specs_of, places), PartitionSpec())),
        in_shardings=(*places, NamedSharding(mesh, PartitionSpec(axis))),
        out_shardings=(*places, NamedSharding(mesh, PartitionSpec())),
        donate_argnums=(0, 1),
    )
    return ShardedStep(tx, mesh, *places, compiled, Checks(LABEL, mesh, (axis,), micro_batches, *places))


def specs_of(shardings: Any) -> Any:
    """A tree of shardings as one of specs."""
    return jax.tree.map(lambda how: how.spec, shardings)
