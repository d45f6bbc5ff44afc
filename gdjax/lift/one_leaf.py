"""One leaf: the jitted function that applies a row of rules to one array."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Var

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.codec import Codec
from gdjax.lift import rule_checks
from gdjax.lift.meetings import Calls, Meeting, cut, noted
from gdjax.xla import reads, write_order
from gdjax.xla.facts import Evaluation, Graph, graph_of, without_unused
from gdjax.xla.late_nan import Late, nan_where_not_finite, with_late_nan
from gdjax.xla.loops import SMALL, UPDATE, Plan, plan, unordered

Array = jax.Array


# What a trace depends on beside the types of its arguments.
CONTEXT = (
    "jax_enable_x64 jax_numpy_dtype_promotion jax_numpy_rank_promotion jax_default_matmul_precision "
    "jax_default_prng_impl"
).split()


class Kernel(NamedTuple):
    """What decides the traced function of a rule: equal kernels share it."""

    name: str
    rule: Callable[..., tuple[Array, Any]]
    State: Any
    constants: tuple[tuple[str, type, Any], ...]
    codecs: tuple[tuple[str, Codec], ...] = ()  # of the fields that are kept as codes
    wraps: bool = False  # the rule is one of a wrapper, which gets the gradient beside the update
    staged: bool = False  # stages of the rule run before it, which may have computed the same


class Traced(NamedTuple):
    closed: ClosedJaxpr  # the rules, from the flat arguments and what comes of meetings to the update and the new slots
    plan: Plan  # in which order to write these
    late: Late  # what makes each NaN where it is not finite
    whole: ClosedJaxpr  # the rules with what leaves bring to meetings
    meetings: tuple[Meeting, ...]
    numbers: dict[tuple[int, str], Any]  # new values of fields that are one number, by rule and name
    waits: (
        int | None
    )  # the rule that needs the updates of all leaves, since what it brings to a meeting is made of them


class OneLeaf:
    """Rules applied to one leaf, in one function that leaves alike share; called with their counts after this update.

    The rules are traced first, by themselves: the trace shows in which order their results are best written, and at
    which calls leaves meet.

    Args:
      to: where the update goes, see `gdjax.xla.write_order.bound_for`.
      axes: those of a `shard_map` over which any leaf varies.
    """

    def __init__(self, kernels: tuple[Kernel, ...], to: str | None, axes: frozenset[str] = frozenset()):
        self.kernels, self.to, self.axes = kernels, to, axes
        self.known: dict[Any, Traced] = {}  # by the types of the arguments

        def apply(met: list[Array], g: Array, p: Array | None, slots: Any, *rest: Any) -> tuple[Array, Any, Any]:
            # A state that is divided otherwise than its parameter (see `gdjax.state_sharding`) a rule cannot know of.
            if meshes.divided_otherwise(slots, g):
                like = g, slots, dict.fromkeys(self.traced((g, p, slots, *rest)).numbers)
                return meshes.partitioned(self.apply, like, met, g, p, slots, *rest)
            return self.apply(met, g, p, slots, *rest)

        apply.__name__ = "_".join(k.name for k in kernels)[:80]
        self.call, self.bring = jax.jit(apply), jax.jit(self._brought, static_argnums=0)

    def __call__(self, met: list[Array], *arguments: Any) -> tuple[Array, Any, dict[tuple[int, str], Array]]:
        """The update, the new slots, and the new values of fields that are one number, by rule and name.

        Args:
          met: what has come of the meetings.
        """
        return self.call(met, *arguments)

    def keeps_a_value(self, *arguments: Any) -> bool:
        """Whether a value of the size of the leaf, that is no result, is written to memory on the way."""
        return self.traced(arguments).plan.keeps

    def brought(self, meeting: int, met: list[Array], *arguments: Any) -> list[Array]:
        """The operands of a meeting, given what has come of those before it."""
        traced = self.traced(arguments)
        inputs = dict(zip(traced.whole.jaxpr.invars, jax.tree.leaves(arguments), strict=False))
        operands = traced.meetings[meeting].operands
        if all(isinstance(v, Var) and v in inputs for v in operands):
            return [inputs[v] for v in operands]
        return self.bring(meeting, met, *arguments)

    def _brought(self, meeting: int, met: list[Array], *arguments: Any) -> list[Array]:
        g, _, slots, *_ = arguments
        if not meshes.divided_otherwise(slots, g):
            return self._operands(meeting, met, *arguments)
        types = [v.aval for v in self.traced(arguments).meetings[meeting].operands]
        like = [g if x.shape == g.shape else None for x in types]
        return meshes.partitioned(functools.partial(self._operands, meeting), like, met, *arguments)

    def _operands(self, meeting: int, met: list[Array], *arguments: Any) -> list[Array]:
        traced = self.traced(arguments)
        leaves = [reads.apart(x)[0] for x in jax.tree.leaves(arguments)]
        values = Evaluation(traced.whole, dict(zip(traced.whole.jaxpr.invars, [*leaves, *met], strict=False)))
        return [values.value(v) for v in traced.meetings[meeting].operands]

    def apply(self, met: list[Array], *arguments: Any) -> tuple[Array, Any, dict[tuple[int, str], Array]]:
        _, p, slots, *_ = arguments
        closed, how, late, whole, _, numbers, _ = self.traced(arguments)
        inputs = [*jax.tree.leaves(arguments), *met]
        values, others = Evaluation.of(closed, inputs), Evaluation.of(whole, inputs)
        olds, structure = jax.tree.flatten(slots)
        results: dict[int, Any] = dict(enumerate([None, *olds]))
        for loop in how.loops:
            memory = lambda i: write_order.written(self.to, p, results[i]) if i == UPDATE else results[i]  # noqa: E731
            firsts = [memory(i) for i in loop.waits]
            if loop.again:
                wait = functools.partial(_waiting, firsts or [results[i] for i in loop.uses])
                x = values.anew(loop.index, loop.uses, wait)
            else:
                x = _waiting(firsts, values.output(loop.index))
            if loop.index in late:
                x = nan_where_not_finite(x, *map(values.value, late[loop.index]))
            if loop.held:
                x = write_order.held(olds[loop.index - 1], x)
            if loop.unrelated:
                x = write_order.over(olds[loop.index - 1], x)
            if firsts or loop.again or loop.unrelated or loop.held or loop.index in late:
                values.replace(loop.index, x)
            results[loop.index] = x
        update, *news = results.values()
        return update, structure.unflatten(news), {name: others.value(v) for name, v in numbers.items()}

    def traced(self, arguments: tuple[Any, ...]) -> Traced:
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, *meshes.types_of(leaves), *(getattr(jax.config, name) for name in CONTEXT)
        if key in self.known:
            return self.known[key]
        calls = Calls(self.axes)
        names: list[tuple[int, str]] = []

        def function(*leaves: Any) -> list[Array]:
            update, news, numbers, directions = _applied(self.kernels, calls, *structure.unflatten(leaves))
            names.extend(numbers)
            return [update, *news, *numbers.values(), *directions]

        with noted(calls):
            closed = jax.make_jaxpr(function)(*leaves)
        closed, meetings = cut(closed, calls.places)
        outs = closed.jaxpr.outvars
        slots = len(jax.tree.leaves(arguments[2]))
        numbers = dict(zip(names, outs[1 + slots :], strict=False))
        directions = outs[1 + slots + len(names) :]
        whole, graph = closed, graph_of(closed)
        waits = _waits(graph, meetings, directions)
        self._check_numbers(graph, numbers, jax.tree.leaves(structure.unflatten(graph.inputs[: len(leaves)])[:3]))
        if meetings:  # what leaves bring to them is computed before
            closed = without_unused(ClosedJaxpr(closed.jaxpr.replace(outvars=outs[: 1 + slots]), closed.consts))
            graph = graph_of(closed)
        inputs = structure.unflatten(graph.inputs[: len(leaves)])
        graph.outputs = graph.outputs[: 1 + slots]
        how = plan(graph, inputs[0], inputs[1], jax.tree.leaves(inputs[2]), self.to)
        late: Late = {}
        # What leaves bring to a meeting has the bound as it is written; what is the same in both is computed once.
        staged = {m.place.rule for m in meetings} | {i for i, k in enumerate(self.kernels) if k.staged}
        if not any(self.kernels[i].State._fields for i in staged):
            closed, late = with_late_nan(closed, graph, how)
        small = graph.sizes[inputs[0]] <= SMALL
        found = Traced(closed, unordered(how) if small else how, late, whole, meetings, numbers, waits)
        if not any(isinstance(x, Tracer) for x in closed.consts):  # which another trace must not see
            self.known[key] = found
        return found

    def _check_numbers(self, graph: Graph, numbers: dict[tuple[int, str], Any], arrays: list[int]) -> None:
        """Raises where a rule makes of one array what is one number for all."""
        for (rule, name), v in numbers.items():
            if isinstance(v, Var) and graph.reach(graph.numbers[v], ()) & set(arrays):
                with rule_checks.raised_by(rule):
                    raise ValueError(
                        f"state.{name} is one number for the whole tree, and the rule made it of one array: take the "
                        "gdjax.total or gdjax.largest of it"
                    )


def _waits(graph: Graph, meetings: Sequence[Meeting], directions: Sequence[Any]) -> int | None:
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


kernel_of = functools.lru_cache(maxsize=4096)(OneLeaf)


def _waiting(firsts: Sequence[Array | None], xs: Any) -> Any:
    """Arrays that are computed after all of the first ones."""
    for first in firsts:
        xs = xs if first is None else write_order.after(first, xs)
    return xs


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
            s["count"] = count
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
            news += [_stored(y, z) for y, z in zip(jax.tree.leaves(kept[f]), jax.tree.leaves(x), strict=True)]
        found |= {(index, f): _stored(changed[f], numbers[f]) for f in numbers if f in changed}
    update = direction.astype(g.dtype)
    # Of a gradient that is not divided the update may be, as a state made of divided parameters is.
    return (meshes.placed(update, g) if meshes.division(g) else update), news, found, directions


def _widened(slot: Any, real: Any) -> Any:
    """What a rule gets for a slot: integers, booleans and PRNG keys as they are, the rest in the rule's dtype."""
    inexact = lambda x: jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact)  # noqa: E731
    return jax.tree.map(lambda x: numerics.widen(x, real) if inexact(x) else x, slot)


def _stored(new: Any, old: Array) -> Array:
    """`new`, an array or a number, in the dtype and the place of `old`."""
    if numerics.is_key(old):
        return meshes.placed(new, old)
    return meshes.placed(new.astype(old.dtype) if hasattr(new, "dtype") else jnp.asarray(new, old.dtype), old)


def promotion(*gs: Array) -> Any:
    """With complex numbers a rule mixes dtypes on purpose: its hyperparameters and second moments are real."""
    return jax.numpy_dtype_promotion("standard") if any(map(jnp.iscomplexobj, gs)) else contextlib.nullcontext()
