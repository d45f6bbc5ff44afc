"""Taking an optimizer apart: its parts in order, which leaves of the parameters reach each, and its arrays by name.

An array is named by the transforms around it, its field, and the path of its parameter:
"scale_by_adam/mu/dense/kernel". A transform has the name of its state's class. The place in a chain is no part of it;
what occurs twice is numbered, "scale_by_adam_2". Optax's states have the same names.

`state_to_dict` gets a state without its transform, and what it writes is read for another one. So the names come from
the classes and the fields of the state alone (`parts.holds_states`), also where a transform is known.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from gdjax.combine.chain import Chain
from gdjax.combine.groups import Routes, Slip, grouped, partition
from gdjax.combine.hyperparams import Injected
from gdjax.combine.masking import MaskedLeafwise, freeze, masked
from gdjax.core import base, checks, misuse
from gdjax.core.arrays import shape_of
from gdjax.core.base import identity, set_to_zero
from gdjax.core.part import Inside, whole
from gdjax.core.parts import calls_of, described, from_optax, holds_states, known
from gdjax.core.paths import is_masked, path_of, paths_of
from gdjax.core.types import ArrayTree, OptState, Params, Transform, is_skipped
from gdjax.core.values import Call, Value, is_ours
from gdjax.leaf_roles.plan import ByRole, Leaf, label_by_role, matrices_by_role, plan_of, routing
from gdjax.lift import factors as leaf_factors
from gdjax.lift.factors import Factors
from gdjax.lift.order import name_of_state
from gdjax.lift.rule import Leafwise
from gdjax.lift.wrapper import Wrapped
from gdjax.linalg.matrices import is_numbers
from gdjax.transfer_laws.edits import Edited
from gdjax.transforms.averaging import lookahead

_NUMBERS = "numbers", "dimensions", "roles"  # what rules call the argument that says which arrays are matrices, and how


class Listed(NamedTuple):
    """A part of an optimizer that is not taken apart further."""

    name: str  # "clip_by_global_norm", "adam", "rate"; of another library with its name, "optax.adam"
    label: str  # the name under which it reports errors: that of the optimizer that it is part of
    rule: Leafwise | None  # None where it is no rule
    hyper: Mapping[str, Any]  # numbers and schedules, as far as they can be read; of `per_leaf` the base
    leaves: frozenset[int]  # the places, in the tree of parameters, of the leaves that it changes
    groups: tuple[str, ...]  # the labels of `partition` around it
    known: bool = True  # whether it is of this library: any other may hold anything
    factors: Mapping[int, Mapping[str, Any]] = {}
    factory: Any = None  # what made it, where it is no rule
    arguments: Mapping[str, Any] = {}  # those of the factory
    wraps: bool = False  # whether it is the rule of a wrapper
    takes: Mapping[int, str] = {}
    sees_all: bool = True  # whether no group or mask hides leaves from it

    def factor(self, leaf: int, name: str) -> Any:
        """What `per_leaf` multiplies a hyperparameter by at that place: a number or an array."""
        return self.factors.get(leaf, {}).get(name, 1.0)


def shapes_of(label: str, params: Params) -> Any:
    """The tree with a shape for each leaf, a different object each. None and `MaskedNode` stay.

    Raises:
      ValueError: params is None.
      TypeError: a leaf is neither an array nor a number.
    """
    if params is None:
        raise ValueError(f"{label}: params is None; pass the tree of parameters")

    def shape(path: Any, p: Any) -> Any:
        checks.array(label, f"params{jax.tree_util.keystr(path)}", p)
        return shape_of(p)

    return jax.tree_util.tree_map_with_path(shape, params)


class Walk:
    """The parts of a transform in the order in which an update goes through them, and what is odd about them.

    A wrapper whose rule changes the update comes after what it wraps, any other wrapper before it.

    Args:
      tx: the transform.
      shapes: the tree of `shapes_of`.
    """

    def __init__(self, tx: Transform, shapes: Any):
        self.shapes = shapes  # alive, so that no other object gets the identity of a leaf
        self.places = {id(x): i for i, x in enumerate(jax.tree.leaves(shapes))}
        self.notes: list[str] = []  # of masks and groups
        self.plan: dict[int, Leaf] = {}  # by place, where matrices have a transform and the rest another
        self.slips: list[tuple[str, Slip]] = []  # of such an optimizer: its name, and what is probably not meant
        self.routes: list[ByRole] = []  # by which its matrix methods find matrices
        self.overridden: set[int] = set()  # the leaves of which an override of `label_by_role` tells the role
        self.parts = list(self.listed(tx, shapes, ()))

    def listed(self, tx: Transform, tree: ArrayTree, groups: tuple[str, ...]) -> Iterator[Listed]:
        part, calls = known(tx), calls_of(tx)
        factory = calls[-1].factory if calls else None  # the innermost tells what runs: of freeze(...) masked(...)
        if isinstance(part, Leafwise):
            yield self.rule(part, short(part.rule.__name__), tree, groups)
            return
        if isinstance(part, Injected):
            yield from self.injected(part, tree, groups)
            return
        if not isinstance(part, Chain | Wrapped | Edited) and factory not in (masked, grouped, from_optax, identity):
            name = calls[-1].name if calls else described(tx)
            label = base.label_of(calls[-1]) if calls else name
            ours = is_ours(factory) or bool(calls) and bool(part.inside())
            arguments = calls[-1].arguments if calls else {}
            more = {"factory": factory, "arguments": arguments}
            yield Listed(name, label, None, _numbers(calls), self.seen(tree), groups, ours, **more)
        routes = self.routed(calls[-1].arguments["param_labels"], tree) if factory is grouped else None
        for x in part.inside():
            if x.shown:
                yield from self.inside(x, calls, tree, groups, routes)
        if isinstance(part, Wrapped):
            listed = self.rule(part.rule, part.label.removeprefix("gdjax."), tree, groups)
            yield listed._replace(takes={}, wraps=True)  # hyperball keeps the norms of heads too; roles tell it which

    def inside(
        self, x: Inside, calls: Sequence[Call], tree: ArrayTree, groups: tuple[str, ...], routes: Routes | None
    ) -> Iterator[Listed]:
        sub = tree if x.sees is None else x.sees(tree)
        parts = list(self.listed(x.tx, sub, groups if x.sees is whole else (*groups, *x.names)))
        factories = [call.factory for call in calls]
        if self.seen(tree) and not self.seen(sub):
            if factories[-2:] == [partition, grouped]:  # of the user; muon may well find no vectors
                self.notes.append(f"no leaf is in the group {x.path[1].key!r}")
            elif factories[-1] is masked and x.tx != set_to_zero():  # nothing need be frozen
                names = ", ".join(part.name for part in parts) or "a transform"
                self.notes.append(f"the mask of {names} is False everywhere: it does nothing")
        if routes and x.names == (routes.matrices,):
            takes = self.matrices(routes.label, routes.numbers, sub)
            parts[0] = parts[0]._replace(takes=takes, sees_all=not is_masked(tree))
        yield from (part._replace(name="freeze") for part in parts) if factories[:1] == [freeze] else parts

    def rule(self, rule: Leafwise, name: str, tree: ArrayTree, groups: tuple[str, ...]) -> Listed:
        seen = self.seen(tree)
        if isinstance(rule, MaskedLeafwise):
            leaves = jax.tree.leaves(tree, is_leaf=is_skipped)
            chosen = [x for x, sees in zip(leaves, rule.sees(tree) or (), strict=True) if sees]
            if seen and not (seen := self.seen(chosen)):
                self.notes.append(f"the mask of {name} is False everywhere: it does nothing")
        factors, numbers = self.factors(rule.per_leaf, tree), [k for k in _NUMBERS if k in rule.settings]
        takes = self.matrices(rule.label, _routed(numbers[0], rule.settings), tree) if numbers else {}
        more = {"factors": factors, "takes": takes, "sees_all": not is_masked(tree)}
        return Listed(name, rule.label, rule, rule.hyper, seen, groups, **more)

    def matrices(self, label: str, numbers: Any, tree: ArrayTree) -> dict[int, str]:
        """By place, what all leaves tell of the leaves of `tree` that are matrices by dimension numbers or roles."""
        route = numbers if isinstance(numbers, ByRole) else ByRole()
        if isinstance(numbers, ByRole) and route not in self.routes:
            self.routes.append(route)
        taken = [x for x in jax.tree.leaves(tree) if len(x.shape) > 1]
        if numbers is not None and not is_numbers(numbers):
            plan = plan_of(label, tree, numbers, quiet=True)
            taken = [x for x, leaf in zip(jax.tree.leaves(tree), plan.leaves, strict=True) if leaf.is_matrix]
        looks = ["matrix" if leaf.kind in route.also else leaf.kind for leaf in route.read(self.shapes)]
        return {i: looks[i] for i in sorted(self.seen(taken))}

    def factors(self, per_leaf: Factors, tree: ArrayTree) -> dict[int, Any]:
        if not per_leaf:
            return {}
        rows = leaf_factors.of_each(per_leaf, dict.fromkeys(per_leaf, 1.0), tree)
        leaves = jax.tree.leaves(tree, is_leaf=is_skipped)
        return {self.places[id(x)]: row for x, row in zip(leaves, rows, strict=True) if id(x) in self.places}

    def seen(self, tree: ArrayTree) -> frozenset[int]:
        return frozenset(self.places[id(x)] for x in jax.tree.leaves(tree) if id(x) in self.places)

    def injected(self, injected: Injected, tree: ArrayTree, groups: tuple[str, ...]) -> Iterator[Listed]:
        hyper, factory = injected.call_arguments(), injected.inner_factory
        if is_ours(factory):
            yield from self.listed(factory(**hyper), tree, groups)
        else:
            module = (getattr(factory, "__module__", None) or "").partition(".")[0]
            name = f"{module}.{getattr(factory, '__name__', 'transform')}"
            yield Listed(name, name, None, hyper, self.seen(tree), groups, known=False)

    def routed(self, labels: Any, tree: ArrayTree) -> Routes | None:
        """Notes what the labels of groups tell of roles; gives the routes, if they are some."""
        if isinstance(labels, Value) and labels.call.factory is label_by_role:
            overrides, items = matrices_by_role(labels.call.arguments["overrides"]), paths_of(tree)
            self.overridden |= self.seen([x for path, x in items if overrides.decides(path, x)])
        if not isinstance(labels, Routes):
            return None
        places = [self.places[id(x)] for x in jax.tree.leaves(tree)]
        self.plan |= zip(places, labels.plan(tree).leaves, strict=True)
        for slip in labels.slips(tree):
            leaves = {places[i]: name for i, name in slip.leaves.items()}
            self.slips.append((labels.label.removeprefix("gdjax."), slip._replace(leaves=leaves)))
        return labels


def _routed(name: str, settings: Mapping[str, Any]) -> Any:
    """The argument of a rule that says which arrays are matrices; a dict of patterns as what decides by it."""
    return routing(settings[name]) if name == "roles" and settings[name] is not None else settings[name]


def is_lookahead(tx: Transform) -> bool:
    """Whether a transform takes fast and slow parameters together."""
    calls = calls_of(tx)
    return bool(calls) and calls[0].factory is lookahead


def short(name: str) -> str:
    """The name of a rule in a row of steps: "adam" for scale_by_adam, "rate" for the learning rate."""
    name = name.removeprefix("_").removeprefix("scale_by_").removeprefix("by_")
    return {"learning_rate": "rate", "belief": "adabelief"}.get(name, name)


def _numbers(calls: Sequence[Call]) -> dict[str, Any]:
    """What a wrapper or a transform with an update of its own was called with, numbers and schedules."""
    return {} if not calls else {k: x for k, x in calls[0].arguments.items() if not misuse.is_transform(x)}


class Entry(NamedTuple):
    """One array of a state, and where it is."""

    names: tuple[str, ...]  # the transforms, groups and fields of wrappers that lead to the state it is a field of
    field: str
    leaf: str  # the path inside the field, that of a parameter where the field is like these
    value: Any

    @property
    def of(self) -> str:
        """The field that it is in."""
        return "/".join((*self.names, self.field))

    @property
    def path(self) -> str:
        return f"{self.of}/{self.leaf}" if self.leaf else self.of

    @property
    def end(self) -> str:
        """The path without what is around the state."""
        return "/".join([*self.names[-1:], self.field, *([self.leaf] if self.leaf else [])])


def entries(label: str, state: OptState) -> list[Entry]:
    """The arrays of a state, in the order of `jax.tree.leaves`."""
    listed = list(_entries(state, (), Counter()))
    repeated = [path for path, n in Counter(entry.path for entry in listed).items() if n > 1]
    if repeated:
        raise ValueError(f"{label}: several arrays of the state go by the name {', '.join(map(repr, repeated))}")
    return listed


def _entries(node: Any, names: tuple[str, ...], seen: Counter[Any], key: str = "") -> Iterator[Entry]:
    def numbered(name: str) -> str:
        seen[names, name] += 1
        return name if seen[names, name] == 1 else f"{name}_{seen[names, name]}"

    if isinstance(node, tuple) and (fields := getattr(node, "_fields", None)) is not None:
        name = numbered(name_of_state(type(node))) if fields else ""
        for field, x in zip(fields, node, strict=True):
            if holds_states(field):
                yield from _entries(x, (*names, name, field), seen)
            else:
                yield from (Entry((*names, name), field, path, leaf) for path, leaf in paths_of(x))
    elif isinstance(node, tuple | list):  # a chain
        for x in node:
            yield from _entries(x, names, seen)
    elif isinstance(node, dict):  # a chain with names, or groups
        for (step, *_), x in jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]:
            yield from _entries(x, (*names, path_of([step])), seen, path_of([step]))
    else:
        for path, x in paths_of(node):  # the state of someone else's transform
            yield Entry(names[:-1], key, path, x) if key else Entry(names, numbered("value"), path, x)


def pairs(paths: Sequence[str], ends: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    """From each path to the one of `theirs` that is equal or, where only one is left with that end, ends alike."""
    sources = {path: path for path in set(paths) & set(theirs)}
    rest = [(path, end) for path, end in zip(paths, ends, strict=True) if path not in sources]
    wanted = Counter(end for _, end in rest)
    left = [path for path in theirs if path not in sources]
    for path, end in rest:
        alike = [other for other in left if other == end or other.endswith(f"/{end}")]
        if len(alike) == wanted[end] == 1:
            sources[path] = alike[0]
    return sources
