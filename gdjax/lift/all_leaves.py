"""One pass over the leaves: the rules of a chain applied to each leaf in turn."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from gdjax import numerics
from gdjax.core import checks
from gdjax.core.types import Params, Updates
from gdjax.lift import meetings, rule_checks
from gdjax.lift.one_leaf import kernel_of
from gdjax.lift.running import Leaves, Running, leaves_of, opened
from gdjax.lift.trace import Traced
from gdjax.xla.write_order import LARGE, after, outlet, written

Array = jax.Array


def fused(
    rules: Sequence[Any], updates: Updates, states: Sequence[Any], params: Params, extra_args: dict[str, Any],
    raw: Sequence[Any] | None = None,
) -> tuple[Any, list[Any]]:  # fmt: skip
    """Applies rules one after the other, leaf by leaf: one call of one jitted function per leaf for all the rules.

    JAX traces that function once for each shape and dtype among the leaves. So a leaf adds one equation to the trace,
    and a step costs what the same arithmetic written out would. Only the first rule may bring to a meeting what is
    made of the updates, since a later one would need those of all the leaves first.

    Raises:
      rule_checks.ReadsUpdates: a later rule needs the updates of all leaves.

    Args:
      rules: of type `gdjax.lift.rule.Leafwise`, with the states `states`.
      raw: for the rule of a wrapper the updates that came into the wrapper, for any other rule None.
    """
    leaves = leaves_of(rules, updates, params)
    raw = raw or [None] * len(rules)
    running = [opened(i, *row, leaves, updates) for i, row in enumerate(zip(rules, states, raw, strict=True))]
    for r in running:
        # From here on the new count. It is written where the old one is, so that a later reader would need a copy.
        r.count = None if r.count is None else numerics.safe_increment(r.count)
    check(running, leaves)
    for r in running:
        if r.rule.static or r.rule.extra:
            r.add_static(leaves, extra_args)
    directions = _directions(running, leaves)
    return leaves.structure.unflatten(directions), [r.closed(leaves.structure) for r in running]


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
    """The update of each leaf; the rules get their new slots and numbers."""
    works = {i: _Work(active, leaves, i) for i in range(len(leaves.gs)) if (active := _active(running, leaves, i))}
    meetings.hold(list(works.values()))
    directions, before, found = list(leaves.gs), None, dict[Any, Any]()
    for i, work in works.items():
        directions[i], before = work.apply(before, found)
    widest = sorted(works.values(), key=lambda work: work.arguments[0].dtype.itemsize)
    for (r, field), x in ((at, x) for work in widest for at, x in work.numbers.items()):
        running[r].shared = running[r].shared | {field: x}
    return directions


class _Work:
    """What is done for one leaf."""

    def __init__(self, active: list[Running], leaves: Leaves, i: int):
        self.active, self.leaves, self.i = active, leaves, i
        self.where, self.labels = leaves.where(i), {r.place: r.rule.label for r in active}
        self.to, self.selection = outlet()
        self.met, self.numbers = list[Array](), dict[tuple[int, str], Array]()
        self.early = list[Array]()  # the new slots that were written before a meeting
        self.rules = kernel_of(tuple(r.kernel(i) for r in active), self.to, leaves.axes)
        rest = [list(xs) for xs in zip(*(r.arguments(i) for r in active), strict=True)]
        self.arguments = [leaves.gs[i], leaves.ps[i], *rest]

    @property
    def meetings(self) -> Sequence[meetings.Meeting]:
        """Those that its rules call."""
        return self.traced.meetings

    @functools.cached_property
    def traced(self) -> Traced:
        with self.blamed():
            traced = self.rules.traced(tuple(self.arguments))
        if traced.waits is not None:
            raise rule_checks.ReadsUpdates(self.active[traced.waits].place)
        return traced

    def brought(self, meeting: int) -> list[Array]:
        with self.blamed():
            operands, early = self.rules.brought(meeting, self.met, *self.arguments)
        self.early += early
        return operands

    def apply(self, before: Array | None, found: dict[Any, Any]) -> tuple[Array, Array | None]:
        """The update, and what the next large leaf waits for; this one waits for `before`.

        Args:
          found: what leaves have in common, computed at the first of a kind.
        """
        g, p, *rest = self.arguments
        with self.blamed():
            # A large array that a leaf keeps on the way then lies where that of the leaf before was.
            in_turn = self.to is not None and g.size > LARGE and self.traced.plan.keeps
            g = after(before, g) if in_turn and before is not None else g
            chosen = None if self.selection is None else self.selection.chosen
            g, news = self.rules([*self.met, *self.early], self.common(found), chosen, g, p, *rest)
        if self.selection is not None:
            results = [g, *jax.tree.leaves(news)]
            self.selection.note(results[loop.index] for loop in self.traced.plan.loops)
        for r, new in zip(self.active, news, strict=True):
            r.slots[self.i] = new
        return g, written(self.to, p, g) if in_turn else before

    def common(self, found: dict[Any, Any]) -> list[Array]:
        """What the leaf has in common with others, and the new numbers of its rules."""
        key, compute = self.rules.shared(self.met, *self.arguments)
        if key not in found:
            found[key] = compute()
        values, end = found[key], len(self.traced.common)
        numbers = zip(self.traced.numbers, values[end:], strict=True)
        self.numbers = {(self.active[rule].place, name): x for (rule, name), x in numbers}
        return values[:end]

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Adds to an error which rule raised it, and for which leaf."""
        try:
            yield
        except rule_checks.NoParameter as e:
            raise self.leaves.no_parameter(self.active[e.index].rule.label, self.i) from e
        except (ValueError, TypeError) as e:
            _blame([r.rule.label for r in self.active], self.where, e)
            raise


def _blame(labels: Sequence[str], where: str, e: Exception) -> None:
    """Adds to the message of an error which rule raised it, and for which leaf, where it does not say so itself."""
    if (index := rule_checks.culprit(e)) is not None:
        labels = labels[index : index + 1]
    if type(e) in (ValueError, TypeError) and not str(e).startswith(tuple(f"{label}: " for label in labels)):
        e.args = (f"{', '.join(dict.fromkeys(labels))}: {where}: {e}",)
    else:
        e.add_note(f"{', '.join(dict.fromkeys(labels))}: in the rule for {where}")
