"""Several gradients for one step: gradients of parts of a batch summed, and one update made of their mean.

`MultiSteps` has Optax's form; `accumulate` keeps the sums in the state of the chain around it.
"""

import functools
from collections.abc import Callable, Sequence, Set
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from gdjax import numerics, tree
from gdjax.combine.chain import of_leaf_rules
from gdjax.combine.conditional import as_before, or_zero
from gdjax.core import argument_kinds as kinds
from gdjax.core import base, checks, domains, meshes
from gdjax.core.base import GradientTransformation, GradientTransformationExtraArgs, MaskedNode, transform
from gdjax.core.closures import value_of
from gdjax.core.contexts import PASS, within
from gdjax.core.number_domains import AtLeast
from gdjax.core.part import Inside
from gdjax.core.parts import holding
from gdjax.core.types import Array, ArrayTree, DTypeLike, OptState, Params, Transform, Updates
from gdjax.lift.leafwise import Hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.transforms.noise_scale import noted, with_noise_scale
from gdjax.xla.sums import on_gpu
from gdjax.xla.write_order import after, before_branch, in_branch, new_parameter

__all__ = ["AccumulateState", "ApplyEvery", "MultiSteps", "MultiStepsState", "accumulate", "apply_every"]


class WindowLeaves(NamedTuple):
    """A tree of gradients, and what belongs to each leaf."""

    structure: Any
    gs: list[Any]
    accs: list[Any]  # the accumulated gradients
    ps: list[Any]  # the parameters; the gradients where `update` got none
    trained: list[int]  # the places of the leaves that have a gradient
    paths: list[Any]

    def chosen(self) -> list[tuple[Array, Array, Array]]:
        """Gradient, accumulated gradient and parameter of each leaf that has a gradient."""
        return [(self.gs[i], self.accs[i], self.ps[i]) for i in self.trained]

    def tree(self, olds: Sequence[Any], news: Sequence[Any]) -> Any:
        """The tree with new entries for the leaves that have a gradient, and the old ones for the rest."""
        entries = list(olds)
        for i, new in zip(self.trained, news, strict=True):
            entries[i] = new
        return self.structure.unflatten(entries)


def leaves_of(label: str, updates: Updates, field: str, sums: Updates, params: Params) -> WindowLeaves:
    """The gradients, and the sums of each, which are this field of the state."""
    paths, structure = jax.tree_util.tree_flatten_with_path(updates)
    gs = [g if hasattr(g, "dtype") else jnp.asarray(g) for _, g in paths]
    accs = checks.flatten_like(label, ("updates", f"state.{field}"), structure, updates, sums)
    ps = gs if params is None else checks.flatten_like(label, ("updates", "params"), structure, updates, params)
    trained = [i for i, g in enumerate(gs) if not base.is_float0(g)]
    for i in trained:
        checks.slot(label, f"params{jax.tree_util.keystr(paths[i][0])}", field, accs[i], gs[i].shape)
    return WindowLeaves(structure, gs, accs, ps, trained, [path for path, _ in paths])


def inner_update(
    inner: Transform, means: Sequence[Array], flat: WindowLeaves, inner_state: OptState, params: Params,
    extra_args: dict[str, Any],
) -> tuple[list[Any], OptState]:  # fmt: skip
    """The updates that a transform makes of the means of gradients, and its new state in the form of the old."""
    with within(PASS, selection=None):  # in a branch
        new, state = base.call_update(inner, flat.tree(flat.gs, means), inner_state, params, extra_args)
    news = flat.structure.flatten_up_to(new)
    return [news[i] for i in flat.trained], as_before(state, inner_state)


