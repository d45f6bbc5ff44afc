"""Hyperparameters that live in the state."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from gdjax import numerics
from gdjax.core import base, calls, checks, dialects, domains, misuse, types
from gdjax.core.base import GradientTransformation
from gdjax.core.part import Inside, Part, whole
from gdjax.core.per_leaf import PerLeaf, base_of
from gdjax.core.types import Array, ArrayTree, OptState, Params, Updates
from gdjax.core.values import Call, Value, bind, is_ours


class InjectHyperparamsState(NamedTuple):
    """The state that Optax kept before 0.1.9, for checkpoints and annotations; nothing here returns it."""

    count: Array  # () int32
    hyperparams: dict[str, Array]
    inner_state: OptState


class InjectStatefulHyperparamsState(NamedTuple):
    """State of a transform with injected hyperparameters."""

    count: Array  # () int32, updates made so far
    hyperparams: dict[str, Array]  # name -> scalar; assign to an entry to change it
    hyperparams_states: dict[str, Any]  # name -> state of its schedule
    inner_state: OptState


@runtime_checkable
class StatefulSchedule(Protocol):
    """A schedule with a state of its own. It also gets the extra arguments of the optimizer's update, such as the loss.

    An update of the optimizer calls it with the state it has, for the value, and then `update` for the next state.
    """

    def init(self) -> Any: ...

    def update(self, state: OptState, **extra_args: Any) -> Any: ...

    def __call__(self, state: OptState, **extra_args: Any) -> Any: ...


class WrappedScheduleState(NamedTuple):
    """State of a schedule that depends on the count alone."""

    count: Array  # () int32


class WrappedSchedule:
    """A schedule of the count as a `StatefulSchedule`.

    Args:
      schedule_fn: a schedule, a function of the count.

    Example:
      >>> import gdjax
      >>> rate = gdjax.WrappedSchedule(gdjax.linear_schedule(1.0, 0.0, transition_steps=4))
      >>> state = rate.update(rate.init())
      >>> float(rate(state))
      0.75
    """

    def __init__(self, schedule_fn: types.Schedule):
        self.schedule_fn = schedule_fn

    def init(self) -> WrappedScheduleState:
        return WrappedScheduleState(jnp.zeros((), jnp.int32))

    def update(self, state: WrappedScheduleState, **extra_args: Any) -> WrappedScheduleState:
        return WrappedScheduleState(numerics.safe_increment(state.count))

    def __call__(self, state: WrappedScheduleState, **extra_args: Any) -> Any:
        return self.schedule_fn(state.count)


def inject_hyperparams(
    inner_factory: Callable[..., Any], static_args: str | Iterable[str] = (), hyperparam_dtype: Any = None
) -> Callable[..., GradientTransformation]:
    """Keeps the numeric hyperparameters of `inner_factory` in the state, where they can be read and changed.

    `tx = inject_hyperparams(adamw)(1e-3)` takes the arguments of `adamw`. `state.hyperparams` is a dict: assigning
    `state.hyperparams["learning_rate"] = 1e-4` between two updates changes the rate without recompiling. Schedules may
    stand for any number; what they gave last is in the dict, and assigning to it has no effect. Of `per_leaf` the base
    is in the dict.

    Transforms of this library take schedules and traced scalars as they are. This is for numbers that are changed from
    outside, and for transforms of others.

    Args:
      inner_factory: returns a transform when called with hyperparameters.
      static_args: names of arguments to leave alone: numbers that shape the program, functions that are no schedules.
        What a factory of this library declares as `int`, and its masks, dtypes and functions, are left alone anyway.
      hyperparam_dtype: the dtype of the floating ones; by default the widest of the parameters'. It is float32 at
        least: in bfloat16, where Optax would put them, b2 = 0.999 is 1.

    Returns:
      A factory with the arguments of `inner_factory`. `init(None)` is right where it is for the transform inside, which
      then keeps no state.

    Raises:
      ValueError: `static_args` names no argument of `inner_factory`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.inject_hyperparams(gdjax.sgd)(learning_rate=0.5)
      >>> state = tx.init(jnp.array(0.0))
      >>> state.hyperparams["learning_rate"] = jnp.array(0.25)
      >>> u, state = tx.update(jnp.array(1.0), state)
      >>> print(u)
      -0.25
    """
    if not callable(inner_factory):
        hint = "; pass the factory, not what it returned: inject_hyperparams(adam)(1e-3)"
        hint = hint if misuse.is_transform(inner_factory) else ""
        raise TypeError(f"gdjax.inject_hyperparams: inner_factory must be a function, got {inner_factory!r}{hint}")
    static = {static_args} if isinstance(static_args, str) else set(static_args)
    signature = inspect.signature(inner_factory)
    if not static <= set(signature.parameters):
        unknown = sorted(static - set(signature.parameters))
        raise ValueError(f"gdjax.inject_hyperparams: static_args {unknown} are not among {list(signature.parameters)}")
    ours = is_ours(inner_factory)  # any other may have domains of its own
    shaping = {k for k, p in signature.parameters.items() if ours and domains.is_no_number(signature, p)}
    dtype = None if hyperparam_dtype is None else numerics.at_least_float32(hyperparam_dtype)

    name = getattr(inner_factory, "__name__", repr(inner_factory))
    label = f"gdjax.{name}" if ours else name

    def build(*args: Any, **kwargs: Any) -> GradientTransformation:
        call = Call(factory, misuse.bound_arguments(label, signature, args, kwargs))
        if ours:
            domains.check(label, call.arguments, signature)
        return base.made_by(call, Injected(inner_factory, call.arguments, static | shaping, dtype))

    own_call = bind(inject_hyperparams, (inner_factory, tuple(sorted(static)), hyperparam_dtype), {})
    factory = Value(own_call, None, build)
    factory.__signature__ = signature  # type: ignore[attr-defined]
    dialects.share(inner_factory, factory)
    return factory


inject_stateful_hyperparams = inject_hyperparams  # Optax's older name


class Injected(Part):
    """A transform that is made anew in each step, with the hyperparameters of its state."""

    tells_all = True

    def __init__(self, inner_factory: Any, arguments: Mapping[str, Any], static: set[str], dtype: Any):
        self.inner_factory, self.arguments, self.dtype = inner_factory, arguments, dtype
        self.schedules, self.numbers, self.rest = {}, {}, {}
        self.per_leaf = {name: x for name, x in arguments.items() if isinstance(x, PerLeaf)}
        for name, x in ((name, base_of(x)) for name, x in arguments.items()):
            fixed = name in static or isinstance(x, bool | type)
            if not fixed and callable(x):
                calls.schedule("gdjax.inject_hyperparams", name, x)
                self.schedules[name] = x if isinstance(x, StatefulSchedule) else WrappedSchedule(x)
            elif not fixed and isinstance(x, int | float | complex | np.number | np.ndarray | jax.Array):
                self.numbers[name] = x
            else:
                self.rest[name] = x

    def init(self, params: Params) -> InjectStatefulHyperparamsState:
        if params is not None:  # as it may be where the transform inside keeps no state; that checks it
            checks.leaves("gdjax.inject_hyperparams", "params", params)
        states = {k: f.init() for k, f in self.schedules.items()}
        hyper = self._values(self.numbers, states, self._dtype(params), {})
        inner_state = self._inner(hyper).init(params)
        return InjectStatefulHyperparamsState(jnp.zeros((), jnp.int32), hyper, states, inner_state)

    def _values(self, numbers: Any, states: Any, dtype: Any, extra_args: Mapping[str, Any]) -> dict[str, Array]:
        given = {k: _scheduled(k, f(states[k], **extra_args)) for k, f in self.schedules.items()}
        return {k: _scalar(x, dtype) for k, x in {**numbers, **given}.items()}

    def inside(self) -> Iterator[Inside]:
        with jax.ensure_compile_time_eval():  # so that whoever asks in a trace adds nothing to it
            states = {k: f.init() for k, f in self.schedules.items()}
            first = self._values(self.numbers, states, jnp.float32, {})
        yield Inside(self._inner(first), (GetAttrKey("inner_state"),))

    def asks(self) -> Iterable[str] | None:
        return () if all(isinstance(x, WrappedSchedule) for x in self.schedules.values()) else None

    def given(self) -> dict[str, Any]:
        """The arguments that it was given, schedules among them, not those of a state."""
        shown = {k: f.schedule_fn if isinstance(f, WrappedSchedule) else f(f.init()) for k, f in self.schedules.items()}
        return {**self.arguments, **shown}

    def hyperparams(self, state: OptState, at: Callable[[Any], Any] = whole) -> dict[str, Any]:
        """Schedules of the count are evaluated at `at(count)`; others are as in the last update, or assigned since."""
        found = dict(state.hyperparams)
        for k, schedule in self.schedules.items():
            if isinstance(schedule, WrappedSchedule):
                x = _scheduled(k, schedule.schedule_fn(at(state.hyperparams_states[k].count)))
                found[k] = _scalar(x, found[k].dtype)
        return found

    def update(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, InjectStatefulHyperparamsState]:
        checks.state("gdjax.inject_hyperparams", state, InjectStatefulHyperparamsState)
        old = state.hyperparams_states
        dtype = self._dtype(updates if params is None else params)
        hyper = self._values(state.hyperparams, old, dtype, extra_args)
        states = {k: f.update(old[k], **extra_args) for k, f in self.schedules.items()}
        updates, inner_state = base.call_update(self._inner(hyper), updates, state.inner_state, params, extra_args)
        count = numerics.safe_increment(state.count)
        return updates, InjectStatefulHyperparamsState(count, hyper, states, inner_state)

    def _inner(self, hyper: Mapping[str, Array]) -> Any:
        # Optax keeps numbers in its state that are left alone here.
        own = {name: x.with_base(hyper[name]) for name, x in self.per_leaf.items()}
        return self.inner_factory(**{**hyper, **self.rest, **own})

    def _dtype(self, tree: ArrayTree) -> Any:
        return numerics.widest_real(tree) if self.dtype is None else self.dtype


_scheduled = functools.partial(checks.scheduled, "gdjax.inject_hyperparams")


def _scalar(x: Any, dtype: Any) -> Array:
    """A strongly typed scalar: a floating one in `dtype`."""
    x = jnp.asarray(x)
    return jax.lax.convert_element_type(x, dtype if jnp.issubdtype(x.dtype, jnp.inexact) else x.dtype)
