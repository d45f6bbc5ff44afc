"""Replicas that train by themselves and meet every H steps, where an outer optimizer moves the parameters of all."""

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax import numerics
from gdjax.combine import sharding
from gdjax.core import base, callers
from gdjax.core.paths import named_leaves
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform
from gdjax.lift import order
from gdjax.optimizers.sgd import sgd
from gdjax.training.agreement import Checks, MeshStep, check_mesh
from gdjax.training.mesh_loss import Rows, check_trainable, counted, loss_of_part, rows_of
from gdjax.training.rounds import LABEL, ReplicaLayout, Rounds
from gdjax.tree.updates import apply_updates

__all__ = ["DilocoState", "DilocoStep", "diloco_step"]


class DilocoState(NamedTuple):
    """State of `diloco_step`."""

    count: Array  # () int32, inner steps made so far
    inner_state: OptState  # of the inner optimizer, each array with a leading axis of replicas
    outer_params: Params  # theta, the parameters that the replicas agreed on last, without an axis of replicas
    outer_state: tuple[OptState, ...]  # of the outer optimizer, one for each fragment

    def eval_params(self, params: Params) -> Any:
        """theta, which is what DiLoCo trains."""
        return self.outer_params


class DilocoStep(MeshStep):
    """What `diloco_step` returns: `params, state, losses = step(params, state, batch)`, or with `key`.

    `step.lower`, of the same arguments, is as of `jax.jit`.

    Attributes:
      params_sharding: a tree like the parameters, which have a leading axis of replicas: where they lie.
      state_sharding: a `DilocoState` of shardings.
      fragments: a tree like the parameters: the number of the fragment that each leaf belongs to.
    """

    def __init__(self, init: Callable[..., Any], fragments: Any, *args: Any):
        super().__init__(*args)
        self._init, self.fragments = init, fragments

    def init(self, params: Params) -> tuple[Params, DilocoState]:
        """The parameters, once for each replica, and the state. All replicas begin with the same."""
        self._checks.alive(params, ())
        return self._init(params)


