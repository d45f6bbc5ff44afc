"""Runs the stages of a rule, before the leaves of its pass or after them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks, meshes
from gdjax.lift import rule_checks, stage_checks
from gdjax.lift.running import Leaves, Running
from gdjax.lift.stages import PLACED, Stage, Tree
from gdjax.lift.trace import promotion, stored

Array = jax.Array


class Lists(NamedTuple):
    """What stages read and write, with an entry for each leaf that has a gradient, or for some of these."""

    paths: list[Any]
    gs: list[Any]
    ps: list[Any]
    slots: dict[str, list[Any]]  # by field of the state

    def at(self, indices: Sequence[int]) -> "Lists":
        take = lambda xs: [xs[i] for i in indices]  # noqa: E731
        return Lists(take(self.paths), take(self.gs), take(self.ps), {f: take(xs) for f, xs in self.slots.items()})


class Turn(NamedTuple):
    """The leaves that a stage takes in one step of every k: all of them, unless it is staggered."""

    indices: list[int]  # in the lists
    steps_after_first: int


def run(running: Running, leaves: Leaves, extra_args: dict[str, Any], late: bool) -> None:
    """Runs the stages that come before the leaves of the pass, or after them; `running` then has what they return.

    Raises:
      ValueError, TypeError: a stage reads parameters that `update` did not get, or that do not fit.
    """
    rule = running.rule
    stages = [stage for stage in rule.stages if stage.late is late]
    if not stages:
        return
    tree = running.tree(leaves, extra_args)
    of_leaves = tree.chosen(running.slots)
    slots = {f: [of_leaf[j] for of_leaf in of_leaves] for j, f in enumerate(rule.slots)}
    lists = Lists(tree.chosen(leaves.paths), tree.chosen(leaves.gs), tree.chosen(leaves.ps), slots)
    for_rule: dict[str, Any] = {}
    try:
        for stage in stages:
            for_rule |= _run(stage, running, tree, lists)
    except rule_checks.NoParameter as e:
        missing = next(i for i, p in enumerate(leaves.ps) if p is None and leaves.trained[i])
        raise leaves.no_parameter(rule.label, missing) from e
    stage_checks.accepted(rule.label, rule.rule, for_rule, {**rule.hyper, **rule.staged})
    if slots:
        running.slots = tree.filled(zip(*slots.values(), strict=True), running.slots)
    at = lambda i: {name: x[i] if isinstance(x, list) else x for name, x in for_rule.items()}  # noqa: E731
    running.given = tree.filled(map(at, range(len(lists.gs))), running.given)
    running.listed = tuple(name for name, x in for_rule.items() if isinstance(x, list))


def _run(stage: Stage, running: Running, tree: Tree, lists: Lists) -> dict[str, Any]:
    """Runs a stage. Puts new fields of the state into `lists` and `running`, and returns what is for the rule."""
    for_rule: dict[str, Any] = {}
    arguments, every = _arguments(stage, running, tree, lists)
    label = running.rule.label
    with jax.named_scope(label.removeprefix("gdjax.")), promotion(*lists.gs):
        for turn in _turns(label, stage, every, lists):
            due = _is_due(label, running.count, every, turn)
            results = _results(stage, running, lists.at(turn.indices), arguments, due)
            for name, x in results.items():
                if name in lists.slots:
                    for i, new in zip(turn.indices, x, strict=True):
                        lists.slots[name][i] = new
                else:
                    (running.shared if name in running.shared else for_rule)[name] = x
    return for_rule


def _arguments(stage: Stage, running: Running, tree: Tree, lists: Lists) -> tuple[dict[str, Any], Any]:
    """What a stage gets by name: the tree, and hyperparameters and extra arguments; and k, if it runs every k steps."""
    rule, real = running.rule, numerics.widest_real(lists.gs)
    known = {**tree.extra_args, **rule.hyper, **rule.staged, "tree": tree}
    every = stage.every if isinstance(stage.every, int) else {**known, **running.scalars}[stage.every]
    known |= {name: x.astype(real) for name, x in running.scalars.items()}
    wanted = rule_checks.named(stage.f, PLACED)
    tree.check_given(a.name for a in wanted if a.default is a.empty and a.name not in known)
    return {a.name: known[a.name] for a in wanted if a.name in known}, every


def _turns(label: str, stage: Stage, every: Any, lists: Lists) -> Iterator[Turn]:
    """The turns of a stage. One that is staggered has none for leaves of which it keeps nothing."""
    indices = range(len(lists.gs))
    if not stage.staggered:
        yield Turn(list(indices), 0)
        return
    steps = checks.structural(label, str(stage.every), every, 1)
    costs = [sum(_cost(x) for f in stage.named() for x in jax.tree.leaves(lists.slots[f][i])) for i in indices]
    kept = [i for i in indices if costs[i]]
    turns: list[list[int]] = [[] for _ in range(min(steps, len(kept)))]
    for i in sorted(kept, key=lambda i: -costs[i]):  # the dearest first, to the turn with least to do
        min(turns, key=lambda turn: sum(costs[j] for j in turn)).append(i)
    for n, turn in enumerate(turns):
        yield Turn(sorted(turn), n * steps // len(turns))


def _cost(x: Array) -> int:
    """About the cost of decomposing the matrices in an array."""
    return x.size * min(x.shape[-2:]) if x.ndim > 1 else x.size


def _is_due(label: str, count: Any, every: Any, turn: Turn) -> Any:
    """Whether a stage runs in this step: True, or a boolean scalar."""
    if isinstance(every, int) and every == 1:
        return True
    if count is None:
        raise TypeError(f"{label}: a stage that runs every k steps needs a field `count` of the state")
    return (count - 1 - turn.steps_after_first) % every == 0


def _results(stage: Stage, running: Running, lists: Lists, arguments: dict[str, Any], due: Any) -> dict[str, Any]:
    """What a stage returns for these leaves, fields of the state as they are kept; the old fields if it is not due."""
    rule, count, fields = running.rule, running.count, lists.slots | running.shared
    t = None if count is None else count.astype(numerics.widest_real(lists.gs))

    def called(olds: dict[str, Any]) -> dict[str, Any]:
        current = fields | olds
        decoded = {f: list(map(codec.decode, current[f])) for f, codec in rule.codecs.items()}
        s = rule.State(**(({"count": count} if "count" in rule.State._fields else {}) | current | decoded))
        f = lambda ps: stage_checks.returned(rule.label, stage.f(lists.gs, s, ps, t, **arguments))  # noqa: E731
        news = stage_checks.with_params(f, lists.ps, lists.gs)
        if olds and set(news) != set(olds):
            raise TypeError(f"{rule.label}: a stage of the fields {', '.join(olds)} returned {', '.join(news)}")
        return {f: _kept(rule, f, new, current[f], lists.paths) if f in current else new for f, new in news.items()}

    olds = {f: fields[f] for f in stage.named()}
    return called(olds) if due is True else meshes.cond(due, called, lambda olds: olds, olds)


def _kept(rule: Any, field: str, new: Any, old: Any, paths: Sequence[Any]) -> Any:
    """A field's new value in the dtypes, the place and the classes of the old one."""
    if field in rule.shared:
        return jax.tree.map(lambda old, new: stored(new, old), old, new)
    if len(new) != len(old):
        raise ValueError(f"{rule.label}: a stage returned {len(new)} arrays for state.{field} of {len(old)} leaves")
    if field in rule.codecs:
        new = [rule.codecs[field].encode(jnp.asarray(x)) for x in new]
    for path, x, y in zip(paths, new, old, strict=True):
        got, expected = ([jnp.shape(a) for a in jax.tree.leaves(tree)] for tree in (x, y))
        if got != expected:
            where = f"{rule.label}: params{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where}: a stage returned shapes {got} for state.{field}, expected {expected}")
    news, structure = jax.tree.leaves(new), jax.tree.structure(old)
    return structure.unflatten(map(stored, news, jax.tree.leaves(old)))
