"""Transforms for some of the leaves: masks, groups, frozen parameters; chosen by tree, by function or by path."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import jax

from gdjax import base, checks
from gdjax.base import GradientTransformation, MaskedNode, set_to_zero, transform
from gdjax.leafwise import Leafwise
from gdjax.paths import path_of, paths_of
from gdjax.skipped import is_skipped

MaskOrFn = Any  # a tree of booleans, a prefix of the parameters, or a function from the parameters to one


class MaskedState(NamedTuple):
    """State of `masked`: that of the inner transform, with `MaskedNode` for every leaf it does not see."""

    inner_state: Any


class PartitionState(NamedTuple):
    """State of `partition`."""

    inner_states: Mapping[Hashable, Any]  # label -> MaskedState


MultiTransformState = PartitionState


@transform
def masked(inner: Any, mask: Any, *, mask_compatible_extra_args: bool = False) -> Any:
    """Applies `inner` where the mask is True and passes the other updates through as they are.

    What passes through is still applied to the parameters: to hold them fixed use `freeze` or `partition`.

    Args:
      inner: the transform.
      mask: a tree of booleans shaped like the parameters or a prefix of it, or a function from the parameters to one,
        such as `mask_by_path(...)`. `init` calls the function with the parameters, `update` with the updates. The
        leaves that `inner` does not see keep no state.
      mask_compatible_extra_args: also mask the extra arguments whose tree has the structure of the updates.

    Raises:
      ValueError: the mask is not a prefix of the tree.
      TypeError: the mask has leaves that are not booleans, traced ones for instance, or the function returned None.
    """
    label = "gdjax.masked"
    part = base.part_of(base.check_transform(label, 0, inner))
    if isinstance(part, Leafwise) and not (part.slots or part.reduce or isinstance(part, MaskedLeafwise)):
        return MaskedLeafwise(**{f.name: getattr(part, f.name) for f in fields(part)}, mask=mask)

    def init(params: Any) -> MaskedState:
        return MaskedState(inner.init(_hide(_mask_of(label, mask, params), params)))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        checks.state(label, state, MaskedState)
        seen = _mask_of(label, mask, updates)
        return _masked_update(label, inner, seen, updates, state, params, extra_args, mask_compatible_extra_args)

    return GradientTransformation(init, update)


@dataclass(frozen=True, eq=False)
class MaskedLeafwise(Leafwise):
    """A rule without slots under a mask: a leaf rule still, which a chain runs in one pass with its neighbours."""

    mask: Any = None

    def init(self, params: Any) -> Any:
        _mask_of(self.label, self.mask, params)
        return super().init(params)

    def sees(self, updates: Any) -> Sequence[bool]:
        seen = _mask_of(self.label, self.mask, updates)
        flags: list[bool] = []

        def spread(m: Any, part: Any) -> None:
            flags.extend([m is True] * len(jax.tree.leaves(part, is_leaf=is_skipped)))

        jax.tree.map(spread, seen, updates, is_leaf=lambda x: x is None)
        return flags

    def split(self, state: Any) -> Any:
        checks.state(self.label, state, MaskedState)
        return super().split(state.inner_state)

    def join(self, *parts: Any) -> MaskedState:
        return MaskedState(super().join(*parts))


@transform
def partition(
    transforms: Mapping[Any, Any], param_labels: Any, *, mask_compatible_extra_args: bool = False
) -> GradientTransformation:
    """Applies to each group of leaves its own transform.

    A transform sees the leaves of its own group only: the norm that `clip_by_global_norm` takes inside a group is that
    group's. Leaves whose transform is `set_to_zero()` are frozen and keep no state.

    Args:
      transforms: from label to transform. A group may have no leaves: one table of groups serves many models.
      param_labels: a tree of labels shaped like the parameters or a prefix of it, or a function from the parameters to
        one, such as `label_by_path({...})`.
      mask_compatible_extra_args: also split the extra arguments whose tree has the structure of the updates.

    Raises:
      ValueError: leaves have a label without a transform; the message lists them. The labels are not a prefix.
      TypeError: the labels are None, or the function returned None.
    """
    label = "gdjax.partition"
    for key, tx in transforms.items():
        base.check_transform(label, repr(key), tx)

    def check(labels: Any) -> None:
        known = lambda name: isinstance(name, Hashable) and name in transforms  # noqa: E731
        unknown = [f"{path}: {name!r}" for path, name in paths_of(labels) if not known(name)]
        if unknown:
            raise ValueError(f"{label}: no transform for {', '.join(unknown)}; there are {list(transforms)}")

    fixed = not checks.is_function(param_labels)
    if fixed:
        if param_labels is None:
            raise TypeError(f"{label}: param_labels is None, not a tree of labels or a function that returns one")
        check(param_labels)
    keep = _keeper(transforms)

    def masks(tree: Any) -> Mapping[Hashable, Any]:
        labels = param_labels if fixed else param_labels(tree)
        checks.returned(label, "the labels' function", labels)
        _check_prefix(label, "labels", labels, tree)
        check(labels)
        return {key: jax.tree.map(lambda name, key=key: name == key, labels) for key in transforms}

    def init(params: Any) -> PartitionState:
        seen = masks(params)
        return PartitionState(keep((k, MaskedState(tx.init(_hide(seen[k], params)))) for k, tx in transforms.items()))

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        checks.state(label, state, PartitionState)
        seen, states = masks(updates), {}
        for key, tx in transforms.items():
            old = state.inner_states[key]
            updates, states[key] = _masked_update(
                label, tx, seen[key], updates, old, params, extra_args, mask_compatible_extra_args
            )
        return updates, PartitionState(keep(states.items()))

    return GradientTransformation(init, update)


multi_transform = partition


@transform
def freeze(mask: Any) -> Any:
    """Zeroes the updates where the mask is True and passes the others through: `masked(set_to_zero(), mask)`.

    Put last in a chain, it holds parameters fixed. The transforms before it still keep state for them; to keep none use
    `selective_transform` or `partition`.
    """
    return masked(set_to_zero(), mask)


@transform
def selective_transform(optimizer: Any, *, freeze_mask: Any) -> Any:
    """Applies `optimizer` where the mask is False; where it is True the update is zero and no state is kept."""

    def labels(params: Any) -> Any:
        seen = _mask_of("gdjax.selective_transform", freeze_mask, params)
        return jax.tree.map(lambda m: "freeze" if m else "train", seen)

    return partition({"train": optimizer, "freeze": set_to_zero()}, labels)


def _keeper(labels: Iterable[Any]) -> Any:
    """A dict; an OrderedDict for labels that do not compare, which JAX cannot sort as it does the keys of a dict."""
    try:
        sorted(labels)
    except TypeError:
        return OrderedDict
    return dict


def _mask_of(label: str, mask: Any, tree: Any) -> Any:
    seen = mask(tree) if checks.is_function(mask) else mask
    checks.returned(label, "the mask's function", seen)
    checks.mask(label, "mask", seen)
    _check_prefix(label, "mask", seen, tree)
    return jax.tree.map(bool, seen)


def _check_prefix(label: str, name: str, prefix: Any, tree: Any) -> None:
    try:
        if jax.tree_util.tree_structure(tree).num_leaves:
            jax.tree.map(lambda *_: None, prefix, tree)
    except ValueError as e:
        theirs, ours = {p for p, _ in paths_of(prefix)}, {p for p, _ in paths_of(tree)}
        only = [p for p in sorted(theirs) if not any(q == p or q.startswith(f"{p}/") for q in ours)]
        lacks = [q for q in sorted(ours) if not any(q == p or q.startswith(f"{p}/") for p in theirs)]
        flat = jax.tree_util.tree_flatten_with_path(prefix, is_leaf=lambda x: x is None)[0]
        nones = [path_of(path) for path, x in flat if x is None and path_of(path) in lacks]
        raise ValueError(
            f"{label}: the {name} is not a prefix of the tree: only the {name} has {only}, only the tree has {lacks}"
            + (f"; None at {nones} is no entry" if nones else "")
        ) from e


def _hide(seen: Any, tree: Any) -> Any:
    if not jax.tree.leaves(tree):
        return tree  # nothing to hide; it may stand for the whole tree of parameters, see `gdjax.tree.map_params`
    return jax.tree.map(lambda m, sub: sub if m else MaskedNode(), seen, tree)


def _masked_update(
    label: str,
    inner: Any,
    seen: Any,
    updates: Any,
    state: Any,
    params: Any,
    extra_args: dict[str, Any],
    mask_extra: bool,
) -> tuple[Any, MaskedState]:
    if mask_extra:
        like = jax.tree.structure(updates)
        extra_args = {k: _hide(seen, x) if jax.tree.structure(x) == like else x for k, x in extra_args.items()}
    try:
        theirs = None if params is None else _hide(seen, params)
    except ValueError:
        checks.flatten_like(label, ("updates", "params"), jax.tree.structure(updates), updates, params)
        raise
    new, inner_state = base.call_update(inner, _hide(seen, updates), state.inner_state, theirs, extra_args)
    return jax.tree.map(lambda m, n, old: n if m else old, seen, new, updates), MaskedState(inner_state)
