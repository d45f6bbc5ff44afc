"""The rules and the leaves of a pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core import base, checks, meshes
from gdjax.core.skipped import is_skipped
from gdjax.core.types import OptState, Params, Updates
from gdjax.lift import factors
from gdjax.lift.one_leaf import Kernel
from gdjax.lift.whole_tree import Tree

Array = jax.Array

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
    own: list[dict[str, Any]]  # for each leaf the hyperparameters that differ by leaf
    static: list[dict[str, Any]]  # for each leaf its facts, see `leafwise`

    def add_static(self, leaves: Leaves, extra_args: dict[str, Any]) -> None:
        """Adds the facts about leaves, and the arguments of `update` that the rule reads."""
        tree, rule = leaves.tree(self.rule.label, extra_args), self.rule
        found = {name: list(of(tree, rule.settings[name])) for name, of in rule.static.items()}
        if found:
            each = (dict(zip(found, xs, strict=True)) for xs in zip(*found.values(), strict=True))
            self.static = tree.filled(each, self.static)
        self.scalars |= tree.extra(rule.extra)

    def arguments(self, i: int) -> tuple[Any, ...]:
        """The arguments of the function of leaf i for this rule."""
        raw = None if self.raw is None else self.raw[i]
        own = {k: x for k, x in self.own[i].items() if not _is_zero(x)}
        scalars = {k: x for k, x in self.scalars.items() if k not in self.own[i]} | own
        return self.slots[i], self.count, self.rule.seen(self.shared), scalars, raw

    def kernel(self, i: int) -> Kernel:
        """The key of the function of leaf i; a hyperparameter that is 0 for this leaf is a constant."""
        own = {k: x for k, x in self.own[i].items() if _is_zero(x)} | self.static[i]
        kernel, constants = self.rule.kernel, tuple((k, type(x), x) for k, x in own.items())
        arguments = tuple(k for k in self.own[i] if k not in own)
        return kernel._replace(wraps=self.wraps, constants=kernel.constants + constants, per_leaf=arguments)

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
    axes = meshes.varying_axes([(g, p) for g, p, own in zip(gs, of_params[0], trained, strict=True) if own])
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


def opened(place: int, rule: Any, state: OptState, raw: Any, leaves: Leaves, updates: Updates) -> Running:
    """A rule at the start of a pass; schedules are evaluated at the old count."""
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
    return Running(place, rule, state, count, slots, shared, scalars, sees, wraps, gradients, own, nothing)


def _is_zero(x: Any) -> bool:
    return isinstance(x, float) and x == 0


def _array(label: str, path: Any, g: Any) -> Array:
    """`g`; a Python number as an array with a definite dtype."""
    if hasattr(g, "dtype") or is_skipped(g):
        return g
    checks.leaf(label, f"updates{jax.tree_util.keystr(path)}", g)
    x = jnp.asarray(g)
    return jax.lax.convert_element_type(x, x.dtype)
