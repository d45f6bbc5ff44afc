"""A training step on a mesh, in which each device updates its share of the parameters.

`ShardedStep.check` shows the step beside the same step on one device, where they differ, and why.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gdjax.combine import sharding
from gdjax.core import base, checks, closures, meshes
from gdjax.core.meshes import REDUCES_AND_DIVIDES
from gdjax.core.owners import tiles_of
from gdjax.core.paths import named_leaves
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform
from gdjax.inspection.tabulate import Table
from gdjax.training.agreement import Checks, MeshStep, check_mesh
from gdjax.training.dealing import Dealing, specs_of
from gdjax.training.mesh_loss import averaged, by_constraints, check_trainable, loss_of_part, rows_of
from gdjax.transforms.noise_scale import with_noise_scale
from gdjax.tree.updates import apply_updates

__all__ = ["ShardedStep", "sharded_step"]


class Beside(NamedTuple):
    """A row of `ShardedStep.check`."""

    what: str  # loss, aux['correct'], update of params['w']
    mesh: float  # the number, or the norm of the array
    one_device: float
    difference: float  # the norm of their difference, over the norm on one device
    differs: bool


class Made(NamedTuple):
    """What a step has made."""

    loss: Any
    aux: ArrayTree
    params: Params


def beside(before: Params, on_mesh: Made, on_one: Made, rtol: float, weighted: bool, with_key: bool) -> Table:
    """The table of `ShardedStep.check`."""
    aux = [_row(f"aux{path}", x, y, 0.0, rtol) for path, x, y in _paired(on_mesh.aux, on_one.aux)]
    loss = _row("loss", on_mesh.loss, on_one.loss, 0.0, rtol)
    updates = []
    for (path, x, y), p in zip(_paired(on_mesh.params, on_one.params), jax.tree.leaves(before), strict=True):
        p = _wide(p)
        updates.append(_row(f"update of params{path}", _wide(x) - p, _wide(y) - p, _unit(y) * _norm(p), rtol))
    rows = [loss, *aux, *updates]
    return Table(rows, Beside._fields, warnings=_reasons(loss, aux, updates, weighted, with_key))


def _reasons(
    loss: Beside, aux: Sequence[Beside], updates: Sequence[Beside], weighted: bool, with_key: bool
) -> list[str]:
    differs = [any(row.differs for row in rows) for rows in ([loss], aux, updates)]
    if not any(differs):
        return []
    if with_key:
        return ["each part of the batch has a key of its own, so that what the loss draws differs; compare without"]
    if differs[0] and weighted:
        return ["total and weight of the batch are not the sums of those of its parts, as with statistics of a batch"]
    if differs[0]:
        return [
            "the loss is no mean over the rows of the batch: if it is one over tokens or a mask, or a sum, return "
            "(total, weight) and pass weighted=True; statistics of a batch are those of each part"
        ]
    if differs[1]:
        return [
            "the loss agrees and aux does not: of the parts floats are averaged, with the weights of the parts, and "
            'integers added; return counts as integers, or pass aux="stack"'
        ]
    return [
        "the loss agrees and updates do not: the optimizer enlarges the rounding of gradients, as Adam does where they "
        "are 0 but for rounding; or the loss has other gradients for parts of the batch"
    ]


def _row(what: str, x: Any, y: Any, rounding: float, rtol: float) -> Beside:
    least = max(rtol, _unit(y)) if jnp.issubdtype(y.dtype, jnp.inexact) else 0.0  # counts are exact
    x, y = _wide(x), _wide(y)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        off, size = _norm(np.where(same, 0, x - y)), _norm(y)
    differs = not off <= least * size + rounding
    on_mesh, on_one = (a.item() if not a.ndim and np.isrealobj(a) else _norm(a) for a in (x, y))
    return Beside(what, on_mesh, on_one, off / size if size else np.inf if off else 0.0, differs)


def _paired(x: ArrayTree, y: ArrayTree) -> list[tuple[str, Any, Any]]:
    return [(path, a, b) for (path, a), b in zip(named_leaves("", x), jax.tree.leaves(y), strict=True)]


def _unit(x: Any) -> float:
    """The rounding of a number of this dtype."""
    return float(jnp.finfo(x.dtype).eps) if jnp.issubdtype(x.dtype, jnp.inexact) else 0.0


def _wide(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.complex128 if jnp.iscomplexobj(x) else np.float64)


def _norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x.reshape(-1)))


LABEL = "gdjax.sharded_step"


class ShardedStep(MeshStep):
    """What `sharded_step` returns: `params, state, loss = step(params, state, batch)`, or with `key`.

    `step.lower`, of the same arguments, is as of `jax.jit`.

    Attributes:
      params_sharding: a tree like the parameters: where they lie, before and after a step.
      state_sharding: a tree like the state: its shares.
    """

    def __init__(
        self, tx: Transform, mesh: Mesh, step: Any, checks: Checks, dealing: Dealing,
        alone: Callable[[], "ShardedStep"], *, has_aux: bool, weighted: bool, stack: bool,
    ):  # fmt: skip
        super().__init__(tx, mesh, step, checks)
        init = meshes.in_automatic_axes(dealing.init, mesh, specs_of(self.state_sharding))
        self._init, self._dealing = jax.jit(init, out_shardings=self.state_sharding), dealing
        self._alone, self._has_aux, self._weighted, self._stack = alone, has_aux, weighted, stack

    @property
    def target(self) -> OptState:
        """The shapes of `saved(state)`, with their shardings: what a checkpoint is restored to."""
        return self._dealing.target

    def saved(self, state: OptState) -> OptState:
        """The state as `tx.init` makes it, to be saved: it does not know the number of devices.

        In the step's own state stacks of matrices are dealt to their owner devices, (k, D, ...) in place of (number,
        ...), see `sharded_step`. Here that is undone; the rest is the same arrays, which the next step writes over. So
        save it, or copy it, before. Each array is divided as by `gdjax.state_sharding`.

        Raises:
          ValueError: the state is not the step's.
        """
        return self._dealing.saved(state)

    def restored(self, saved: OptState) -> OptState:
        """The step's state of a saved one, which any number of devices may have made: a copy.

        Args:
          saved: of `saved`, or of `tx.init` and `tx.update`, wherever it lies.

        Raises:
          ValueError: it is not a state of tx.
        """
        return self._dealing.restored(saved)

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
        self._checks.check_inputs(batch, key)
        alone = self._alone()
        inputs = jax.device_put((batch, key), NamedSharding(alone.mesh, PartitionSpec()))
        both = (self, (state, batch, key)), (alone, (self.saved(state), *inputs))
        results = [step._of_copies(params, *arguments) for step, arguments in both]
        return beside(params, results[0], results[1], rtol, self._weighted, key is not None)

    def _of_copies(self, params: Params, state: OptState, batch: ArrayTree, key: Array | None) -> Made:
        placed = jax.device_put((params, state), (self.params_sharding, self.state_sharding))
        params, state = jax.tree.map(lambda x: x.copy(), placed)
        params, _, reported = self(params, state, batch, key)
        loss, aux = reported if self._has_aux else (reported, None)
        return Made(loss, None if self._stack else aux, params)


def sharded_step(
    loss: Callable[..., Any], tx: Transform, params: Params, mesh: Mesh, axis: str = "data", *, micro_batches: int = 1,
    has_aux: bool = False, weighted: bool = False, aux: Literal["reduce", "stack"] = "reduce", min_bytes: int = 2**14,
    noise_scale: bool = False,
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

    Each matrix of Muon, SOAP, Shampoo, PSGD and the like has one owner device, which computes it whole. Its gradient
    goes there once, and its update comes back once, whatever the number of Newton-Schulz steps and turns. Factors,
    bases and moments that a method keeps in stacks stay there: in the state of the step a stack (number, ...) is
    (number / D, D, ...), rounded up, with matrix j at [j // D, j % D]. `step.saved` and `step.restored` go between
    that and the state as `tx.init` makes it, for checkpoints.

    Args:
      loss: loss(params, batch), a mean over the rows of the batch. Where the step gets a key, `step(params, state,
        batch, key)`, it is called as loss(params, batch, key=...): part p has key p of `jax.random.split(key, d m)`,
        however the parts are dealt to devices and micro-batches.
      tx: any optimizer, but for those that evaluate the loss themselves, as in a line search. If it takes extra
        arguments it gets the value, `value=`.
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
      noise_scale: measure the gradient noise scale, from the gradients of the d m parts and their mean, for
        `gdjax.metrics(state)`. Its unit is a row of the batch, with `weighted` a unit of the weight, such as a token.
        Rows must be independent. The state is that of `step.tx`, tx with six scalars around its state. Gradients are
        then taken in `jax.shard_map` on a TPU too.

    Returns:
      A `ShardedStep`. It writes over its arguments: go on with what it returns. `step.state_sharding` has the shardings
      of its state, `step.target` the shapes and shardings of a saved one.

    Raises:
      ValueError: tx has a line search; the mesh has no such axis, or lacks one over which a parameter is divided, or
        has one whose name is not ASCII, at which the compiler aborts; `noise_scale` with d m = 1; (in a step) the
        devices and micro-batches do not divide the batch, or it has no rows; parameters or state lie on another mesh,
        or are gone, given to a step before.
      TypeError: tx is no transform; a parameter is of integers; mesh is no mesh; micro_batches is no int; (in a step)
        the loss returns something else; the key is no PRNG key; aux has booleans or keys, without `aux="stack"`.

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
    stack, parts = aux == "stack", micro_batches * mesh.shape[axis]
    if noise_scale:
        if parts == 1:
            raise ValueError(f"{LABEL}: noise_scale compares gradients of parts of the batch, and it has one part here")
        tx = with_noise_scale(tx)
    check_trainable(LABEL, params)
    _check_search(tx)
    shardings, shares = sharding.shares(LABEL, params, mesh, axis, min_bytes)
    # What stays of the parameters: the step must not keep them.
    shapes = jax.tree.map(lambda p, how: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=how), params, shardings)
    dealing = Dealing(LABEL, tx, shapes, mesh, axis, min_bytes)
    explicit, inside = meshes.not_automatic(mesh), meshes.automatic(mesh)
    auto_shardings, auto_shares = (
        jax.tree.map(lambda how: NamedSharding(inside, how.spec), hows) for hows in (shardings, shares)
    )
    of_part = loss_of_part(LABEL, loss, has_aux, weighted, not stack)
    in_parts = weighted or explicit or micro_batches > 1 or noise_scale
    if in_parts or mesh.devices.flat[0].platform not in REDUCES_AND_DIVIDES:
        value_and_grad = averaged(
            of_part, inside, axis, micro_batches, auto_shardings, auto_shares, explicit, stack, noise_scale
        )
    else:
        value_and_grad = by_constraints(of_part, inside, axis, stack)

    def step(params: Params, state: OptState, batch: ArrayTree, key: Array | None) -> Any:
        (value, more), grads, *noise = value_and_grad(params, rows_of(LABEL, batch, key, parts))
        if noise:
            state = _with_sums(state, *noise)
        grads = jax.lax.with_sharding_constraint(grads, auto_shares)
        share = jax.lax.with_sharding_constraint(params, auto_shares)
        with meshes.owned_by(inside, tiles_of(shapes, auto_shares)):
            updates, state = base.call_update(tx, grads, state, share, {"value": value})
        # Without this the compiler may gather both terms of the sum instead of the sum.
        share = jax.lax.with_sharding_constraint(apply_updates(share, updates), auto_shares)
        return jax.lax.with_sharding_constraint(share, auto_shardings), state, (value, more) if has_aux else value

    alone = functools.partial(
        _on_one_device, loss, tx, shapes, mesh, axis, has_aux=has_aux, weighted=weighted, aux=aux, min_bytes=min_bytes
    )
    compiled = _compiled(step, mesh, axis, (shardings, dealing.shardings), stack)
    checked = Checks(LABEL, mesh, (axis,), micro_batches, shardings, dealing.shardings, lambda: dealing.shapes)
    return ShardedStep(tx, mesh, compiled, checked, dealing, alone, has_aux=has_aux, weighted=weighted, stack=stack)


def _check_search(tx: Transform) -> None:
    """Raises for an optimizer whose update evaluates functions of the parameters itself."""
    functions = {"value_fn", "residual_fn"} & (closures.extra_args_read(tx.update) or frozenset())
    if functions:
        names = ", ".join(f"{name}=" for name in sorted(functions))
        raise ValueError(f"{LABEL}: tx asks for {names}, which one step cannot give: take it without its search")


def _with_sums(state: Any, parts: Array, weight: Array, squares: Array) -> Any:
    """A `NoiseScaleState` with the sums over the parts of a batch."""
    new = {"parts": parts, "weight": weight, "squares": squares}
    return state._replace(**{name: x.astype(getattr(state, name).dtype) for name, x in new.items()})


def _on_one_device(loss: Any, tx: Transform, shapes: Params, mesh: Mesh, axis: str, **settings: Any) -> ShardedStep:
    """The step on the first device of a mesh, where the parameters have these shapes and shardings."""
    one = meshes.on_one_device(mesh)

    def moved(p: Any) -> Any:
        return jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=NamedSharding(one, p.sharding.spec))

    return sharded_step(loss, tx, jax.tree.map(moved, shapes), one, axis, **settings)


def _compiled(step: Callable[..., Any], mesh: Mesh, axis: str, places: tuple[Any, Any], stack: bool) -> Any:
    """A step whose parameters and state lie in these places before and after it; it writes over them."""
    reported: Any = (PartitionSpec(), PartitionSpec(axis)) if stack else PartitionSpec()
    return jax.jit(
        meshes.in_automatic_axes(step, mesh, (*map(specs_of, places), reported)),
        in_shardings=(*places, NamedSharding(mesh, PartitionSpec(axis)), NamedSharding(mesh, PartitionSpec())),
        out_shardings=(*places, jax.tree.map(lambda spec: NamedSharding(mesh, spec), reported)),
        donate_argnums=(0, 1),
    )
