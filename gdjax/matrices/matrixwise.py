"""`matrixwise`: a rule of one matrix becomes a transform of all matrices of a tree, over the stacks that it keeps.

`OneShape` runs the rule for the matrices of one shape, `of_matrices` for all shapes of a tree.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import meshes
from gdjax.core.base import GradientTransformation, MaskedNode
from gdjax.core.structures import few
from gdjax.core.types import is_skipped, left_out
from gdjax.leaf_roles.plan import Leaf
from gdjax.lift import rule_checks
from gdjax.lift.leafwise import treewise
from gdjax.lift.meetings import Replay, replayed
from gdjax.lift.rule_checks import named
from gdjax.lift.slots import Key, Moment, Shared, Tree, first_moment
from gdjax.matrices.in_turns import Runs, Turns, spread
from gdjax.matrices.slots import LIFTED, MatrixBlocks, Shape, Slot, arguments_of, as_declared, blocks_for
from gdjax.numerics import Array, bounded
from gdjax.xla import at_home, write_order
from gdjax.xla.loops import inputs_of, made_of_nothing
from gdjax.xla.write_order import LARGE

__all__ = ["matrixwise"]


class Declared(NamedTuple):
    """A rule of one matrix, and what it was declared with."""

    label: str
    rule: Callable[..., Any]
    State: Any
    kinds: Mapping[str, Any]  # of the fields of the state

    def fields(self, *kinds: Any) -> list[str]:
        """The fields that are of these kinds."""
        return [f for f, x in self.kinds.items() if isinstance(x, kinds)]


class StackInputs(NamedTuple):
    """What a step is of: the gradients, and the fields of the state by what they are."""

    gs: Any  # for each leaf the gradient, or None
    moments: Any  # by field, the same of the slots like the parameter
    stacks: Any  # by field and the name of a shape
    shared: Any  # by field
    keys: Any  # by field, for each matrix the numbers of its key
    count: Array
    t: Array
    arrays: Any  # the hyperparameters that are arrays


class OneMatrix(NamedTuple):
    """What the rule reads and writes of one matrix; with a leading axis of a stack of them."""

    g: Array  # its gradient, and then its direction
    moments: dict[str, Array]  # by field
    slots: dict[str, Any]  # by field, as in the state


class OneShape:
    """The rule for the matrices of one shape.

    Args:
      shape: its name, rows and columns.
      constants: the hyperparameters that are no arrays.
      kinds: by field, what kind of keys.
    """

    def __init__(
        self, rule: Declared, found: MatrixBlocks, shape: Shape, constants: Any, kinds: Any, given: StackInputs
    ):  # fmt: skip
        self.rule, self.given, self.constants, self.kinds = rule, given, constants, kinds
        name, *self.sides = shape
        self.where, self.number = f"{rule.label}: matrices {name}", found.numbers[name]
        g = _dealt(found.stack(shape, given.gs), given.gs)
        self.sent = _sent(given.gs, g.dtype)
        moments = {f: _dealt(found.stack(shape, xs), xs) for f, xs in given.moments.items()}
        stack = OneMatrix(bounded(g, "summed"), moments, {f: x[name] for f, x in given.stacks.items()})
        self.stack, self.keys = meshes.alike(stack, {f: at_home.dealt(x) for f, x in given.keys.items()})
        # Which turns there are, and what is made of what.
        noted, one = Turns(given.count, None), jax.tree.map(one_of, (self.stack, self.keys))
        self.traced = jax.make_jaxpr(functools.partial(self._of_one, noted, given))(*one)
        self.turns, self.kept = noted.noted, len(jax.tree.leaves(self.stack))
        if wrong := [f for i, f in enumerate(given.shared, self.kept) if inputs_of(self.traced, i)]:
            raise TypeError(f"{self.where}: state.{wrong[0]} is one number for the tree, made of numbers alone")

    def _of_one(
        self, turns: Turns, given: StackInputs, old: OneMatrix, keys: dict[str, Array]
    ) -> tuple[OneMatrix, list[Any]]:
        """What the rule makes of one matrix, and the new numbers of the whole tree."""
        g, real = old.g, numerics.widest_real(old.g)
        cast = lambda x: x.astype(real) if jnp.issubdtype(x.dtype, jnp.floating) else x
        keys = {f: jax.random.wrap_key_data(x, impl=self.kinds[f]) for f, x in keys.items()}
        seen = {f: _seen(x, isinstance(self.rule.kinds[f], tuple)) for f, x in old.slots.items()}
        State = self.rule.State
        s = State(**(dict.fromkeys(State._fields) | old.moments | seen | keys | given.shared))
        hyper = self.constants | {k: cast(x) for k, x in given.arrays.items()}
        with replayed(Replay((), (), meshes.varying_axes(g), turns)):
            result = self.rule.rule(g, s, None, cast(given.t), **hyper)
        slots = old.moments | old.slots | given.shared
        try:
            u, new = rule_checks.returned(State, result, g, {f: x for f, x in slots.items() if jax.tree.leaves(x)})
        except (TypeError, ValueError) as e:
            raise type(e)(f"{self.where}: {e}") from None

        def put(field: str, old: Any) -> Any:
            pairs = zip(jax.tree.leaves(getattr(new, field)), jax.tree.leaves(old), strict=False)
            return jax.tree.structure(old).unflatten([jnp.asarray(x).astype(y.dtype) for x, y in pairs])

        moments, slots, shared = ({f: put(f, x) for f, x in xs.items()} for xs in (*old[1:], given.shared))
        return OneMatrix(u.astype(g.dtype), moments, slots), [shared[f] for f in given.shared]

    def results(self, runs: Sequence[Sequence[int] | None]) -> dict[str, Any]:
        """The direction "u" and the fields of the state.

        Args:
          runs: of each of its turns, see `Turns`; None where all the matrices have theirs in one step.
        """
        owners = math.prod(meshes.dealt(1))
        each = [Runs.of([self.number] if run is None else run, owners) for run in runs]
        numbers = {f: getattr(self.given, f) for f in ("shared", "count", "t", "arrays")}

        def of_owner(owner: Any, stacks: tuple[OneMatrix, dict[str, Array]], numbers: dict[str, Any]) -> OneMatrix:
            given = self.given._replace(**numbers)

            def of_one(place: Any, old: OneMatrix, keys: dict[str, Array]) -> OneMatrix:
                return self._of_one(Turns(given.count, each, owner, place), given, old, keys)[0]

            return over_stack(of_one, *stacks)

        new = at_home.by_owners(of_owner, (self.stack, self.keys), numbers)
        back = functools.partial(at_home.gathered, number=self.number)
        found = {"u": back(new.g.astype(self.sent))} | {f: back(x) for f, x in new.moments.items()} | new.slots
        return found | dict(zip(self.given.shared, made_of_nothing(self.traced, self.kept), strict=True))


def _dealt(stack: Array, xs: Sequence[Array | None]) -> Array:
    """A stack of blocks at its owners."""
    return at_home.dealt(stack.astype(_sent(xs, stack.dtype))).astype(stack.dtype)


def _sent(xs: Sequence[Array | None], dtype: Any) -> Any:
    """The dtype in which a stack is sent: that of the leaves that it comes from, if they have one."""
    dtypes = {x.dtype for x in xs if x is not None}
    return dtype if meshes.mesh() is None or len(dtypes) != 1 else dtypes.pop()


def one_of(stack: Array) -> Any:
    """What stands for one matrix of a stack in a trace; in `shard_map` it varies as the stack does."""
    lead = len(meshes.dealt(1))
    return stack[0] if meshes.varying_axes(stack) else jax.ShapeDtypeStruct(stack.shape[lead:], stack.dtype)


def over_stack(f: Callable[..., OneMatrix], stack: OneMatrix, keys: dict[str, Array]) -> OneMatrix:
    """f of one matrix, for all of a stack.

    On a CPU large matrices go one by one through a loop, whose body is compiled once and writes over the stacks that it
    reads. Elsewhere, and of small ones, all are computed at once.

    Args:
      f: `f(place, ...)` gets the place of the matrix, None where all are computed at once.
      keys: read with the stack, and not written.
    """
    number = len(stack.g)

    def one_by_one(stack: OneMatrix, keys: dict[str, Array]) -> OneMatrix:
        def step(i: Any, stack: OneMatrix) -> OneMatrix:
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


def _seen(x: Any, several: bool) -> Any:
    """A slot as the rule finds it: in float32 at least, a list where it is one, None where there is none."""
    masked = lambda y: isinstance(y, MaskedNode)
    wide = lambda y: y.astype(numerics.at_least_float32(y.dtype))
    parts = [None if masked(y) else wide(y) for y in jax.tree.leaves(x, is_leaf=masked)]
    return parts if several else parts[0]


def of_matrices(
    rule: Declared, gs: list[Array], s: Any, t: Array, tree: Tree, arguments: dict[str, Any],
    hyper: dict[str, Any], then: Any,
) -> dict[str, Any]:  # fmt: skip
    """The directions "u" of all leaves and the fields of the state.

    Args:
      arguments: those of the factory.
      hyper: those of the rule.
      then: None, or a function of the whole matrices.
    """
    of = lambda *kinds: {f: getattr(s, f) for f in rule.fields(*kinds)}
    moments, stacks, shared = of(Moment), of(Slot, tuple), of(Shared)
    kept = {name: _lead([x[name] for x in stacks.values()]) for x in stacks.values() for name in x}
    found, (xs, *ms) = _blocks_and(tree, [gs, *moments.values()], kept, arguments)
    arrays = {k: x for k, x in hyper.items() if isinstance(x, jax.Array)}
    constants = {k: x for k, x in hyper.items() if k not in arrays}
    number = sum(found.numbers.values())
    now = lambda key: jax.random.key_data(jax.random.split(jax.random.fold_in(key, s.count), number))
    kinds = {f: jax.random.key_impl(key) for f, key in of(Key).items()}
    keys = {f: now(key) for f, key in of(Key).items()}
    given = StackInputs(xs, dict(zip(moments, ms, strict=True)), stacks, shared, keys, s.count, t, arrays)
    run = functools.partial(_stepped, rule, found, constants, kinds, then)
    return meshes.partitioned(run, {"u": gs, **moments, **stacks, **shared}, given)


def _blocks_and(
    tree: Tree, lists: Sequence[Sequence[Array]], kept: Mapping[str, Any], arguments: Mapping[str, Any]
) -> tuple[MatrixBlocks, list[list[Array | None]]]:
    """The blocks that the state was made for, and the lists with an entry for each leaf of theirs.

    Args:
      lists: arrays for each leaf that has a gradient; None takes the place of the others.
      kept: the leading axes of each stack of the state; None for one that has no arrays, {} for a state without.
    """
    updates = tree.unflattened(lists[0])
    missing = left_out(updates)
    like = jax.tree_util.tree_map_with_path(lambda path, g: missing.get(path, g), updates, is_leaf=is_skipped)
    order = {path: i for i, path in enumerate(tree.chosen(tree.paths))}
    places = [order.get(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    found = blocks_for(tree.label, like, arguments)
    leads = {name: meshes.dealt(n) for name, n in found.numbers.items()}
    kept = {name: leads.get(name, ()) if lead is None else lead for name, lead in kept.items()} or leads
    if leads != kept:
        named = [jax.tree_util.keystr(path) for path in (tree.chosen(tree.paths) or tree.paths)]
        of = few(named, 4) if lists[0] else f"no gradient for {few(named, 4)}"
        raise ValueError(
            f"{tree.label}: the state has {_listed(kept)}, the gradients are {_listed(leads)} ({of}); init(params) "
            "anew after changing the parameters, and pass params to update where some have no gradient; the state of a "
            "sharded step is for its own mesh, and step.saved(state) for any"
        )
    own = [None if cut is None else i for i, cut in zip(places, found.cuts, strict=True)]
    return found, [[None if i is None else xs[i] for i in own] for xs in lists]


def _listed(leads: Mapping[str, tuple[int, ...]]) -> str:
    told = (f"{' x '.join(map(str, lead)) or 0} blocks of {name}" for name, lead in leads.items())
    return ", ".join(told) or "no blocks"


def _lead(trees: Any) -> tuple[int, ...] | None:
    """The leading axes of a stack, as of `meshes.dealt`; None where it has no arrays."""
    return next((x.shape[: len(meshes.dealt(0))] for x in jax.tree.leaves(trees)), None)


def _stepped(
    rule: Declared, found: MatrixBlocks, constants: Mapping[str, Any], kinds: Mapping[str, Any], then: Any,
    given: StackInputs,
) -> dict[str, Any]:  # fmt: skip
    of, start = {}, 0
    for shape in found.members:
        end = start + found.numbers[shape[0]]
        own = {f: x[start:end] for f, x in given.keys.items()}
        of[shape[0]], start = OneShape(rule, found, shape, constants, kinds, given._replace(keys=own)), end
    runs = _spread(of)
    new = {name: x.results([runs.get((name, j)) for j in range(len(x.turns))]) for name, x in of.items()}
    there = [i for i, x in enumerate(given.gs) if x is not None]

    def whole(field: str) -> list[Array | None]:
        xs = found.leaves({name: x[field] for name, x in new.items()})
        return [xs[i] for i in there]

    us = [u for u in whole("u") if u is not None]
    leaves = [cut.leaf for i in there if (cut := found.cuts[i]) is not None]
    results: dict[str, Any] = {"u": us if then is None else _of_whole(then, leaves, us)}
    results |= {f: whole(f) for f in given.moments}
    stacks = {f: {name: new[name][f] for name in of} for f in given.stacks}
    shared = {f: next(iter(new.values()))[f] if new else x for f, x in given.shared.items()}
    return results | shared | found.only_there(given.gs, stacks, given.stacks)


def _of_whole(then: Callable[..., Sequence[Array]], leaves: Sequence[Leaf], us: Sequence[Array]) -> list[Array]:
    """What `then` makes of the matrices of all leaves."""
    parts = [leaf.split(u) for leaf, u in zip(leaves, us, strict=True)]
    news = iter(then([x for xs in parts for x in xs]))
    return [leaf.joined([next(news) for _ in xs]) for leaf, xs in zip(leaves, parts, strict=True)]


def _spread(of: Mapping[str, OneShape]) -> dict[tuple[str, int], list[int]]:
    """How many matrices have their turn in each step of a period, by stack and `in_turns`; the longest come first.

    All that have one period share its steps, so that these have about as much to do.
    """
    costs: dict[int, dict[tuple[str, int], tuple[int, float, int]]] = {}
    for j in range(max((len(x.turns) for x in of.values()), default=0)):
        for name, x in of.items():
            period, n = x.turns[j] if j < len(x.turns) else (None, 0)
            if period is not None:
                costs.setdefault(period, {})[name, j] = n, float(n**2 * sum(x.sides)), x.number
    found = {}
    for period, stacks in costs.items():
        ordered = sorted(stacks.items(), key=lambda item: -item[1][0])
        found |= spread({key: (cost, number) for key, (_, cost, number) in ordered}, period)
    return found


P = ParamSpec("P")


def matrixwise(
    State: Any,
    *,
    then: Callable[..., Sequence[Array]] | None = None,
    growth: Any = None,
    **slots: Slot | Sequence[Slot] | Moment | Shared | Key,
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
      **slots: what each field is: a `Block` like the matrix, a `Side` along its rows or columns, or `Along` these; or a
        list of those. Or what a field of `leafwise` is: a `Moment` (by default `first_moment`), which lies in the state
        as the parameter does, and which the rule sees as a matrix; a `Shared` number, of which the rule makes the new
        value from numbers alone; a `Key`, one for the tree, which stays as it is: the rule finds another in its place
        for each matrix and step.

    Returns:
      A decorator. The factory that it makes has the arguments of the rule, and by name
      block_size: matrices are cut evenly into blocks with sides of at most that; the rule sees blocks.
      sides: which sides have factors: "both"; "short"; "rows"; "columns". The slots of others are None in the rule.
      max_precond_dim: a side longer than that has no factor.
      roles: how each leaf is a matrix, if not all have two axes: by role (None, or a dict from pattern to role), a
        tree, or a function from the parameters to one.
      and those of `then`, and the names of dtypes, starts and seeds that slots have.
      A rule may name these too, for a place and a default of its own; editors and type checkers then know them. Where
      it names one of the four, there are no others of them. Seeds do not reach it.
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
    kinds = {f: slots.get(f, first_moment) for f in getattr(State, "_fields", ()) if f != "count"} | slots
    kinds = {f: tuple(x) if isinstance(x, list) else x for f, x in kinds.items()}
    for f, x in kinds.items():
        if not all(isinstance(y, Slot) for y in x) if isinstance(x, tuple) else not isinstance(x, _KINDS):
            raise TypeError(f"gdjax.matrixwise: {f} is {x!r}, no slot of a rule of one matrix")

    def decorate(rule: Callable[..., Any]) -> Any:
        own, last = named(rule, 4), [p.name for p in named(then, 1)] if then else []
        after = [p for p in named(then, 1) if p.name not in {x.name for x in own}] if then else []
        known = {p.name for p in (*own, *after)}
        of_slots = {name: x for slot in kinds.values() for name, x in arguments_of(slot).items()}
        of_slots |= {} if known & LIFTED.keys() else LIFTED
        seeds = [x.seed for x in kinds.values() if isinstance(x, Key) and isinstance(x.seed, str)]

        def given(gs: list[Array], s: Any, tree: Tree, t: Any, **arguments: Any) -> Any:
            whole = functools.partial(then, **{name: arguments[name] for name in last}) if then else None
            hyper = {p.name: arguments[p.name] for p in own if p.name not in seeds}
            found = of_matrices(Declared(tree.label, rule, State, kinds), gs, s, t, tree, arguments, hyper, whole)
            return found.pop("u"), s._replace(**found)

        by_name = inspect.Parameter.KEYWORD_ONLY
        places = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("gs", "s", "tree", "t")]
        lifted = [inspect.Parameter(name, by_name, default=x) for name, x in of_slots.items() if name not in known]
        functools.update_wrapper(given, rule)
        _sign(given, [*places, *own, *after, *lifted])
        settings = [p.name for p in (*own, *after, *lifted) if p in after or p.name in of_slots or p.name in LIFTED]
        return treewise(State, settings, growth, **{f: as_declared(x) for f, x in kinds.items()})(given)

    return decorate


_KINDS = (Slot, Moment, Shared, Key)


def _sign(f: Any, parameters: Sequence[inspect.Parameter]) -> None:
    """Gives f a signature, those that are taken by name last."""
    f.__signature__ = inspect.Signature(sorted(parameters, key=lambda p: p.kind))
