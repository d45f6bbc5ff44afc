"""Parameters of 16 bits that train: the state keeps what rounding takes from them, or they are rounded at random."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.codes.rounding import FIRST_ROW, is_narrow, joined, nearest, random_bits, salt, split, stochastically
from gdjax.core import arrays, base, checks, meshes
from gdjax.core.base import GradientTransformation, MaskedNode, transform
from gdjax.core.parts import holding
from gdjax.core.paths import named_leaves
from gdjax.core.types import KeyLike, OptState, Params, Transform, Updates, is_skipped
from gdjax.numerics import Array

__all__ = [
    "KahanSummationState", "MasterRemaindersState", "MasterWeightsState", "StochasticRoundingState",
    "with_kahan_summation", "with_master_weights", "with_stochastic_rounding",
]  # fmt: skip


class MasterWeightsState(NamedTuple):
    """State of `with_master_weights`."""

    inner_state: OptState  # of the transform, which sees the masters
    master: Params  # like params, float32, of those of 16 bits; `MaskedNode` for the others


class MasterRemaindersState(NamedTuple):
    """State of `with_master_weights(inner, remainder_bits=...)`."""

    inner_state: OptState  # of the transform, which sees the masters
    count: Array  # () int32, updates made so far
    remainder: Params  # like params, int16 or int8, what a bfloat16 parameter lacks of its master; else `MaskedNode`


class KahanSummationState(NamedTuple):
    """State of `with_kahan_summation`."""

    inner_state: OptState  # of the transform, which sees the sums
    compensation: Params  # like params, what rounding took from those of 16 bits; `MaskedNode` for the others


class StochasticRoundingState(NamedTuple):
    """State of `with_stochastic_rounding`."""

    inner_state: OptState
    count: Array  # () int32, updates made so far
    seed: Array  # () uint32, made of the key


class _Form(NamedTuple):
    """How a float32 number lies in a 16-bit parameter and a field of the state."""

    start: Callable[[Array], Any]  # from a parameter to what is kept for it
    read: Callable[[Array, Any], Array]  # from the parameter and that to the number
    # From the number, the parameter's dtype and a salt for random bits to the parameter, in float32, and what is kept.
    write: Callable[[Array, Any, Any], tuple[Array, Any]]


def _of_master(p: Array, master: Array) -> Array:
    return jnp.where(nearest(master, p.dtype) == _wide(p), master, _wide(p))


def _with_compensation(p: Array, c: Array) -> Array:
    wide, c = _wide(p), _wide(c)
    # A little less of it, since rounding may have made it half a place, which with p is a tie.
    return jnp.where(nearest(wide + 0.99 * c, p.dtype) == wide, wide + c, wide)


def _compensated(x: Array, dtype: Any, salt: Any) -> tuple[Array, Array]:
    near = nearest(x, dtype)
    c = jnp.where(jnp.isfinite(near), x - near, 0).astype(dtype)
    return jnp.where(jnp.isfinite(near), nearest(x - _wide(c), dtype), near), c


def _at_random(x: Array, dtype: Any, salt: Any) -> tuple[Array, None]:
    return stochastically(x, dtype, random_bits(salt, x)), None


def _shortened(x: Array, dtype: Any, salt: Any) -> tuple[Array, Array]:
    return split(x, jnp.int8, random_bits(salt, x))


def _wide(x: Array) -> Array:
    return x.astype(jnp.float32)


_MASTER = _Form(_wide, _of_master, lambda x, dtype, salt: (nearest(x, dtype), x))
_EXACT = _Form(
    lambda p: jnp.zeros_like(p, jnp.int16), lambda p, rest: joined(_wide(p), rest), lambda x, *_: split(x, jnp.int16)
)
_SHORT = _Form(lambda p: jnp.zeros_like(p, jnp.int8), _EXACT.read, _shortened)
_KAHAN = _Form(jnp.zeros_like, _with_compensation, _compensated)
_STOCHASTIC = _Form(lambda p: None, lambda p, slot: p, _at_random)


@transform
def with_master_weights(inner: Transform, remainder_bits: Literal[16, 8] | None = None) -> GradientTransformation:
    """Trains 16-bit parameters as if they were float32: `inner` sees and moves float32 masters of them.

        x_t = x_{t-1} + u_t,    p_t = x_t rounded,    the update is p_t - p_{t-1}

    where u_t is the update that `inner` makes of the gradient, in float32, and the master x_{t-1}. Added to
    p_{t-1}, as `apply_updates` does, the returned update gives p_t exactly. So small updates add up in the master,
    where the parameter alone would lose each of them. Parameters of other dtypes reach `inner` as they are.

    Args:
      inner: the optimizer, with all that belongs to it: clipping, decay, groups, accumulation, guards. Its state is
        that of float32 parameters.
      remainder_bits: what the state keeps for a parameter. None: the master, four bytes. 16: the half of the master
        that a bfloat16 parameter lacks, two bytes; the masters are the same float32 numbers. 8: a byte, with which the
        master has 24 bits, 16 of them precision: an update below 2^-17 of its weight is lost. The last two are for
        bfloat16 alone.

    The updates of 16-bit parameters are float32, whatever the gradients are: the difference of two bfloat16 numbers is
    often none. Only where one step makes a weight smaller by 2^15 is p_t - p_{t-1} not exact in float32; the parameter
    is then off by less than 2^-24 of the old weight.

    Where something else changes a parameter (a projection, pruning, a checkpoint of the parameters alone), it is no
    longer its rounded master, and the master starts anew from it. A remainder cannot tell: it stays, and is worth at
    most half a last place of the new parameter; a 0 stays 0. What stands around and returns updates in the dtype of the
    gradients, as `MultiSteps` and `apply_if_finite` do, may round them: put it inside.

    Raises:
      TypeError: (in init) remainder_bits, and a float16 parameter.
      ValueError: (in update) params is missing, or has 16 bits where that of `init` had not.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx, p = gdjax.with_master_weights(gdjax.sgd(1.0)), jnp.ones(1, jnp.bfloat16)
      >>> state = tx.init(p)
      >>> for _ in range(8):  # each too small for a bfloat16 of 1
      ...     updates, state = tx.update(jnp.full(1, -0.001), state, p)
      ...     p = gdjax.apply_updates(p, updates)
      >>> print(p, round(float(state.master[0]), 4))
      [1.00781] 1.008

    Reference:
      Micikevicius et al. 2018, Mixed precision training, section 3.1, https://arxiv.org/abs/1710.03740; the master in
      two parts as in the 16+16 bits of Zamirai et al. 2020, https://arxiv.org/abs/2010.06192, and the 24 of
      FlashOptim (its `master_weight_bits=24`)
    """
    label = "gdjax.with_master_weights"
    if remainder_bits is None:
        return _around(label, inner, MasterWeightsState, "master", _MASTER)
    form = _EXACT if remainder_bits == 16 else _SHORT
    return _around(label, inner, MasterRemaindersState, "remainder", form, only="bfloat16")


@transform
def with_kahan_summation(inner: Transform) -> GradientTransformation:
    """Trains 16-bit parameters by compensated summation: the state keeps what rounding took, in the same 16 bits.

        x_t = p_{t-1} + c_{t-1} + u_t,    p_t = x_t rounded,    c_t = x_t - p_t rounded,    c_0 = 0

    The update is p_t - p_{t-1}, in float32, as of `with_master_weights`. `inner` sees p + c. Two bytes a parameter, for
    bfloat16 16 bits of precision or more: as `with_master_weights(inner, remainder_bits=8)` has in one byte. It also
    serves float16, whose remainders have no form.

    Args:
      inner: the optimizer.

    A compensation of more than half a last place of its parameter belongs to another one, before something else changed
    it; it is dropped.

    Raises:
      ValueError: (in update) params is missing, or has 16 bits where that of `init` had not.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.with_kahan_summation(gdjax.sgd(1.0))
      >>> p = jnp.ones(1, jnp.bfloat16)
      >>> updates, state = tx.update(jnp.full(1, -0.001, jnp.bfloat16), tx.init(p), p)
      >>> print(gdjax.apply_updates(p, updates), state.compensation)
      [1] [0.000999451]

    Reference:
      Zamirai, Zhang, Aberger & De Sa 2020, Revisiting bfloat16 training, Algorithm 3,
      https://arxiv.org/abs/2010.06192; Kahan 1965, https://doi.org/10.1145/363707.363723
    """
    return _around("gdjax.with_kahan_summation", inner, KahanSummationState, "compensation", _KAHAN)


@transform
def with_stochastic_rounding(inner: Transform, key: KeyLike) -> GradientTransformation:
    """Trains 16-bit parameters by rounding at random: nothing is kept, and small updates move them in the mean.

        p_t = p_{t-1} + u_t rounded up or down, so that E p_t = p_{t-1} + u_t

    The update is p_t - p_{t-1}, in float32: a plain `apply_updates` lands on p_t. Whoever can change that call writes
    `apply_updates(params, updates, key, rounding="stochastic")` and needs no wrapper.

    Args:
      inner: the optimizer, with all that belongs to it. It sees the parameters as they are.
      key: a PRNG key, or an int to seed one. The bits come from it, the number of the step, that of the leaf and the
        element's place in the array: the same on one device and on many. Inside `shard_map` that is the place in the
        device's share, so all shares are rounded by the same bits.

    Raises:
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.with_stochastic_rounding(gdjax.sgd(1.0), key=0)
      >>> p = jnp.ones(10_000, jnp.bfloat16)
      >>> updates, state = tx.update(jnp.full(10_000, -0.001), tx.init(p), p)
      >>> print(round(float(updates.mean()), 4))
      0.001

    Reference:
      Zamirai, Zhang, Aberger & De Sa 2020, Revisiting bfloat16 training, Algorithm 2,
      https://arxiv.org/abs/2010.06192; Ozkara, Yu & Park 2025, Stochastic rounding for LLM training,
      https://arxiv.org/abs/2502.20566
    """
    return _around("gdjax.with_stochastic_rounding", inner, StochasticRoundingState, "", _STOCHASTIC, key=key)


def _around(
    label: str, inner: Transform, State: Any, field: str, form: _Form, only: str = "", key: KeyLike | None = None,
) -> GradientTransformation:  # fmt: skip
    """The transform whose inner one sees the numbers of a form.

    Args:
      State: its class, with a count and a seed if the form needs random bits.
      field: of what the form keeps; "" where that is nothing.
      only: the one dtype of 16 bits that the form has.
    """
    base.check_transform(label, 0, inner)
    counts = "count" in State._fields

    def init(params: Params) -> Any:
        checks.leaves(label, "params", params)
        for where, p in named_leaves("params", params) if only else ():
            if is_narrow(p) and p.dtype != only:
                raise TypeError(f"{label}: {where} is {p.dtype}: remainders are of {only}; leave remainder_bits out")
        slot = jax.tree.map(lambda p: form.start(_array(p)) if is_narrow(p) else MaskedNode(), params)
        seen = jax.tree.map(lambda p, x: form.read(_array(p), x) if is_narrow(p) else p, params, slot)
        fields = {"inner_state": inner.init(seen)} | ({field: slot} if field else {})
        if counts:
            fields["count"] = jnp.zeros((), jnp.int32)
        if key is not None:
            fields["seed"] = jax.random.bits(arrays.fresh_key(key), (), jnp.uint32)
        return State(**fields)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, Any]:
        checks.state(label, state, State)
        checks.params(label, params)
        checks.gradients(label, updates, params)
        leaves = _leaves(label, updates, params, field, getattr(state, field) if field else None)
        gs, xs, row = list(leaves.gs), list(leaves.ps), extra_args.get(FIRST_ROW, 0)
        for i in leaves.narrow:
            gs[i], xs[i] = _read(form, leaves.gs[i], leaves.ps[i], leaves.slots[i])
        tree_of = leaves.structure.unflatten
        new, inner_state = base.call_update(inner, tree_of(gs), state.inner_state, tree_of(xs), extra_args)
        us, slot = leaves.structure.flatten_up_to(new), list(leaves.slots)
        for i in leaves.narrow:
            mark = salt(getattr(state, "seed", 0), state.count, i, row) if counts else None
            us[i], slot[i] = _written(form, us[i], xs[i], leaves.ps[i], mark)
        changed = {field: tree_of(slot)} if field else {}
        if counts:
            changed["count"] = numerics.safe_increment(state.count)
        return tree_of(us), state._replace(inner_state=inner_state, **changed)

    return holding(init, update, like=field, inner_state=inner, at_once=False)


class _Leaves(NamedTuple):
    """Gradients, parameters and what is kept for them, as lists."""

    structure: Any
    gs: list[Any]
    ps: list[Any]
    slots: list[Any]
    narrow: list[int]  # the places of the gradients of 16-bit parameters


def _leaves(label: str, updates: Updates, params: Params, field: str, slot: Any) -> _Leaves:
    paths, structure = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_skipped)
    gs = [g for _, g in paths]
    ps = checks.flatten_like(label, ("updates", "params"), structure, updates, params)
    olds = [None] * len(gs)
    if field:
        olds = checks.flatten_like(label, ("updates", f"state.{field}"), structure, updates, slot)
    narrow = [
        i for i, (g, p) in enumerate(zip(gs, ps, strict=True))
        if not is_skipped(g) and not base.is_float0(g) and is_narrow(p)
    ]  # fmt: skip
    for i in narrow if field else ():
        where = f"params{jax.tree_util.keystr(paths[i][0])}"
        if is_skipped(olds[i]):
            problem = f"is {ps[i].dtype}, and the state keeps no {field} for it: it was wider in init"
            raise ValueError(f"{label}: {where} {problem}; init(params) anew after casting the parameters")
        checks.slot(label, where, field, olds[i], jnp.shape(gs[i]))
    return _Leaves(structure, gs, ps, olds, narrow)


@functools.partial(jax.jit, static_argnums=0)
def _read(form: _Form, g: Array, p: Array, slot: Any) -> tuple[Array, Array]:
    """The gradient in float32, and the number; both lie where the state does."""
    if slot is not None:
        g, p = meshes.placed(g, slot), meshes.placed(p, slot)
    return _wide(g), form.read(p, slot)


@functools.partial(jax.jit, static_argnums=0)
def _written(form: _Form, u: Array, x: Array, p: Array, mark: Any) -> tuple[Array, Any]:
    """The update that leads from p to the number after its update u, and what is kept of that."""
    near, slot = form.write(_wide(x) + _wide(u), p.dtype, mark)
    near, old = meshes.placed(near, p), _wide(p)
    return jnp.where(near == old, 0, near - old), slot  # an infinity less itself would be NaN


def _array(p: Any) -> Array:
    return jnp.zeros(p.shape, p.dtype) if isinstance(p, jax.ShapeDtypeStruct) else jnp.asarray(p)
