"""A step of a rule of one matrix: for all shapes of the matrices of a tree."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from gdjax.core import meshes
from gdjax.core.skipped import is_skipped, left_out
from gdjax.lift.slots import Key, Moment, Shared
from gdjax.lift.whole_tree import Tree
from gdjax.matrices.factored import Blocks
from gdjax.matrices.in_turns import spread
from gdjax.matrices.one_shape import Declared, Given, OneShape
from gdjax.matrices.plan import Leaf
from gdjax.matrices.slots import Slot, blocks_for
from gdjax.numerics import Array


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
    of = lambda *kinds: {f: getattr(s, f) for f in rule.fields(*kinds)}  # noqa: E731
    moments, stacks, shared = of(Moment), of(Slot, tuple), of(Shared)
    kept = {name: _number([x[name] for x in stacks.values()]) for x in stacks.values() for name in x}
    found, (xs, *ms) = _blocks_and(tree, [gs, *moments.values()], kept, arguments)
    arrays = {k: x for k, x in hyper.items() if isinstance(x, jax.Array)}
    constants = {k: x for k, x in hyper.items() if k not in arrays}
    number = sum(found.numbers.values())
    now = lambda key: jax.random.key_data(jax.random.split(jax.random.fold_in(key, s.count), number))  # noqa: E731
    kinds = {f: jax.random.key_impl(key) for f, key in of(Key).items()}
    keys = {f: now(key) for f, key in of(Key).items()} if number else {}
    given = Given(xs, dict(zip(moments, ms, strict=True)), stacks, shared, keys, s.count, t, arrays)
    run = functools.partial(_stepped, rule, found, constants, kinds, then)
    return meshes.partitioned(run, {"u": gs, **moments, **stacks, **shared}, given)


def _blocks_and(
    tree: Tree, lists: Sequence[Sequence[Array]], kept: Mapping[str, int | None], arguments: Mapping[str, Any]
) -> tuple[Blocks, list[list[Array | None]]]:
    """The blocks that the state was made for, and the lists with an entry for each leaf of theirs.

    Args:
      lists: arrays for each leaf that has a gradient; None takes the place of the others.
      kept: how many blocks each stack of the state has; None for one that has no arrays, {} for a state without.
    """
    updates = tree.unflattened(lists[0])
    missing = left_out(updates)
    like = jax.tree_util.tree_map_with_path(lambda path, g: missing.get(path, g), updates, is_leaf=is_skipped)
    order = {path: i for i, path in enumerate(tree.chosen(tree.paths))}
    places = [order.get(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    found = blocks_for(tree.label, like, arguments)
    numbers = found.numbers
    kept = {name: numbers.get(name, 0) if n is None else n for name, n in kept.items()} or numbers
    if numbers != kept:
        raise ValueError(
            f"{tree.label}: the state has {_listed(kept)}, the gradients are {_listed(numbers)}; init(params) "
            "anew after changing the parameters, and pass params to update where some have no gradient"
        )
    own = [None if cut is None else i for i, cut in zip(places, found.cuts, strict=True)]
    return found, [[None if i is None else xs[i] for i in own] for xs in lists]


def _listed(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{n} blocks of {name}" for name, n in numbers.items()) or "no blocks"


def _number(trees: Any) -> int | None:
    """How many matrices a stack has; None where it has no arrays."""
    return next((len(x) for x in jax.tree.leaves(trees)), None)


def _stepped(
    rule: Declared, found: Blocks, constants: Mapping[str, Any], kinds: Mapping[str, Any], then: Any, given: Given
) -> dict[str, Any]:  # fmt: skip
    of, start = {}, 0
    for shape in found.members:
        end = start + found.numbers[shape[0]]
        own = {f: x[start:end] for f, x in given.keys.items()}
        of[shape[0]], start = OneShape(rule, found, shape, constants, kinds, given._replace(keys=own)), end
    runs = _spread(of)
    new = {name: x.results([runs.get((name, j)) for j in range(len(x.turns))]) for name, x in of.items()}
    there = [i for i, x in enumerate(given.gs) if x is not None]
    whole = lambda f: (xs := found.leaves({name: x[f] for name, x in new.items()})) and [xs[i] for i in there]  # noqa: E731
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
