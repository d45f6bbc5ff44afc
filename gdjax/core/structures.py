"""The structures of trees: two that must agree, and a state in the form of the one before."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax

from gdjax.core.types import ArrayTree, OptState, Params, Updates, is_skipped

ARRAYS = "params", "updates", "gradients"  # names in errors of trees whose leaves are arrays
SWAPPED = "are state and params swapped? Call update(updates, state, params)"
LOSS = "is it the loss? Pass its gradient, jax.grad(loss)(params)"
MOST = 3  # names in a message, before the number of the others


class Difference(NamedTuple):
    """The first place at which two trees differ, and the contents of both there."""

    path: str  # as JAX prints it
    one: ArrayTree
    other: ArrayTree


def difference(one: ArrayTree, other: ArrayTree, is_leaf: Callable[[Any], bool] = lambda x: False) -> Difference | None:
    """The first difference between two trees, or None; a leaf of `one` by `is_leaf` differs from nothing.

    Dicts with different keys differ as a whole.
    """
    if is_leaf(one):
        return None
    ones, others = _children(one), _children(other)
    if ones is None and others is None:
        return None
    if ones is None or others is None or type(one) is not type(other):
        return Difference("", one, other)
    if [key for key, _ in ones] != [key for key, _ in others]:
        return Difference("", one, other)
    for (key, x), (_, y) in zip(ones, others, strict=True):
        if below := difference(x, y, is_leaf):
            return below._replace(path=jax.tree_util.keystr(key) + below.path)
    return None


def _children(x: ArrayTree) -> list[tuple[Any, Any]] | None:
    """The keys and entries of a container, none for None; None for a leaf."""
    if jax.tree_util.all_leaves([x]):
        return None
    return jax.tree_util.tree_flatten_with_path(x, is_leaf=lambda y: y is not x)[0]


def is_container(x: object) -> bool:
    """Whether x is a container: no leaf such as an array or a number, and no missing one."""
    return not hasattr(x, "shape") and not is_skipped(x) and not jax.tree_util.all_leaves([x])


def described(x: Any) -> str:
    """A description of x, without its values."""
    if x is None:
        return "None"
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return of_shape(tuple(x.shape))
    if isinstance(x, bool | int | float | complex):
        return "a number"
    children = _children(x)
    if children is None:
        return f"a {type(x).__name__}"
    return f"a {type(x).__name__} of {len(children)} {'entry' if len(children) == 1 else 'entries'}"


def of_shape(shape: tuple[int, ...]) -> str:
    return f"an array of shape {shape}" if shape else "a scalar"


def listed(names: Sequence[Any], lines: str = ", ") -> str:
    """The first names, and how many more there are."""
    rest = f"{lines}and {len(names) - MOST} more" if len(names) > MOST + 1 else ""
    return lines.join(map(str, names[: MOST if rest else None])) + rest


def few(names: Iterable[str], most: int = 5) -> str:
    """The first names in a sentence, and how many more there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def flatten_like(label: str, names: tuple[str, str], structure: Any, like: ArrayTree, tree: ArrayTree) -> list[Any]:
    """The leaves of `tree`, which must have the structure of `like`; `names` are what errors call `like` and `tree`.

    Raises:
      ValueError: the structures differ, or a leaf of `like` meets several arrays; the message says where.
    """
    arrays, entries = names[1] in ARRAYS, _up_to(structure, tree)
    if entries is not None and not (arrays and any(map(is_container, entries))):
        return entries
    leaves, with_skipped = jax.tree.flatten(like, is_leaf=is_skipped)
    if entries is not None and len(leaves) == len(entries) and _one_array_each(leaves, entries):
        return entries
    # Again, without the leaves that have no gradient, or that neither of the two has.
    entries = _up_to(with_skipped, tree)
    if entries is not None and (not arrays or _one_array_each(leaves, entries)):
        missing = [x for of, x in zip(leaves, entries, strict=True) if is_skipped(of)]
        if names[0] == "updates" or all(map(is_skipped, missing)):
            return [x for of, x in zip(leaves, entries, strict=True) if not is_skipped(of)]
    swapped = f"; {SWAPPED}" if names[1] == "params" and is_state(tree) else ""
    raise ValueError(f"{label}: {mismatch(names, like, tree)}{swapped}")


def _up_to(structure: Any, tree: ArrayTree) -> list[Any] | None:
    """What stands in a tree at the leaves of a structure; None if they do not fit."""
    try:
        return structure.flatten_up_to(tree)
    except (ValueError, TypeError):
        return None


