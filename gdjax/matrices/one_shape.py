"""A rule of one matrix, for all matrices of one shape."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import homes, meshes
from gdjax.core.base import MaskedNode
from gdjax.lift import rule_checks
from gdjax.lift.meetings import Replay, replayed
from gdjax.matrices.factored import Blocks, Shape
from gdjax.matrices.in_turns import Turns
from gdjax.numerics import Array, bounded
from gdjax.xla import at_home, places
from gdjax.xla.loops import inputs_of, made_of_nothing
from gdjax.xla.write_order import LARGE


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
    """The rule for the matrices of one shape.

    Args:
      shape: its name, rows and columns.
      constants: the hyperparameters that are no arrays.
      kinds: by field, what kind of keys.
    """

    def __init__(
        self, rule: Declared, found: Blocks, shape: Shape, constants: Any, kinds: Any, given: Given
    ):  # fmt: skip
        self.rule, self.given, self.constants, self.kinds = rule, given, constants, kinds
        name, *self.sides = shape
        self.where, self.number = f"{rule.label}: matrices {name}", found.numbers[name]
        self.fields = {f: jax.tree.flatten(x[name]) for f, x in given.stacks.items()}
        g = bounded(found.stack(shape, given.gs), "summed")
        moments = [found.stack(shape, xs) for xs in given.moments.values()]
        slots = [x for xs, _ in self.fields.values() for x in xs]
        self.stacks = meshes.alike(g, *moments, *slots, *given.keys.values())
        self.kept = len(self.stacks) - len(given.keys)
        # Which turns there are, and what is made of what.
        noted = Turns(given.count, None)
        self.traced = jax.make_jaxpr(functools.partial(self._of_one, noted))(*map(one_of, self.stacks))
        self.turns = noted.noted
        if wrong := [f for i, f in enumerate(given.shared, self.kept) if inputs_of(self.traced, i)]:
            raise TypeError(f"{self.where}: state.{wrong[0]} is one number for the tree, made of numbers alone")

    def _of_one(self, turns: Turns, *xs: Array) -> list[Array]:
        """From the gradient, moments, slots and keys of one matrix to its direction, moments and slots, and numbers."""
        each, given, real = iter(xs), self.given, numerics.widest_real(xs[0])
        take = lambda names: {f: next(each) for f in names}  # noqa: E731
        cast = lambda x: x.astype(real) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
        g, moments = next(each), take(given.moments)
        olds = {f: structure.unflatten([next(each) for _ in xs]) for f, (xs, structure) in self.fields.items()}
        keys = {f: jax.random.wrap_key_data(x, impl=self.kinds[f]) for f, x in take(given.keys).items()}
        seen = {f: _seen(x, isinstance(self.rule.kinds[f], tuple)) for f, x in olds.items()}
        State = self.rule.State  # noqa: N806
        s = State(**(dict.fromkeys(State._fields) | moments | seen | keys | given.shared))
        hyper = self.constants | {k: cast(x) for k, x in given.arrays.items()}
        with replayed(Replay((), (), meshes.varying_axes(g), turns)):
            result = self.rule.rule(g, s, None, cast(given.t), **hyper)
        slots = moments | olds | given.shared
        try:
            u, new = rule_checks.returned(State, result, g, {f: x for f, x in slots.items() if jax.tree.leaves(x)})
        except (TypeError, ValueError) as e:
            raise type(e)(f"{self.where}: {e}") from None
        pairs = [zip(jax.tree.leaves(getattr(new, f)), jax.tree.leaves(x), strict=False) for f, x in slots.items()]
        return [u.astype(g.dtype), *(jnp.asarray(x).astype(old.dtype) for pair in pairs for x, old in pair)]

    def results(self, runs: Sequence[Sequence[int] | None]) -> dict[str, Any]:
        """The direction "u" and the fields of the state.

        Args:
          runs: of each of its turns, see `Turns`; None where all the matrices have theirs in one step.
        """
        numbers = [[self.number] if run is None else run for run in runs]

        def of_one(place: Any, *xs: Array) -> list[Array]:
            return self._of_one(Turns(self.given.count, numbers, place), *xs)[: self.kept]

        news = iter(over_stack(of_one, self.stacks, self.kept))
        found = {"u": next(news)} | {f: next(news) for f in self.given.moments}
        found |= {f: structure.unflatten([next(news) for _ in xs]) for f, (xs, structure) in self.fields.items()}
        return found | dict(zip(self.given.shared, made_of_nothing(self.traced, self.kept), strict=True))


def one_of(stack: Array) -> Any:
    """What stands for one matrix of a stack in a trace; in `shard_map` it varies as the stack does."""
    return stack[0] if meshes.varying_axes(stack) else jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype)


def over_stack(f: Callable[..., list[Array]], stacks: Sequence[Array], kept: int) -> list[Array]:
    """f of one matrix, for all of a stack: of its place and the elements of all stacks to new ones of the first `kept`.

    On a CPU large matrices go one by one through a loop, whose body is compiled once and writes over the stacks that it
    reads. Elsewhere, and of small ones, all are computed at once, and the place is None.
    """
    number = len(stacks[0])
    if homes.mesh() is None and number == 1:
        return [y[None] for y in f(0, *(x[0] for x in stacks))]

    def at_once(*stacks: Array) -> list[Array]:
        return list(jax.vmap(functools.partial(f, None))(*stacks))

    def one_by_one(*stacks: Array) -> list[Array]:
        def step(i: Any, written: list[Array]) -> list[Array]:
            ys = f(i, *places.taken([*written, *stacks[kept:]], i))
            put = jax.lax.dynamic_update_index_in_dim
            return [put(x, y, i, 0) for x, y in zip(written, ys, strict=True)]

        return meshes.fori_loop(number, step, list(stacks[:kept]))

    if homes.mesh() is not None:
        return list(at_home.computed(at_once, *stacks))
    large = max(math.prod(x.shape[1:]) for x in stacks) >= LARGE and not meshes.may_be_divided(stacks[0])
    if large:
        return jax.lax.platform_dependent(*stacks, cpu=one_by_one, default=at_once)
    return at_once(*stacks)


def _seen(x: Any, several: bool) -> Any:
    """A slot as the rule finds it: in float32 at least, a list where it is one, None where there is none."""
    masked = lambda y: isinstance(y, MaskedNode)  # noqa: E731
    wide = lambda y: y.astype(numerics.at_least_float32(y.dtype))  # noqa: E731
    parts = [None if masked(y) else wide(y) for y in jax.tree.leaves(x, is_leaf=masked)]
    return parts if several else parts[0]
