"""Where leaves meet, the trace of the rules is cut: into what is computed before, and what comes after."""

from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Var

from gdjax.lift.meetings import Meeting, Place, meet_p
from gdjax.xla.facts import Graph, has_inside


def cut(closed: ClosedJaxpr, places: Sequence[Place]) -> tuple[ClosedJaxpr, tuple[Meeting, ...]]:
    """The traced rules with the results of meetings as further inputs, and the meetings.

    Raises:
      TypeError: a meeting lies inside a condition, a loop or a jitted function.
    """
    jaxpr = closed.jaxpr
    equations = [e for e in jaxpr.eqns if e.primitive is meet_p]
    inside = [e for e in jaxpr.eqns if has_inside(e, meet_p)]
    if inside or len(equations) != len(places):
        called = " or ".join(dict.fromkeys(f"gdjax.{place.name}" for place in places)) or "gdjax.total"
        raise TypeError(f"{called}: call it in the rule itself, in no condition, loop or jitted function of it")
    params = ("f", "own", "common", "alike")
    meetings = [
        Meeting(place, **{k: e.params[k] for k in params}, operands=list(e.invars), results=list(e.outvars))
        for place, e in zip(places, equations, strict=True)
    ]
    if not meetings:
        return closed, ()
    rest = [e for e in jaxpr.eqns if e.primitive is not meet_p]
    inputs = [*jaxpr.invars, *(v for m in meetings for v in m.results)]
    return ClosedJaxpr(jaxpr.replace(eqns=rest, invars=inputs), closed.consts), tuple(meetings)


def known_before(graph: Graph, whole: ClosedJaxpr, meetings: Sequence[Meeting], slots: int) -> dict[int, list[int]]:
    """The new slots that do not wait for a meeting of large arrays, by the first of these: to be written before it."""
    first = next((i for i, m in enumerate(meetings) if not m.alike), None)
    if first is None:
        return {}
    later = {graph.numbers[v] for m in meetings[first:] for v in m.results}
    single = {v for e in whole.jaxpr.eqns if len(e.outvars) == 1 for v in e.outvars}
    places = {v: i for i, v in enumerate(whole.jaxpr.outvars[1 : 1 + slots]) if isinstance(v, Var)}
    known = [i for v, i in places.items() if v in single and later.isdisjoint(graph.reach(graph.numbers[v], ()))]
    return {first: known}


def apart_from_slots(graph: Graph, whole: ClosedJaxpr, meetings: Sequence[Meeting], slots: int) -> frozenset[int]:
    """The meetings of sums that are made of no new slot.

    What is made of one is the same expression before the meeting and after it, and the slot is computed once.
    """
    news = {v for v in whole.jaxpr.outvars[1 : 1 + slots] if isinstance(v, Var)}
    rounded = {v for e in whole.jaxpr.eqns if e.primitive.name == "convert_element_type" for v in e.outvars} & news
    news |= {v for e in whole.jaxpr.eqns if rounded & {*e.outvars} for v in e.invars if isinstance(v, Var)}
    news = {graph.numbers[v] for v in news} - {*graph.inputs}
    read = lambda m: [graph.reach(graph.numbers[v], ()) for v in m.operands if isinstance(v, Var)]  # noqa: E731
    return frozenset(i for i, m in enumerate(meetings) if m.alike and all(map(news.isdisjoint, read(m))))


def waits_for(graph: Graph, meetings: Sequence[Meeting], directions: Sequence[Any]) -> int | None:
    """The last rule that brings to a meeting what is made of the updates that rules before it made.

    Args:
      directions: what each rule got.
    """
    numbered = [graph.numbers[v] if isinstance(v, Var) else graph.inputs[0] for v in directions]
    made = {i: x for i, x in enumerate(numbered) if x not in {*graph.inputs, numbered[0]}}
    read: set[int] = set()
    for v in (v for m in meetings for v in m.operands if isinstance(v, Var)):
        read |= graph.reach(graph.numbers[v], ())
    return max((i for i, x in made.items() if x in read), default=None)