def step_if(
    emit: Array, inner: Transform, sums: list[Array], flat: WindowLeaves, inner_state: OptState, params: Params,
    extra_args: dict[str, Any], add: Callable[[list[Array]], list[Array]] | None = None,
    mean: Callable[[Array, Array], Array] = lambda x, p: x,
) -> Any:  # fmt: skip
    """The inner updates in the place of the accumulated gradients, and the inner state, if `emit`; else the sums.

    Args:
      add: makes of the old sums the new ones, of the same dtypes; None where it is done.
      mean: makes of a sum, and its parameter, what the inner transform gets.
    """
    summed = (lambda x: x) if add is None else functools.partial(in_branch, add)

    def step(sums: list[Array], inner_state: OptState) -> Any:
        totals = [or_zero(chosen, x) for x in summed(sums)]
        means = [mean(x, p) for x, (*_, p) in zip(totals, flat.chosen(), strict=True)]
        news, state = inner_update(inner, means, flat, inner_state, params, extra_args)
        return tree.cast_like(news, sums), state

    # Without the inner update the state comes out as it went in: nothing of it is copied, and no array is made for
    # updates that are zero. A GPU would copy it all the same, and wait for `emit`: there an inner update of a few
    # passes over the leaves is always computed.
    gpu = on_gpu() if of_leaf_rules(inner) else jnp.asarray(False)
    chosen = emit | ~gpu
    sums = sums if add is None else before_branch(add, sums)
    made = meshes.cond(emit | gpu, step, lambda sums, state: (summed(sums), state), sums, inner_state)
    return jax.tree.map(functools.partial(jax.lax.select, chosen), made, (summed(sums), inner_state))


def accumulator(p: Array, dtype: DTypeLike) -> Any:
    canonical = jax.dtypes.canonicalize_dtype(p.dtype if hasattr(p, "dtype") else type(p))
    if not jnp.issubdtype(canonical, jnp.inexact):
        return MaskedNode()  # an integer parameter has no gradient
    if dtype is None or jnp.issubdtype(canonical, jnp.complexfloating):
        dtype = canonical
    elif jnp.dtype(dtype) == jnp.float32:
        dtype = numerics.at_least_float32(canonical)
    return jnp.zeros_like(p, dtype=dtype)


@jax.jit
def release(emit: Array, x: Array, g: Array, acc: Array, p: Array) -> tuple[Array, Array]:
    """The update of p and the new accumulated gradient: x is one of the two, the other is zero."""
    update, new = jnp.where(emit, x, 0).astype(g.dtype), jnp.where(emit, 0, x).astype(acc.dtype)
    first = new_parameter(p, update)
    return update, new if first is None else after(first, new)


ACCUMULATE = "gdjax.accumulate"


class AccumulateState(NamedTuple):
    """State of `accumulate`."""

    count: Array  # () int32, gradients in the sums; at 0 the sums are of no use, whatever they are (updates, maybe)
    weight: Array  # () float32, the sum of their weights
    sums: Updates  # like params, the weighted sum of the gradients, float32 at least
    inner_state: OptState


