"""A rule as a part of an optimizer: its state, and how it joins a pass."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from gdjax.core import base, checks, misuse
from gdjax.core.number_domains import is_operand
from gdjax.core.part import Inside, Kept, Operand, Part, Step, fields_of
from gdjax.core.signatures import facts_of
from gdjax.core.types import Codec, OptState, Params, Transform, Updates
from gdjax.lift import factors, layers, rule_checks
from gdjax.lift.all_leaves import fused
from gdjax.lift.one_leaf import Kernel
from gdjax.lift.slots import (
    Planned,
    ScheduledState,
    Shared,
    Stored,
    Whole,
    bounded_by,
    first,
    first_moment,
    initial_parameter,
    kind_of,
    resolved,
)
from gdjax.xla.write_order import once

OfLeaf = Callable[..., list[Any]]  # `(tree, argument)`, to an entry for each leaf


@dataclass(frozen=True, eq=False)
class Leafwise(Part):
    """A rule with its hyperparameters: the transform that `leafwise` makes."""

    label: str
    rule: Callable[..., Any]
    State: Any
    Scheduled: Any
    initial: Mapping[str, Any]
    counted: Callable[[Any], Any] | None
    hyper: Mapping[str, Any]
    per_leaf: factors.Factors  # of the hyperparameters that differ by leaf; `hyper` has their bases
    factory: Callable[..., Any]  # that made it, whose annotations say what hyperparameters are
    settings: Mapping[str, Any] = field(default_factory=dict)  # of slots and `static`: the rule gets None for them
    static: Mapping[str, OfLeaf] = field(default_factory=dict)  # facts about leaves, from some of these arguments
    extra: Sequence[str] = ()  # the arguments of `update` that the rule gets
    growth: Any = None  # see `gdjax.core.growth.law_of`

    of_stacks = False  # whether its leaves are stacks of matrices, see `one_leaf.Kernel`
    of_tree = False  # whether it has an `update` of the whole tree, which leaves cannot have numbers of their own in

    # Derived when the rule is made. The fields of its state:
    slots: tuple[str, ...] = field(init=False)  # trees
    shared: tuple[str, ...] = field(init=False)  # one number for the whole tree, or `Whole`
    whole: tuple[str, ...] = field(init=False)  # `Whole`
    declared: Mapping[str, Any] = field(init=False)  # by slot, how it starts
    codecs: Mapping[str, Codec] = field(init=False)  # by slot that is kept in codes
    counts: bool = field(init=False)  # whether the state has a count of updates
    stateless: bool = field(init=False)  # whether any state is accepted, and returned unchanged
    outer: Any = field(init=False)  # the class of the whole state
    schedules: Mapping[str, Any] = field(init=False)  # the hyperparameters that are schedules
    kernel: Kernel = field(init=False)  # the key of the function of a leaf, without what is special to the leaf

    def __post_init__(self) -> None:
        names, start = self.State._fields, self.initial
        shared = tuple(f for f in names if isinstance(start.get(f), Shared | Whole))
        slots = tuple(f for f in names if f != "count" and f not in shared)
        known = {**self.hyper, **self.settings} if self.of_stacks else self.hyper
        declared = {f: resolved(start.get(f, first_moment), known) for f in slots}
        codecs = {f: slot.codec for f, slot in declared.items() if isinstance(slot, Stored)}
        schedules = {k: x for k, x in self.hyper.items() if callable(x) and not isinstance(x, type)}
        named = "count" in names and "count" not in start
        counts = named or bool(schedules) and self.counted is None
        inside = ScheduledState if slots or shared else self.Scheduled
        inputs = {*schedules, *self.per_leaf, *arrays_in(self.hyper)}
        constants = [(k, x) for k, x in self.hyper.items() if k not in inputs] + [(k, None) for k in self.settings]
        vars(self).update(
            slots=slots, shared=shared, declared=declared, codecs=codecs, schedules=schedules, counts=counts,
            whole=tuple(f for f in shared if isinstance(start[f], Whole)),
            stateless=not (counts or slots or shared),
            outer=self.State if not counts or "count" in names else inside,
            kernel=Kernel(
                self.label.removeprefix("gdjax."), self.rule, self.State, tuple((k, type(x), x) for k, x in constants),
                tuple(codecs.items()), stay=tuple(i for i, f in enumerate(slots) if declared[f] is initial_parameter),
                of_stack=self.of_stacks,
            ),
        )  # fmt: skip

    def content(self) -> dict[str, Any]:
        signature = inspect.signature(self.factory)
        marked = {k: Operand(x) if is_operand(x, facts_of(signature, k)) else x for k, x in self.hyper.items()}
        without_bases = {k: x.with_base(None) for k, x in self.per_leaf.items()}
        return fields_of(self) | {"hyper": marked, "per_leaf": without_bases}

    def labelled(self, label: str) -> "Leafwise":
        return replace(self, label=label)

    def as_kind(self, kind: type["Leafwise"], **more: Any) -> "Leafwise":
        """The same rule as a part of another class, with more fields."""
        return kind(**fields_of(self), **more)

    def seen(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        hidden = [f for f in self.whole if not self.initial[f].seen]
        return {f: None if f in hidden else x for f, x in shared.items()}  # as the rule sees them

    def init(self, params: Params) -> Any:
        paths, structure = jax.tree_util.tree_flatten_with_path(params)
        if self.slots or self.shared:
            checks.leaves(self.label, "params", params)
        factors.check_paths(self.per_leaf, params)
        of_factory = {**self.hyper, **self.settings}
        arguments = {**of_factory, "label": self.label}
        leaves = [p for _, p in paths]
        of_tree = {f: x.init(params, arguments) for f, x in self.initial.items() if isinstance(x, Planned | Whole)}
        lead = layers.of_tree(self.label, self.settings.get(layers.LAYERS), params, warn=True)
        slots = {f: [layers.along(x, n) for n in lead] for f, x in self.declared.items()}
        made = {
            f: of_tree[f] if f in of_tree else first(self.label, xs, paths, of_factory, i * len(paths))
            for i, (f, xs) in enumerate(slots.items())
        }
        trees = [structure.unflatten(made[f]) for f in self.slots]
        numbers: Any = {f: of_tree[f] if f in of_tree else self.initial[f](leaves, self.hyper) for f in self.shared}
        return self.join(jnp.zeros((), jnp.int32) if self.counts else None, trees, numbers)

    def update(self, updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        updates, (state,) = fused([self], updates, [state], params, extra_args)
        return updates, state

    def hyperparams(self, state: OptState, at: Callable[[Any], Any] = lambda count: count) -> dict[str, Any]:
        """The hyperparameters, with schedules evaluated at the count of the next update, or at `at` of it."""
        count = at(self.split(state)[0]) if self.schedules else None
        return {k: checks.scalar(self.label, k, v(count)) if k in self.schedules else v for k, v in self.hyper.items()}

    def asks(self) -> set[str]:
        return {*self.extra}

    def inside(self) -> list[Inside]:
        """The transforms whose states are fields of its state."""
        read = [(f, self.settings[name]) for f in self.whole for name in self.initial[f].reads.split()]
        return [Inside(x, (GetAttrKey(f),), alike=False) for f, x in read if misuse.is_transform(x)]

    def kept(self) -> list[Kept]:
        outside = (GetAttrKey("inner_state"),) if self.outer is ScheduledState else ()
        at = lambda f: (*outside, GetAttrKey(f))
        layer_axes = self.settings.get(layers.LAYERS)
        lead = None if layer_axes is None else lambda params: layers.of_tree(self.label, layer_axes, params)
        axes = {f: layers.axes_of(x, self.hyper) for f, x in self.declared.items()}
        bounds = {f: bounded_by(x, self.declared, self.hyper) for f, x in self.declared.items()}
        return [
            Kept(at(f), axes[f], kind=kind_of(x), layers=lead, bounds=at(bounds[f]) if bounds[f] else None)
            for f, x in self.declared.items()
        ]

    def steps(self, state: OptState) -> list[Step] | None:
        return None if self.of_tree else [Step(self, state)]

    def check(self, state: OptState) -> None:
        self.split(state)

    def sees(self, updates: Updates) -> Sequence[bool] | None:
        """Which leaves the rule applies to; None for all."""
        return None

    def split(self, state: OptState) -> tuple[Any, list[Any], dict[str, Any]]:
        """The count (None if there is none), the trees of the slots and the shared numbers."""
        if self.stateless:
            return None, [], {}
        checks.state(self.label, state, self.outer)
        inner = state.inner_state if self.outer is ScheduledState else state
        shared = {f: getattr(inner, f) for f in self.shared}
        count = state.count if self.counts else None if self.counted is None else self.counted(inner)
        return count, [getattr(inner, f) for f in self.slots], shared

    def join(self, count: Any, slots: Sequence[Any], shared: Mapping[str, Any]) -> Any:
        fields = {**dict(zip(self.slots, slots, strict=True)), **shared}
        if self.outer is ScheduledState:
            return ScheduledState(count, self.State(**fields))
        return self.outer(**({"count": count} if self.counts else {}), **fields)

    def scalars(self, count: Any) -> dict[str, Any]:
        """The hyperparameters that are not constants."""
        return {
            **arrays_in(self.hyper),
            **{k: once(checks.scalar(self.label, k, f(count))) for k, f in self.schedules.items()},
        }


def arrays_in(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that are arrays."""
    return {k: x for k, x in hyper.items() if isinstance(x, jax.Array | np.ndarray)}


