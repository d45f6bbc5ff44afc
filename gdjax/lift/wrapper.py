"""A wrapper as a rule: it changes the update that another transform makes for each array."""

import functools
import inspect
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Concatenate, NamedTuple, ParamSpec

from gdjax.core import base, checks
from gdjax.core.base import GradientTransformation
from gdjax.lift import factors, order, rule_checks
from gdjax.lift.leafwise import Leafwise, Prepared, ScaleByScheduleState, ScheduledState
from gdjax.lift.slots import Shared
from gdjax.lift.stages import Planned, Reduced, Staged, stages_of
from gdjax.lift.steps import Step, run, state_of, steps_of

P = ParamSpec("P")


class WrapperState(NamedTuple):
    """State of a wrapper that keeps nothing itself."""

    inner_state: Any  # of the wrapped transform


def wrapper(
    State: Any = WrapperState,  # noqa: N803
    *,
    inner: str = "inner_state",
    count: Callable[[Any], Any] | None = None,
    numbers: Callable[..., dict[str, Any]] | None = None,
    reduce: Prepared | tuple[Prepared, ...] | None = None,
    **slots: Shared | Planned | Callable[[Any, Mapping[str, Any]], Any],
) -> Callable[[Callable[Concatenate[Any, Any, Any, Any, Any, P], tuple[Any, Any]]], Callable[..., Any]]:
    """Makes a rule for one array a factory of wrappers; the factory takes a transform and the rule's hyperparameters.

    The rule is `(u, g, s, p, t, ...) -> (update, state)`, where `u` is the update that the wrapped transform made from
    the gradient `g`; the rest is as in `leafwise`. Where the wrapped transform ends in leaf rules, they and the rule
    run as one function per leaf.

    Args:
      State: a NamedTuple class. One field, `inner`, is the state of the wrapped transform; the others are as in
        `leafwise`, and the rule's `s` has only those: it returns `s._replace(...)`, or `s`.
      inner: the name of that field.
      count, numbers, **slots: as in `leafwise`.
      reduce: as in `leafwise`, with the lists of updates and of gradients first: `(u, g, s, p, t, ...) -> dict`.

    Raises:
      TypeError: State is no NamedTuple class or has no field `inner` or of a slot's name; (in the factory) the first
        argument is no transform.
      ValueError, TypeError: (in update) as in `leafwise`.
    """
    rule_checks.declaration(State, {inner: None, **slots}, "wrapper")
    Own = namedtuple(State.__name__, [f for f in State._fields if f != inner])  # type: ignore[misc]

    def decorate(rule: Callable[..., Any]) -> Callable[..., GradientTransformation]:
        parameters = list(inspect.signature(rule).parameters.values())[5:]
        names = {p.name for p in parameters if p.annotation is Staged}

        @functools.wraps(rule)
        def factory(*args: Any, **kwargs: Any) -> GradientTransformation:
            call = base.checked_call(factory, args, kwargs)
            label = base.label_of(call)
            name, tx = next(iter(call.arguments.items()))
            base.check_transform(label, name, tx)
            staged = {k: x for k, x in call.arguments.items() if k in names}
            hyper = {k: x for k, x in call.arguments.items() if k != name and k not in names}
            split = factors.split(label, hyper, slots, stages_of(reduce), numbers)
            own = Leafwise(label, rule, Own, ScaleByScheduleState, slots, reduce, numbers, count, *split, staged)
            return base.made_by(call, Wrapped(label, tx, own, State, inner))

        first = inspect.Parameter("inner", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=GradientTransformation)
        rest = [p for p in parameters if p.annotation is not Reduced]
        factory.__signature__ = inspect.Signature([first, *rest], return_annotation=GradientTransformation)  # type: ignore[attr-defined]
        return factory

    return decorate


@dataclass(frozen=True, eq=False)
class Wrapped:
    """A transform and the rule for its updates."""

    label: str
    tx: Any
    own: Leafwise
    State: Any
    inner: str

    def labelled(self, label: str) -> "Wrapped":
        """The wrapped transform goes on to report errors under its own name."""
        return replace(self, label=label, own=self.own.labelled(label))

    @property
    def scheduled(self) -> bool:
        """Whether the count of the rule's schedules stands outside the state."""
        return self.own.counts and "count" not in self.State._fields

    def init(self, params: Any) -> Any:
        inner, own = self.tx.init(params), self.own.init(params)
        order.check_around(self.label, inner, lambda: replace(self, tx=base.identity()), params)
        return self._joined(inner, own)

    def update(self, updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        updates, states = run(list(self.steps(state)), updates, params, extra_args)
        return updates, self.joined(states)

    def steps(self, state: Any) -> Iterator[Step]:
        checks.state(self.label, state, ScheduledState if self.scheduled else self.State)
        count, whole = (state.count, state.inner_state) if self.scheduled else (None, state)
        inside = list(steps_of(self.tx, self.inside(state)))
        yield from inside
        fields = {f: getattr(whole, f) for f in self.own.State._fields}
        shared = {f: fields[f] for f in self.own.shared}
        count = fields.get("count", count)
        own = self.own.join(count, [fields[f] for f in self.own.slots], shared)
        yield Step(self.own, own, len(inside))

    def inside(self, state: Any) -> Any:
        """The state of the wrapped transform."""
        return getattr(state.inner_state if self.scheduled else state, self.inner)

    def joined(self, states: Iterator[Any]) -> Any:
        return self._joined(state_of(self.tx, states), next(states))

    def _joined(self, inner_state: Any, own: Any) -> Any:
        count, slots, shared = self.own.split(own)
        fields = {**dict(zip(self.own.slots, slots, strict=True)), **shared, self.inner: inner_state}
        if "count" in self.State._fields:
            fields["count"] = count
        state = self.State(**fields)
        return ScheduledState(count, state) if self.scheduled else state
