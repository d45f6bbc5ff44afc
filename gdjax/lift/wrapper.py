"""A wrapper as a rule, which changes the update of another transform for each array."""

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Concatenate, NamedTuple, ParamSpec

from jax.tree_util import GetAttrKey

from gdjax.core import base, checks
from gdjax.core.part import Inside, Kept, Part, Step, whole
from gdjax.core.types import OptState, Params, Transform, Updates
from gdjax.lift import order, rule_checks
from gdjax.lift.leafwise import maker_of
from gdjax.lift.rule import Leafwise, OfLeaf, run, state_of, steps_of
from gdjax.lift.rule_checks import Special
from gdjax.lift.slots import Planned, ScheduledState, Shared

__all__ = ["WrapperState", "wrapper"]

P = ParamSpec("P")


class WrapperState(NamedTuple):
    """State of a wrapper that keeps nothing itself."""

    inner_state: Any  # the state of the wrapped transform


def wrapper(
    State: Any = WrapperState,
    *,
    inner: str = "inner_state",
    count: Callable[[Any], Any] | None = None,
    static: Mapping[str, OfLeaf] | None = None,
    extra: str = "",
    growth: Any = None,
    **slots: Shared | Planned | Callable[[Any, Mapping[str, Any]], Any],
) -> Callable[[Callable[Concatenate[Any, Any, Any, Any, Any, P], tuple[Any, Any]]], Callable[..., Any]]:
    """Makes a rule for one array a factory of wrappers; the factory takes a transform and the rule's hyperparameters.

    The rule is `(u, g, s, p, t, ...) -> (update, state)`, where `u` is the update that the wrapped transform made from
    the gradient `g`; the rest is as in `leafwise`. Where the wrapped transform ends in leaf rules, they and the rule
    run as one function per leaf.

    Args:
      State: a NamedTuple class. One field, `inner`, is the state of the wrapped transform; `count`, if there is one, is
        the number of updates; every other is a slot, one array in the rule, a tree of arrays shaped like the parameters
        in the state. The rule's `s` is without `inner`: it returns `s._replace(...)`, or `s`.
      inner: the name of that field.
      count: the updates made so far, from the `Shared` fields of a state that counts them under another name.
      static: what a leaf is: from the name of an argument, of any kind, to a function `(tree, argument) -> list` of the
        `Tree` of an update, with an entry that can be hashed for each leaf that has a gradient. The rule gets the entry
        of its leaf.
      extra: "value": arguments of `update`, numbers, that the rule gets by name; the factory does not have them.
      growth: how the update grows with a matrix, as in `leafwise`.
      **slots: what a field starts as: a `Shared` number; a `Moment` (by default `first_moment`), `Factor`, `Integer` or
        `Key`; one of these `Stored`; or a function `(p, hyperparameters) -> arrays` of one parameter.

    Raises:
      TypeError: State is no NamedTuple class or has no field `inner` or of a slot's name; (in the factory) the first
        argument is no transform.
      ValueError, TypeError: (in update) as in `leafwise`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> @gdjax.wrapper()
      ... def downhill(u, g, s, p, t, scale=1.0):
      ...     return scale * jnp.where(u * g < 0, u, 0.0), s
      >>> tx = downhill(gdjax.sgd(0.5), scale=2.0)
      >>> u, _ = tx.update(jnp.array([1.0, -1.0]), tx.init(jnp.zeros(2)))
      >>> print(u)
      [-1.  1.]
    """
    rule_checks.declaration(State, {inner: None, **slots}, "wrapper")
    Own = namedtuple(State.__name__, [f for f in State._fields if f != inner])  # type: ignore[misc]

    def around(rule: Leafwise, name: str, tx: Transform) -> Wrapped:
        return Wrapped(rule.label, base.check_transform(rule.label, name, tx), rule, State, inner)

    return maker_of("wrapper", Own, slots, count, Special(static or {}, extra.split()), growth, around=around)


@dataclass(frozen=True, eq=False)
class Wrapped(Part):
    """A transform and the rule for its updates."""

    label: str
    tx: Transform
    rule: Leafwise
    State: Any
    inner: str
    ends = True

    def inside(self) -> Iterator[Inside]:
        yield Inside(self.tx, (*self._outside, GetAttrKey(self.inner)))

    def check(self, state: OptState) -> None:
        checks.state(self.label, state, ScheduledState if self.scheduled else self.State)

    def kept(self) -> Iterator[Kept]:
        return (x._replace(path=(*self._outside, x.path[-1])) for x in self.rule.kept())

    def hyperparams(self, state: OptState, at: Callable[[Any], Any] = whole) -> dict[str, Any]:
        *_, (_, of_rule, _) = self.steps(state)
        return self.rule.hyperparams(of_rule, at)

    def asks(self) -> set[str]:
        return self.rule.asks()

    def labelled(self, label: str) -> "Wrapped":
        """Only the rule: the wrapped transform keeps its own name in errors."""
        return replace(self, label=label, rule=self.rule.labelled(label))

    def around(self, new: Callable[[int, Any], Any]) -> "Wrapped":
        return replace(self, tx=new(0, self.tx))

    @property
    def scheduled(self) -> bool:
        """Whether the count for the rule's schedules lies outside the rule's state."""
        return self.rule.counts and "count" not in self.State._fields

    @property
    def _outside(self) -> tuple[Any, ...]:
        return (GetAttrKey("inner_state"),) if self.scheduled else ()

    def init(self, params: Params) -> Any:
        inner, of_rule = self.tx.init(params), self.rule.init(params)
        order.check_around(self.label, self.rule, inner, params)
        return self._joined(inner, of_rule)

    def update(self, updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        updates, states = run(list(self.steps(state)), updates, params, extra_args)
        return updates, self.joined(states)

    def steps(self, state: OptState) -> Iterator[Step]:
        self.check(state)
        inner = state.inner_state if self.scheduled else state
        inside = list(steps_of(self.tx, getattr(inner, self.inner)))
        yield from inside
        count, shared = state.count if self.rule.counts else None, {f: getattr(inner, f) for f in self.rule.shared}
        yield Step(self.rule, self.rule.join(count, [getattr(inner, f) for f in self.rule.slots], shared), len(inside))

    def joined(self, states: Iterator[Any]) -> Any:
        return self._joined(state_of(self.tx, states), next(states))

    def _joined(self, inner_state: Any, of_rule: Any) -> Any:
        count, slots, shared = self.rule.split(of_rule)
        fields = {**dict(zip(self.rule.slots, slots, strict=True)), **shared, self.inner: inner_state, "count": count}
        state = self.State(*(fields[f] for f in self.State._fields))
        return ScheduledState(count, state) if self.scheduled else state
