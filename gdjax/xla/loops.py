"""The loops in which XLA:CPU writes the outputs of one leaf: their order, and what they have in common.

XLA:CPU computes each output of a program in a loop of its own. An output takes the place of an old array, the new
momentum that of the old one, only where no later loop reads the old one; else XLA copies it first: a temporary of the
size of the leaf, and a pass more. What two loops have in common it computes in each, if that is cheap; else it writes
it to memory before both. So here

- a loop that overwrites an array comes after the loops that read it;
- a loop that shares a dear value with one before it computes that again, where its inputs are still there;
- of leaves that keep such a value in memory all the same, `keeps` tells.

On other devices one kernel writes all the outputs of a leaf, and nothing here is in the program.

Lion has two loops, where the caller adds the update to the parameter:

    0:  p - lr sign(b1 mu + (1 - b1) g)  over p        1:  b2 mu + (1 - b2) g  over mu

Loop 0 reads the old mu, which loop 1 overwrites. So loop 1 waits for loop 0, and nothing is copied. They share no dear
value: b1 mu and b2 mu differ. Adam's update is computed from the new moments: its loop comes after theirs and reads
them where they are (`uses`).
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gdjax.xla.facts import Graph

SMALL = 2**13  # elements of an array of which a copy costs less than to compile an order of loops
UPDATE = 0  # the index of the loop of the update, or of what the caller makes of it; then one for each slot


class Loop(NamedTuple):
    """How one output is computed."""

    index: int  # of the output
    waits: tuple[int, ...]  # the outputs that are written before
    uses: tuple[int, ...]  # the outputs that it is computed from, where they are in memory
    again: bool  # it computes anew what it shares with the loops that it waits for
    held: bool  # later loops read this result; without `held` XLA:CPU recomputes it inside each of them
    unrelated: bool  # it overwrites an old array whose values it does not read


class Clash(NamedTuple):
    """Two loops that share values, which XLA would write to memory before both."""

    first: int
    later: int  # it may wait for the first
    shared: set[int]
    dear: bool  # whether the values cost more to compute again than to read


class Plan(NamedTuple):
    loops: tuple[Loop, ...]  # in an order in which they can be computed
    keeps: bool  # whether a value that is no output is written to memory


def plan(graph: Graph, g: int, p: int | None, slots: Sequence[int], to: str | None, given: Sequence[int] = ()) -> Plan:
    """The order of the loops of a traced rule.

    Args:
      graph: its values; the outputs are the update and the new slots.
      g, p, slots: the inputs that are the gradient, the parameter (None if there is none) and the old slots.
      to: what the caller does with the update, see `gdjax.xla.write_order.bound_for`.
      given: the inputs that are in memory of their own: a new slot that is one of these is not written again.
    """
    values = dict(enumerate(graph.outputs))
    loops = [i for i, x in values.items() if i == UPDATE or x not in (slots[i - 1], *given)]
    places = {i: slots[i - 1] for i in loops if i != UPDATE}
    place = {"params": p, "gradient": g}.get(to or "")
    if place is not None:
        places[UPDATE] = place
    in_memory = to == "memory" or place is not None
    return _Planner(graph, values, loops, places, g, to in ("params", None), in_memory).plan()


def unordered(plan: Plan) -> Plan:
    """The plan without what makes loops wait, for arrays that are small: XLA:CPU may copy them."""
    loops = (x._replace(waits=(), again=False, held=False) for x in plan.loops)
    return Plan(tuple(loops), keeps=False)


@dataclass
class _Planner:
    """The loops, and for each what it reads, which others it must come before, and which values it finds in memory."""

    graph: Graph
    values: dict[int, int]  # the output of each loop
    loops: list[int]
    places: dict[int, int]  # for each loop what it overwrites
    gradient: int
    passes_on: bool  # the update itself is not in memory
    update_is_written: bool  # the update, or what the caller makes of it; otherwise no one knows
    again: set[int] = field(default_factory=set)
    settled: set[tuple[int, int]] = field(default_factory=set)  # pairs that cannot compute anew what they share
    extra: set[tuple[int, int]] = field(default_factory=set)  # of loops that compute something again: the second waits

    def __post_init__(self) -> None:
        self.size, self.kept = self.graph.sizes[self.gradient], set(self.graph.written)

    def plan(self) -> Plan:
        self.settle()
        while (clash := self.clash()) is not None:
            if clash.first != clash.later and not self.leads(clash.later, clash.first):
                self.again.add(clash.later)
                self.extra.add((clash.first, clash.later))
            elif clash.dear:
                self.kept |= self.topmost(clash.shared)
                self.again, self.extra = set(), set()
            else:
                self.settled.add((clash.first, clash.later))
            self.settle()
        keeps = any(self.graph.sizes[x] == self.size for x in self.kept - self.graph.written)
        keeps = keeps or any(map(self.of_several, self.graph.written))
        return Plan(tuple(self.ordered()), keeps)

    def settle(self) -> None:
        """Finds what each loop reads, and so which others it must come before.

        A loop reads other outputs where they are; but not those that are written after it, which it computes itself.
        """
        self.before: dict[int, set[int]] = {a: {y for x, y in self.extra if x == a} for a in self.loops}
        while True:
            self.finds = {a: self.in_memory(a) for a in self.loops}
            self.ends = {a: self.finds[a] | self.kept for a in self.loops}
            self.reads = {a: self.graph.reach(self.values[a], self.ends[a]) for a in self.loops}
            before = {a: self.before[a] | set(self.overwriting(self.reads[a], a)) for a in self.loops}
            self.wait_for_kept(before)
            if before == self.before:
                return
            self.before = before

    def in_memory(self, a: int) -> set[int]:
        others = [b for b in self.loops if b != a and not self.leads(a, b) and not (b == UPDATE and self.passes_on)]
        own = set() if a == UPDATE and self.passes_on else {self.values[a]}
        return {self.values[b] for b in others} - own - set(self.graph.inputs)

    def overwriting(self, values: Iterable[int], but: int) -> Iterable[int]:
        """The loops whose places are among these values."""
        if not self.update_is_written and but == UPDATE:
            return []
        return [b for b in self.loops if b != but and self.places.get(b, -1) in values]

    def wait_for_kept(self, before: dict[int, set[int]]) -> None:
        """A loop that overwrites what a kept value is made of waits for one that reads that value."""
        for kept in self.kept:
            inputs = self.graph.reach(kept, self.kept - {kept} | set().union(*self.ends.values()) - {kept})
            readers = [a for a in self.loops if kept in self.reads[a]]
            for b in self.overwriting(inputs, -1):
                reader = next((a for a in readers if self.update_is_written or a != UPDATE), None)
                if b not in readers and reader is not None and not self.leads(b, reader):
                    before[reader].add(b)

    def clash(self) -> Clash | None:
        """The first clash that is left, if any.

        Of loops of which one waits for the other XLA keeps more: all that is computed from two arrays.
        """
        for a, b in itertools.combinations(self.loops, 2):
            first, later = (b, a) if self.leads(b, a) or self.values[b] in self.reads[a] & self.finds[a] else (a, b)
            shared = self.reads[a] & self.reads[b] - self.ends[a] - self.ends[b]
            shared = {x for x in shared if self.graph.sizes[x] == self.size}
            if later in self.again or not self.update_is_written and UPDATE in (a, b):
                continue
            if common := shared & self.graph.dear:
                kept = any(self.readers(x, first) > 1 for x in self.topmost(common))
                return Clash(first, first if kept else later, common, True)
            waits = self.leads(first, later) or self.values[first] in self.reads[later] & self.finds[later]
            if (
                waits
                and (first, later) not in self.settled
                and (common := {x for x in shared if self.arrays_of(x) > 1})
            ):
                return Clash(first, later, common, False)
        for x in sorted(self.graph.written):
            inside = self.graph.reach(x, self.kept - {x}) & self.graph.dear - self.kept
            for a in self.loops:
                common = {y for y in inside & self.reads[a] if self.graph.sizes[y] == self.size} - self.ends[a]
                if common:
                    return Clash(a, a, common, True)
        return None

    def of_several(self, total: int) -> bool:
        """Whether a sum is of what several arrays make, which XLA:CPU writes to memory first."""
        inside = self.graph.reach(total, set(self.values.values()) | self.kept - {total})
        ends = [x for x in inside - {total} if not self.graph.made_of[x] or x in self.values.values()]
        return sum(self.graph.sizes[x] == self.size for x in ends) > 1 and self.graph.sizes[total] < self.size

    def readers(self, value: int, a: int) -> int:
        """How often a loop reads a value: a dear one that is read twice XLA:CPU writes to memory anyway."""
        return sum(value in self.graph.made_of[x] for x in self.reads[a])

    def arrays_of(self, value: int) -> int:
        return sum(self.graph.sizes[x] == self.size for x in self.graph.made_of[value])

    def leads(self, a: int, b: int) -> bool:
        """Whether b must wait for a, or for one that waits for a, and so on."""
        found, todo = {a}, [a]
        while todo:
            new = self.before[todo.pop()] - found
            found |= new
            todo += new
        return a != b and b in found

    def topmost(self, values: set[int]) -> set[int]:
        """Those of which no other is made."""
        return {x for x in values if not any(x in self.graph.reach(y, self.kept) for y in values - {x})}

    def ordered(self) -> list[Loop]:
        """The loops, each after those it waits for and those it uses; of a circle of loops, one must do with a copy."""
        uses = {
            a: {b for b in self.loops if b != a and self.values[b] in self.reads[a] & self.finds[a]} for a in self.loops
        }
        edges: dict[int, set[int]] = {a: {b for b in self.loops if a in uses[b]} for a in self.loops}
        waits: dict[int, set[int]] = {a: set() for a in self.loops}
        # An update that overwrites the gradient is best written last, another one first.
        last = self.places.get(UPDATE) == self.gradient
        edges_of = [(x, y) for x in self.loops for y in self.before[x]]
        for a, b in sorted(edges_of, key=lambda e: (e[0] == UPDATE, e) if last else (False, e)):
            if not _path(edges, b, a):
                edges[a].add(b)
                waits[b].add(a)
        found: list[Loop] = []
        done: list[int] = []
        while len(done) < len(self.loops):
            b = next(x for x in self.loops if x not in done and all(x not in edges[a] or a in done for a in self.loops))
            # Not for one that another of them waits for.
            needed = waits[b] | uses[b]
            firsts = {a for a in waits[b] - uses[b] if not any(_path(edges, a, c) for c in needed - {a})}
            unrelated = b != UPDATE and self.places[b] not in self.reads[b]
            again = b in self.again and bool(needed)
            found.append(Loop(b, tuple(sorted(firsts)), tuple(sorted(uses[b])), again, False, unrelated))
            done.append(b)
        waited = {i for loop in found for i in loop.waits} - {UPDATE}
        used = {i for loop in found for i in loop.uses}
        ties = lambda loop: loop.index in waited and bool(loop.waits or loop.again)  # noqa: E731
        return [loop._replace(held=ties(loop) or loop.index in used and self.is_repeated(loop.index)) for loop in found]

    def is_repeated(self, a: int) -> bool:
        """Whether a slot ends in an operation on one array, which XLA:CPU repeats from its old value for its users."""
        value = self.values[a]
        own = value not in self.graph.inputs and value not in self.graph.dear | self.graph.written
        own = own and a != UPDATE and self.places[a] in self.reads[a]
        return own and self.graph.sizes[value] == self.size and self.arrays_of(value) < 2


def _path(edges: dict[int, set[int]], start: int, end: int) -> bool:
    return start == end or any(_path(edges, x, end) for x in edges[start])