def diloco_step(
    loss: Callable[..., Any], inner: Transform, params: Params, mesh: Mesh, axis: str = "replica", *, every: int,
    outer: Transform | None = None, fragments: int | ArrayTree = 1, delay: int = 0, alpha: float = 0.0,
    data: str | None = None, has_aux: bool = False, weighted: bool = False, min_bytes: int = 2**14,
) -> DilocoStep:  # fmt: skip
    """A compiled training step of DiLoCo: replicas that exchange nothing but every H-th step, on an axis of a mesh.

        theta_m = inner step of replica m, on its part of the batch
        every H steps:   Delta = mean over m of (theta - theta_m);   theta = outer step with the gradient Delta;
                         theta_m = theta

        step = gdjax.diloco_step(loss, gdjax.adamw(1e-3), params, mesh, every=100)
        params, state = step.init(params)
        params, state, losses = step(params, state, batch)

    Each array of the parameters and of the inner state has a leading axis of replicas, divided over `axis`: each
    replica has its own, and keeps its inner state when it takes new parameters. theta and the outer state are the same
    for all replicas. In each H-th step one mean is taken over the replicas, of as many bytes as the parameters have;
    in the others nothing is exchanged over `axis`, not even the loss. With `outer=gdjax.sgd(1.0)` this is Local SGD;
    with `gdjax.adam(...)` it is a FedOpt whose replicas keep their states.

    Streaming: with P fragments, fragment p = 0, ..., P - 1 of the leaves is exchanged alone, in the steps t with
    t = (p + 1) H // P modulo H, so that each exchange has about 1/P of the bytes. Its first round is shorter.
    With a delay the replicas take the new theta of a fragment that many steps later, and keep a part of what they have
    learned since: theta_m = alpha theta_m + (1 - alpha) theta.

    Args:
      loss: loss(params, batch), a mean over the examples of the batch. It sees the parameters of one replica, and its
        part of the batch. Where the step gets a key, `step(params, state, batch, key)`, it is called with one of the
        replica, `key=`: of `jax.random.split`.
      inner: any optimizer. If it takes extra arguments it gets the value, `value=`.
      params: arrays, or their shapes. How they are divided is read from their shardings: over any axis but `axis`.
      mesh: of automatic axes.
      axis: the axis of the mesh with one replica at each place. The first axis of the batch is divided over it.
      every: H, at least 1; 500 in the reference.
      outer: the outer optimizer, which gets Delta as its gradient; None is that of the reference,
        `sgd(0.7, momentum=0.9, nesterov=True)`.
      fragments: P, from 1 to the number of leaves and to H; the leaves are divided so that the fragments have about
        the same size. Or a tree like params, or a prefix of it, of numbers from 0 to P - 1.
      delay: tau, in steps, at least 0 and less than H.
      alpha: in [0, 1]; 0.5 in the second reference, with a delay of 1.
      data: another axis of the mesh, of the devices of a replica: they share its part of the batch, and each updates
        its share of the parameters and keeps its share of theta and of both states, as in `sharded_step`.
      has_aux: as of `jax.grad`: the loss returns a pair, itself and anything of arrays.
      weighted: the loss returns (total, weight) for itself, as in `sharded_step`. The value and the gradient of a
        replica are those of total / weight, 0 for a weight of 0. Replicas meet with equal weights.
      min_bytes: smaller leaves are not divided over `data`.

    Returns:
      A `DilocoStep`. It writes over its arguments: go on with what it returns. The losses, and what `has_aux` returns,
      have a leading axis of replicas. `gdjax.eval_params(inner, state, params)` is theta. State and parameters are
      ordinary trees for a checkpoint; to go on with another number of replicas give theta to the `init` of a new step.

    Delta is exchanged, and given to the outer optimizer, in float32 at least. A delay is part of the maths; whether an
    exchange runs beside the computation is left to the compiler, within one step. The second reference also rounds what
    is exchanged to four bits, which is not done here. Replicas of an optimizer that draws random numbers draw the same.

    Raises:
      ValueError: the mesh has no such axes, or its axes are explicit, or a parameter is divided over `axis`; a number
        is outside the range given above; (in a step) the devices do not divide the batch; parameters or state lie on
        another mesh, or are gone, given to a step before.
      TypeError: inner or outer is no transform; a parameter is of integers; mesh is no mesh; every, fragments or delay
        is no int; (in a step) the loss returns something else.
      NotImplementedError: this JAX has no `jax.shard_map`.

    Warns:
      OrderWarning: inner keeps an average of the parameters, which does not see what the outer step does.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> mesh = jax.sharding.Mesh(jax.devices()[:1], ("replica",))
      >>> loss, w = lambda w, x: jnp.mean((x * w - 1) ** 2), jnp.zeros(())
      >>> step = gdjax.diloco_step(loss, gdjax.sgd(0.25), w, mesh, every=2)
      >>> params, state, _ = step(*step.init(w), jnp.ones(4))
      >>> print(params, state.outer_params)  # of one replica, and of all, who have not met
      [0.5] 0.0

    Reference:
      Douillard et al. 2023, DiLoCo: distributed low-communication training of language models, Algorithm 1,
      https://arxiv.org/abs/2311.08105; Douillard et al. 2025, Streaming DiLoCo with overlapping communication,
      https://arxiv.org/abs/2501.18512
    """
    outer = sgd(0.7, momentum=0.9, nesterov=True) if outer is None else outer
    _check(inner, outer, mesh, axis, data)
    # Without an axis for the shares nothing is large enough to be divided.
    by, least = (axis, sys.maxsize) if data is None else (data, min_bytes)
    check_trainable(LABEL, params)
    shardings, shares = sharding.shares(LABEL, params, mesh, by, least)
    shapes = jax.tree.map(lambda p, how: jax.ShapeDtypeStruct(jnp.shape(p), p.dtype, sharding=how), params, shardings)
    _check_places(shardings, axis)
    layout = ReplicaLayout(mesh, axis, shardings, shares)
    value_and_grad = jax.value_and_grad(loss_of_part(LABEL, loss, has_aux, weighted, reduces=False), has_aux=True)
    local = _inner_step(value_and_grad, inner, layout, has_aux)
    rounds = Rounds(outer, layout, shapes, fragments, every, delay, alpha)
    _warn_of_averages(inner, shapes)

    divided: Any = functools.partial(sharding.state_sharding, mesh=mesh, axis=by, min_bytes=least)
    outer_state = tuple(divided(outer, rounds.part(shapes, p)) for p in range(rounds.number))
    inner_state = jax.tree.map(layout.of_replicas, divided(inner, shapes))
    replicated: Any = NamedSharding(mesh, PartitionSpec())
    places = jax.tree.map(layout.of_replicas, shardings), DilocoState(replicated, inner_state, shares, outer_state)

    def step(params: Params, state: DilocoState, batch: ArrayTree, key: Array | None) -> Any:
        params, inner_state, reported = local(params, state.inner_state, rows_of(LABEL, batch, key, mesh.shape[axis]))
        t = numerics.safe_increment(state.count)
        params, theta, outer_state = rounds(t, params, state.outer_params, state.outer_state)
        return params, DilocoState(t, inner_state, theta, outer_state), reported

    def init(params: Params) -> tuple[Params, DilocoState]:
        theta = jax.tree.map(jnp.copy, params)  # the step writes over its arguments
        inner_state = layout.copies(inner.init(params))
        return layout.copies(params), DilocoState(jnp.zeros((), jnp.int32), inner_state, theta, rounds.init(params))

    axes = (axis,) if data is None else (axis, data)
    compiled = jax.jit(
        step,
        in_shardings=(*places, NamedSharding(mesh, PartitionSpec(axes)), replicated),
        out_shardings=(*places, NamedSharding(mesh, PartitionSpec(axis))),
        donate_argnums=(0, 1),
    )
    checked = Checks(LABEL, mesh, axes, 1, *places)
    return DilocoStep(jax.jit(init, out_shardings=places), rounds.fragments, inner, mesh, compiled, checked)


