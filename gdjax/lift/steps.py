"""Steps in a row, each with its state: neighbouring leaf rules run as one function per leaf."""

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
    """The steps of a transform, as it says; else itself."""
    part = base.part_of(tx)
    steps = None if part is None else part.steps(state)
    yield from (Step(tx, state),) if steps is None else steps


def state_of(tx: Transform, states: Iterator[Any]) -> Any:
    """The state of a transform from those of its steps."""
    part = base.part_of(tx)
    return next(states) if part is None else part.joined(states)


def run(
    steps: Sequence[Step], updates: Updates, params: Params, extra_args: dict[str, Any],
    watch: Callable[[Step, Any], None] = lambda step, updates: None,
) -> tuple[Any, Iterator[Any]]:  # fmt: skip
    """The updates after all steps, and the new states.

    The rule of a wrapper also sees the updates from before the wrapped transform; a pass begins there. `watch` is
    called with the first step of each pass and the updates that go into it.
    """
    starts = {i - step.inside for i, step in enumerate(steps) if step.inside is not None}
    raw: dict[int, Any] = {}
    waiting = {i for i, step in enumerate(steps) if _waits(step)}
    new: list[Any] = []
    while (i := len(new)) < len(steps):
        raw[i] = updates
        watch(steps[i], updates)
        updates, states = _passed(steps, i, starts, waiting, raw, params, extra_args)
        new += states
    return updates, iter(new)


def _passed(
    steps: Sequence[Step], first: int, starts: set[int], waiting: set[int], raw: dict[int, Any], params: Params,
    extra_args: dict[str, Any],
) -> tuple[Any, list[Any]]:  # fmt: skip
    """The updates after the pass that begins at this step, and the new states of its steps."""
    part, state, _ = steps[first]
    end = _end(steps, first, starts | waiting)
    with bound_for(_destination(steps, end, waiting), outlet().selection):
        if not isinstance(part, Leafwise):
            updates, new = base.call_update(part, raw[first], state, params, extra_args)
            return updates, [new]
        rules, states, inside = zip(*steps[first:end], strict=True)
        given = [None if n is None else raw[j - n] for j, n in enumerate(inside, first)]
        try:
            return fused(rules, raw[first], states, params, extra_args, given)
        except rule_checks.ReadsUpdates as e:
            waiting.add(first + e.index)
    return _passed(steps, first, starts, waiting, raw, params, extra_args)


def _destination(steps: Sequence[Step], end: int, waiting: set[int]) -> str | None:
    """Where the updates of a pass go: to memory, if a stage after it reads those of all leaves; see `bound_for`."""
    if end == len(steps):
        return outlet().to
    return "memory" if end in waiting else None


def _waits(step: Step) -> bool:
    """Whether stages of the rule need the updates of all leaves.

    Those of a wrapper may read gradients alone: which they read is seen when they run, and only if they run before the
    rule.
    """
    stages = step.part.stages if isinstance(step.part, Leafwise) else ()
    return bool(stages) and (not step.inside or any(stage.late for stage in stages))


def _end(steps: Sequence[Step], first: int, stops: set[int]) -> int:
    """Where the pass ends that begins at this step: before a stage that waits, or a transform that is no leaf rule."""
    end = first + 1
    if isinstance(steps[first].part, Leafwise):
        while end < len(steps) and isinstance(steps[end].part, Leafwise) and end not in stops:
            end += 1
    return end