def alike(label: str, updates: Updates, params: Params) -> None:
    """Raises if the parameters, where given, differ in structure from the updates at leaves with gradients."""
    if params is not None and jax.tree.structure(updates) != jax.tree.structure(params):
        structure = jax.tree.structure(updates, is_leaf=is_skipped)
        flatten_like(label, ("updates", "params"), structure, updates, params)


def _one_array_each(leaves: Iterable[Any], entries: Iterable[Any]) -> bool:
    """Whether no leaf that is not skipped meets several arrays."""
    return not any(is_container(x) for of, x in zip(leaves, entries, strict=True) if not is_skipped(of))


def mismatch(names: tuple[str, str], one: ArrayTree, other: ArrayTree) -> str:
    """How the structure of `other` differs from that of `one`; `names` are what the message calls them."""
    gradients = "updates", "gradients", "grad"
    hint = (slip(one, other) if names[0] in gradients else "") or (slip(other, one) if names[1] in gradients else "")
    place = difference(one, other, is_skipped)
    if place is not None and (type(place.one) is not type(place.other) or hint):
        at = [f"{name}{place.path} is {described(x)}" for name, x in zip(names, place[1:], strict=True)]
        hint = hint or _list_hint(place.one, place.other) or _list_hint(place.other, place.one)
        return f"{at[0]}, but {at[1]}" + (f": {hint}" if hint else "")
    ours, theirs = _paths(one), _paths(other)
    lines = [f"{names[1]}{path} is missing" for path in ours if path not in theirs]
    lines += [f"{names[1]}{path} has no counterpart in the {names[0]}" for path in theirs if path not in ours]
    kinds = [f"{name} {jax.tree.structure(x)!s:.100}" for name, x in zip(names, (one, other), strict=True)]
    return listed(lines, "; ") or f"{kinds[0]} and {kinds[1]} are of different types"


def slip(tree: ArrayTree, like: ArrayTree) -> str:
    """What was probably done where `given` should have the structure of `like`; empty where nothing is known."""
    if _is_scalar(tree) and is_container(like):
        return LOSS
    if type(tree) is not tuple or len(tree) != 2:
        return ""
    structure = jax.tree.structure(like)
    if jax.tree.structure(tree[0]) == structure:
        if is_state(tree[1]):
            return "tx.update returns a pair, (updates, state): pass the first"
        return "it is a pair of which the first fits: pass that alone"
    if jax.tree.structure(tree[1]) == structure:
        return "jax.value_and_grad returns a pair, (value, gradient): pass the second"
    return ""


def is_state(x: object) -> bool:
    """Whether x is the state of a transform or, as that of a chain, has some in a tuple or a dict."""
    inside = x.values() if isinstance(x, dict) else x if isinstance(x, tuple) else ()
    return type(x).__name__.endswith("State") or any(map(is_state, inside))


def _list_hint(array: object, several: object) -> str:
    if hasattr(array, "shape") and isinstance(several, list | tuple) and several and all(map(_is_scalar, several)):
        return "of a list of numbers make an array, jnp.asarray(...)"
    return ""


def _is_scalar(x: Any) -> bool:
    return isinstance(x, int | float | complex) or hasattr(x, "shape") and x.shape == ()


def _paths(tree: ArrayTree) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def as_formed(new: OptState, old: OptState) -> OptState:
    """A new state in the form of the old one, as `jax.lax.scan` requires of its carry.

    Where the old state has an Optax class with the same fields, the new one gets it too. Where a gradient is missing
    and the new state has None, the old array stays.
    """
    if jax.tree.structure(old) == jax.tree.structure(new):
        return new
    if is_skipped(new):
        return old
    fields = getattr(new, "_fields", None)
    if isinstance(new, tuple) and isinstance(old, tuple) and len(old) == len(new):
        if getattr(old, "_fields", None) != fields:
            return new
        parts = map(as_formed, new, old)
        return tuple(parts) if fields is None else type(old)(*parts)
    if isinstance(new, dict) and isinstance(old, dict) and old.keys() == new.keys():
        return type(new)((k, as_formed(x, old[k])) for k, x in new.items())
    try:
        return jax.tree.map(lambda x, y: y if is_skipped(x) else x, new, old, is_leaf=is_skipped)
    except (ValueError, TypeError):  # a different structure, which this function must not hide
        return new
