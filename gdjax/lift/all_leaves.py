"""One pass over the leaves: the rules of a chain, applied to each leaf in turn."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from gdjax import numerics
from gdjax.core import checks
from gdjax.core.types import Params, Updates
from gdjax.lift import meetings, rule_checks
from gdjax.lift.meetings import Asked
from gdjax.lift.one_leaf import Done, kernel_of
from gdjax.lift.running import Leaves, Running, leaves_of, opened
from gdjax.xla.write_order import LARGE, after, outlet, written

Array = jax.Array


def fused(
    rules: Sequence[Any], updates: Updates, states: Sequence[Any], params: Params, extra_args: dict[str, Any],
    raw: Sequence[Any] | None = None,
) -> tuple[Any, list[Any]]:  # fmt: skip
    """Applies rules one after the other, leaf by leaf: one call of one jitted function per leaf for all the rules.

    JAX traces that function once for each shape and dtype among the leaves. So a leaf adds one equation to the trace,
    and a step costs as much as the same arithmetic written out. Only the first rule may bring its updates to a meeting:
    a later rule would need the updates of all leaves first.

    Raises:
      rule_checks.ReadsUpdates: a later rule needs the updates of all leaves.

    Args:
      rules: of type `gdjax.lift.rule.Leafwise`, with the states `states`.
      raw: for the rule of a wrapper the updates given to the wrapper, for any other rule None.
    """
    leaves = leaves_of(rules, updates, params)
    raw = raw or [None] * len(rules)
    running = [opened(i, *row, leaves, updates) for i, row in enumerate(zip(rules, states, raw, strict=True))]
    for r in running:
        # From here on the new count, written over the old one: a later reader of the old one would need a copy.
        r.count = None if r.count is None else numerics.safe_increment(r.count)
    check(running, leaves)
    for r in running:
        if r.rule.static or r.rule.extra:
            r.add_static(leaves, extra_args)
    directions = _directions(running, leaves)
    return leaves.structure.unflatten(directions), [r.new_state(leaves.structure) for r in running]


def _active(running: Sequence[Running], leaves: Leaves, i: int) -> list[Running]:
    """The rules that apply to leaf i."""
    return [r for r in running if leaves.trained[i] and (r.sees is None or r.sees[i])]


def check(running: Sequence[Running], leaves: Leaves) -> None:
    """Raises where a gradient does not fit its parameter, or a slot its gradient."""
    for i, (g, p) in enumerate(zip(leaves.gs, leaves.ps, strict=True)):
        if not _active(running, leaves, i):
            continue
        checks.gradient(running[0].rule.label, lambda i=i: leaves.where(i), g, p)
        for r in running:
            for name, x in zip(r.rule.slots, r.slots[i], strict=True):
                if name in r.rule.moments:
                    checks.slot(r.rule.label, leaves.where(i), name, x, g.shape)


def _directions(running: Sequence[Running], leaves: Leaves) -> list[Any]:
    """The update of each leaf; `rules` receive their new slots and numbers."""
    turns = _Turns()
    works = {
        i: _Work(active, leaves, i, turns) for i in range(len(leaves.gs)) if (active := _active(running, leaves, i))
    }
    meetings.hold(list(works.values()))
    directions = list(leaves.gs)
    for i, work in works.items():
        directions[i] = work.done()
    widest = sorted(works.values(), key=lambda work: work.arguments[0].dtype.itemsize)
    for (r, field), x in ((at, x) for work in widest for at, x in work.numbers.items()):
        running[r].shared = running[r].shared | {field: x}
    return directions


@dataclass
class _Turns:
    """Orders large leaves one after the other, so that a temporary of one reuses the memory of the one before."""

    before: Array | None = None  # the next one waits for this


class _Work:
    """The work on one leaf."""

    def __init__(self, active: list[Running], leaves: Leaves, i: int, turns: _Turns):
        self.active, self.leaves, self.i, self.turns = active, leaves, i, turns
        self.where, self.labels = leaves.where(i), {r.place: r.rule.label for r in active}
        self.to, self.selection = outlet()
        self.places, self.results = list[meetings.Place](), list[list[Array]]()
        self.found: Asked | Done | None = None
        self.rules = kernel_of(tuple(r.kernel(i) for r in active), self.to, leaves.axes)
        rest = [list(xs) for xs in zip(*(r.arguments(i) for r in active), strict=True)]
        whole = {} if self.selection is None else self.selection.whole  # the rules select as they read
        self.arguments = [whole.get(id(leaves.gs[i]), leaves.gs[i]), leaves.ps[i], *rest]

    def asked(self) -> Asked | None:
        if self.found is None:
            with self.blamed():
                self.found = self._run()
        return self._at(self.found) if isinstance(self.found, Asked) else None

    def _at(self, asked: Asked) -> Asked:
        """`asked`, with the rule's place in the pass instead of its place among the rules of the leaf."""
        place = asked.meeting.place
        return asked._replace(meeting=asked.meeting._replace(place=place._replace(rule=self.active[place.rule].place)))

    def receive(self, place: meetings.Place, results: list[Array]) -> None:
        self.places.append(place._replace(rule=[r.place for r in self.active].index(place.rule)))
        self.results.append(results)
        self.found = None

    def _run(self) -> Asked | Done:
        g, p, *rest = self.arguments
        chosen = None if self.selection is None else self.selection.chosen
        large = self.to is not None and g.size > LARGE and not self.places
        in_turn = large and self.rules.keeps(self.places, self.results, chosen, *self.arguments)
        if in_turn and self.turns.before is not None:
            g = after(self.turns.before, g)
        found = self.rules(self.places, self.results, chosen, g, p, *rest)
        if in_turn and isinstance(found, Done):
            self.turns.before = written(self.to, p, found.update)
        return found

    def done(self) -> Array:
        """The update; the rules receive their new slots."""
        assert isinstance(self.found, Done)
        update, news, numbers = self.found
        if self.selection is not None:
            self.selection.note([update, *jax.tree.leaves(news)])
        for r, new in zip(self.active, news, strict=True):
            r.slots[self.i] = new
        self.numbers = {(self.active[rule].place, name): x for (rule, name), x in numbers.items()}
        return update

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Adds to an error which rule raised it, and for which leaf."""
        try:
            yield
        except rule_checks.ReadsUpdates as e:
            raise rule_checks.ReadsUpdates(self.active[e.index].place) from None
        except rule_checks.NoParameter as e:
            raise self.leaves.no_parameter(self.active[e.index].rule.label, self.i) from e
        except (ValueError, TypeError) as e:
            _blame([r.rule.label for r in self.active], self.where, e)
            raise


def _blame(labels: Sequence[str], where: str, e: Exception) -> None:
    """Adds to the message of an error the rule that raised it and the leaf, unless it names them itself."""
    if (index := rule_checks.culprit(e)) is not None:
        labels = labels[index : index + 1]
    if type(e) in (ValueError, TypeError) and not str(e).startswith(tuple(f"{label}: " for label in labels)):
        e.args = (f"{', '.join(dict.fromkeys(labels))}: {where}: {e}",)
    else:
        e.add_note(f"{', '.join(dict.fromkeys(labels))}: in the rule for {where}")