def _check(inner: Transform, outer: Transform, mesh: Mesh, axis: str, data: str | None) -> None:
    if not hasattr(jax, "shard_map"):
        raise NotImplementedError(f"{LABEL}: JAX {jax.__version__} has no jax.shard_map; take a newer JAX")
    base.check_transform(LABEL, "inner", inner)
    base.check_transform(LABEL, "outer", outer)
    for name in (axis,) if data is None else (axis, data):
        sharding.check_axis(LABEL, mesh, name)
    if data == axis:
        raise ValueError(f"{LABEL}: axis and data are both {axis!r}; devices of a replica have another axis")
    check_mesh(LABEL, mesh)


def _check_places(shardings: Any, axis: str) -> None:
    for where, how in named_leaves("params", shardings):
        if any(axis in sharding.axes_of(entry) for entry in how.spec):
            raise ValueError(f"{LABEL}: {where} is divided over {axis!r}, where each replica has all of it")


def _warn_of_averages(inner: Transform, params: Params) -> None:
    for average in order.averages(jax.eval_shape(inner.init, params)):
        name = order.name_of_state(type(average))
        callers.warn(
            f"{LABEL}: the outer step moves the parameters, and {name} in the inner optimizer does not see that; leave "
            f"{name} out: state.outer_params are an average of the replicas already",
            order.OrderWarning,
        )


def _inner_step(
    value_and_grad: Callable[..., Any], inner: Transform, layout: ReplicaLayout, has_aux: bool
) -> Callable[..., Any]:
    """A step of each replica by itself."""
    specs, share_specs = (jax.tree.map(lambda how: how.spec, hows) for hows in (layout.shardings, layout.shares))

    def local(params: Params, state: OptState, rows: Rows) -> Any:
        params, state = jax.tree.map(lambda x: x[0], (params, state))
        (value, (weight, aux)), grads = value_and_grad(params, rows)
        value, grads = jax.tree.map(functools.partial(counted, weight), (value, grads))
        grads, share = (jax.lax.with_sharding_constraint(x, share_specs) for x in (grads, params))
        updates, state = base.call_update(inner, grads, state, share, {"value": value})
        share = jax.lax.with_sharding_constraint(apply_updates(share, updates), share_specs)
        params = jax.lax.with_sharding_constraint(share, specs)
        return jax.tree.map(lambda x: x[None], (params, state, (value, aux) if has_aux else value))

    by_replica = PartitionSpec(layout.axis)
    return layout.each(local, by_replica, by_replica)