def steps_of(tx: Transform, state: OptState) -> Iterator[Step]:
    """The steps of a transform, or the transform itself as one step."""
    part = base.part_of(tx)
    steps = None if part is None else part.steps(state)
    yield from (Step(tx, state),) if steps is None else steps


def state_of(tx: Transform, states: Iterator[Any]) -> Any:
    """The state of a transform, from the states of its steps."""
    part = base.part_of(tx)
    return next(states) if part is None else part.joined(states)


def run(
    steps: Sequence[Step], updates: Updates, params: Params, extra_args: dict[str, Any],
    watch: Callable[[Step, Any], None] = lambda step, updates: None,
) -> tuple[Any, Iterator[Any]]:  # fmt: skip
    """The updates after all steps, and the new states.

    A pass ends before a step that needs the updates of all leaves, and before a transform that is no leaf rule. The
    rule of a wrapper also reads the updates from before the wrapped transform, so a pass begins there too. `watch` is
    called with the first step of each pass and the updates given to it.
    """
    stops = {i - step.inside for i, step in enumerate(steps) if step.inside is not None}
    into: dict[int, Any] = {}  # the updates given to a pass, by its first step
    new: list[Any] = []
    while (first := len(new)) < len(steps):
        if first not in into:
            watch(steps[first], updates)
            into[first] = updates
        end = first + 1
        while _is_leaf_rule(steps[first]) and end < len(steps) and _is_leaf_rule(steps[end]) and end not in stops:
            end += 1
        parts, states, inside = zip(*steps[first:end], strict=True)
        if _is_leaf_rule(steps[first]):
            raw = [None if n is None else into[i - n] for i, n in enumerate(inside, first)]
            try:
                updates, states = fused(parts, updates, states, params, extra_args, raw)
            except rule_checks.ReadsUpdates as e:
                stops.add(first + e.index)
                continue
        else:
            updates, *states = base.call_update(parts[0], updates, states[0], params, extra_args)
        new += states
    return updates, iter(new)


def _is_leaf_rule(step: Step) -> bool:
    """Whether a step is a rule of one array, not one of the whole tree."""
    return isinstance(step.part, Leafwise) and not step.part.of_tree
