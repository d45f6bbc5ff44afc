"""Hyperparameters in the state: injected, read, and set."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from gdjax import numerics
from gdjax.core import base, callers, checks, domains, misuse, types
from gdjax.core.base import GradientTransformation
from gdjax.core.part import HIDDEN, Inside, Operand, Part, Position, whole
from gdjax.core.parts import Guess, known, within
from gdjax.core.types import Array, ArrayTree, OptState, Params, PerLeaf, Transform, Updates, base_of, unboxed
from gdjax.core.values import Call, Value, bind, is_ours

__all__ = [
    "InjectHyperparamsState", "InjectStatefulHyperparamsState", "StatefulSchedule", "WrappedSchedule",
    "WrappedScheduleState", "get_hyperparams", "inject_hyperparams", "inject_stateful_hyperparams",
]  # fmt: skip

Entry = tuple[tuple[str, ...], Any]  # the path to it, which ends in its name, and its value


LABEL = "gdjax.get_hyperparams"
At = Callable[[Any], Any]  # from the count of a state to that at which its schedules are evaluated


def get_hyperparams(
    tx: Transform, state: OptState, *, step: Literal["next", "last"] = "next", count: Any = None
) -> dict[str, Any]:
    """The hyperparameters of a step, schedules evaluated: of the *next* update with `state`, if nothing else is asked.

        get_hyperparams(tx, state)                                        # of the update that `state` will go into
        get_hyperparams(tx, state, step="last")                           # of the update that `state` came out of
        get_hyperparams(tx, tx.init(params), count=jnp.arange(1000))      # the curves of the schedules, to plot

    Reads through this library's chains, masks, groups and injected hyperparameters, and finds those that Optax injects.
    A transform of Optax, or one written by hand, keeps its numbers in a closure, where nothing can read them: they are
    left out. `inject_hyperparams(optax.adam)(1e-3)` keeps them in the state instead.

    Args:
      tx: any transform.
      state: that `init` or `update` returned, or the `opt_state` of `nnx.Optimizer`.
      step: "next" or "last". Inside `MultiSteps`, `apply_if_finite` and the like a step is one of the inner optimizer:
        in a call that only accumulates, or is skipped, the last step is the one before. Before the first step "last"
        gives the numbers of the first.
      count: evaluate the schedules here instead: the updates made before the step, 0 for the first. An array gives
        arrays of its shape.

    What Optax injects is that of the last step in either case, and so is a schedule with a state of its own.

    Returns:
      From name, "learning_rate" for instance, to scalar, or to array where `count` is one. Where a name occurs more
      than once, its keys are preceded by where it stands: "decoder/learning_rate" in the group "decoder";
      "0/learning_rate" in entry 0 of a chain, if no other name tells it apart.

    Raises:
      ValueError: nothing can be read, because all that might have numbers keeps them in a closure. It is a warning
        where something can, but no learning rate. Or `step` is neither word, or "last" together with a count.
      TypeError: `count` is not of whole numbers.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.sgd(gdjax.linear_schedule(1.0, 0.0, transition_steps=4), momentum=0.9)
      >>> state = tx.init(jnp.zeros(2))
      >>> {name: round(float(x), 3) for name, x in gdjax.get_hyperparams(tx, state).items()}
      {'decay': 0.9, 'learning_rate': 1.0}
      >>> print(gdjax.get_hyperparams(tx, state, count=jnp.arange(5))["learning_rate"])
      [1.   0.75 0.5  0.25 0.  ]
    """
    if callable(tx):  # a factory, perhaps
        base.check_transform(LABEL, "tx", tx)
    if step not in ("next", "last") or count is not None and step == "last":
        raise ValueError(f'{LABEL}: step must be "next" or "last", the latter without count; got {step!r}, {count!r}')
    state = unboxed(state)
    numbers, hidden = _all(tx, state, _at(step)) if count is None else _curves(tx, state, count)
    if hidden and not any(name.rpartition("/")[2] == "learning_rate" for name in numbers):
        message = (
            f"{LABEL}: {', '.join(hidden)} cannot be read: a transform of another library or written by "
            "hand keeps its numbers in a closure; make it with gdjax.inject_hyperparams(factory)(...)"
        )
        if not numbers:
            raise ValueError(message)
        callers.warn(message)
    return numbers


def learning_rates(tx: Transform, state: OptState) -> dict[str, Any]:
    """The learning rates among them, as far as they can be read, as arrays."""
    numbers, _ = _all(tx, state, whole)
    return {name: jnp.asarray(x) for name, x in numbers.items() if name.rpartition("/")[2] == RATE}


def last_rates(tx: Transform, state: OptState) -> list[tuple[tuple[str, ...], Any]]:
    """The learning rates of the last step, each with the names of the groups that it is in."""
    walked = [(path, x) for path, x in _walk(tx, state, (), _at("last")) if x is not HIDDEN and path[-1] == RATE]
    return [(_without_positions(path[:-1]), x) for path, x in walked]


RATE = "learning_rate"


def _at(step: str) -> At:
    return whole if step == "next" else lambda count: jnp.maximum(count - 1, 0)


def _curves(tx: Transform, state: OptState, count: Any) -> tuple[dict[str, Any], list[str]]:
    """The numbers at the counts of an array."""
    counts = jnp.asarray(count)
    if not jnp.issubdtype(counts.dtype, jnp.integer):
        raise TypeError(f"{LABEL}: count must be of whole numbers, got {count!r}")
    _, hidden = _all(tx, state, whole)
    numbers = lambda n: _all(tx, state, lambda _: n)[0]
    for _ in counts.shape:
        numbers = jax.vmap(numbers)
    return numbers(counts.astype(jnp.int32)), hidden


def _all(tx: Transform, state: OptState, at: At) -> tuple[dict[str, Any], list[str]]:
    """The numbers by name, and what cannot be read."""
    walked = list(_walk(tx, state, (), at))
    readable = [(path, x) for path, x in walked if x is not HIDDEN]
    named = dict(zip(_names([path for path, _ in readable]), [x for _, x in readable], strict=True))
    return named, ["/".join(path) for path, x in walked if x is HIDDEN]


def _names(paths: list[tuple[str, ...]]) -> list[str]:
    """The shortest name for each path: its end, else without positions in chains, else the whole of it."""
    forms = [(path[-1], "/".join(_without_positions(path)), "/".join(path)) for path in paths]
    columns = list(zip(*forms, strict=True))

    def shortest(form: tuple[str, ...]) -> str:
        return next((x for x, column in zip(form, columns, strict=True) if column.count(x) == 1), form[-1])

    return list(map(shortest, forms))


def _without_positions(path: tuple[str, ...]) -> tuple[str, ...]:
    """A path without the places of entries in chains."""
    return tuple(k for k in path if not isinstance(k, Position))


def _walk(tx: Any, state: OptState, where: tuple[str, ...], at: At) -> Iterator[Entry]:
    part = known(tx, state)
    numbers = {k: x for k, x in part.hyperparams(state, at).items() if x is HIDDEN or _is_number(x)}
    inside: list[Entry] = []
    for i, s in () if part.tells_all else within(part, state):
        inside += _walk(i.tx, s, (*where, *i.names), at) if i.shown else ()
    if isinstance(part, Guess) and (name := part.stands_for(inside)):
        inside, numbers = [], {name: HIDDEN}
    names = {path[-1] for path, _ in inside} if part.ends else ()  # these go by their names, and so do its own
    named = [((*where, f"{part.label.removeprefix('gdjax.')}/{k}" if k in names else k), x) for k, x in numbers.items()]
    yield from [*inside, *named] if part.ends else [*named, *inside]


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | np.number | jax.Array) and not isinstance(x, bool)


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
    static = frozenset([static_args] if isinstance(static_args, str) else static_args)
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
    misuse.share(inner_factory, factory)
    return factory


inject_stateful_hyperparams = inject_hyperparams  # Optax's older name


class Injected(Part):
    """A transform that is made anew in each step, with the hyperparameters of its state."""

    tells_all = True

    def __init__(self, inner_factory: Any, arguments: Mapping[str, Any], static: frozenset[str], dtype: Any):
        self.inner_factory, self.arguments, self.static, self.dtype = inner_factory, arguments, static, dtype
        self.schedules, self.numbers, self.rest = {}, {}, {}
        self.per_leaf = {name: x for name, x in arguments.items() if isinstance(x, PerLeaf)}
        for name, x in ((name, base_of(x)) for name, x in arguments.items()):
            fixed = name in static or isinstance(x, bool | type)
            if not fixed and callable(x):
                callers.schedule("gdjax.inject_hyperparams", name, x)
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
        scheduled = {k: _scheduled(k, f(states[k], **extra_args)) for k, f in self.schedules.items()}
        return {k: _scalar(x, dtype) for k, x in {**numbers, **scheduled}.items()}

    def inside(self) -> Iterator[Inside]:
        with jax.ensure_compile_time_eval():  # so that whoever asks in a trace adds nothing to it
            states = {k: f.init() for k, f in self.schedules.items()}
            first = self._values(self.numbers, states, jnp.float32, {})
        yield Inside(self._inner(first), (GetAttrKey("inner_state"),))

    def around(self, new: Callable[[int, Any], Any]) -> "Injected":
        again, factory = copy.copy(self), self.inner_factory
        again.inner_factory = lambda *args, **kwargs: new(0, factory(*args, **kwargs))
        return again

    def content(self) -> dict[str, Any]:
        marked = {k: Operand(x) if k in self.numbers and isinstance(x, float) else x for k, x in self.arguments.items()}
        return {"inner_factory": self.inner_factory, "arguments": marked, "static": self.static, "dtype": self.dtype}

    def asks(self) -> Iterable[str] | None:
        return () if all(isinstance(x, WrappedSchedule) for x in self.schedules.values()) else None

    def call_arguments(self) -> dict[str, Any]:
        """The arguments of the factory, schedules among them, not those of a state."""
        shown = {k: f.schedule_fn if isinstance(f, WrappedSchedule) else f(f.init()) for k, f in self.schedules.items()}
        return {**self.arguments, **shown}

    def hyperparams(self, state: OptState, at: Callable[[Any], Any] = whole) -> dict[str, Any]:
        """Schedules of the count are evaluated at `at(count)`; others are as in the last update, or assigned since."""
        numbers = dict(state.hyperparams)
        for k, schedule in self.schedules.items():
            if isinstance(schedule, WrappedSchedule):
                x = _scheduled(k, schedule.schedule_fn(at(state.hyperparams_states[k].count)))
                numbers[k] = _scalar(x, numbers[k].dtype)
        return numbers

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
        per_leaf = {name: x.with_base(hyper[name]) for name, x in self.per_leaf.items()}
        return self.inner_factory(**{**hyper, **self.rest, **per_leaf})

    def _dtype(self, tree: ArrayTree) -> Any:
        return numerics.widest_real(tree) if self.dtype is None else self.dtype


_scheduled = functools.partial(checks.scheduled, "gdjax.inject_hyperparams")


def _scalar(x: Any, dtype: Any) -> Array:
    """A strongly typed scalar: a floating one in `dtype`."""
    x = jnp.asarray(x)
    return jax.lax.convert_element_type(x, dtype if jnp.issubdtype(x.dtype, jnp.inexact) else x.dtype)
