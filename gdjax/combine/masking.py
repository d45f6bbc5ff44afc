"""A transform for some of the leaves, chosen by a tree, by a function or by path; frozen parameters."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.tree_util import GetAttrKey

from gdjax.core import base, callers, checks
from gdjax.core.base import MaskedNode, set_to_zero, transform
from gdjax.core.part import Inside
from gdjax.core.parts import holding
from gdjax.core.paths import check_prefix, is_masked
from gdjax.core.types import ArrayTree, Mask, OptState, Params, Transform, Updates, is_skipped
from gdjax.lift.rule import Leafwise

__all__ = ["MaskOrFn", "MaskedState", "freeze", "masked"]

MaskOrFn = Any  # a tree of booleans, a prefix of the parameters, or a function from the parameters to one


class MaskedState(NamedTuple):
    """State of `masked`: that of the inner transform, with `MaskedNode` for every leaf it does not see."""

    inner_state: OptState


@transform
def masked(inner: Transform, mask: Mask, *, mask_compatible_extra_args: bool = False) -> Any:
    """Applies `inner` where the mask is True and passes the other updates through as they are.

    What passes through is still applied to the parameters: to hold them fixed use `freeze` or `partition`.

    Args:
      inner: the transform.
      mask: a tree of booleans shaped like the parameters or a prefix of it, or a function from the parameters to one,
        such as `mask_by_path(...)`. `init` calls the function with the parameters, `update` with the updates. The
        leaves that `inner` does not see keep no state.
      mask_compatible_extra_args: also mask the extra arguments whose tree has the structure of the updates.

    A line search may be inside: of `grad` it gets the part that it sees, and `value_fn` as a function of its part of
    the parameters, with the others as they are.

    Raises:
      ValueError: the mask is not a prefix of the tree, or its function raised an error, which is the cause.
      TypeError: the mask has leaves that are not booleans, traced ones for instance, or the function returned None or
        cannot be called with the tree alone.

    Warns:
      UserWarning: (in init) the mask is False everywhere.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.masked(gdjax.clip(0.5), gdjax.mask_by_path("kernel"))
      >>> g = {"kernel": jnp.array([3.0]), "bias": jnp.array([3.0])}
      >>> u, _ = tx.update(g, tx.init(g))
      >>> print(u["kernel"], u["bias"])
      [0.5] [3.]
    """
    label = "gdjax.masked"
    part = base.part_of(base.check_transform(label, 0, inner))
    if type(part) is Leafwise and not part.slots:
        return part.as_kind(MaskedLeafwise, mask=mask)

    def init(params: Params) -> MaskedState:
        seen = mask_of(label, mask, params)
        if inner != set_to_zero():  # nothing need be frozen
            _warn_of_false(label, seen, params)
        return MaskedState(inner.init(hide(seen, params)))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, MaskedState]:
        checks.state(label, state, MaskedState)
        seen = mask_of(label, mask, updates)
        return masked_update(label, inner, seen, updates, state, params, extra_args, mask_compatible_extra_args)

    sees = lambda tree: hide(mask_of(label, mask, tree), tree)
    return holding(init, update, Inside(inner, (GetAttrKey("inner_state"),), sees=sees))


@dataclass(frozen=True, eq=False)
class MaskedLeafwise(Leafwise):
    """A rule without slots under a mask: a leaf rule still, which a chain runs in one pass with its neighbours."""

    mask: Mask = None

    def init(self, params: Params) -> OptState:
        _warn_of_false(self.label, mask_of(self.label, self.mask, params), params)
        return super().init(params)

    def sees(self, updates: Updates) -> Sequence[bool]:
        seen = mask_of(self.label, self.mask, updates)
        flags: list[bool] = []

        def spread(m: Any, part: Any) -> None:
            flags.extend([m is True] * len(jax.tree.leaves(part, is_leaf=is_skipped)))

        jax.tree.map(spread, seen, updates, is_leaf=is_skipped)
        return flags

    def split(self, state: OptState) -> Any:
        checks.state(self.label, state, MaskedState)
        return super().split(state.inner_state)

    def join(self, *parts: Any) -> MaskedState:
        return MaskedState(super().join(*parts))


@transform
def freeze(mask: Mask) -> Any:
    """Zeroes the updates where the mask is True and passes the others through: `masked(set_to_zero(), mask)`.

    Args:
      mask: a tree of booleans shaped like the updates or a prefix of it, or a function from the updates to one, such as
        `mask_by_path(...)`.

    Put last in a chain, it holds parameters fixed. The transforms before it still keep state for them; to keep none use
    `selective_transform` or `partition`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.sgd(0.5), gdjax.freeze(gdjax.mask_by_path("embed")))
      >>> g = {"embed": jnp.array([1.0]), "head": jnp.array([1.0])}
      >>> u, _ = tx.update(g, tx.init(g))
      >>> print(u["embed"], u["head"])
      [0.] [-0.5]
    """
    return masked(set_to_zero(), mask)


def _warn_of_false(label: str, seen: Any, params: Params) -> None:
    if label == "gdjax.masked" and not any(jax.tree.leaves(seen)) and is_whole(params):
        callers.warn(f"{label}: the mask is False everywhere, so that the transform does nothing")


def is_whole(params: Params) -> bool:
    """Whether a tree has leaves, and no mask around hides some."""
    return bool(jax.tree.leaves(params)) and not is_masked(params)


def mask_of(label: str, mask: Mask, tree: ArrayTree, name: str = "mask") -> Any:
    seen = callers.of_tree(label, name, mask, tree) if checks.is_function(mask) else mask
    checks.returned(label, f"the {name}'s function", seen)
    checks.mask(label, name, seen)
    check_prefix(label, name, seen, tree)
    return jax.tree.map(bool, seen)


def hide(seen: Any, tree: ArrayTree) -> Any:
    if not jax.tree.leaves(tree):
        return tree  # nothing to hide; it may stand for the whole tree of parameters, see `gdjax.tree.map_params`
    return jax.tree.map(lambda m, sub: sub if m else MaskedNode(), seen, tree)


def _of_the_seen(value_fn: Callable[..., Any], seen: Any, params: Params) -> Callable[..., Any]:
    """`value_fn` as a function of the parameters that are seen: the others stay as they are."""

    @functools.wraps(value_fn)  # its signature tells a line search which extra arguments it takes
    def value(part: Params, *args: Any, **kwargs: Any) -> Any:
        return value_fn(jax.tree.map(lambda m, new, old: new if m else old, seen, part, params), *args, **kwargs)

    return value


def masked_update(
    label: str, inner: Transform, seen: Any, updates: Updates, state: OptState, params: Params,
    extra_args: dict[str, Any], mask_extra: bool,
) -> tuple[Any, MaskedState]:  # fmt: skip
    like = jax.tree.structure(updates)
    split = lambda name, x: (mask_extra or name == "grad") and jax.tree.structure(x) == like
    extra_args = {name: hide(seen, x) if split(name, x) else x for name, x in extra_args.items()}
    if params is not None and callable(value_fn := extra_args.get("value_fn")):
        extra_args["value_fn"] = _of_the_seen(value_fn, seen, params)
    try:
        inner_params = None if params is None else hide(seen, params)
    except ValueError:
        checks.flatten_like(label, ("updates", "params"), jax.tree.structure(updates), updates, params)
        raise
    new, inner_state = base.call_update(inner, hide(seen, updates), state.inner_state, inner_params, extra_args)
    return jax.tree.map(lambda m, n, old: n if m else old, seen, new, updates), MaskedState(inner_state)
