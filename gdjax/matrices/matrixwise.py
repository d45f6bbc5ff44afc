"""`matrixwise`: a rule of one matrix becomes a transform of all matrices of a tree, over the stacks that it keeps.

Stacks are a view of the tree. `OfMatrices` cuts gradients into stacks, and puts updates together again; between the two
a leaf rule is applied to the tree of stacks: `OneMatrix.of_stack`, which maps the rule of one matrix over a stack.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Concatenate, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from gdjax import numerics
from gdjax.core import checks, meshes, owners
from gdjax.core.arrays import fresh_key
from gdjax.core.base import GradientTransformation, MaskedNode
from gdjax.core.contexts import PASS, within
from gdjax.core.part import Kept
from gdjax.core.structures import few
from gdjax.core.types import OptState, Params, Updates, base_of, is_skipped, left_out
from gdjax.lift import rule_checks
from gdjax.lift.all_leaves import fused, leaves_of
from gdjax.lift.leafwise import maker_of
from gdjax.lift.meetings import Replay, replayed
from gdjax.lift.one_leaf import promotion
from gdjax.lift.rule import Leafwise
from gdjax.lift.rule_checks import Special, named
from gdjax.lift.slots import Factor, Key, Moment, Planned, Shared, Stored, Tree, Whole, first_moment
from gdjax.matrices.blocks import LIFTED, MatrixBlocks, Stacks, blocks_for
from gdjax.matrices.in_turns import Noted, Runs, Turns, spread
from gdjax.matrices.slots import Only, arguments_of, first_stacks, kind_in_stacks
from gdjax.numerics import Array, bounded
from gdjax.xla import write_order
from gdjax.xla.loops import inputs_of, made_of_nothing
from gdjax.xla.write_order import LARGE

__all__ = ["matrixwise"]


class Stack(NamedTuple):
    """Facts about a stack."""

    number: int  # of its matrices
    first: int  # its place among the matrices of the tree
    total: int  # of all these
    runs: tuple[tuple[int, ...], ...]  # for each `in_turns` of the rule, see `Runs`


class Matrices(NamedTuple):
    """What the rule reads and writes of one matrix, or of a stack of them."""

    g: Array  # the gradient, and then the direction
    slots: dict[str, Any]  # by field, as in the state


class OneMatrix:
    """The rule of one matrix, as it is called.

    Args:
      keys: the fields of the state that are a key of the tree.
      shared: the fields that are one number for the tree.
      hidden: the arguments that are None in the rule, since only the lift reads them.
    """

    def __init__(
        self, rule: Callable[..., Any], State: Any, keys: Sequence[str], shared: Sequence[str], hidden: Sequence[str]
    ):
        self.rule, self.State, self.keys, self.shared = rule, State, keys, shared
        self.arguments = [p.name for p in named(rule, 4)]
        self.read = [name for name in self.arguments if name not in hidden]
        self.slots = [f for f in State._fields if f not in {"count", *keys, *shared}]

    def __call__(
        self, turns: Turns, old: Matrices, keys: Mapping[str, Array], s: Any, t: Array, hyper: Mapping[str, Any]
    ) -> tuple[Matrices, list[Any]]:
        """The direction and the new slots, and the new numbers of the tree.

        Args:
          s: the state, with what matrices share.
        """
        s = s._replace(**keys, **{f: _seen(x) for f, x in old.slots.items()})
        with replayed(Replay((), (), meshes.varying_axes(old.g), turns)):
            result = self.rule(old.g, s, None, t, **{name: hyper.get(name) for name in self.arguments})
        olds = old.slots | {f: getattr(s, f) for f in self.shared}
        u, new = rule_checks.returned(self.State, result, old.g, {f: x for f, x in olds.items() if jax.tree.leaves(x)})
        news = {f: _as_before(getattr(new, f), x) for f, x in olds.items()}
        return Matrices(u, {f: news[f] for f in old.slots}), [news[f] for f in self.shared]

    def of_stack(self, gs: Array, s: Any, t: Array, stack: Stack, hyper: Mapping[str, Any]) -> tuple[Array, Any]:
        """The directions and the new state of a stack, each matrix at its owner."""
        kinds = {f: jax.random.key_impl(getattr(s, f)) for f in self.keys}
        keys = {f: owners.dealt(keys_of(getattr(s, f), s.count, stack)) for f in self.keys}
        olds = Matrices(gs, {f: getattr(s, f) for f in self.slots})
        runs = [Runs.of(run, math.prod(meshes.dealt(1))) for run in stack.runs]

        def of_owner(owner: Any, stacks: tuple[Matrices, dict[str, Array]], common: Any) -> Matrices:
            s, t, hyper = common

            def of_one(place: Any, old: Matrices, keys: dict[str, Array]) -> Matrices:
                wrapped = {f: jax.random.wrap_key_data(x, impl=kinds[f]) for f, x in keys.items()}
                return self(Turns(s.count, runs, owner, place), old, wrapped, s, t, hyper)[0]

            return of_each(of_one, *stacks)

        common = s._replace(**dict.fromkeys([*self.slots, *self.keys])), t, hyper
        new = owners.by_owners(of_owner, meshes.alike(olds, keys), common)
        return new.g, s._replace(**new.slots)


def keys_of(key: Array, count: Array, stack: Stack) -> Array:
    """For each matrix of a stack the numbers of its key in this step."""
    every = jax.random.key_data(jax.random.split(jax.random.fold_in(key, count), stack.total))
    return every[stack.first : stack.first + stack.number]


def _seen(slot: Any) -> Any:
    """A slot as the rule sees it: in float32 at least, a list where it is one, None where there is none."""
    if isinstance(slot, MaskedNode):
        return None
    if isinstance(slot, list | tuple):
        return list(map(_seen, slot))
    return slot.astype(numerics.at_least_float32(slot.dtype)) if jnp.issubdtype(slot.dtype, jnp.inexact) else slot


def _as_before(new: Any, old: Any) -> Any:
    """A new field in the structure and the dtypes of the old one."""
    olds, structure = jax.tree.flatten(old)
    return structure.unflatten(
        [jnp.asarray(x).astype(y.dtype) for x, y in zip(jax.tree.leaves(new), olds, strict=False)]
    )


def of_each(f: Callable[..., Matrices], stack: Matrices, keys: dict[str, Array]) -> Matrices:
    """f of one matrix, for all of a stack.

    On a CPU large matrices go one by one through a loop, whose body is compiled once and writes over the stacks that it
    reads. Elsewhere, and of small ones, all are computed at once.

    Args:
      f: `f(place, ...)` gets the place of the matrix, None where all are computed at once.
      keys: read with the stack, and not written.
    """
    number = len(stack.g)

    def one_by_one(stack: Matrices, keys: dict[str, Array]) -> Matrices:
        def step(i: Any, stack: Matrices) -> Matrices:
            xs, structure = jax.tree.flatten((stack, keys))
            new = f(i, *structure.unflatten(write_order.taken(xs, i)))
            return jax.tree.map(lambda x, y: jax.lax.dynamic_update_index_in_dim(x, y, i, 0), stack, new)

        return meshes.fori_loop(number, step, stack)

    if number == 1:
        return jax.tree.map(lambda y: y[None], f(0, *jax.tree.map(lambda x: x[0], (stack, keys))))
    at_once = jax.vmap(functools.partial(f, None))
    large = max(math.prod(x.shape[1:]) for x in jax.tree.leaves((stack, keys))) >= LARGE
    if large and not meshes.may_be_divided(stack.g):
        return jax.lax.platform_dependent(stack, keys, cpu=one_by_one, default=at_once)
    return at_once(stack, keys)


class Trace(NamedTuple):
    """What a trace of the rule for one matrix of a stack shows."""

    sides: tuple[int, int]
    stack: Stack  # without runs
    turns: list[Noted]
    shared: list[Array]  # the new numbers of the tree


@dataclass(frozen=True, eq=False)
class OfMatrices(Leafwise):
    """A rule of stacks with its hyperparameters: it sees the matrices of a tree as a tree of stacks."""

    one: Any = None  # the `OneMatrix` behind the rule
    then: Callable[..., Any] | None = None  # of the whole matrices, after the rule

    of_stacks = of_tree = True

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """All of the factory."""
        return {**self.hyper, **self.settings}

    def kept(self) -> list[Kept]:
        return [Kept((GetAttrKey(f),), of="several", kind=kind_in_stacks(x)) for f, x in self.declared.items()]

    def init(self, params: Params) -> Any:
        checks.leaves(self.label, "params", params)
        slots = first_stacks(self.label, self.declared, params, self.arguments)
        ps = jax.tree.leaves(params)
        first = lambda x: x.init(params, self.arguments) if isinstance(x, Whole) else x(ps, self.hyper)
        shared = {f: first(self.initial[f]) for f in self.shared}
        return self.join(jnp.zeros((), jnp.int32), [slots[f] for f in self.slots], shared)

    def update(self, updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        leaves = leaves_of([self], updates, params)
        tree = leaves.tree(self.label, extra_args)
        trained = tree.chosen(range(len(leaves.gs)))
        for i in trained:
            checks.gradient(self.label, functools.partial(leaves.where, i), leaves.gs[i], leaves.ps[i])
        count, stacks, _ = self.split(state)
        gs = tree.chosen(leaves.gs)
        blocks, of_leaves = self._blocks(tree, gs, stacks)
        hyper = {name: base_of(self.arguments[name]) for name in self.one.read} | self.scalars(count)
        arrays = {name: x for name, x in hyper.items() if isinstance(x, jax.Array | np.ndarray)}
        constants = {name: x for name, x in hyper.items() if name not in arrays}
        run = functools.partial(self._updated, blocks, constants)
        with within(PASS, selection=None):
            us, state = meshes.partitioned(run, (gs, state), of_leaves, state, arrays)
        us = [self._as_update(leaves.where(i), u, leaves.gs[i]) for i, u in zip(trained, us, strict=True)]
        return tree.unflattened(us), state

    def _as_update(self, where: str, u: Any, g: Array) -> Array:
        """An update with the dtype and the sharding of its gradient."""
        try:
            u = rule_checks.as_update(u, g)
        except (ValueError, TypeError) as e:
            raise type(e)(f"{self.label}: {where}: {e}") from None
        return meshes.placed(u, g) if meshes.division(g) else u

    def _blocks(
        self, tree: Tree, gs: Sequence[Array], stacks: Sequence[Stacks]
    ) -> tuple[MatrixBlocks, list[Array | None]]:
        """The blocks that the state was made for, and for each leaf of theirs its gradient, None for none."""
        updates, gradients = tree.unflattened(gs), dict(zip(tree.chosen(tree.paths), gs, strict=True))
        missing = left_out(updates)
        like = jax.tree_util.tree_map_with_path(lambda path, g: missing.get(path, g), updates, is_leaf=is_skipped)
        blocks = blocks_for(self.label, like, self.arguments)
        leads = {name: meshes.dealt(n) for name, n in blocks.numbers.items()}
        in_state = {name: _lead([x[name] for x in stacks]) for x in stacks for name in x}
        in_state = {name: leads.get(name, ()) if lead is None else lead for name, lead in in_state.items()} or leads
        if leads != in_state:
            paths = [jax.tree_util.keystr(path) for path in gradients or tree.paths]
            of = few(paths, 4) if gs else f"no gradient for {few(paths, 4)}"
            raise ValueError(
                f"{self.label}: the state has {_listed(in_state)}, the gradients are {_listed(leads)} ({of}); "
                "init(params) anew after changing the parameters, and pass params to update where some have no "
                "gradient; the state of a sharded step is for its own mesh, and step.saved(state) for any"
            )
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(like)]
        return blocks, [gradients.get(path) if cut else None for path, cut in zip(paths, blocks.cuts, strict=True)]

    def _updated(
        self, blocks: MatrixBlocks, constants: Mapping[str, Any], gs: Sequence[Array | None], state: Any,
        arrays: Mapping[str, Any],
    ) -> tuple[list[Array], Any]:  # fmt: skip
        """The updates of the leaves that have a gradient, and the new state."""
        hyper = {**constants, **arrays}
        stacks, sent = {}, {}
        for shape, members in blocks.members.items():
            x = blocks.stack(shape, gs)
            sent[shape[0]] = _sent([gs[m.leaf] for m in members], x.dtype)
            stacks[shape[0]] = bounded(owners.dealt(x.astype(sent[shape[0]])).astype(x.dtype), "summed")
        traces = self._traces(blocks, stacks, state, hyper)
        facts = [x.stack._replace(runs=runs) for x, runs in zip(traces, _spread(traces), strict=True)]
        settings = {k: x for k, x in self.settings.items() if k not in hyper} | {"stack": facts}
        rule = replace(self, hyper=hyper, settings=settings, static={"stack": lambda tree, facts: facts})
        directions, (new,) = fused([rule], stacks, [state], None, {})
        parts = {name: owners.gathered(u.astype(sent[name]), blocks.numbers[name]) for name, u in directions.items()}
        us = self._after(blocks, [u for g, u in zip(gs, blocks.leaves(parts), strict=True) if g is not None], gs, hyper)
        olds, news = ({f: getattr(s, f) for f in self.slots} for s in (state, new))
        shared = dict(zip(self.one.shared, traces[0].shared, strict=True)) if traces else {}
        return us, new._replace(**blocks.only_there(gs, news, olds), **shared)

    def _traces(self, blocks: MatrixBlocks, stacks: Stacks, state: Any, hyper: Mapping[str, Any]) -> list[Trace]:
        """The rule for one matrix of each stack."""
        s = state._replace(count=numerics.safe_increment(state.count), **dict.fromkeys(self.slots))
        traces, first, total = [], 0, sum(blocks.numbers.values())
        for name, *sides in blocks.members:
            number, g = blocks.numbers[name], stacks[name]
            slots = {f: getattr(state, f)[name] for f in self.slots}
            slots |= {f: codec.decode(slots[f]) for f, codec in self.codecs.items()}
            one = jax.tree.map(one_of, Matrices(g, slots))
            turns, shared = self._traced(name, one, s, numerics.widest_real(g), hyper)
            traces.append(Trace((sides[0], sides[1]), Stack(number, first, total, ()), turns, shared))
            first += number
        return traces

    def _traced(
        self, name: str, one: Matrices, s: Any, real: Any, hyper: Mapping[str, Any]
    ) -> tuple[list[Noted], list[Array]]:
        """The turns of the rule for a matrix of a stack, and its new numbers of the tree."""
        where, noted = f"{self.label}: matrices {name}", Turns(s.count, None)
        hyper = {k: numerics.widen(x, real) if isinstance(x, jax.Array) else x for k, x in hyper.items()}
        keys = {f: getattr(s, f) for f in self.one.keys}
        run = lambda old, keys: self.one(noted, old, keys, s, s.count.astype(real), hyper)
        try:
            with promotion(one.g):
                closed = jax.make_jaxpr(run)(one, keys)
        except (TypeError, ValueError) as e:
            if type(e) in (TypeError, ValueError) and not str(e).startswith(self.label):
                e.args = (f"{where}: {e}",)
            raise
        number = len(jax.tree.leaves(one))
        if wrong := [f for i, f in enumerate(self.one.shared, number) if inputs_of(closed, i)]:
            raise TypeError(f"{where}: state.{wrong[0]} is one number for the tree, made of numbers alone")
        return noted.noted, made_of_nothing(closed, number)

    def _after(
        self, blocks: MatrixBlocks, us: list[Any], gs: Sequence[Array | None], hyper: Mapping[str, Any]
    ) -> list[Array]:
        """What `then` makes of the matrices of all leaves."""
        if self.then is None:
            return us
        known = {**self.arguments, **hyper}
        arguments = {p.name: known[p.name] for p in named(self.then, 1)}
        leaves = [cut.leaf for cut, g in zip(blocks.cuts, gs, strict=True) if cut and g is not None]
        parts = [leaf.split(u) for leaf, u in zip(leaves, us, strict=True)]
        with promotion(*us):
            news = iter(self.then([x for xs in parts for x in xs], **arguments))
        return [leaf.joined([next(news) for _ in xs]) for leaf, xs in zip(leaves, parts, strict=True)]


def one_of(stack: Array) -> Any:
    """What stands for one matrix of a stack in a trace; in `shard_map` it varies as the stack does."""
    lead = len(meshes.dealt(1))
    return stack[0] if meshes.varying_axes(stack) else jax.ShapeDtypeStruct(stack.shape[lead:], stack.dtype)


def _sent(xs: Sequence[Array | None], dtype: Any) -> Any:
    """The dtype in which a stack is sent: that of the leaves that it comes from, if they have one."""
    dtypes = {x.dtype for x in xs if x is not None}
    return dtype if meshes.mesh() is None or len(dtypes) != 1 else dtypes.pop()


def _listed(leads: Mapping[str, tuple[int, ...]]) -> str:
    each = (f"{' x '.join(map(str, lead)) or 0} blocks of {name}" for name, lead in leads.items())
    return ", ".join(each) or "no blocks"


def _lead(trees: Any) -> tuple[int, ...] | None:
    """The leading axes of a stack, as of `meshes.dealt`; None where it has no arrays."""
    return next((x.shape[: len(meshes.dealt(0))] for x in jax.tree.leaves(trees)), None)


def _spread(traces: Sequence[Trace]) -> list[tuple[tuple[int, ...], ...]]:
    """For each stack and `in_turns` how many matrices have their turn in each step of a period; all in one without.

    All that have one period share its steps, so that these have about as much to do; the longest come first.
    """
    costs: dict[int, dict[tuple[int, int], tuple[int, float, int]]] = {}
    for j in range(max((len(x.turns) for x in traces), default=0)):
        for i, x in enumerate(traces):
            period, n = x.turns[j] if j < len(x.turns) else (None, 0)
            if period is not None:
                costs.setdefault(period, {})[i, j] = n, float(n**2 * sum(x.sides)), x.stack.number
    runs: dict[tuple[int, int], list[int]] = {}
    for period, stacks in costs.items():
        ordered = sorted(stacks.items(), key=lambda item: -item[1][0])
        runs |= spread({key: (cost, number) for key, (_, cost, number) in ordered}, period)
    every = [[runs.get((i, j), [x.stack.number]) for j in range(len(x.turns))] for i, x in enumerate(traces)]
    return [tuple(map(tuple, each)) for each in every]


P = ParamSpec("P")


def matrixwise(
    State: Any,
    *,
    then: Callable[..., Sequence[Array]] | None = None,
    growth: Any = None,
    reads: str = "",
    **slots: Any,
) -> Callable[[Callable[Concatenate[Any, Any, Any, Any, P], tuple[Any, Any]]], Callable[P, GradientTransformation]]:
    """Makes a rule for one matrix a factory of transforms of all matrices of a tree.

    The rule is a function `(G, s, p, t, ...) -> (U, s)` of the gradient of one matrix, (rows, columns), the fields of
    the state for it, None in the place of the parameter, the step, and hyperparameters. It computes in float32 at
    least. Matrices of one shape are one stack of the state, by its name: `state.L["768x3072"]`. So a step has one
    program for each shape, and `in_turns` says what is done for some of the matrices in each step.

    Args:
      State: a NamedTuple class with a field `count`; every other field is a slot.
      then: a function of the whole matrices, `(us, ...) -> us`, after the rule: it gets a list of stacks (number, rows,
        columns), none of them cut into blocks or transposed, and arguments of the factory that it names.
      growth: as for `leafwise`.
      reads: arguments that only functions among the slots read, "scale size".
      **slots: what each field is, as in `leafwise`: a `Block` like the matrix, a `Side` along its rows or columns, or
        `Along` these, which are names for a `Moment` and for `Factor`s of a matrix; any other slot, by default
        `first_moment`; or a list of slots. In the state each has a stack for each shape. A `Shared` number is one for
        the tree: the rule makes the new value from numbers alone. So is a `Key`, which stays as it is: the rule gets
        another in its place for each matrix and step.

    Returns:
      A decorator. The factory that it makes has the arguments of the rule, and by name
      block_size: matrices are cut evenly into blocks with sides of at most that; the rule sees blocks.
      sides: which sides have factors: "both"; "short"; "rows"; "columns". The slots of others are None in the rule.
      max_precond_dim: a side longer than that has no factor.
      roles: how each leaf is a matrix, if not all have two axes: by role (None, or a dict from pattern to role), a
        tree, or a function from the parameters to one.
      and those of `then`, and the names of dtypes, starts and seeds that slots have.
      A rule may name these too, for a place and a default of its own; editors and type checkers then know them. Where
      it names one of the four, there are no others of them. It gets None for these four, and for seeds.
      With `sides` "both" or "short" a tall matrix lies in its stack on its side: the rule sees it transposed.

    Raises:
      TypeError: a slot is of another kind.
      ValueError: (in init) a leaf that is no matrix, an unknown `sides`, a size below 1.

    Example:
      >>> import collections, gdjax, jax.numpy as jnp
      >>> State = collections.namedtuple("State", "count L")
      >>> @gdjax.matrixwise(State, L=gdjax.Side(0))
      ... def whitened(G, s, p, t, decay=0.9):
      ...     L = decay * s.L + (1 - decay) * G @ G.T
      ...     return gdjax.inverse_root(L, 2) @ G, s._replace(L=L)
      >>> whitened(sides="rows").init({"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))}).L["2x3"].shape
      (2, 2, 2)
    """
    slots = {f: slots.get(f, first_moment) for f in getattr(State, "_fields", ()) if f != "count"} | slots
    slots = {f: tuple(x) if isinstance(x, list) else x for f, x in slots.items()}
    for f, x in slots.items():
        alone = isinstance(x, Shared | Key)
        if not (alone or all(_is_slot(y) for y in (x if isinstance(x, tuple) else (x,)))):
            raise TypeError(f"gdjax.matrixwise: {f} is {x!r}, no slot of a rule of one matrix")
    keys, shared = ([f for f, x in slots.items() if isinstance(x, kind)] for kind in (Key, Shared))
    first = {f: _key_of_tree(x) if isinstance(x, Key) else x for f, x in slots.items()}

    def decorate(rule: Callable[..., Any]) -> Any:
        of_rule = named(rule, 4)
        after = [p for p in named(then, 1) if p.name not in {x.name for x in of_rule}] if then else []
        known = {p.name for p in (*of_rule, *after)}
        of_slots = {name: x for slot in slots.values() for name, x in arguments_of(slot).items()}
        of_slots |= dict.fromkeys(reads.split())
        of_slots |= {} if known & LIFTED.keys() else LIFTED
        seeds = [x.seed for x in slots.values() if isinstance(x, Key) and isinstance(x.seed, str)]
        one = OneMatrix(rule, State, keys, shared, [*LIFTED, *seeds])

        def of_stack(gs: Array, s: Any, p: None, t: Array, *, stack: Stack, **hyper: Any) -> tuple[Array, Any]:
            return one.of_stack(gs, s, t, stack, hyper)

        by_name = inspect.Parameter.KEYWORD_ONLY
        lifted = [inspect.Parameter(name, by_name, default=x) for name, x in of_slots.items() if name not in known]
        places = list(inspect.signature(of_stack).parameters.values())[:4]
        functools.update_wrapper(of_stack, rule)
        _sign(of_stack, [*places, *of_rule, *after, *lifted])
        settings = [p.name for p in (*of_rule, *after, *lifted) if p in after or p.name in of_slots or p.name in LIFTED]
        fields = {"kind": OfMatrices, "one": one, "then": then}
        return maker_of("matrixwise", State, first, None, Special(settings=settings), growth, **fields)(of_stack)

    return decorate


def _key_of_tree(key: Key) -> Whole:
    def fresh(params: Params, arguments: Mapping[str, Any]) -> Array:
        return fresh_key(arguments[key.seed] if isinstance(key.seed, str) else key.seed)

    return Whole(fresh, seen=True)


def _is_slot(x: Any) -> bool:
    """Whether each stack may have such a slot."""
    return isinstance(x, Moment | Factor | Only | Stored) or callable(x) and not isinstance(x, type | Whole | Planned)


def _sign(f: Any, parameters: Sequence[inspect.Parameter]) -> None:
    """Gives f a signature, those that are taken by name last."""
    f.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: p.kind))
