"""Runs the stages of a rule, before it or after it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks, meshes
from gdjax.lift import rule_checks, stage_checks
from gdjax.lift.stages import Stage, Tree
from gdjax.lift.trace import promotion

Array = jax.Array


class Lists(NamedTuple):
    """What the stages of a rule read and write."""

    gs: list[list[Any]]  # the gradients; for the rule of a wrapper the updates, then the gradients
    known: bool  # whether these are the updates, or arrays like them: the wrapped transform has not run yet
    slots: dict[str, list[Any]]
    ps: list[Any]
    fields: dict[str, Any]  # of the whole tree

    def part(self, places: Sequence[int]) -> "Lists":
        take = lambda xs: [xs[i] for i in places]  # noqa: E731
        slots = {f: take(xs) for f, xs in self.slots.items()}
        return Lists([take(xs) for xs in self.gs], self.known, slots, take(self.ps), self.fields)


def run(
    rule: Any, tree: Tree, leaves: tuple[Any, ...], known: bool, count: Any, fields: dict[str, Any], scalars: Any,
    late: bool,
) -> tuple[list[Any], dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """Runs the stages of a rule that come before it, or after it.

    Args:
      leaves: the lists of gradients, and for each leaf the tuple of its slots and the parameter.
      known: whether the updates that a wrapper's rule gets are known. Otherwise arrays like them are in their place.
      count: with this update.
      fields: of the whole tree.

    Returns:
      For each leaf its slots; the fields of the whole tree; and for each leaf what else the rule gets.

    Raises:
      ReadsUpdates, NoParameter: a stage reads updates that are not known, or parameters that `update` did not get.
    """
    gs, slots, ps = [tree.chosen(xs) for xs in leaves[0]], *map(tree.chosen, leaves[1:])
    before = len(gs) + 3  # the arguments of a stage that have a place
    lists = Lists(gs, known, {f: [mine[j] for mine in slots] for j, f in enumerate(rule.slots)}, ps, dict(fields))
    others: dict[str, Any] = {}
    for stage in (x for x in rule.stages if x.late is late):
        arguments, every = _arguments(rule, stage, tree, scalars, before)
        with jax.named_scope(rule.label.removeprefix("gdjax.")), promotion(*gs[0]):
            for places, offset in _turns(rule, stage, lists, every):
                results = _results(rule, stage, lists, tree, count, (places, offset, every), arguments)
                for name, x in results.items():
                    if name in lists.slots:
                        for i, new in zip(places, x, strict=True):
                            lists.slots[name][i] = new
                    else:
                        (lists.fields if name in lists.fields else others)[name] = x
    stage_checks.accepted(rule.label, rule.rule, before, others, {**rule.hyper, **rule.staged})
    return _by_leaf(tree, lists, leaves[1]), lists.fields, _given(tree, others)


def _by_leaf(tree: Tree, lists: Lists, olds: Sequence[Any]) -> list[Any]:
    """For each leaf of the tree its slots, in the rule's order."""
    news = iter(zip(*lists.slots.values(), strict=True) if lists.slots else [()] * len(lists.gs[0]))
    return [next(news) if own else old for old, own in zip(olds, tree.trained, strict=True)]


