"""Steps in a row, each with its state: neighbouring leaf rules run as one function per leaf."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from gdjax.core import base
from gdjax.lift import rule_checks
from gdjax.lift.all_leaves import fused
from gdjax.lift.leafwise import Leafwise
from gdjax.xla.write_order import bound_for, destination


class Step(NamedTuple):
    """A transform of a row, and its state."""

    part: Any  # a `Leafwise`, or any transform
    state: Any
    inside: int | None = None  # for the rule of a wrapper: how many of the steps before it are the wrapped transform


def steps_of(tx: Any, state: Any) -> Iterator[Step]:
    """The steps of a transform: of its parts, if it has any, else itself."""
    part = base.part_of(tx)
    if hasattr(part, "steps"):
        yield from part.steps(state)
    else:
        yield Step(tx if part is None else part, state)


def state_of(tx: Any, states: Iterator[Any]) -> Any:
    """The state of a transform from those of its steps."""
    part = base.part_of(tx)
    return part.joined(states) if hasattr(part, "joined") else next(states)


def run(
    steps: Sequence[Step],
    updates: Any,
    params: Any,
    extra_args: dict[str, Any],
    watch: Callable[[Step, Any], None] = lambda step, updates: None,
) -> tuple[Any, Iterator[Any]]:
    """The updates after all steps, and the new states.

    The rule of a wrapper also sees the updates from before the wrapped transform; a pass begins there. `watch` is
    called with the first step of each pass and the updates that go into it.
    """
    starts = {i - step.inside for i, step in enumerate(steps) if step.inside is not None}
    raw: dict[int, Any] = {}
    new: list[Any] = []
    while (i := len(new)) < len(steps):
        raw[i] = updates
        watch(steps[i], updates)
        end = _end(steps, i, starts)
        with bound_for(_destination(steps, end)):
            if isinstance(steps[i].part, Leafwise):
                rules, states, inside = zip(*steps[i:end], strict=True)
                given = [None if n is None else raw[j - n] for j, n in enumerate(inside, i)]
                updates, states = fused(rules, updates, states, params, extra_args, given)
            else:
                part, state, _ = steps[i]
                updates, *states = base.call_update(part, updates, state, params, extra_args)
        new += states
    return updates, iter(new)


def _destination(steps: Sequence[Step], end: int) -> str | None:
    """Where the updates of a pass go: to memory, if a stage after it reads those of all leaves; see `bound_for`."""
    if end == len(steps):
        return destination()
    return "memory" if isinstance(steps[end].part, Leafwise) and _waits(steps[end]) else None


def _waits(step: Step) -> bool:
    """Whether a stage of the rule reads the updates of all leaves; that of a wrapper may read gradients alone."""
    return any(step.inside is None or rule_checks.names(stage.f, 0) for stage in step.part.stages)


def _end(steps: Sequence[Step], first: int, starts: set[int]) -> int:
    """Where the pass ends that begins at this step: before a stage that waits, or a transform that is no leaf rule."""
    end = first + 1
    if isinstance(steps[first].part, Leafwise):
        while (
            end < len(steps) and isinstance(steps[end].part, Leafwise) and not _waits(steps[end]) and end not in starts
        ):
            end += 1
    return end
