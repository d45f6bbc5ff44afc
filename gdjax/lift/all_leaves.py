"""One pass over the leaves: the rules of a chain applied to each leaf in turn."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import base, checks, meshes
from gdjax.core.contexts import PASS
from gdjax.core.types import Array, OptState, Params, Updates, is_skipped
from gdjax.lift import factors, meetings, rule_checks
from gdjax.lift.meetings import AtMeeting
from gdjax.lift.one_leaf import Done, Kernel, kernel_of, real_dtype_of
from gdjax.lift.slots import Tree, is_like_parameter
from gdjax.xla import write_order
from gdjax.xla.write_order import LARGE, after, new_parameter

RAW = "updates", "gradients"  # of a wrapper: from the wrapped transform, and given to the wrapper


class Leaves(NamedTuple):
    """The updates and the parameters of a pass, as lists with an entry for each leaf of the updates."""

    structure: Any
    paths: list[Any]
    gs: list[Any]
    trained: list[bool]  # whether the leaf has a gradient
    ps: list[Any]  # None where there is no parameter, or one that does not fit and is not needed
    all_params: list[Any] | None  # also those that do not fit; None where there are no parameters
    params_error: Exception | None  # why there are none, though `update` got some
    params: Params  # the tree
    axes: frozenset[str]  # the axes of a `shard_map` over which any of the arrays varies

    def tree(self, label: str, extra_args: dict[str, Any]) -> Tree:
        return Tree(label, self.structure, self.paths, self.gs, self.trained, self.params, extra_args)

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


class Selection(NamedTuple):
    """A step that may be left out: where `chosen` is false, updates are 0 and the state is as before.

    The rules select in the loops that compute. Without it a CPU moves 1.7 times the bytes for 16-bit parameters.
    """

    chosen: Array  # a boolean scalar
    pairs: dict[int, tuple[Any, Any]]  # by `id`, each selected array with the old slot, None for an update

    def add(self, new: Any, old: Any = None) -> None:
        self.pairs[id(new)] = new, old

    def has(self, new: Any, old: Any = None) -> bool:
        """Whether the rules have selected it already, and between the same two."""
        return id(new) in self.pairs and self.pairs[id(new)][1] is old


@dataclass
class Running:
    """A rule in a pass: the parts of its state, and its other inputs."""

    place: int  # among the rules of the pass
    rule: Any
    state: OptState  # as given
    count: Any
    slots: list[Any]  # for each leaf the tuple of its slots; the new ones after the rule has run
    shared: dict[str, Any]  # the fields that are one number for the tree
    scalars: dict[str, Any]
    sees: Sequence[bool] | None  # which leaves the rule applies to; None for all
    wraps: bool  # whether it is the rule of a wrapper
    raw: list[Any] | None  # for each leaf the gradient given to the wrapper; None for that of the pass
    per_leaf: list[dict[str, Any]]  # for each leaf the hyperparameters that differ by leaf
    static: list[dict[str, Any]]  # for each leaf its facts, see `leafwise`

    def add_static(self, leaves: Leaves, extra_args: dict[str, Any]) -> None:
        """Adds the facts about leaves, and the arguments of `update` that the rule reads."""
        tree, rule = leaves.tree(self.rule.label, extra_args), self.rule
        found = {name: list(of(tree, rule.settings[name])) for name, of in rule.static.items()}
        if found:
            each = (dict(zip(found, xs, strict=True)) for xs in zip(*found.values(), strict=True))
            self.static = tree.filled(each, self.static)
        self.scalars |= tree.extra(rule.extra)

    def of_leaf(self, i: int) -> tuple[Kernel, tuple[Any, ...]]:
        """The key of the function of leaf i, and its arguments; a hyperparameter that is 0 there is a constant."""
        numbers, scalars, kernel = self.per_leaf[i], self.scalars, self.rule.kernel
        zeros = {k: x for k, x in numbers.items() if isinstance(x, float) and x == 0}
        arrays = {k: x for k, x in numbers.items() if k not in zeros}
        shared = {k: self.rule.hyper[k] for k in self.rule.per_leaf if k not in numbers and k not in scalars}
        constants = ((k, type(x), x) for k, x in (shared | zeros | self.static[i]).items())
        kernel = kernel._replace(wraps=self.wraps, constants=(*kernel.constants, *constants), per_leaf=tuple(arrays))
        scalars = {k: x for k, x in scalars.items() if k not in numbers} | arrays
        raw = None if self.raw is None else self.raw[i]
        return kernel, (self.slots[i], self.count, self.rule.seen(self.shared), scalars, raw)

    def new_state(self, structure: Any) -> Any:
        """The new state."""
        if self.rule.stateless:
            return self.state
        trees = [structure.unflatten([mine[j] for mine in self.slots]) for j in range(len(self.rule.slots))]
        return self.rule.join(self.count, trees, self.shared)


def leaves_of(rules: Sequence[Any], updates: Updates, params: Params) -> Leaves:
    flat, structure = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_skipped)
    gs = [_array(rules[0].label, path, g) for path, g in flat]
    trained = [not is_skipped(g) and not base.is_float0(g) for g in gs]
    of_params = _parameters(rules, structure, [g for _, g in flat], updates, params)
    pairs = zip(gs, of_params[0], trained, strict=True)
    axes = meshes.varying_axes([(g, p) for g, p, is_trained in pairs if is_trained])
    return Leaves(structure, [path for path, _ in flat], gs, trained, *of_params, params, axes)


def _parameters(
    rules: Sequence[Any], structure: Any, gs: Any, updates: Updates, params: Params
) -> tuple[Any, Any, Any]:
    """The fields `ps`, `all_params` and `params_error` of `Leaves`."""
    nothing = [None] * structure.num_leaves
    if params is None:
        return nothing, None, None
    # Parameters must fit even where no rule reads them, if one has slots or a learning rate.
    heeded = any(rule.slots or rule.whole or "learning_rate" in rule.hyper for rule in rules)
    try:
        ps = checks.flatten_like(rules[0].label, ("updates", "params"), structure, updates, params)
    except ValueError as e:
        if heeded:
            raise
        return nothing, None, e
    fits = lambda g, p: not is_skipped(g) and (heeded or getattr(p, "shape", None) == jnp.shape(g))
    fitting = [p if p is not None and fits(g, p) else None for g, p in zip(gs, ps, strict=True)]
    return [p if p is None or hasattr(p, "dtype") else jnp.asarray(p) for p in fitting], ps, None


def opened(place: int, rule: Any, state: OptState, raw: Any, leaves: Leaves, updates: Updates) -> Running:
    """A rule at the start of a pass; schedules are evaluated at the old count."""
    listed = lambda names, tree: checks.flatten_like(rule.label, names, leaves.structure, updates, tree)
    count, trees, shared = rule.split(state)
    flat = [listed(("updates", f"state.{field}"), tree) for field, tree in zip(rule.slots, trees, strict=True)]
    slots = list(zip(*flat, strict=True)) if flat else [()] * len(leaves.gs)
    scalars, sees = rule.scalars(count), rule.sees(updates)
    gradients = None if raw is None or raw is updates else listed(RAW, raw)
    nothing: list[dict[str, Any]] = [{}] * len(leaves.gs)
    bases = {name: scalars.get(name, rule.hyper[name]) for name in rule.per_leaf}
    per_leaf = factors.of_each(rule.per_leaf, bases, updates) if bases else nothing
    wraps = raw is not None
    return Running(place, rule, state, count, slots, shared, scalars, sees, wraps, gradients, per_leaf, nothing)


def _array(label: str, path: Any, g: Any) -> Array:
    """`g`; a Python number as an array with a definite dtype."""
    if hasattr(g, "dtype") or is_skipped(g):
        return g
    checks.leaf(label, f"updates{jax.tree_util.keystr(path)}", g)
    x = jnp.asarray(g)
    return jax.lax.convert_element_type(x, x.dtype)


def fused(
    rules: Sequence[Any], updates: Updates, states: Sequence[Any], params: Params, extra_args: dict[str, Any],
    raw: Sequence[Any] | None = None,
) -> tuple[Any, list[Any]]:  # fmt: skip
    """Applies rules one after the other, leaf by leaf: one call of one jitted function per leaf for all the rules.

    JAX traces that function once for each shape and dtype among the leaves. So a leaf adds one equation to the trace,
    and a step costs as much as the same arithmetic written out. Only the first rule may bring its updates to a meeting:
    a later rule would need the updates of all leaves first.

    Raises:
      rule_checks.ReadsUpdates: a later rule needs the updates of all leaves.

    Args:
      rules: of type `gdjax.lift.rule.Leafwise`, with the states `states`.
      raw: for the rule of a wrapper the updates given to the wrapper, for any other rule None.
    """
    leaves = leaves_of(rules, updates, params)
    raw = raw or [None] * len(rules)
    running = [opened(i, *row, leaves, updates) for i, row in enumerate(zip(rules, states, raw, strict=True))]
    for r in running:
        # From here on the new count, written over the old one: a later reader of the old one would need a copy.
        r.count = None if r.count is None else numerics.safe_increment(r.count)
    check_fits(running, leaves)
    for r in running:
        if r.rule.static or r.rule.extra:
            r.add_static(leaves, extra_args)
    directions = _directions(running, leaves)
    return leaves.structure.unflatten(directions), [r.new_state(leaves.structure) for r in running]


def _active(running: Sequence[Running], leaves: Leaves, i: int) -> list[Running]:
    """The rules that apply to leaf i."""
    return [r for r in running if leaves.trained[i] and (r.sees is None or r.sees[i])]


def check_fits(running: Sequence[Running], leaves: Leaves) -> None:
    """Raises where a gradient does not fit its parameter, or a slot its gradient."""
    for i, (g, p) in enumerate(zip(leaves.gs, leaves.ps, strict=True)):
        if not _active(running, leaves, i):
            continue
        checks.gradient(running[0].rule.label, lambda i=i: leaves.where(i), g, p)
        for r in running:
            for name, x in zip(r.rule.slots, r.slots[i], strict=True):
                if is_like_parameter(r.rule.declared[name]):
                    checks.slot(r.rule.label, leaves.where(i), name, x, g.shape)


def _directions(running: Sequence[Running], leaves: Leaves) -> list[Any]:
    """The update of each leaf; `rules` receive their new slots and numbers."""
    turns = _LargeLeaves()
    works = {
        i: _Work(active, leaves, i, turns) for i in range(len(leaves.gs)) if (active := _active(running, leaves, i))
    }
    for work in works.values():
        work.compute()
    if any(isinstance(work.result, AtMeeting) for work in works.values()):
        meetings.hold(list(works.values()))
    directions = list(leaves.gs)
    for i, work in works.items():
        directions[i] = work.done()
    # Of a number of the tree that of the leaf with the widest dtype stays, the last one.
    in_order = sorted(works.values(), key=lambda work: real_dtype_of(*work.arguments[:2]).itemsize)
    for (r, field), x in ((at, x) for work in in_order for at, x in work.numbers.items()):
        running[r].shared = running[r].shared | {field: x}
    return directions


@dataclass
class _LargeLeaves:
    """Orders large leaves one after the other, so that a temporary of one reuses the memory of the one before."""

    before: Array | None = None  # the next one waits for this


class _Work:
    """The work on one leaf."""

    def __init__(self, active: list[Running], leaves: Leaves, i: int, turns: _LargeLeaves):
        self.active, self.leaves, self.i, self.turns = active, leaves, i, turns
        self.where, self.labels = leaves.where(i), {r.place: r.rule.label for r in active}
        self.selection: Selection | None = PASS.get().selection
        self.places, self.results = list[meetings.Place](), list[list[Array]]()
        self.result: AtMeeting | Done
        kernels, arguments = zip(*(r.of_leaf(i) for r in active), strict=True)
        self.function, rest = kernel_of(kernels, leaves.axes), map(list, zip(*arguments, strict=True))
        self.arguments = [leaves.gs[i], leaves.ps[i], *rest, self.selection and self.selection.chosen]

    @property
    def suspended(self) -> AtMeeting | None:
        if not isinstance(self.result, AtMeeting):
            return None
        # With the rule's place in the pass instead of its place among the rules of the leaf.
        meeting = self.result.meeting
        place = meeting.place._replace(rule=self.active[meeting.place.rule].place)
        return self.result._replace(meeting=meeting._replace(place=place))

    def resume(self, place: meetings.Place, results: list[Array]) -> None:
        self.places.append(place._replace(rule=[r.place for r in self.active].index(place.rule)))
        self.results.append(results)
        self.compute()

    def compute(self) -> None:
        """Runs the rules to their end, or up to the next meeting."""
        g, p, *rest = self.arguments
        one_by_one = not self.active[0].rule.of_stacks
        large = one_by_one and write_order.ORDERED and g.size > LARGE and not self.places
        with self.blamed():
            in_turn = large and self.function.keeps(self.places, self.results, *self.arguments)
            if in_turn and self.turns.before is not None:
                g = after(self.turns.before, g)
            self.result = self.function(self.places, self.results, g, p, *rest)
        if in_turn and isinstance(self.result, Done):
            self.turns.before = new_parameter(p, self.result.update)

    def done(self) -> Array:
        """The update; the rules receive their new slots."""
        assert isinstance(self.result, Done)
        update, news, numbers = self.result
        if self.selection is not None:
            self.selection.add(update)
            for new, old in zip(*map(jax.tree.leaves, (news, [r.slots[self.i] for r in self.active])), strict=True):
                self.selection.add(new, old)
        for r, new in zip(self.active, news, strict=True):
            r.slots[self.i] = new
        self.numbers = {(self.active[rule].place, name): x for (rule, name), x in numbers.items()}
        return update

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Adds to an error which rule raised it, and for which leaf."""
        try:
            yield
        except rule_checks.ReadsUpdates as e:
            raise rule_checks.ReadsUpdates(self.active[e.index].place) from None
        except rule_checks.NoParameter as e:
            raise self.leaves.no_parameter(self.active[e.index].rule.label, self.i) from e
        except Exception as e:
            _blame([r.rule.label for r in self.active], self.where, e)
            raise


def _blame(labels: Sequence[str], where: str, e: Exception) -> None:
    """Adds to the message of an error the rule that raised it and the leaf, unless it names them itself."""
    if (index := rule_checks.culprit(e)) is not None:
        labels = labels[index : index + 1]
    if type(e) in (ValueError, TypeError) and not str(e).startswith(tuple(f"{label}: " for label in labels)):
        e.args = (f"{', '.join(dict.fromkeys(labels))}: {where}: {e}",)
    else:
        e.add_note(f"{', '.join(dict.fromkeys(labels))}: in the rule for {where}")
