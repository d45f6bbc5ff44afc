"""Several gradients for one step: accumulated over calls, as one large batch would give them."""

import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.combine.conditional import as_before
from gdjax.core import argument_kinds as kinds
from gdjax.core import base, checks, domains
from gdjax.core.base import GradientTransformation, GradientTransformationExtraArgs, transform
from gdjax.core.closures import value_of
from gdjax.core.number_domains import Integer
from gdjax.core.parts import holding
from gdjax.core.types import Array, ArrayTree, OptState, Params, Transform, Updates
from gdjax.lift.leafwise import Hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.transforms.windows import accumulator, leaves_of, release, step_if
from gdjax.xla.write_order import destination

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
        self,
        opt: Transform,
        every_k_schedule: int | Callable[[Any], Any],
        use_grad_mean: bool = True,
        should_skip_update_fn: Callable[..., tuple[Any, Any]] | None = None,
        accumulator_dtype: Any = jnp.float32,
    ):
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
        new = [release(emit, x, *leaf, destination()) for x, leaf in zip(results, flat.chosen(), strict=True)]
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


@leafwise(ApplyEvery, grad_acc=Moment(wide=True, kind="exact"))
def _summed(g: Array, s: ApplyEvery, p: Array, t: Array, k: Hyper) -> tuple[Array, ApplyEvery]:
    total = jnp.where(t == 1, g, s.grad_acc + g)  # t is counted modulo k
    return jnp.where(t == k, total, 0), s._replace(grad_acc=total)


@transform
def apply_every(k: Annotated[int | Array, Integer(1)] = 1) -> GradientTransformation:
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
