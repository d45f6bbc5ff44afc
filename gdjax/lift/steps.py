"""Sequences of transforms with their states: neighbouring leaf rules run as one function per leaf."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gdjax.core import base
from gdjax.core.part import Step
from gdjax.core.types import OptState, Params, Transform, Updates
from gdjax.lift import rule_checks
from gdjax.lift.all_leaves import fused
from gdjax.lift.rule import Leafwise
from gdjax.xla.write_order import bound_for, outlet


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
    wrapped = {i - step.inside for i, step in enumerate(steps) if step.inside is not None}
    waiting = set[int]()
    into: dict[int, Any] = {}  # the updates given to a pass, by its first step
    new: list[Any] = []
    while (first := len(new)) < len(steps):
        if first not in into:
            watch(steps[first], updates)
            into[first] = updates
        end = _end(steps, first, wrapped | waiting)
        to = outlet().to if end == len(steps) else "memory" if end in waiting else None
        parts, states, inside = zip(*steps[first:end], strict=True)
        with bound_for(to, outlet().selection):
            if _is_leaf_rule(steps[first]):
                raw = [None if n is None else into[i - n] for i, n in enumerate(inside, first)]
                try:
                    updates, states = fused(parts, updates, states, params, extra_args, raw)
                except rule_checks.ReadsUpdates as e:
                    waiting.add(first + e.index)
                    continue
            else:
                updates, *states = base.call_update(parts[0], updates, states[0], params, extra_args)
        new += states
    return updates, iter(new)


def _end(steps: Sequence[Step], first: int, stops: set[int]) -> int:
    """The end of the pass that begins at this step."""
    end = first + 1
    if _is_leaf_rule(steps[first]):
        while end < len(steps) and _is_leaf_rule(steps[end]) and end not in stops:
            end += 1
    return end


def _is_leaf_rule(step: Step) -> bool:
    """Whether a step is a rule of one array, not one of the whole tree."""
    return isinstance(step.part, Leafwise) and step.part.steps(step.state) is not None
