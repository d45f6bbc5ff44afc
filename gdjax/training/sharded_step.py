"""A training step on a mesh, in which each device updates its share of the parameters."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax.combine import sharding
from gdjax.core import axis_kinds, base, checks, homes
from gdjax.core.arrays import shape_of
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform
from gdjax.inspection.table import Table
from gdjax.training import parts as parts_of_batch
from gdjax.training.agreement import Checks, check_mesh
from gdjax.training.mesh_step import MeshStep
from gdjax.training.one_device import Made, beside
from gdjax.training.shared_gradient import averaged, by_constraints
from gdjax.tree.updates import apply_updates
from gdjax.xla.exchanges import REDUCES_AND_DIVIDES

LABEL = "gdjax.sharded_step"


class ShardedStep(MeshStep):
    """What `sharded_step` returns: `params, state, loss = step(params, state, batch)`, or with `key`.

    `step.lower`, of the same arguments, is as of `jax.jit`.

    Attributes:
      params_sharding: a tree like the parameters: where they lie, before and after a step.
      state_sharding: a tree like the state: its shares.
    """

    def __init__(
        self, tx: Transform, mesh: Mesh, step: Any, checks: Checks, alone: Callable[[], "ShardedStep"], *,
        has_aux: bool, weighted: bool, stack: bool,
    ):  # fmt: skip
        super().__init__(tx, mesh, step, checks)
        init = axis_kinds.in_automatic_axes(tx.init, mesh, specs_of(self.state_sharding))
        self._init = jax.jit(init, out_shardings=self.state_sharding)
        self._alone, self._has_aux, self._weighted, self._stack = alone, has_aux, weighted, stack

    def init(self, params: Params) -> tuple[Params, OptState]:
        """The parameters, where the step wants them, and the state, of which no device ever makes the whole."""
        self._checks.alive(params, ())
        # A copy, because the step writes over its arguments.
        params = jax.jit(lambda p: jax.tree.map(jnp.copy, p), out_shardings=self.params_sharding)(params)
        return params, self._init(params)

    def check(
        self, params: Params, state: OptState, batch: ArrayTree, key: Array | None = None, *, rtol: float = 1e-3
    ) -> Table:
        """The step beside the same one on one device, which takes the whole batch at once. Run it once.

            print(step.check(params, state, batch))

        It takes copies, so that parameters and state are as before. The device needs room for all of them, and the
        process all devices of the mesh.

        Args:
          params, state, batch, key: as of the step.
          rtol: the relative difference from which on something differs; differences of the dtype's rounding never do.

        Returns:
          A `Table` with a row for the loss, for each array of aux (without `aux="stack"`), and for the update of each
          parameter; the column `differs` says which differ. Its `warnings`, none where nothing does, tell the likely
          reason.
        """
        alone = self._alone()
        there = jax.device_put((batch, key), NamedSharding(alone.mesh, PartitionSpec()))
        found = [step._of_copies(params, state, *given) for step, given in ((self, (batch, key)), (alone, there))]
        return beside(params, found[0], found[1], rtol, self._weighted, key is not None)

    def _of_copies(self, params: Params, state: OptState, batch: ArrayTree, key: Array | None) -> Made:
        there = jax.device_put((params, state), (self.params_sharding, self.state_sharding))
        params, state = jax.tree.map(lambda x: x.copy(), there)
        params, _, told = self(params, state, batch, key)
        loss, aux = told if self._has_aux else (told, None)
        return Made(loss, None if self._stack else aux, params)


def sharded_step(
    loss: Callable[..., Any], tx: Transform, params: Params, mesh: Mesh, axis: str = "data", *, micro_batches: int = 1,
    has_aux: bool = False, weighted: bool = False, aux: Literal["reduce", "stack"] = "reduce", min_bytes: int = 2**14,
) -> ShardedStep:  # fmt: skip
    """A compiled training step for any optimizer on any mesh, whose state is divided over an axis, as in ZeRO.

        step = gdjax.sharded_step(loss, adamw, params, mesh)
        params, state = step.init(params)
        params, state, value = step(params, state, batch)

    Each device takes the gradient of the loss of its part of the batch. The gradients are averaged and divided in one
    operation a leaf, a reduce-scatter; the optimizer updates the share of the device; the new parameters are gathered.
    Where a parameter is divided over `axis` already (FSDP), it is gathered for the loss, its gradient reduced to where
    it lies, and its update moves nothing. Parameters may be divided over other axes of the mesh, too (tensor parallel),
    and stay so. The updates are those of one device, up to the rounding of sums.

    The batch has d m parts, in its order: of d devices, each with m micro-batches. The loss is called on one part,
    on every platform. Of a mean over rows the mean over the parts is that of the batch. A mean over tokens or over a
    mask is not. With `weighted=True` the loss returns its total t and its weight w, and the value and the gradient are

        L = sum_p t_p / sum_p w_p        g = sum_p grad t_p / sum_p w_p

    A part of weight 0 counts nothing, even where its total or gradient is NaN; without any weight L and g are 0. The
    weight has no gradient. Statistics of a batch, as of batch normalization, are those of a part. `step.check(params,
    state, batch)` compares a step with that of one device; run it once.

    On a TPU the compiler makes the reduce-scatters, of constraints. Elsewhere, and with weights, several micro-batches
    or explicit axes, gradients are taken in `jax.shard_map` over `axis`. The loss must not name that axis itself.
    Other explicit axes of the mesh are so in the loss; in the update all are automatic.

    Muon and its kin compute each polar factor on one device: the matrices of a shape are exchanged once on their way
    in and once on their way out, whatever the number of leaves and of Newton-Schulz steps.

    Args:
      loss: loss(params, batch), a mean over the rows of the batch. Where the step gets a key, `step(params, state,
        batch, key)`, it is called as loss(params, batch, key=...): part p has key p of `jax.random.split(key, d m)`,
        however the parts are dealt to devices and micro-batches.
      tx: any optimizer. If it takes extra arguments it gets the value, `value=`.
      params: arrays, or their shapes. How they are divided is read from their shardings.
      mesh: of automatic or explicit axes.
      axis: the axis of the mesh that the batch is divided over, and the state.
      micro_batches: each device's part of the batch is divided into as many, whose gradients are added up before the
        one reduction.
      has_aux: as of `jax.grad`: the loss returns a pair, itself and a tree of numbers; the step returns it as well.
      weighted: for itself the loss returns a pair of scalars, (total, weight), of a weight of at least 0: with
        `has_aux` `(total, weight), aux`.
      aux: "reduce" makes one tree of those of the parts: of floats the mean, weighted as the loss is; of integers the
        sum, of 32 bits at least. "stack" returns what each part has, along a new first axis of d m, divided over
        `axis`.
      min_bytes: smaller leaves are not divided: their gradients are reduced together, and each device updates them.

    Returns:
      A `ShardedStep`. It writes over its arguments: go on with what it returns. `step.state_sharding` is what
      `gdjax.state_sharding` returns, for `jax.jit` or for a checkpoint.

    Raises:
      ValueError: the mesh has no such axis, or lacks one over which a parameter is divided; (in a step) the
        devices and micro-batches do not divide the batch; parameters or state lie on another mesh, or are gone, given
        to a step before.
      TypeError: tx is no transform; mesh is no mesh; micro_batches is no int; (in a step) the loss returns something
        else; aux has booleans or keys, without `aux="stack"`.

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
    if aux not in ("reduce", "stack"):
        raise ValueError(f"{LABEL}: aux must be 'reduce' or 'stack', got {aux!r}")
    lie, shares = sharding.shares(LABEL, params, mesh, axis, min_bytes)
    state_sharding = sharding.state_sharding(tx, params, mesh, axis, min_bytes=min_bytes)
    explicit, inside = axis_kinds.not_automatic(mesh), axis_kinds.automatic(mesh)
    lying, shared = (jax.tree.map(lambda how: NamedSharding(inside, how.spec), hows) for hows in (lie, shares))
    stack, parts = aux == "stack", micro_batches * mesh.shape[axis]
    of_part = parts_of_batch.of_part(LABEL, loss, has_aux, weighted, not stack)
    in_parts = weighted or explicit or micro_batches > 1
    if in_parts or mesh.devices.flat[0].platform not in REDUCES_AND_DIVIDES:
        take = averaged(of_part, inside, axis, micro_batches, lying, shared, explicit, stack)
    else:
        take = by_constraints(of_part, inside, axis, stack)

    def step(params: Params, state: OptState, batch: ArrayTree, key: Array | None) -> Any:
        (value, more), grads = take(params, parts_of_batch.rows_of(batch, key, parts))
        grads = jax.lax.with_sharding_constraint(grads, shared)
        own = jax.lax.with_sharding_constraint(params, shared)
        with homes.owned_by(inside):
            updates, state = base.call_update(tx, grads, state, own, {"value": value})
        # Without this the compiler may gather both terms of the sum instead of the sum.
        own = jax.lax.with_sharding_constraint(apply_updates(own, updates), shared)
        return jax.lax.with_sharding_constraint(own, lying), state, (value, more) if has_aux else value

    shapes = jax.tree.map(shape_of, params)

    def alone() -> ShardedStep:
        one = axis_kinds.on_one_device(mesh)
        place = lambda p, how: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=NamedSharding(one, how.spec))  # noqa: E731
        there = jax.tree.map(place, shapes, lie)
        same: Any = {"has_aux": has_aux, "weighted": weighted, "aux": aux, "min_bytes": min_bytes}
        return sharded_step(loss, tx, there, one, axis, **same)

    places, told = (lie, state_sharding), PartitionSpec()
    if stack:
        told = PartitionSpec(), PartitionSpec(axis)
    compiled = jax.jit(
        axis_kinds.in_automatic_axes(step, mesh, (*map(specs_of, places), told)),
        in_shardings=(*places, NamedSharding(mesh, PartitionSpec(axis)), NamedSharding(mesh, PartitionSpec())),
        out_shardings=(*places, jax.tree.map(lambda spec: NamedSharding(mesh, spec), told)),
        donate_argnums=(0, 1),
    )
    checked = Checks(LABEL, mesh, (axis,), micro_batches, *places)
    return ShardedStep(tx, mesh, compiled, checked, alone, has_aux=has_aux, weighted=weighted, stack=stack)


def specs_of(shardings: Any) -> Any:
    """A tree of shardings as one of specs."""
    return jax.tree.map(lambda how: how.spec, shardings)
