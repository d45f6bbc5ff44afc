"""One pass over the leaves: the rules of a chain applied to each leaf in turn."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import base, checks, meshes
from gdjax.core.skipped import is_skipped
from gdjax.core.types import OptState, Params, Updates
from gdjax.lift import factors, meetings, rule_checks, staging
from gdjax.lift.one_leaf import kernel_of
from gdjax.lift.stages import Tree
from gdjax.lift.trace import Kernel
from gdjax.xla.write_order import LARGE, after, destination, written

Array = jax.Array

RAW = "updates", "gradients"  # of a wrapper: those that it passes on, and those that came in


def fused(
    rules: Sequence[Any], updates: Updates, states: Sequence[Any], params: Params, extra_args: dict[str, Any],
    raw: Sequence[Any] | None = None,
) -> tuple[Any, list[Any]]:  # fmt: skip
    """Applies rules one after the other, leaf by leaf: one call of one jitted function per leaf for all the rules.

    JAX traces that function once for each shape and dtype among the leaves. So a leaf adds one equation to the trace,
    and a step costs what the same arithmetic written out would. Only the first rule may have stages that read the
    updates, since a later one would need those of all the leaves first. Stages of a wrapper's rule may read the
    gradients.

    Raises:
      rule_checks.ReadsUpdates: a stage of a later rule reads the updates.

    Args:
      rules: of type `gdjax.lift.leafwise.Leafwise`, with the states `states`.
      raw: for the rule of a wrapper the updates that came into the wrapper, for any other rule None.
    """
    leaves = _leaves(rules, updates, params)
    raw = raw or [None] * len(rules)
    running = [_opened(i, *row, leaves, updates) for i, row in enumerate(zip(rules, states, raw, strict=True))]
    for r in running:
        # From here on the new count. It is written where the old one is, so that a later reader would need a copy.
        r.count = None if r.count is None else numerics.safe_increment(r.count)
    _check(running, leaves)
    for r in running:
        staging.add_numbers(r.rule, r.shared, r.count, r.scalars, leaves.gs)
        if r.rule.static or r.rule.extra:
            r.add_static(leaves, extra_args)
    staged = [r for r in running if r.rule.stages]
    for r in reversed(staged):  # those of wrappers first: they may turn out to need a pass of their own
        r.run_stages(leaves, extra_args, late=False)
    directions = _directions(running, leaves)
    for r in staged:
        r.run_stages(leaves, extra_args, late=True)
    return leaves.structure.unflatten(directions), [r.closed(leaves.structure) for r in running]


class Leaves(NamedTuple):
    """The updates and the parameters of a pass, as lists with an entry for each leaf of the updates."""

    structure: Any
    paths: list[Any]
    gs: list[Any]
    trained: list[bool]  # whether the leaf has a gradient
    ps: list[Any]  # None where there is no parameter, or one that does not fit and need not
    all_params: list[Any] | None  # before those that do not fit were left out; None where there are no parameters
    params_error: Exception | None  # why there are none, though `update` got some
    params: Params  # the tree
    axes: frozenset[str]  # of a `shard_map`, over which any of the arrays varies

    def where(self, i: int) -> str:
        return f"params{jax.tree_util.keystr(self.paths[i])}"

    def no_parameter(self, label: str, i: int) -> Exception:
        """The error for a rule that reads the parameter of a leaf and got none."""
        if self.params_error is not None:
            return self.params_error
        try:
            checks.params(label, self.params)
            if self.all_params is not None and self.all_params[i] is not None:
                checks.gradient(label, lambda: self.where(i), self.gs[i], self.all_params[i])
        except (ValueError, TypeError) as e:
            return e
        return ValueError(f"{label}: {self.where(i)} is None, and has a gradient of shape {jnp.shape(self.gs[i])}")


@dataclass
class Running:
    """A rule in a pass: its state taken apart, and what it gets beside the state."""

    place: int  # among the rules of the pass
    rule: Any
    state: OptState  # as it was given
    count: Any
    slots: list[Any]  # for each leaf the tuple of its slots, the new ones once the rule has run
    shared: dict[str, Any]  # the fields that are one number for the tree
    scalars: dict[str, Any]
    sees: Sequence[bool] | None  # which leaves the rule applies to; None for all
    wraps: bool  # whether it is the rule of a wrapper
    raw: list[Any] | None  # for each leaf the gradient that came into the wrapper; None for that of the pass
    given: list[dict[str, Any]]  # for each leaf what the stages made for it
    own: list[dict[str, Any]]  # for each leaf the hyperparameters that differ from leaf to leaf
    static: list[dict[str, Any]]  # for each leaf what it is

    def tree(self, leaves: Leaves, extra_args: dict[str, Any]) -> Tree:
        return Tree(
            self.rule.label, leaves.structure, leaves.paths, leaves.gs, leaves.trained, leaves.params, extra_args
        )

    def add_static(self, leaves: Leaves, extra_args: dict[str, Any]) -> None:
        """Adds what the leaves are, and the arguments of `update` that the rule gets."""
        tree, rule = self.tree(leaves, extra_args), self.rule
        found = {name: list(of(tree, rule.staged[name])) for name, of in rule.static.items()}
        each = iter([dict(zip(found, xs, strict=True)) for xs in zip(*found.values(), strict=True)])
        if found:
            self.static = [next(each) if own else {} for own in leaves.trained]
        self.scalars |= tree.extra(rule.extra)

    def run_stages(self, leaves: Leaves, extra_args: dict[str, Any], late: bool) -> None:
        """Runs the stages that come before the leaves of the pass, or after them."""
        label, gs, ps = self.rule.label, leaves.gs, leaves.ps
        tree = self.tree(leaves, extra_args)
        lists = [gs, self.raw or gs] if self.wraps else [gs], self.slots, ps
        try:
            self.slots, self.shared, self.given = staging.run(
                self.rule, tree, lists, self.place == 0, self.count, self.shared, self.scalars, late
            )
        except rule_checks.ReadsUpdates as e:
            raise rule_checks.ReadsUpdates(self.place) from e
        except rule_checks.NoParameter as e:
            first = next(i for i, p in enumerate(ps) if p is None and leaves.trained[i])
            raise leaves.no_parameter(label, first) from e

    def arguments(self, i: int) -> tuple[Any, ...]:
        """What the function of leaf i gets for this rule."""
        raw = None if self.raw is None else self.raw[i]
        own = {k: x for k, x in self.own[i].items() if not _is_zero(x)}
        scalars = {k: x for k, x in self.scalars.items() if k not in self.own[i]} | own | self.given[i]
        return self.slots[i], self.count, self.rule.seen(self.shared), scalars, raw

    def kernel(self, i: int) -> Kernel:
        """What decides the function of leaf i; a hyperparameter that is 0 for it is a constant."""
        own = {k: x for k, x in self.own[i].items() if _is_zero(x)} | self.static[i]
        kernel, constants = self.rule.kernel, tuple((k, type(x), x) for k, x in own.items())
        arguments = tuple(k for k in self.own[i] if k not in own)
        return kernel._replace(wraps=self.wraps, constants=kernel.constants + constants, per_leaf=arguments)

    def closed(self, structure: Any) -> Any:
        """The new state."""
        if self.rule.stateless:
            return self.state
        trees = [structure.unflatten([mine[j] for mine in self.slots]) for j in range(len(self.rule.slots))]
        return self.rule.join(self.count, trees, self.shared)


def _leaves(rules: Sequence[Any], updates: Updates, params: Params) -> Leaves:
    flat, structure = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_skipped)
    gs = [_array(rules[0].label, path, g) for path, g in flat]
    trained = [not is_skipped(g) and not base.is_float0(g) for g in gs]
    of_params = _parameters(rules, structure, [g for _, g in flat], updates, params)
    axes = meshes.varying_axes([g for g, own in zip(gs, trained, strict=True) if own])
    return Leaves(structure, [path for path, _ in flat], gs, trained, *of_params, params, axes)


def _parameters(
    rules: Sequence[Any], structure: Any, gs: Any, updates: Updates, params: Params
) -> tuple[Any, Any, Any]:
    """The fields `ps`, `all_params` and `params_error` of `Leaves`."""
    nothing = [None] * structure.num_leaves
    if params is None:
        return nothing, None, None
    heeded = any(rule.heeds_params for rule in rules)
    try:
        ps = checks.flatten_like(rules[0].label, ("updates", "params"), structure, updates, params)
    except ValueError as e:
        if heeded:
            raise
        return nothing, None, e
    fits = lambda g, p: not is_skipped(g) and (heeded or getattr(p, "shape", None) == jnp.shape(g))  # noqa: E731
    kept = [p if p is not None and fits(g, p) else None for g, p in zip(gs, ps, strict=True)]
    return [p if p is None or hasattr(p, "dtype") else jnp.asarray(p) for p in kept], ps, None


def _opened(place: int, rule: Any, state: OptState, raw: Any, leaves: Leaves, updates: Updates) -> Running:
    """A rule at the start of a pass, with the old count, at which its schedules are evaluated."""
    listed = lambda names, tree: checks.flatten_like(rule.label, names, leaves.structure, updates, tree)  # noqa: E731
    count, trees, shared = rule.split(state)
    flat = [listed(("updates", f"state.{field}"), tree) for field, tree in zip(rule.slots, trees, strict=True)]
    slots = list(zip(*flat, strict=True)) if flat else [()] * len(leaves.gs)
    scalars, sees = rule.scalars(count), rule.sees(updates)
    gradients = None if raw is None or raw is updates else listed(RAW, raw)
    nothing: list[dict[str, Any]] = [{}] * len(leaves.gs)
    bases = {name: scalars.get(name, rule.hyper[name]) for name in rule.per_leaf}
    own = factors.of_each(rule.per_leaf, bases, updates) if bases else nothing
    wraps = raw is not None
    return Running(place, rule, state, count, slots, shared, scalars, sees, wraps, gradients, nothing, own, nothing)


def _is_zero(x: Any) -> bool:
    return isinstance(x, float) and x == 0


def _active(running: Sequence[Running], leaves: Leaves, i: int) -> list[Running]:
    """The rules that apply to leaf i."""
    return [r for r in running if leaves.trained[i] and (r.sees is None or r.sees[i])]


def _check(running: Sequence[Running], leaves: Leaves) -> None:
    """Raises where a gradient does not fit its parameter, or a slot its gradient."""
    for i, (g, p) in enumerate(zip(leaves.gs, leaves.ps, strict=True)):
        if not _active(running, leaves, i):
            continue
        checks.gradient(running[0].rule.label, lambda i=i: leaves.where(i), g, p)
        for r in running:
            for name, x in zip(r.rule.slots, r.slots[i], strict=True):
                if name in r.rule.moments:
                    checks.slot(r.rule.label, leaves.where(i), name, x, g.shape)


def _directions(running: Sequence[Running], leaves: Leaves) -> list[Any]:
    """The update of each leaf; the rules get their new slots and numbers."""
    works = {i: _Work(active, leaves, i) for i in range(len(leaves.gs)) if (active := _active(running, leaves, i))}
    meetings.hold(list(works.values()))
    directions, before, found = list(leaves.gs), None, dict[Any, Any]()
    for i, work in works.items():
        directions[i], before = work.apply(before, found)
    widest = sorted(works.values(), key=lambda work: work.arguments[0].dtype.itemsize)
    for (r, field), x in ((at, x) for work in widest for at, x in work.numbers.items()):
        running[r].shared = running[r].shared | {field: x}
    return directions


class _Work:
    """What is done for one leaf."""

    def __init__(self, active: list[Running], leaves: Leaves, i: int):
        self.active, self.leaves, self.i = active, leaves, i
        self.where, self.labels = leaves.where(i), {r.place: r.rule.label for r in active}
        self.to, self.met, self.numbers = destination(), list[Array](), dict[tuple[int, str], Array]()
        self.early = list[Array]()  # the new slots that were written before a meeting
        self.rules = kernel_of(tuple(r.kernel(i) for r in active), self.to, leaves.axes)
        rest = [list(xs) for xs in zip(*(r.arguments(i) for r in active), strict=True)]
        self.arguments = [leaves.gs[i], leaves.ps[i], *rest]

    @functools.cached_property
    def meetings(self) -> Sequence[meetings.Meeting]:
        with self.blamed():
            traced = self.rules.traced(tuple(self.arguments))
        if traced.waits is not None:
            raise rule_checks.ReadsUpdates(self.active[traced.waits].place)
        return traced.meetings

    def brought(self, meeting: int) -> list[Array]:
        with self.blamed():
            operands, early = self.rules.brought(meeting, self.met, *self.arguments)
        self.early += early
        return operands

    def apply(self, before: Array | None, found: dict[Any, Any]) -> tuple[Array, Array | None]:
        """The update, and what the next large leaf waits for; this one waits for `before`.

        Args:
          found: what leaves have in common, computed at the first of a kind.
        """
        g, p, *rest = self.arguments
        with self.blamed():
            # A large array that a leaf keeps on the way then lies where that of the leaf before was.
            in_turn = self.to is not None and g.size > LARGE and self.rules.keeps_a_value(*self.arguments)
            g = after(before, g) if in_turn and before is not None else g
            g, news = self.rules([*self.met, *self.early], self.common(found), g, p, *rest)
        for r, new in zip(self.active, news, strict=True):
            r.slots[self.i] = new
        return g, written(self.to, p, g) if in_turn else before

    def common(self, found: dict[Any, Any]) -> list[Array]:
        """What the leaf has in common with others, and the new numbers of its rules."""
        key, compute = self.rules.shared(self.met, *self.arguments)
        if key not in found:
            found[key] = compute()
        common, numbers = found[key]
        self.numbers = {(self.active[rule].place, name): x for (rule, name), x in numbers.items()}
        return common

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Adds to an error which rule raised it, and for which leaf."""
        try:
            yield
        except rule_checks.NoParameter as e:
            raise self.leaves.no_parameter(self.active[e.index].rule.label, self.i) from e
        except (ValueError, TypeError) as e:
            _blame([r.rule.label for r in self.active], self.where, e)
            raise


def _blame(labels: Sequence[str], where: str, e: Exception) -> None:
    """Adds to the message of an error which rule raised it, and for which leaf, where it does not say so itself."""
    if (index := rule_checks.culprit(e)) is not None:
        labels = labels[index : index + 1]
    if type(e) in (ValueError, TypeError) and not str(e).startswith(tuple(f"{label}: " for label in labels)):
        e.args = (f"{', '.join(dict.fromkeys(labels))}: {where}: {e}",)
    else:
        e.add_note(f"{', '.join(dict.fromkeys(labels))}: in the rule for {where}")


def _array(label: str, path: Any, g: Any) -> Array:
    """`g`, a Python number as an array of a definite dtype."""
    if hasattr(g, "dtype") or is_skipped(g):
        return g
    checks.leaf(label, f"updates{jax.tree_util.keystr(path)}", g)
    x = jnp.asarray(g)
    return jax.lax.convert_element_type(x, x.dtype)
