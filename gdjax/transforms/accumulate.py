"""Gradients of parts of a batch summed, and one update made of their mean."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics, tree
from gdjax.combine.conditional import or_zero
from gdjax.core import base, checks, meshes
from gdjax.core.base import GradientTransformation, MaskedNode, transform
from gdjax.core.part import Inside
from gdjax.core.parts import holding
from gdjax.core.types import Array, OptState, Params, Transform, Updates
from gdjax.transforms.windows import accumulator, inner_update, leaves_of, step_if

LABEL = "gdjax.accumulate"


class AccumulateState(NamedTuple):
    """State of `accumulate`."""

    count: Array  # () int32, gradients in the sums; at 0 the sums are of no use, whatever they are (updates, maybe)
    weight: Array  # () float32, the sum of their weights
    sums: Updates  # like params, the weighted sum of the gradients, float32 at least
    inner_state: OptState


@transform
def accumulate(
    inner: Transform, every: int, *, weight: str | None = None, unreduced: str | Sequence[str] = ()
) -> GradientTransformation:
    """Sums the gradients of `every` calls, and updates `inner` with their weighted mean in the last of them.

        S_n = S_{n-1} + w_n g_n        W_n = W_{n-1} + w_n        S_0 = W_0 = 0
        u_n = inner(S_n / W_n) in the last call of a window, 0 in the others

    So the calls of a window make the step of one batch, whatever optimizer is inside. 16-bit gradients are summed in
    float32, `inner` gets the mean unrounded, and its updates are returned so. `every` = 1 is `inner` itself, with its
    state, and reads no weight.

    `update(..., last=...)` may say which call is the last of a window:

    - True: this one. A window may be shorter: it has the mean of what there is;
    - False: not this one, whatever the count;
    - None, the default: the `every`-th.

    A Python boolean is known when a step is compiled. Then there are two programs without a condition: one that sums,
    and reads neither the parameters nor the inner state, and one that makes the step and does not write the sums. On a
    TPU they move 12 and 32 bytes a parameter with AdamW. Where only the running program knows, the two are branches:

        def step(last, gradients, params, state):
            updates, state = tx.update(gradients, state, params, last=last)
            return gdjax.apply_updates(params, updates), state

        branches = functools.partial(step, True), functools.partial(step, False)
        params, state = jax.lax.cond(last, *branches, gradients, params, state)

    moves the same. One `update` for all calls moves 24 and 44: what adds updates to parameters outside of a condition
    reads and writes all of them in each call. On a GPU it moves 36 in each.

    On a mesh of explicit axes gradients may come `unreduced`, as sums of what the devices have, if the loss reads
    `jax.sharding.reshard(params, PartitionSpec(reduced={"data"}))`. The sums stay so. Only the last call of a window
    adds them up over the devices: one reduction for `every` gradients.

    Args:
      inner: the transform. It gets the extra arguments of the last call.
      every: calls to a window, at least 1.
      weight: the name of an extra argument of `update` by which gradients are weighted, a number of at least 0, such as
        the number of tokens that a gradient is the mean over; None for equal weights. A gradient of weight 0 counts
        nothing, NaN or not. A window whose weights are all 0 has the mean 0.
      unreduced: the axes of the mesh over which gradients are. `last` must then be a Python boolean.

    Raises:
      TypeError: `every` is no int; `last` is no boolean scalar, or with `unreduced` no Python boolean.
      ValueError: `every` is below 1; (in update) the weight is missing, or a gradient is not unreduced over these axes.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.accumulate(gdjax.sgd(1.0), 4, weight="tokens")
      >>> state = tx.init(jnp.array(0.0))
      >>> for g, n, last in [(1.0, 30, False), (3.0, 10, True)]:
      ...     u, state = tx.update(jnp.array(g), state, tokens=n, last=last)
      ...     print(u)
      0.0
      -1.5
    """
    base.check_transform(LABEL, 0, inner)
    if not (weight is None or isinstance(weight, str)):
        raise TypeError(f"{LABEL}: weight must be the name of an argument of update or None, got {weight!r}")
    if not isinstance(unreduced, str) and not all(isinstance(axis, str) for axis in unreduced):
        raise TypeError(f"{LABEL}: unreduced must be names of axes, got {unreduced!r}")
    own = {"last"} if weight is None else {"last", weight}
    axes = frozenset((unreduced,) if isinstance(unreduced, str) else unreduced)

    if checks.structural(LABEL, "every", every, 1) == 1:

        def alone(updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any) -> Any:
            rest = {name: x for name, x in extra_args.items() if name not in own}
            return base.call_update(inner, updates, state, params, rest)

        return holding(inner.init, alone, Inside(inner, ()), also=own)

    def init(params: Params) -> AccumulateState:
        checks.leaves(LABEL, "params", params)
        sums = jax.tree.map(lambda p: accumulator(p, jnp.float32), params)
        if axes:
            put = lambda s, p: s if isinstance(s, MaskedNode) else meshes.as_unreduced(s, p, axes)  # noqa: E731
            sums = jax.tree.map(put, sums, params, is_leaf=lambda x: isinstance(x, MaskedNode))
        return AccumulateState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), sums, inner.init(params))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, *, last: Any = None, **extra_args: Any
    ) -> tuple[Updates, AccumulateState]:
        checks.state(LABEL, state, AccumulateState)
        checks.gradients(LABEL, updates, params)
        last, w = _last(last), None if weight is None else checks.extra(LABEL, weight, extra_args.pop(weight, None))
        flat = leaves_of(LABEL, updates, "sums", state.sums, params)
        for i, (g, *_) in zip(flat.trained, flat.chosen(), strict=True):
            if (found := meshes.unreduced_axes(g)) != axes:
                where, axes_of = f"params{jax.tree_util.keystr(flat.paths[i])}", (sorted(found), sorted(axes))
                raise ValueError(f"{LABEL}: {where}: gradient unreduced over {axes_of[0]}, expected {axes_of[1]}")
        first, n = state.count == 0, numerics.safe_increment(state.count)
        total = jnp.where(first, 0, state.weight) + jnp.asarray(1 if w is None else w).astype(jnp.float32)

        def add(sums: Sequence[Array]) -> list[Array]:
            return [_sum(first, s, g, w) for s, (g, *_) in zip(sums, flat.chosen(), strict=True)]

        def after(us: Sequence[Any], count: Any, sums: Sequence[Any], inner_state: OptState) -> Any:
            kept = AccumulateState(jnp.asarray(count, jnp.int32), total, flat.tree(flat.accs, sums), inner_state)
            return flat.tree(flat.gs, us), kept

        mean = functools.partial(_mean, total)
        olds = [s for _, s, _ in flat.chosen()]
        if last is False:
            return after(
                [jnp.zeros_like(p, dtype=s.dtype) for _, s, p in flat.chosen()], n, add(olds), state.inner_state
            )
        if last is True:
            means = [mean(s, p) for s, (_, _, p) in zip(add(olds), flat.chosen(), strict=True)]
            news, inner_state = inner_update(inner, means, flat, state.inner_state, params, extra_args)
            us = tree.cast_like(news, olds)
            return after(us, 0, olds, inner_state)  # the old sums stay where they are, to be written over
        if axes:
            raise TypeError(f"{LABEL}: with unreduced={unreduced!r} pass last=True or last=False, known when compiling")
        emit = n >= every if last is None else last
        # Of no use at a count of 0, the sums need not be set to zero: after an update they are that.
        sums, inner_state = step_if(emit, inner, olds, flat, state.inner_state, params, extra_args, add, mean)
        return after([or_zero(emit, x) for x in sums], jnp.where(emit, 0, n), sums, inner_state)

    return holding(init, update, inner_state=inner, like="sums", also=own)


def _last(last: Any) -> Any:
    """A Python boolean, or a scalar array, or None."""
    if last is None or isinstance(last, bool | np.bool):
        return None if last is None else bool(last)
    if jnp.shape(last) or jnp.result_type(last) != jnp.bool_:
        raise TypeError(f"{LABEL}: last must be a boolean scalar or None, got {last!r}")
    return last


def _sum(first: Array, s: Array, g: Array, w: Array | None) -> Array:
    """w g, 0 for a w of 0 whatever g is, and the sum before it but for the first, in the dtype of the sum."""
    real = numerics.widest_real([s, g])
    wide, g = numerics.widen([s, g], real)
    nothing = meshes.as_unreduced(jnp.zeros(wide.shape, wide.dtype), wide, meshes.unreduced_axes(wide))
    if w is not None:
        g = jax.lax.select(w == 0, nothing, meshes.as_factor(w.astype(real).astype(g.dtype), g) * g)
    return (jax.lax.select(first, nothing, wide) + g).astype(s.dtype)


def _mean(total: Array, s: Array, p: Array) -> Array:
    weight = jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)
    return meshes.reduced(s, p) * weight.astype(numerics.real_dtype(s.dtype)).astype(s.dtype)
