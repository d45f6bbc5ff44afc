"""One leaf: the jitted function that applies a row of rules to one array."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.codec import Codec
from gdjax.lift import rule_checks
from gdjax.xla import reads, write_order
from gdjax.xla.facts import Evaluation, graph_of
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
    closed: ClosedJaxpr  # the rules as JAX sees them, from the flat arguments to the update and the new slots
    plan: Plan  # in which order to write these
    late: Late  # what makes each NaN where it is not finite


class OneLeaf:
    """Rules applied to one leaf, in one function that leaves alike share; called with their counts after this update.

    The rules are traced first, by themselves: the trace shows in which order their results are best written.
    """

    def __init__(self, kernels: tuple[Kernel, ...], to: str | None):
        self.kernels, self.to = kernels, to
        self.known: dict[Any, Traced] = {}  # by the types of the arguments

        def apply(g: Array, p: Array | None, slots: Any, *rest: Any) -> tuple[Array, Any]:
            # A state that is divided otherwise than its parameter (see `gdjax.state_sharding`) a rule cannot know of.
            if meshes.divided_otherwise(slots, g):
                return meshes.partitioned(self.apply, (g, slots), g, p, slots, *rest)
            return self.apply(g, p, slots, *rest)

        apply.__name__ = "_".join(k.name for k in kernels)[:80]
        self.call = jax.jit(apply)

    def __call__(self, *arguments: Any) -> tuple[Array, Any]:
        return self.call(*arguments)

    def keeps_a_value(self, *arguments: Any) -> bool:
        """Whether a value of the size of the leaf, that is no result, is written to memory on the way."""
        return self.traced(arguments).plan.keeps

    def apply(self, *arguments: Any) -> tuple[Array, Any]:
        _, p, slots, *_ = arguments
        closed, how, late = self.traced(arguments)
        values = Evaluation.of(closed, jax.tree.leaves(arguments))
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
        return update, structure.unflatten(news)

    def traced(self, arguments: tuple[Any, ...]) -> Traced:
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, *meshes.types_of(leaves), *(getattr(jax.config, name) for name in CONTEXT)
        if key in self.known:
            return self.known[key]

        def function(*leaves: Any) -> list[Array]:
            update, news = _applied(self.kernels, *structure.unflatten(leaves))
            return [update, *news]

        closed = jax.make_jaxpr(function)(*leaves)
        graph = graph_of(closed)
        g, p, slots, *_ = structure.unflatten(graph.inputs)
        how = plan(graph, g, p, jax.tree.leaves(slots), self.to)
        late: Late = {}
        # A stage has the bound as it is written; what is the same in both is computed once.
        if not any(k.staged and k.State._fields for k in self.kernels):
            closed, late = with_late_nan(closed, graph, how)
        found = Traced(closed, unordered(how) if graph.sizes[g] <= SMALL else how, late)
        if not any(isinstance(x, Tracer) for x in closed.consts):  # which another trace must not see
            self.known[key] = found
        return found


kernel_of = functools.lru_cache(maxsize=4096)(OneLeaf)


def _waiting(firsts: Sequence[Array | None], xs: Any) -> Any:
    """Arrays that are computed after all of the first ones."""
    for first in firsts:
        xs = xs if first is None else write_order.after(first, xs)
    return xs


def _applied(
    kernels: Sequence[Kernel], g: Array, p: Array | None, slots: Any, counts: Any, shared: Any, scalars: Any, raws: Any
) -> tuple[Array, list[Array]]:
    """The update that the rules make one after the other, and their new slots in a row."""
    like = [g.dtype] if p is None else [g.dtype, p.dtype]
    real = max((numerics.real_dtype(numerics.at_least_float32(d)) for d in like), key=lambda d: d.itemsize)
    wide, param, news = numerics.widen(g, real), numerics.widen(p, real), []
    direction = wide
    for index, (kernel, slot, count, numbers, scalar, raw) in enumerate(
        zip(kernels, slots, counts, shared, scalars, raws, strict=True)
    ):
        fields = [f for f in kernel.State._fields if f != "count" and f not in numbers]
        codes, codecs = dict(zip(fields, slot, strict=True)), dict(kernel.codecs)
        olds = {f: codecs[f].decode(x) if f in codecs else x for f, x in codes.items()}
        old = {f: _widened(x, real) for f, x in olds.items()}
        s = old | {f: _widened(x, real) for f, x in numbers.items()}
        if "count" in kernel.State._fields:
            s["count"] = count
        t = None if count is None else count.astype(real)
        hyper = {k: v for k, _, v in kernel.constants} | {k: numerics.widen(v, real) for k, v in scalar.items()}
        with jax.named_scope(kernel.name), promotion(g), reads.widened((wide, g), (param, p)):
            with rule_checks.raised_by(index):
                given = [wide if raw is None else numerics.widen(raw, real)] if kernel.wraps else []
                s = kernel.State(**s)
                result = rule_checks.called(kernel.rule, index, [direction, *given], s, param, t, hyper)
                direction, state = rule_checks.returned(kernel.State, result, direction, olds)
        changed = {f: x for f in fields if (x := getattr(state, f)) is not old[f]}
        coded = {f: codecs[f].encode(jnp.asarray(changed[f])) for f in codecs if f in changed}
        kept = codes | changed | coded
        for f, x in codes.items():
            news += [_stored(y, z) for y, z in zip(jax.tree.leaves(kept[f]), jax.tree.leaves(x), strict=True)]
    update = direction.astype(g.dtype)
    # Of a gradient that is not divided the update may be, as a state made of divided parameters is.
    return (meshes.placed(update, g) if meshes.division(g) else update), news


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
