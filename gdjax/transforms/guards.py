"""Guards: steps that are skipped or mended where numbers are not finite."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.combine.conditional import all_finite, apply_or, apply_where, owners, zeros
from gdjax.core import base, checks, closures, meshes
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import AtLeast, Check
from gdjax.core.parts import holding
from gdjax.core.signatures import plain_types
from gdjax.core.types import Array, OptState, Params, Scalar, Transform, Updates
from gdjax.xla.sums import flag, none_set

__all__ = [
    "ApplyIfFiniteState", "ConditionFn", "ConditionallyMaskState", "ConditionallyTransformState",
    "ShouldSkipUpdateFunction", "apply_if_finite", "conditionally_mask", "conditionally_transform",
    "skip_large_updates", "skip_not_finite",
]  # fmt: skip


class ShouldSkipUpdateFunction(Protocol):
    """`should_skip(updates, gradient_step, params) -> (skip, info)`.

    `skip` is a boolean scalar: leave these gradients out. `info` is any tree of arrays, to be read in
    `MultiStepsState.skip_state`; it has the same structure in every call.
    """

    def __call__(self, updates: Updates, gradient_step: Array, params: Params) -> tuple[Any, Any]: ...


def skip_not_finite(updates: Updates, gradient_step: Array, params: Params) -> tuple[Array, dict[str, Array]]:
    """Skips gradients with a NaN or an infinity in them; a `ShouldSkipUpdateFunction`.

    Args:
      updates: the gradients, a tree of arrays.
      gradient_step: the steps made so far; not read.
      params: the parameters, or None; not read.

    Returns:
      Whether to skip, and a dict with that as "should_skip" and the number of such elements as "num_not_finite".

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.MultiSteps(gdjax.sgd(1.0), 2, True, gdjax.skip_not_finite)
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([1.0, jnp.nan, 3.0]):
      ...     u, state = tx.update(g, state)
      >>> print(u)  # of the mean of the two that are finite
      -2.0
    """
    skip = ~all_finite(updates)
    leaves = [x for x in jax.tree.leaves(updates) if not base.is_float0(x)]

    def count() -> Array:
        counts = [jnp.sum(~jnp.isfinite(x), dtype=jnp.int32) for x in leaves]
        return jnp.sum(jnp.asarray(counts, jnp.int32), dtype=jnp.int32)

    number = meshes.cond(skip, count, lambda: jnp.zeros((), jnp.int32))
    return skip, {"should_skip": skip, "num_not_finite": number}


@plain_types
def skip_large_updates(
    updates: Updates, gradient_step: Array, params: Params, max_squared_norm: Scalar
) -> tuple[Array, dict[str, Array]]:
    """Skips gradients whose squared global norm is not below `max_squared_norm`, or is NaN.

    Fill in the bound to make it a `ShouldSkipUpdateFunction`:
    `functools.partial(skip_large_updates, max_squared_norm=42.0)`.

    Args:
      updates: the gradients, a tree of arrays.
      gradient_step: the steps made so far; not read.
      params: the parameters, or None; not read.
      max_squared_norm: the least squared norm that is skipped, sum_i |g_i|^2 over all leaves.

    Returns:
      Whether to skip, and a dict with that as "should_skip" and the squared norm, taken in float32 or wider, as
      "norm_squared".

    Example:
      >>> import functools, gdjax, jax.numpy as jnp
      >>> skip = functools.partial(gdjax.skip_large_updates, max_squared_norm=100.0)
      >>> tx = gdjax.MultiSteps(gdjax.sgd(1.0), 1, should_skip_update_fn=skip)
      >>> u, state = tx.update(jnp.array([12.0, 16.0]), tx.init(jnp.zeros(2)))
      >>> print(u, state.skip_state["should_skip"], state.skip_state["norm_squared"])
      [0. 0.] True 400.0
    """
    norm_squared = tree.norm(updates, squared=True)
    skip = ~(norm_squared < jnp.asarray(max_squared_norm).astype(norm_squared.dtype))
    return skip, {"should_skip": skip, "norm_squared": norm_squared}


class ApplyIfFiniteState(NamedTuple):
    """State of `apply_if_finite`."""

    notfinite_count: Array  # () int32, calls since the last one that was finite
    last_finite: Array  # () bool, whether the last call was
    total_notfinite: Array  # () int32, calls that were not
    inner_state: OptState


class ConditionallyTransformState(NamedTuple):
    """State of `conditionally_transform`."""

    inner_state: OptState
    step: Array  # () int32, calls so far


class ConditionallyMaskState(NamedTuple):
    """State of `conditionally_mask`."""

    step: Array  # () int32, calls so far
    inner_state: OptState


class ConditionFn(Protocol):
    """`condition(step, **extra_args) -> boolean scalar`: whether to apply the transform in call step = 0, 1, ..."""

    def __call__(self, step: Array, **extra_args: Any) -> Any: ...


@transform
def apply_if_finite(
    inner: Transform, max_consecutive_errors: Annotated[int, AtLeast(0)], *, check_outputs: bool = True
) -> GradientTransformation:
    """Skips the calls in which a number is NaN or infinite: the updates are zero and the inner state stays as it is.

    After more than `max_consecutive_errors` such calls in a row it gives up, and applies `inner` to what there is.

    Args:
      inner: the transform.
      max_consecutive_errors: how many calls in a row to skip at most, at least 0.
      check_outputs: besides the gradients also look at the results of `inner`, which may be infinite where the
        gradients are not. The updates, and the elements of the new state that were finite before, must be finite. They
        are computed once to be looked at and once to be used, which costs a pass of reading; with matrix methods or
        line searches False is cheaper.

    `inner` is evaluated in every call, with gradients of 0 where its result is not used.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.apply_if_finite(gdjax.sgd(0.5), max_consecutive_errors=5)
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([1.0, jnp.nan]):
      ...     u, state = tx.update(g, state)
      ...     print(u, state.total_notfinite)
      -0.5 0
      0.0 1
    """
    label = "gdjax.apply_if_finite"
    base.check_transform(label, 0, inner)
    if not isinstance(max_consecutive_errors, jax.Array):
        max_consecutive_errors = checks.structural(label, "max_consecutive_errors", max_consecutive_errors, 0)

    def init(params: Params) -> ApplyIfFiniteState:
        zero = jnp.zeros((), jnp.int32)
        return ApplyIfFiniteState(zero, jnp.ones((), bool), jnp.copy(zero), inner.init(params))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, ApplyIfFiniteState]:
        checks.state(label, state, ApplyIfFiniteState)
        checks.leaves(label, "updates", updates)
        if check_outputs:
            new, inner_state = base.call_update(inner, updates, state.inner_state, params, extra_args)
            whose = owners(inner, state.inner_state, updates)
            finite = _stay_finite(updates, new, inner_state, state.inner_state, whose)
        else:
            finite = all_finite(updates)
        count = jnp.where(finite, 0, numerics.safe_increment(state.notfinite_count)).astype(jnp.int32)
        total = jnp.where(finite, state.total_notfinite, numerics.safe_increment(state.total_notfinite))
        chosen = none_set([flag(~finite & (count <= max_consecutive_errors))])  # once, not in each loop that reads it
        new, inner_state = apply_where(chosen, inner, updates, state.inner_state, params, extra_args)
        return new, ApplyIfFiniteState(count, finite, total, inner_state)

    return holding(init, update, inner_state=inner, growth="same")


def _stay_finite(
    gradients: Updates, updates: Updates, state: OptState, old: OptState, whose: Mapping[Any, Sequence[int]]
) -> Array:
    """Whether the gradients and the updates are finite, and each number of the state that was so before.

    `whose` are the `owners` of the arrays of the state.
    """
    # Unlike `all_finite` this is for numbers that are computed here and should not be written to memory for the test.
    # On a CPU a byte is written for each element of a Boolean expression: there is one expression for each parameter.
    gs, us, states, olds = map(jax.tree.leaves, (gradients, updates, state, old))
    spoilt = []
    for k, mine in whose.items():
        looked_at = [(xs[k], None) for xs in (gs, us) if isinstance(k, int) and k < len(xs)]
        looked_at += [(states[i], olds[i]) for i in mine]
        looked_at = [(x, y) for x, y in looked_at if jnp.issubdtype(getattr(x, "dtype", type(x)), jnp.inexact)]
        spoilt += [_some_spoilt(looked_at)] if looked_at else []
    return none_set(spoilt)


@jax.jit
def _some_spoilt(looked_at: Sequence[tuple[Any, Any]]) -> Array:
    finite = [(jnp.isfinite(x), y is None or jnp.isfinite(y)) for x, y in looked_at]
    good = [x if y is True else x >= y for x, y in finite]
    return flag(~jnp.all(functools.reduce(operator.and_, good)))


@transform
def conditionally_transform(
    inner: Transform, should_transform_fn: Annotated[ConditionFn, Check("function")], forward_extra_args: bool = False
) -> GradientTransformation:
    """Applies `inner` in the calls that a function chooses; in the others the updates pass through as they are.

    Args:
      inner: the transform. Its state stays as it is in the other calls.
      should_transform_fn: a `ConditionFn`, for instance `lambda step: step % 10 == 0`.
      forward_extra_args: call it with the extra arguments of `update` too.

    Raises:
      TypeError: it returns no boolean scalar.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.conditionally_transform(gdjax.scale(10.0), lambda step: step % 2 == 1)
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([1.0, 1.0]):
      ...     u, state = tx.update(g, state)
      ...     print(u)
      1.0
      10.0
    """
    otherwise = lambda updates: updates
    label, State = "gdjax.conditionally_transform", ConditionallyTransformState
    return _conditional(label, State, inner, should_transform_fn, forward_extra_args, otherwise)


@transform
def conditionally_mask(
    inner: Transform, should_transform_fn: Annotated[ConditionFn, Check("function")], forward_extra_args: bool = False
) -> GradientTransformation:
    """Applies `inner` in the calls that a function chooses; in the others the updates are zero.

    Args:
      inner: the transform. Its state stays as it is in the other calls.
      should_transform_fn: a `ConditionFn`, `condition(step, **extra_args) -> boolean scalar`.
      forward_extra_args: call it with the extra arguments of `update` too.

    Raises:
      TypeError: it returns no boolean scalar.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.conditionally_mask(gdjax.sgd(0.5), lambda step, value: value < 10, True)
      >>> state = tx.init(jnp.array(0.0))
      >>> for value in (1.0, 20.0):
      ...     u, state = tx.update(jnp.array(1.0), state, value=value)
      ...     print(u)
      -0.5
      0.0
    """
    label, State = "gdjax.conditionally_mask", ConditionallyMaskState
    return _conditional(label, State, inner, should_transform_fn, forward_extra_args, zeros)


def _conditional(
    label: str, State: Any, inner: Transform, condition: ConditionFn, forwards: bool,
    otherwise: Callable[[Updates], Any],
) -> GradientTransformation:  # fmt: skip
    """`inner` where the condition holds, and `otherwise(updates)` where it does not."""
    base.check_transform(label, 0, inner)

    def init(params: Params) -> Any:
        return State(inner_state=inner.init(params), step=jnp.zeros((), jnp.int32))

    def update(updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        checks.state(label, state, State)
        chosen = condition(state.step, **(extra_args if forwards else {}))
        if (jnp.shape(chosen), jnp.result_type(chosen)) != ((), jnp.bool_):
            raise TypeError(f"{label}: should_transform_fn must return a boolean scalar, got {chosen!r}")
        apply = lambda s: base.call_update(inner, updates, s, params, extra_args)
        new, inner_state = apply_or(jnp.asarray(chosen), apply, lambda: otherwise(updates), state.inner_state)
        return new, State(inner_state=inner_state, step=numerics.safe_increment(state.step))

    also = closures.argument_names(condition) if forwards else ()
    return holding(init, update, inner_state=inner, also=also, at_once=False)