def _given(tree: Tree, others: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each leaf of the tree its entry of each list, and all the numbers."""
    places = iter(range(len(tree.trained)))
    at = lambda i: {name: x[i] if isinstance(x, list) else x for name, x in others.items()}  # noqa: E731
    return [at(next(places)) if own else {} for own in tree.trained]


def _arguments(
    rule: Any, stage: Stage, tree: Tree, scalars: Mapping[str, Any], before: int
) -> tuple[dict[str, Any], Any]:
    """The hyperparameters and extra arguments that a stage names, and the tree; and k, if it runs every k steps."""
    wanted = rule_checks.named(stage.f, before)
    real = numerics.widest_real(tree.chosen(tree.entries))
    known = {**tree.extra_args, **rule.hyper, **rule.staged, "tree": tree}
    every = stage.every if isinstance(stage.every, int) else {**known, **scalars}[stage.every]
    known |= {k: x.astype(real) for k, x in scalars.items()}
    tree.check_given(a.name for a in wanted if a.default is a.empty and a.name not in known)
    return {a.name: known[a.name] for a in wanted if a.name in known}, every


def _turns(rule: Any, stage: Stage, lists: Lists, every: Any) -> Iterator[tuple[list[int], int]]:
    """The leaves that a stage takes in one step, and by how many steps these come after the first."""
    number = len(lists.gs[0])
    if not stage.staggered:
        yield list(range(number)), 0
        return
    most = checks.structural(rule.label, str(stage.every), every, 1)
    costs = [sum(_cost(x) for f in stage.named() for x in jax.tree.leaves(lists.slots[f][i])) for i in range(number)]
    turns: list[list[int]] = [[] for _ in range(min(most, sum(c > 0 for c in costs)))]
    for i in sorted(range(number), key=lambda i: -costs[i]):  # the dearest first, to the turn with least to do
        if costs[i]:
            min(turns, key=lambda turn: sum(costs[j] for j in turn)).append(i)
    for n, turn in enumerate(turns):
        yield sorted(turn), n * most // len(turns)


def _cost(x: Array) -> int:
    """About the cost of decomposing the matrices in an array."""
    return x.size * min(x.shape[-2:]) if x.ndim > 1 else x.size


def _results(
    rule: Any, stage: Stage, lists: Lists, tree: Tree, count: Any, turn: Any, arguments: Any
) -> dict[str, Any]:
    """What a stage returns for some of the leaves; fields of the state in the form in which they are kept."""
    places, offset, every = turn
    t = None if count is None else count.astype(numerics.widest_real(lists.gs[0]))
    lists = lists.part(places)
    paths = tree.chosen(tree.paths)
    where = [paths[i] for i in places]
    olds = {f: lists.slots[f] if f in lists.slots else lists.fields[f] for f in stage.named()}

    def results(olds: dict[str, Any]) -> dict[str, Any]:
        fields = {**lists.slots, **lists.fields, **olds}
        decoded = {f: list(map(codec.decode, fields[f])) for f, codec in rule.codecs.items()}
        s = rule.State(**({"count": count} if "count" in rule.State._fields else {}), **(fields | decoded))
        first, *others = lists.gs

        def call(us: Any, ps: Any) -> dict[str, Any]:
            return stage_checks.returned(rule.label, stage.f(us, *others, s, ps, t, **arguments))

        news = rule_checks.staged(call, first if lists.known else None, lists.ps, first)
        if olds and set(news) != set(olds):
            raise TypeError(f"{rule.label}: a stage of the fields {', '.join(olds)} returned {', '.join(news)}")
        return {f: _kept(rule, f, x, fields[f], where) if f in fields else x for f, x in news.items()}

    if isinstance(every, int) and every == 1:
        return results(olds)
    if count is None:
        raise TypeError(f"{rule.label}: a stage that runs every k steps needs a field `count` of the state")
    due = (count - 1 - offset) % every == 0
    return meshes.cond(due, results, lambda olds: olds, olds)


def _kept(rule: Any, field: str, new: Any, old: Any, where: Sequence[Any]) -> Any:
    """A field's new value in the dtypes, the place and the classes of the old one."""
    if field in rule.whole:
        return jax.tree.map(_stored, old, new)
    if field in rule.shared:
        return jnp.asarray(new).astype(old.dtype)
    if len(new) != len(old):
        raise ValueError(f"{rule.label}: a stage returned {len(new)} arrays for state.{field} of {len(old)} leaves")
    if field in rule.codecs:
        new = [rule.codecs[field].encode(jnp.asarray(x)) for x in new]
    return [_fitted(rule.label, path, field, x, y) for path, x, y in zip(where, new, old, strict=True)]


def _fitted(label: str, path: Any, field: str, new: Any, old: Any) -> Any:
    """One leaf's new slot, which must have the shapes of the old one."""
    (news, _), (olds, structure) = jax.tree.flatten(new), jax.tree.flatten(old)
    got, expected = list(map(jnp.shape, news)), list(map(jnp.shape, olds))
    if got != expected:
        where = f"{label}: params{jax.tree_util.keystr(path)}"
        raise ValueError(f"{where}: a stage returned shapes {got} for state.{field}, expected {expected}")
    return structure.unflatten(map(_stored, olds, news))


def _stored(old: Any, new: Any) -> Any:
    return meshes.placed(new if numerics.is_key(old) else jnp.asarray(new).astype(old.dtype), old)
