"""From one gradient for each example to one update: averages over axes and over calls."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec, Protocol

import jax
import jax.numpy as jnp
from jax.tree_util import SequenceKey

from gdjax import tree
from gdjax.combine.chain import chain
from gdjax.combine.conditional import apply_or, zeros
from gdjax.core import base, checks
from gdjax.core.base import (
    EmptyState,
    GradientTransformation,
    GradientTransformationExtraArgs,
    identity,
    init_empty_state,
    transform,
)
from gdjax.core.part import Inside, Position
from gdjax.core.parts import holding
from gdjax.core.types import OptState, Params, Transform, Updates
from gdjax.numerics import Array
from gdjax.transforms.accumulation import MultiSteps, MultiStepsState

__all__ = [
    "AccumulateAvgUpdatesState", "AggregatedUpdates", "Aggregator", "AggregatorUpdateFn", "MaybeAxis",
    "PerElementUpdates", "accumulate_avg_updates", "average_incrementally_updates", "average_per_element_updates",
    "process",
]  # fmt: skip

P = ParamSpec("P")
PerElementUpdates = Any  # a tree like the parameters, whose leaves have more axes: of examples, say
AggregatedUpdates = Any  # a tree like the parameters
MaybeAxis = int | Sequence[int] | None


class AggregatorUpdateFn(Protocol):
    """`update(per_elt_updates, state, params=None, **extra_args) -> (updates, state)`."""

    def __call__(
        self, per_elt_updates: PerElementUpdates, state: OptState, params: Params = None, **extra_args: Any
    ) -> tuple[AggregatedUpdates, Any]: ...


class Aggregator(GradientTransformationExtraArgs):
    """A transform whose `update` takes one gradient for each example, as `jax.vmap(jax.grad(loss), (None, 0))` makes.

    The class tells such a transform from one of averaged gradients; the fields, `init` and `update`, are the same.
    """


def aggregator_factory(factory: Callable[P, Any]) -> Callable[P, Any]:
    """`transform`, for a factory that may return an `Aggregator`, which the result then is."""
    return transform(factory)


@aggregator_factory
def process(
    preprocessor: Transform, aggregator: Aggregator, postprocessor: Transform, aggregator_has_aux: bool = False
) -> Any:
    """Three transforms in a row: of the gradient of each example, from those to one, and of that one.

    Args:
      preprocessor: sees gradients with the axis of examples, for instance to clip each.
      aggregator: takes that axis away. While its state has a field `ready` that is False, in calls that only
        accumulate, the updates are zero and `postprocessor` is not called.
      postprocessor: an optimizer.
      aggregator_has_aux: the aggregator returns `(updates, aux)`; the dict `aux` goes to `postprocessor` as extra
        arguments.

    Returns:
      An `Aggregator` if `aggregator` is one; its state is the tuple of the three states.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> from gdjax.experimental import aggregating
      >>> mean = aggregating.average_per_element_updates()
      >>> tx = aggregating.process(gdjax.clip(1.0), mean, gdjax.sgd(0.5))
      >>> u, _ = tx.update(jnp.array([[0.5], [9.0]]), tx.init(jnp.zeros(1)))
      >>> print(u)  # of the mean of two clipped gradients
      [-0.375]
    """
    for i, tx in enumerate((preprocessor, aggregator, postprocessor)):
        base.check_transform("gdjax.process", i, tx)

    def init(params: Params) -> tuple[Any, Any, Any]:
        return preprocessor.init(params), aggregator.init(params), postprocessor.init(params)

    def update(updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        before, during, after = state
        updates, before = base.call_update(preprocessor, updates, before, params, extra_args)
        updates, during = base.call_update(aggregator, updates, during, params, extra_args)
        if aggregator_has_aux:
            updates, aux = updates
            extra_args |= aux

        def post(state: OptState) -> tuple[Any, Any]:
            return base.call_update(postprocessor, updates, state, params, extra_args)

        ready = tree.get(during, "ready", True)
        if ready is True:
            updates, after = post(after)
        else:
            updates, after = apply_or(ready, post, lambda: zeros(updates), after)
        return updates, (before, during, after)

    parts = preprocessor, aggregator, postprocessor
    made = holding(init, update, *(Inside(tx, (SequenceKey(i),), (Position(i),)) for i, tx in enumerate(parts)))
    return Aggregator(*made) if isinstance(aggregator, Aggregator) else made


@aggregator_factory
def average_per_element_updates(per_elt_axis: int | Sequence[int] = 0) -> Any:
    """The average over one axis or several.

    Args:
      per_elt_axis: the axes of the examples, in every leaf.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.experimental.aggregating.average_per_element_updates()
      >>> u, _ = tx.update(jnp.array([[1.0, 2.0], [3.0, 6.0]]), tx.init(jnp.zeros(2)))
      >>> print(u)
      [2. 4.]
    """

    def update(updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        return jax.tree.map(lambda g: jnp.mean(g, axes_of(per_elt_axis)), updates), state

    return Aggregator(init_empty_state, update)


class AccumulateAvgUpdatesState(NamedTuple):
    """State of `accumulate_avg_updates`."""

    micro_step: Array  # () int32, gradients in avg_grad
    ready: Array  # () bool, whether the last call completed an average
    avg_grad: Updates  # like params, the mean of the gradients so far, float32 at least


@transform
def accumulate_avg_updates(accumulation_steps: int) -> GradientTransformation:
    """The mean of the updates of several calls in every last of them, zeros in the others; see `MultiSteps`.

    Args:
      accumulation_steps: at least 1. With 1 the updates pass through and there is no state.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.experimental.aggregating.accumulate_avg_updates(2)
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([1.0, 4.0]):
      ...     u, state = tx.update(g, state)
      ...     print(u)
      0.0
      2.5
    """
    label = "gdjax.accumulate_avg_updates"
    if checks.structural(label, "accumulation_steps", accumulation_steps, 1) == 1:
        return identity()
    steps = MultiSteps(identity(), accumulation_steps)

    def init(params: Params) -> AccumulateAvgUpdatesState:
        state = steps.init(params)
        return AccumulateAvgUpdatesState(state.mini_step, jnp.zeros((), bool), state.acc_grads)

    def update(updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        checks.state(label, state, AccumulateAvgUpdatesState)
        old = MultiStepsState(state.micro_step, jnp.zeros((), jnp.int32), EmptyState(), state.avg_grad)
        updates, new = steps.update(updates, old)
        return updates, AccumulateAvgUpdatesState(new.mini_step, new.mini_step == 0, new.acc_grads)

    return holding(init, update, like="avg_grad")


@aggregator_factory
def average_incrementally_updates(per_elt_axis: MaybeAxis, accumulation_steps: int) -> Any:
    """The average over the axes of the examples and over calls.

    Args:
      per_elt_axis: the axes of the examples, in every leaf; None where the gradients are averages already.
      accumulation_steps: calls to average over, at least 1; with 1 there is no state.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.experimental.aggregating.average_incrementally_updates(0, 2)
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([[1.0, 3.0], [2.0, 6.0]]):  # two calls of two examples
      ...     u, state = tx.update(g, state)
      ...     print(u)
      0.0
      3.0
    """
    accumulate = accumulate_avg_updates(accumulation_steps)
    if per_elt_axis is None:
        return accumulate
    return Aggregator(*chain(average_per_element_updates(per_elt_axis), accumulate))


def axes_of(axis: int | Sequence[int]) -> int | tuple[int, ...]:
    return axis if isinstance(axis, int) else tuple(axis)
