"""A rule of one matrix, for all matrices of one shape."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.base import MaskedNode
from gdjax.lift import rule_checks
from gdjax.matrices import turns
from gdjax.matrices.by_element import ByElement
from gdjax.matrices.factored import Blocks, Shape
from gdjax.matrices.segments import Segments, one_of
from gdjax.matrices.traced import Evaluation
from gdjax.numerics import Array, bounded


class Declared(NamedTuple):
    """A rule of one matrix, and what it was declared with."""

    label: str
    rule: Callable[..., Any]
    State: Any
    kinds: Mapping[str, Any]  # of the fields of the state

    def fields(self, *kinds: Any) -> list[str]:
        """The fields that are of these kinds."""
        return [f for f, x in self.kinds.items() if isinstance(x, kinds)]


class Given(NamedTuple):
    """What a step is of: the gradients, and the fields of the state by what they are."""

    gs: Any  # for each leaf the gradient, or None
    moments: Any  # by field, the same of the slots like the parameter
    stacks: Any  # by field and the name of a shape
    shared: Any  # by field
    keys: Any  # by field, for each matrix the numbers of its key
    count: Array
    t: Array
    arrays: Any  # the hyperparameters that are arrays


class OneShape:
    """The rule for the matrices of one shape: its trace, and what is known of it.

    Args:
      shape: its name, rows and columns.
      constants: the hyperparameters that are no arrays.
      kinds: by field, what kind of keys.
    """

    def __init__(
        self, rule: Declared, found: Blocks, shape: Shape, constants: Any, kinds: Any, given: Given
    ):  # fmt: skip
        name, *sides = shape
        self.where, self.sides, self.number = f"{rule.label}: matrices {name}", sides, found.numbers[name]
        self.given, self.fields = given, {f: jax.tree.flatten(x[name]) for f, x in given.stacks.items()}
        stacks = [x for xs, _ in self.fields.values() for x in xs] + list(given.keys.values())
        on_leaves = [given.gs, *given.moments.values()]
        g = None if given.moments else bounded(found.stack(shape, given.gs), "summed")
        one = _alike(shape, [xs[x.leaf] for xs in on_leaves for x in found.members[shape]]) if g is None else one_of(g)
        real = numerics.widest_real(one)
        cast = lambda x: x.astype(real) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
        scalars = [*given.shared.values(), *map(cast, (given.t, *given.arrays.values()))]
        # From the gradient, moments, stacks, keys and numbers to the direction, moments, stacks and shared numbers.
        trace = jax.make_jaxpr(functools.partial(self._of_one, rule, constants, kinds))
        closed = trace(*[one] * len(on_leaves), *map(one_of, stacks), *scalars)

        ins, outs = iter(closed.jaxpr.invars), iter(closed.jaxpr.outvars)
        inputs, slots, numbers = ([next(ins) for _ in xs] for xs in (on_leaves, stacks, scalars))
        u, *moments = [next(outs) for _ in on_leaves]
        self.u, self.moments = u, dict(zip(given.moments, moments, strict=True))
        self.news = {f: [next(outs) for _ in xs] for f, (xs, _) in self.fields.items()}
        self.shared = dict(zip(given.shared, outs, strict=True))
        news = [v for vs in self.news.values() for v in vs]
        known = dict(zip(slots, stacks, strict=True))
        scalar = Evaluation(closed, dict(zip(numbers, scalars, strict=True)))
        self.leaves: dict[str, dict[int, Array]] = {}
        if g is None:
            part = ByElement(closed, inputs, slots, moments, [u, *news])
            known |= self._on_leaves(part, found, shape, one.dtype, [scalar.value(v) for v in part.numbers])
        else:
            known[inputs[0]] = g
        # A new value is written over the old one, and the direction over what it is made of.
        places = [(u, next((v for v in known if v not in slots), None)), *zip(news, slots, strict=False)]
        places += [(self.moments[f], x) for f, x in zip(given.moments, inputs[1:], strict=True) if f not in self.leaves]
        outputs = [(v, x if x in known else None) for v, x in places]
        self.segments = Segments(closed, [*inputs, *slots], known, scalar, outputs, self.number)
        if wrong := [f for f, v in self.shared.items() if isinstance(v, Var) and v in self.segments.of_matrices]:
            raise TypeError(f"{self.where}: state.{wrong[0]} is one number for the tree, made of numbers alone")

    def _of_one(self, rule: Declared, constants: Any, kinds: Any, *xs: Array) -> list[Array]:
        """The rule of one matrix, from and to arrays alone."""
        each = iter(xs)
        take = lambda names: {f: next(each) for f in names}  # noqa: E731
        g, moments = next(each), take(self.given.moments)
        olds = {f: structure.unflatten([next(each) for _ in xs]) for f, (xs, structure) in self.fields.items()}
        keys = {f: jax.random.wrap_key_data(x, impl=kinds[f]) for f, x in take(self.given.keys).items()}
        shared, hyper = take(self.given.shared), take(["t", *self.given.arrays])
        seen = {f: _seen(x, isinstance(rule.kinds[f], tuple)) for f, x in olds.items()}
        s = rule.State(**(dict.fromkeys(rule.State._fields) | moments | seen | keys | shared))
        result = rule.rule(g, s, None, hyper.pop("t"), **constants, **hyper)
        slots = moments | olds | shared
        try:
            u, new = rule_checks.returned(rule.State, result, g, {f: x for f, x in slots.items() if jax.tree.leaves(x)})
        except (TypeError, ValueError) as e:
            raise type(e)(f"{self.where}: {e}") from None
        pairs = [zip(jax.tree.leaves(getattr(new, f)), jax.tree.leaves(x), strict=False) for f, x in slots.items()]
        return [u, *(jnp.asarray(x).astype(old.dtype) for pair in pairs for x, old in pair)]

    def _on_leaves(
        self, part: ByElement, found: Blocks, shape: Shape, dtype: Any, numbers: Sequence[Array]
    ) -> dict[Var, Array]:  # fmt: skip
        """Evaluates what is done element by element; returns what the rest reads of it, as stacks."""

        @jax.jit  # leaves alike share one trace
        def evaluated(xs: Sequence[Array], numbers: Sequence[Array]) -> tuple[list[Array], list[Array]]:
            g, *ms = (x.astype(dtype) for x in xs)  # in which the rule is traced
            return part.evaluated([bounded(g, "summed"), *ms], numbers)

        gs, ms = self.given.gs, self.given.moments
        there = [i for i in dict.fromkeys(x.leaf for x in found.members[shape]) if gs[i] is not None]
        made = {i: evaluated(meshes.alike(*(xs[i] for xs in (gs, *ms.values()))), numbers) for i in there}
        kept = [f for f, v in self.moments.items() if v in part.kept]
        self.leaves = {f: {i: ys[k] for i, (ys, _) in made.items()} for k, f in enumerate(kept)}
        of_leaf = lambda i, k: made[i][1][k] if i in made else None  # noqa: E731
        return {v: found.stack(shape, [of_leaf(i, k) for i in range(len(gs))]) for k, v in enumerate(part.read)}

    def meet(self, j: int, count: Array, numbers: Sequence[int] | None) -> None:
        """The turns of the j-th `in_turns` of the rule, if it has so many."""
        known = self.segments
        if j < len(known.meetings):
            m = known.meetings[j]
            when = None if m.when is None else known.scalar(m.when)
            olds, factors = (list(map(known.stack, xs)) for xs in (m.olds, m.factors))
            constants = [known.scalar(v) for v in m.constants]
            news = turns.turned(m.turn, olds, factors, constants, count, when, numbers)
            known.values.update(zip(m.news, news, strict=True))

    def results(self) -> dict[str, Any]:
        """The direction "u" and the fields of the state, those that lie on leaves apart."""
        stack = self.segments.stack
        moments = {f: jnp.zeros((self.number, *self.sides)) if f in self.leaves else stack(v)
                   for f, v in self.moments.items()}  # fmt: skip
        news = {f: self.fields[f][1].unflatten(map(stack, vs)) for f, vs in self.news.items()}
        return {"u": stack(self.u)} | moments | news | {f: self.segments.scalar(v) for f, v in self.shared.items()}


def _alike(shape: Shape, arrays: Sequence[Array | None]) -> Any:
    """What stands in a trace for the matrices of arrays, not all of which need be there."""
    real = numerics.widest_real(arrays)
    dtype = numerics.complex_dtype(real) if shape[0].endswith("complex") else real
    one = jax.ShapeDtypeStruct(shape[1:], dtype)
    axes = meshes.varying_axes([x for x in arrays if x is not None])
    return meshes.varying(jnp.zeros(one.shape, dtype), axes) if axes else one


def _seen(x: Any, several: bool) -> Any:
    """A slot as the rule finds it: in float32 at least, a list where it is one, None where there is none."""
    masked = lambda y: isinstance(y, MaskedNode)  # noqa: E731
    wide = lambda y: y.astype(numerics.at_least_float32(y.dtype))  # noqa: E731
    parts = [None if masked(y) else wide(y) for y in jax.tree.leaves(x, is_leaf=masked)]
    return parts if several else parts[0]
