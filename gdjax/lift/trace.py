"""The rules of a pass as JAX sees them, for leaves of one kind."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Var

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.codec import Codec
from gdjax.lift import rule_checks
from gdjax.lift.cuts import apart_from_slots, cut, known_before, waits_for
from gdjax.lift.meetings import Calls, Meeting, noted
from gdjax.xla import reads
from gdjax.xla.facts import Evaluation, Graph, graph_of, made_of, with_inputs, without_unused
from gdjax.xla.late_nan import Late, with_late_nan
from gdjax.xla.loops import SMALL, Plan, plan, unordered
from gdjax.xla.shared import jitted

Array = jax.Array
Numbers = dict[tuple[int, str], Any]  # new values of fields that are one number, by rule of the pass and name
FEW = 64  # numbers in an array that is computed once for all leaves


class Kernel(NamedTuple):
    """What decides the traced function of a rule: equal kernels share it."""

    name: str
    rule: Callable[..., tuple[Array, Any]]
    State: Any
    constants: tuple[tuple[str, type, Any], ...]
    codecs: tuple[tuple[str, Codec], ...] = ()  # of the fields that are kept as codes
    wraps: bool = False  # the rule is one of a wrapper, which gets the gradient beside the update
    per_leaf: tuple[str, ...] = ()  # arguments by name that leaves do not share


@dataclass(eq=False)
class Traced:
    """The traced rules.

    Their inputs are the flat arguments, then what comes of meetings, then the slots that are written before one.
    """

    closed: ClosedJaxpr  # to the update and the new slots
    plan: Plan  # in which order to write these
    late: Late  # what makes each NaN where it is not finite
    whole: ClosedJaxpr  # with what leaves bring to meetings
    meetings: tuple[Meeting, ...]
    early: dict[int, list[int]]  # the new slots that are written with what leaves bring to a meeting
    hidden: frozenset[int]  # the meetings for which 16 bits are converted again, see `reads.apart`
    waits: int | None  # the rule that brings to a meeting what is made of updates, which it needs of all leaves
    shared: list[int]  # the inputs that all leaves have in common
    common: list[Var]  # small values that are made of those alone, and that the rest needs
    numbers: Numbers
    found: Callable[..., list[Array]]  # from these inputs to `common` and `numbers`, for leaves of other shapes too

    def __post_init__(self) -> None:
        self.bring = jax.jit(self._bring, static_argnums=0)

    def brought(self, meeting: int, inputs: list[Any]) -> tuple[list[Array], list[Array]]:
        """The operands of a meeting and the slots that are written with them, given the inputs up to there."""
        known = dict(zip(self.whole.jaxpr.invars, inputs, strict=False))
        operands = self.meetings[meeting].operands
        if meeting not in self.early and all(isinstance(v, Var) and v in known for v in operands):
            return [known[v] for v in operands], []
        return self.bring(meeting, inputs)

    def _bring(self, meeting: int, inputs: list[Any]) -> tuple[list[Array], list[Array]]:
        if meeting in self.hidden:
            inputs = [reads.apart(x)[0] for x in inputs]
        values = Evaluation(self.whole, dict(zip(self.whole.jaxpr.invars, inputs, strict=False)))
        operands = [values.value(v) for v in self.meetings[meeting].operands]
        return operands, [values.output(1 + i) for i in self.early.get(meeting, [])]


def trace(kernels: tuple[Kernel, ...], to: str | None, axes: frozenset[str], arguments: tuple[Any, ...]) -> Traced:
    """Traces the rules for leaves with such arguments.

    Args:
      to: where the update goes, see `gdjax.xla.write_order.bound_for`.
      axes: those of a `shard_map` over which any leaf varies.
      arguments: the gradient, the parameter, the slots, then what leaves have in common, then gradients.
    """
    leaves, structure = jax.tree.flatten(arguments)
    calls, names = Calls(axes), list[tuple[int, str]]()

    def function(*leaves: Any) -> list[Array]:
        update, news, numbers, directions = _applied(kernels, calls, *structure.unflatten(leaves))
        names.extend(numbers)
        return [update, *news, *numbers.values(), *directions]

    with noted(calls):
        closed = jax.make_jaxpr(function)(*leaves)
    whole, meetings = cut(closed, calls.places)
    outs, results = whole.jaxpr.outvars, 1 + len(jax.tree.leaves(arguments[2]))
    numbers, directions = dict(zip(names, outs[results:], strict=False)), outs[results + len(names) :]
    graph, places = graph_of(whole), structure.unflatten(range(len(leaves)))
    of_leaf = {"one array": jax.tree.leaves(places[:3])}
    of_leaf["one array"] += [whole.jaxpr.invars.index(v) for m in meetings if not m.alike for v in m.results]
    of_leaf |= {
        name: jax.tree.leaves(scalars[name])
        for k, scalars in zip(kernels, places[5], strict=True)
        for name in k.per_leaf
    }
    one = [(rule, f"state.{field}", v) for (rule, field), v in numbers.items()]
    one += [
        (m.place.rule, f"an argument by name of gdjax.{m.place.name}", v)
        for m in meetings for v in m.operands[len(m.operands) - m.common :]
    ]  # fmt: skip
    _check_one(graph, one, of_leaf)
    hidden, waits = apart_from_slots(graph, whole, meetings, results - 1), waits_for(graph, meetings, directions)
    closed = ClosedJaxpr(whole.jaxpr.replace(outvars=outs[:results]), whole.consts)
    early = known_before(graph, whole, meetings, results - 1)
    graph.outputs = graph.outputs[:results]
    if meetings:  # what leaves bring to them is computed before
        closed = without_unused(with_inputs(closed, [outs[1 + i] for slots in early.values() for i in slots]))
        graph = graph_of(closed)
    # What leaves bring to a meeting has the bound as it is written; what is the same in both is computed once.
    met = {m.place.rule for m in meetings}
    stateful = {i for i, k in enumerate(kernels) if k.State._fields}
    ordered = _ordered(closed, graph, len(leaves), places, to, met.isdisjoint(stateful))
    shared = jax.tree.leaves(places[3:6])
    shared += [whole.jaxpr.invars.index(v) for m in meetings if m.alike for v in m.results]
    small = made_of(whole, [whole.jaxpr.invars[i] for i in shared], FEW)
    common = _read_by_others(ordered[0], small)
    found = whole.jaxpr.replace(outvars=[*common, *numbers.values()])
    found = without_unused(ClosedJaxpr(found, whole.consts)).jaxpr
    # All that the equations read: what a jitted rule returns is made of all that it got.
    read = {v for xs in (found.outvars, *(e.invars for e in found.eqns)) for v in xs if isinstance(v, Var)}
    shared = [i for i, v in enumerate(found.invars) if v in read]
    found = ClosedJaxpr(found.replace(invars=[found.invars[i] for i in shared]), whole.consts)
    makers = tuple(k.rule for k in kernels)
    return Traced(*ordered, whole, meetings, early, hidden, waits, shared, common, numbers, jitted(found, makers))


def _ordered(
    closed: ClosedJaxpr, graph: Graph, arguments: int, places: Any, to: str | None, may_be_late: bool
) -> tuple[ClosedJaxpr, Plan, Late]:
    """The order of the loops of traced rules, and what is added to them late."""
    late: Late = {}
    how = plan(graph, places[0], places[1], jax.tree.leaves(places[2]), to, graph.inputs[arguments:])
    if may_be_late:
        closed, late = with_late_nan(closed, graph, how)
    return closed, unordered(how) if graph.sizes[graph.inputs[0]] <= SMALL else how, late


def _read_by_others(closed: ClosedJaxpr, alike: set[Var]) -> list[Var]:
    """Those of some values, inputs left out, that are read to compute what is not among them."""
    read = [v for e in closed.jaxpr.eqns if not alike.issuperset(e.outvars) for v in e.invars]
    read = [v for v in [*read, *closed.jaxpr.outvars] if isinstance(v, Var) and v in alike]
    return [v for v in dict.fromkeys(read) if v not in closed.jaxpr.invars]


def _check_one(graph: Graph, one: Sequence[tuple[int, str, Any]], of_leaf: Mapping[str, Sequence[int]]) -> None:
    """Raises where a rule makes what is one for the whole tree of what leaves do not share.

    Args:
      one: such values, each with the rule's place and its name.
      of_leaf: these inputs, by name.
    """
    for rule, what, v in one:
        reach = graph.reach(graph.numbers[v], ()) if isinstance(v, Var) else frozenset()
        for name, inputs in of_leaf.items():
            if reach.isdisjoint(graph.inputs[i] for i in inputs):
                continue
            remedy = "take the gdjax.total or gdjax.largest of it"
            if name != "one array":
                remedy = f"{name} must be one number for the whole tree"
            with rule_checks.raised_by(rule):
                raise TypeError(f"{what} is one number for the whole tree, and made of {name}: {remedy}")


def _applied(
    kernels: Sequence[Kernel], calls: Calls, g: Array, p: Array | None, slots: Any, counts: Any, shared: Any,
    scalars: Any, raws: Any,
) -> tuple[Array, list[Array], dict[tuple[int, str], Array], list[Array]]:  # fmt: skip
    """The update that the rules make one after the other, and their new slots in a row.

    Also the new values of fields that are one number, by rule and name, and what each rule got.
    """
    like = [g.dtype] if p is None else [g.dtype, p.dtype]
    real = max((numerics.real_dtype(numerics.at_least_float32(d)) for d in like), key=lambda d: d.itemsize)
    wide, param, news = numerics.widen(g, real), numerics.widen(p, real), []
    direction, directions, found = wide, [], {}
    for index, (kernel, slot, count, numbers, scalar, raw) in enumerate(
        zip(kernels, slots, counts, shared, scalars, raws, strict=True)
    ):
        calls.rule = index
        directions.append(direction)
        fields = [f for f in kernel.State._fields if f != "count" and f not in numbers]
        codes, codecs = dict(zip(fields, slot, strict=True)), dict(kernel.codecs)
        olds = {f: codecs[f].decode(x) if f in codecs else x for f, x in codes.items()}
        old = {f: _widened(x, real) for f, x in (olds | numbers).items()}
        s = dict(old)
        if "count" in kernel.State._fields:
            s.setdefault("count", count)
        t = None if count is None else count.astype(real)
        hyper = {k: v for k, _, v in kernel.constants} | {k: numerics.widen(v, real) for k, v in scalar.items()}
        with jax.named_scope(kernel.name), promotion(g), reads.widened((wide, g), (param, p)):
            with rule_checks.raised_by(index):
                given = [wide if raw is None else numerics.widen(raw, real)] if kernel.wraps else []
                s = kernel.State(**s)
                result = rule_checks.called(kernel.rule, index, [direction, *given], s, param, t, hyper)
                direction, state = rule_checks.returned(kernel.State, result, direction, olds | numbers)
        changed = {f: x for f in old if (x := getattr(state, f)) is not old[f]}
        coded = {f: codecs[f].encode(jnp.asarray(changed[f])) for f in codecs if f in changed}
        kept = codes | changed | coded
        for f, x in codes.items():
            news += [stored(y, z) for y, z in zip(jax.tree.leaves(kept[f]), jax.tree.leaves(x), strict=True)]
        found |= {(index, f): stored(changed[f], numbers[f]) for f in numbers if f in changed}
    update = direction.astype(g.dtype)
    # Of a gradient that is not divided the update may be, as a state made of divided parameters is.
    return (meshes.placed(update, g) if meshes.division(g) else update), news, found, directions


def _widened(slot: Any, real: Any) -> Any:
    """What a rule gets for a slot: integers, booleans and PRNG keys as they are, the rest in the rule's dtype."""
    inexact = lambda x: jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact)  # noqa: E731
    return jax.tree.map(lambda x: numerics.widen(x, real) if inexact(x) else x, slot)


def stored(new: Any, old: Array) -> Array:
    """`new`, an array or a number, in the dtype and the place of `old`."""
    if numerics.is_key(old):
        return meshes.placed(new, old)
    return meshes.placed(new.astype(old.dtype) if isinstance(new, jax.Array) else jnp.asarray(new, old.dtype), old)


def promotion(*gs: Array) -> Any:
    """With complex numbers a rule mixes dtypes on purpose: its hyperparameters and second moments are real."""
    return jax.numpy_dtype_promotion("standard") if any(map(jnp.iscomplexobj, gs)) else contextlib.nullcontext()