@transform
def accumulate(
    inner: Transform, every: int, *, weight: str | None = None, unreduced: str | Sequence[str] = (),
    noise_scale: bool = False,
) -> GradientTransformation:  # fmt: skip
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
      noise_scale: measure the gradient noise scale, for `gdjax.metrics(state)`. Each gradient is read once more, and
        the mean; the state has six scalars more. The unit is that of the weights, such as a token; without `weight`
        it is one gradient: multiply by the examples of a gradient. Gradients must be of independent samples, the
        covariance of each inversely proportional to its weight, and of the same parameters within a window.

    Raises:
      TypeError: `every` is no int; `last` is no boolean scalar, or with `unreduced` no Python boolean.
      ValueError: `every` is below 1; `noise_scale` with `every` = 1, of which there is no second norm, or with
        `unreduced`, since the norm of a gradient would take the reduction that this saves; (in update) the weight is
        missing, or a gradient is not unreduced over these axes.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.accumulate(gdjax.sgd(1.0), 4, weight="tokens")
      >>> state = tx.init(jnp.array(0.0))
      >>> for g, n, last in [(1.0, 30, False), (3.0, 10, True)]:
      ...     u, state = tx.update(jnp.array(g), state, tokens=n, last=last)
      ...     print(u)
      0.0
      -1.5

    Reference:
      McCandlish et al. 2018, An empirical model of large-batch training, Appendix A.1, https://arxiv.org/abs/1812.06162
    """
    base.check_transform(ACCUMULATE, 0, inner)
    every = checks.structural(ACCUMULATE, "every", every, 1)
    axes = _check_options(every, weight, unreduced, noise_scale)
    arguments = {"last"} if weight is None else {"last", weight}
    if every == 1:
        return _without(arguments, inner)
    inside = Inside(inner, (GetAttrKey("inner_state"),) * (1 + noise_scale), at_once=False)
    inner = with_noise_scale(inner) if noise_scale else inner

    def init(params: Params) -> AccumulateState:
        checks.leaves(ACCUMULATE, "params", params)
        sums = jax.tree.map(lambda p: accumulator(p, jnp.float32), params)
        if axes:
            put = lambda s, p: s if isinstance(s, MaskedNode) else meshes.as_unreduced(s, p, axes)
            sums = jax.tree.map(put, sums, params, is_leaf=lambda x: isinstance(x, MaskedNode))
        return AccumulateState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), sums, inner.init(params))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, *, last: Any = None, **extra_args: Any
    ) -> tuple[Updates, AccumulateState]:
        checks.state(ACCUMULATE, state, AccumulateState)
        checks.gradients(ACCUMULATE, updates, params)
        last = _last(last)
        w = None if weight is None else checks.extra(ACCUMULATE, weight, extra_args.pop(weight, None))
        flat = leaves_of(ACCUMULATE, updates, "sums", state.sums, params)
        _check_unreduced(flat, axes)
        call, n = Call.of(flat, state, w), numerics.safe_increment(state.count)
        before = noted(state.inner_state, [g for g, *_ in flat.chosen()], w) if noise_scale else state.inner_state
        olds = [s for _, s, _ in flat.chosen()]
        if last is False:
            zeros = [jnp.zeros_like(p, dtype=s.dtype) for _, s, p in flat.chosen()]
            return call.result(zeros, n, call.summed(olds), before)
        if last is True:
            means = [call.mean(s, p) for s, (_, _, p) in zip(call.summed(olds), flat.chosen(), strict=True)]
            news, inner_state = inner_update(inner, means, flat, before, params, extra_args)
            # The old sums stay where they are, to be written over.
            return call.result(tree.cast_like(news, olds), 0, olds, inner_state)
        if axes:
            raise TypeError(
                f"{ACCUMULATE}: with unreduced={unreduced!r} pass last=True or last=False, known when compiling"
            )
        emit = n >= every if last is None else last
        # Of no use at a count of 0, the sums need not be set to zero: after an update they are that.
        sums, inner_state = step_if(emit, inner, olds, flat, before, params, extra_args, call.summed, call.mean)
        return call.result([or_zero(emit, x) for x in sums], jnp.where(emit, 0, n), sums, inner_state)

    return holding(init, update, inside, like="sums", also=arguments)


def _check_options(every: int, weight: str | None, unreduced: str | Sequence[str], noise_scale: bool) -> frozenset[str]:
    """The axes over which gradients are unreduced; raises for options of `accumulate` that do not go together."""
    if not (weight is None or isinstance(weight, str)):
        raise TypeError(f"{ACCUMULATE}: weight must be the name of an argument of update or None, got {weight!r}")
    if not isinstance(unreduced, str) and not all(isinstance(axis, str) for axis in unreduced):
        raise TypeError(f"{ACCUMULATE}: unreduced must be names of axes, got {unreduced!r}")
    axes = frozenset((unreduced,) if isinstance(unreduced, str) else unreduced)
    if noise_scale and (every == 1 or axes):
        why = "every=1 has one gradient" if every == 1 else f"unreduced over {sorted(axes)} they have none yet"
        raise ValueError(f"{ACCUMULATE}: noise_scale compares norms of gradients with that of their mean: {why}")
    return axes


class Call(NamedTuple):
    """The gradients of one call of `accumulate`, in their window."""

    flat: WindowLeaves
    first: Array  # () bool, whether the window begins with them
    weight: Array | None  # (); None for equal weights
    total: Array  # () float32, the weights of the window so far, theirs included

    @classmethod
    def of(cls, flat: WindowLeaves, state: AccumulateState, weight: Array | None) -> "Call":
        first = state.count == 0
        added = jnp.asarray(1 if weight is None else weight).astype(jnp.float32)
        return cls(flat, first, weight, jnp.where(first, 0, state.weight) + added)

    def summed(self, sums: Sequence[Array]) -> list[Array]:
        """The sums with these gradients."""
        return [_sum(self.first, s, g, self.weight) for s, (g, *_) in zip(sums, self.flat.chosen(), strict=True)]

    def mean(self, s: Array, p: Array) -> Array:
        weight = jnp.where(self.total > 0, 1 / jnp.where(self.total > 0, self.total, 1), 0)
        return meshes.reduced(s, p) * weight.astype(numerics.real_dtype(s.dtype)).astype(s.dtype)

    def result(self, us: Sequence[Any], count: Any, sums: Sequence[Any], inner_state: OptState) -> Any:
        """What `update` returns."""
        sums = self.flat.tree(self.flat.accs, sums)
        state = AccumulateState(jnp.asarray(count, jnp.int32), self.total, sums, inner_state)
        return self.flat.tree(self.flat.gs, us), state


def _without(names: Set[str], inner: Transform) -> GradientTransformation:
    """The transform, without these arguments of `update`."""

    def update(updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any) -> Any:
        rest = {name: x for name, x in extra_args.items() if name not in names}
        return base.call_update(inner, updates, state, params, rest)

    return holding(inner.init, update, Inside(inner, ()), also=names)


def _check_unreduced(flat: WindowLeaves, axes: frozenset[str]) -> None:
    for i, (g, *_) in zip(flat.trained, flat.chosen(), strict=True):
        if (over := meshes.unreduced_axes(g)) != axes:
            where = f"params{jax.tree_util.keystr(flat.paths[i])}"
            raise ValueError(f"{ACCUMULATE}: {where}: gradient unreduced over {sorted(over)}, expected {sorted(axes)}")


def _last(last: Any) -> Any:
    """A Python boolean, or a scalar array, or None."""
    if last is None or isinstance(last, bool | np.bool):
        return None if last is None else bool(last)
    if jnp.shape(last) or jnp.result_type(last) != jnp.bool_:
        raise TypeError(f"{ACCUMULATE}: last must be a boolean scalar or None, got {last!r}")
    return last


def _sum(first: Array, s: Array, g: Array, w: Array | None) -> Array:
    """w g, 0 for a w of 0 whatever g is, and the sum before it but for the first, in the dtype of the sum."""
    real = numerics.widest_real([s, g])
    wide, g = numerics.widen([s, g], real)
    nothing = meshes.as_unreduced(jnp.zeros(wide.shape, wide.dtype), wide, meshes.unreduced_axes(wide))
    if w is not None:
        g = jax.lax.select(w == 0, nothing, meshes.as_factor(w.astype(real).astype(g.dtype), g) * g)
    return (jax.lax.select(first, nothing, wide) + g).astype(s.dtype)


LABEL = "gdjax.MultiSteps"


class ApplyEvery(NamedTuple):
    """State of `apply_every`."""

    count: Array  # () int32, gradients since the last step, modulo k
    grad_acc: Updates  # like params, their sum, float32 at least


class MultiStepsState(NamedTuple):
    """State of `MultiSteps`."""

    mini_step: Array  # () int32, gradients in acc_grads
    gradient_step: Array  # () int32, updates of the inner transform made so far
    inner_opt_state: OptState
    acc_grads: Updates  # like params, the mean or sum of the gradients since the last update
    skip_state: ArrayTree = ()  # what the skip function returned last


class MultiSteps:
    """Accumulates the gradients of k calls and updates the inner transform with their mean in every k-th.

        a_n = a_{n-1} + (g_n - a_{n-1}) / n,    n = 1, ..., k;    the k-th call returns inner(a_k), the others zeros

    So k calls with batches of m examples make the step of one batch of k m. A call that only accumulates does not
    compute the inner update. (On a GPU it does, and drops it, if the inner transform has leaf rules alone.) An object
    of this class is used like a transform, in `chain` too.

    Args:
      opt: the inner transform.
      every_k_schedule: k, an int of at least 1, or a function of the number of updates made so far; what it returns is
        rounded to an integer.
      use_grad_mean: False hands on the sum, a_k = g_1 + ... + g_k.
      should_skip_update_fn: a `ShouldSkipUpdateFunction`, such as `skip_not_finite`. A call that it skips leaves the
        state as it was, but for `skip_state`. Without it one NaN spoils the update it is in, and no other.
      accumulator_dtype: the dtype of a. float32, the default, means the parameter's dtype where that is wider. None is
        the parameter's, and so is any for a complex parameter.

    Attributes:
      inner_opt: the inner transform.

    16-bit gradients are accumulated in float32, and the inner transform gets that mean unrounded.

    Raises:
      ValueError: k is below 1.
      TypeError: k is neither an int nor a function; the skip function returns no boolean scalar.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.MultiSteps(gdjax.sgd(1.0), every_k_schedule=2)
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([1.0, 3.0]):
      ...     u, state = tx.update(g, state)
      ...     print(u, tx.has_updated(state))
      0.0 False
      -2.0 True
    """

    def __init__(
        self, opt: Transform, every_k_schedule: int | Callable[[Any], Any], use_grad_mean: bool = True,
        should_skip_update_fn: Callable[..., tuple[Any, Any]] | None = None, accumulator_dtype: Any = jnp.float32,
    ):  # fmt: skip
        args = opt, every_k_schedule, use_grad_mean, should_skip_update_fn, accumulator_dtype
        call = base.checked_call(MultiSteps, args, {})
        (domains.integer if callable(every_k_schedule) else checks.structural)(
            LABEL, "every_k_schedule", every_k_schedule, 1
        )
        kinds.dtype(LABEL, "accumulator_dtype", accumulator_dtype)
        if should_skip_update_fn is not None:
            kinds.function(LABEL, "should_skip_update_fn", should_skip_update_fn)
        self.inner_opt = base.check_transform(LABEL, 0, opt)
        self._every_k, self._use_grad_mean, self._should_skip, self._dtype = args[1:]
        both = holding(self._init, self._update, inner_opt_state=self.inner_opt, like="acc_grads", at_once=False)
        self.init, self.update = base.made_by(call, both)

    def has_updated(self, state: OptState) -> Array:
        """Whether the call that returned `state` made an update."""
        return (state.mini_step == 0) & (state.gradient_step > 0)

    def gradient_transformation(self) -> GradientTransformationExtraArgs:
        """This as a `GradientTransformationExtraArgs`."""
        return GradientTransformationExtraArgs(self.init, self.update)

    def __repr__(self) -> str:
        return repr(self.gradient_transformation())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MultiSteps) and self.update == other.update

    def __hash__(self) -> int:
        return hash(self.update)

    def __reduce__(self) -> Any:
        return MultiSteps, value_of(self.update).call.args

    def _init(self, params: Params) -> MultiStepsState:
        checks.leaves(LABEL, "params", params)
        mini_step, gradient_step = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        skip_state: Any = ()
        if self._should_skip is not None:
            _, skip_state = self._should_skip(tree.zeros_like(params), gradient_step, params)
            skip_state = jax.tree.map(lambda x: jnp.array(x, copy=True), skip_state)
        acc_grads = jax.tree.map(lambda p: accumulator(p, self._dtype), params)
        return MultiStepsState(mini_step, gradient_step, self.inner_opt.init(params), acc_grads, skip_state)

    def _update(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, MultiStepsState]:
        checks.state(LABEL, state, MultiStepsState)
        checks.gradients(LABEL, updates, params)
        flat = leaves_of(LABEL, updates, "acc_grads", state.acc_grads, params)
        n, last = state.mini_step, state.mini_step >= self._k(state.gradient_step) - 1
        skip, skip_state = self._skip(updates, state, params)
        emit = last if skip is None else last & ~skip
        sums = [_accumulate(acc, g, n, skip, self._use_grad_mean) for g, acc, _ in flat.chosen()]
        results, inner_state = step_if(emit, self.inner_opt, sums, flat, state.inner_opt_state, params, extra_args)
        new = [release(emit, x, *leaf) for x, leaf in zip(results, flat.chosen(), strict=True)]
        n_after = n + 1 if skip is None else jnp.where(skip, n, n + 1)
        return flat.tree(flat.gs, [u for u, _ in new]), MultiStepsState(
            jnp.where(emit, 0, n_after).astype(jnp.int32),
            jnp.where(emit, numerics.safe_increment(state.gradient_step), state.gradient_step),
            inner_state,
            flat.tree(flat.accs, [acc for _, acc in new]),
            skip_state,
        )

    def _k(self, gradient_step: Array) -> Array:
        k = self._every_k(gradient_step) if callable(self._every_k) else self._every_k
        k = checks.scalar(LABEL, "every_k_schedule", k)
        return (jnp.round(k) if jnp.issubdtype(k.dtype, jnp.floating) else k).astype(jnp.int32)

    def _skip(self, updates: Updates, state: MultiStepsState, params: Params) -> tuple[Array | None, Any]:
        if self._should_skip is None:
            return None, state.skip_state
        skip, info = self._should_skip(updates, state.gradient_step, params)
        if (jnp.shape(skip), jnp.result_type(skip)) != ((), jnp.bool_):
            raise TypeError(f"{LABEL}: should_skip_update_fn must return a boolean scalar first, got {skip!r}")
        return jnp.asarray(skip), as_before(info, state.skip_state)


@functools.partial(jax.jit, static_argnums=4)
def _accumulate(acc: Array, g: Array, n: Array, skip: Array | None, use_grad_mean: bool) -> Array:
    """The mean or sum with one gradient more, in the wider dtype of the two, float32 at least."""
    real = numerics.widest_real([acc, g])
    acc, g = numerics.widen([acc, g], real)
    weight = (1 / (n + 1).astype(real)).astype(acc.dtype)
    new = acc + (g - acc) * weight if use_grad_mean else acc + g
    return new if skip is None else jnp.where(skip, acc, new)


@leafwise(ApplyEvery, grad_acc=Moment(wide=True, kind="exact"), growth="same")
def _summed(g: Array, s: ApplyEvery, p: Array, t: Array, k: Hyper) -> tuple[Array, ApplyEvery]:
    total = jnp.where(t == 1, g, s.grad_acc + g)  # t is counted modulo k
    return jnp.where(t == k, total, 0), s._replace(grad_acc=total)


@transform
def apply_every(k: Annotated[int | Array, AtLeast(1)] = 1) -> GradientTransformation:
    """Adds up updates and returns the sum in every k-th call, zeros in the others.

    The transforms before it in a chain are updated in every call: to make the step of one large batch use `MultiSteps`.

    Args:
      k: an int of at least 1, or a scalar array.

    The sum of 16-bit updates is kept in float32.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.sgd(0.5), gdjax.apply_every(2))
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([1.0, 3.0]):
      ...     u, state = tx.update(g, state)
      ...     print(u)
      0.0
      -2.0
    """
    label = "gdjax.apply_every"
    if not isinstance(k, jax.Array):
        k = checks.structural(label, "k", k, 1)
    rule = base.part_of(_summed(k)).labelled(label)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, ApplyEvery]:
        updates, state = rule.update(updates, state, params)
        return updates, state._replace(count=state.count % k)

    return holding(rule.init, update, like="grad_acc")
