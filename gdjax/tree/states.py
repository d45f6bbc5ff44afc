"""Parts of optimizer states: found, replaced and mapped over by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from gdjax.codes import formats
from gdjax.core.base import GradientTransformation
from gdjax.core.parts import kept
from gdjax.core.types import Array, ArrayTree, OptState, boxed_like, is_hidden, unboxed

__all__ = ["get", "get_all_with_path", "map_params", "set"]

Path = tuple[Any, ...]
Filter = Callable[[Path, Any], bool]


@dataclass(frozen=True)
class NamedTupleKey:
    """The entry of a path that leads into a field of a NamedTuple; it has the name of the tuple and of the field."""

    tuple_name: str
    name: str

    def __str__(self) -> str:
        return f"{self.tuple_name}.{self.name}"


def get_all_with_path(tree: ArrayTree, key: Any, filtering: Filter | None = None) -> list[tuple[Path, Any]]:
    """Everything in a tree under a name, with the paths to it.

    Args:
      tree: any pytree, an optimizer's state for instance.
      key: a field of a NamedTuple, a key of a dict, or the name of a NamedTuple class.
      filtering: keep only what `filtering(path, value)` is true for.

    Returns:
      Pairs of path and value, the outermost first. A path is a tuple of the keys of `jax.tree_util`, except that a
      field of a NamedTuple has a `NamedTupleKey`. `jax.tree_util.keystr(path, simple=True, separator="/")` prints it.
      The values have arrays where a state of Flax's nnx has them in boxes.

    Example:
      >>> import gdjax, jax
      >>> state = gdjax.chain(gdjax.trace(0.9), gdjax.trace(0.5)).init(0.0)
      >>> found = gdjax.tree.get_all_with_path(state, "trace")
      >>> [jax.tree_util.keystr(path) for path, value in found]
      ['[0]TraceState.trace', '[1]TraceState.trace']
    """
    found = [(path, unboxed(x)) for path, x in _found((), tree, key)]
    return [(path, x) for path, x in found if filtering is None or filtering(path, x)]


def get(tree: ArrayTree, key: Any, default: Any = None, filtering: Filter | None = None) -> Any:
    """What a tree has under a name, or `default` where it has nothing.

    Args:
      tree: any pytree, an optimizer's state for instance.
      key: a field of a NamedTuple, a key of a dict, or the name of a NamedTuple class.
      default: what to return where there is nothing.
      filtering: keep only what `filtering(path, value)` is true for.

    Where a state of Flax's nnx keeps its arrays in boxes, the arrays are returned.

    A hyperparameter is in a state only where it was injected: `gdjax.get_hyperparams(tx, state)` reads it anywhere.

    Raises:
      KeyError: it has several; the message lists their paths, between which `filtering` can choose.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.clip(1.0), gdjax.adam(1e-3))
      >>> state = tx.init({"w": jnp.zeros(2)})
      >>> print(gdjax.tree.get(state, "count"), gdjax.tree.get(state, "mu")["w"])
      0 [0. 0.]
    """
    found = get_all_with_path(tree, key, filtering)
    if len(found) > 1:
        paths = ", ".join(jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in found)
        # The state of a schedule has the same name as the number that the schedule gives.
        injected = any(getattr(step, "name", None) == "hyperparams" for path, _ in found for step in path)
        hint = "; gdjax.get_hyperparams(tx, state) reads the number in force" if injected else ""
        found_at = f"gdjax.tree.get: found multiple values for {key!r}, at {paths}"
        raise KeyError(f"{found_at}; choose one with filtering{hint}")
    return found[0][1] if found else default


def set(tree: ArrayTree, filtering: Filter | None = None, /, **kwargs: Any) -> Any:
    """The tree with everything under the given names replaced, at any depth: `set(state, learning_rate=0.1)`.

    Args:
      tree: any pytree.
      filtering: replace only what `filtering(path, old_value)` is true for.
      **kwargs: from name to new value. A name is a field of a NamedTuple, a key of a dict or the name of a NamedTuple
        class. Arrays go into the boxes of Flax's nnx where what they replace is in such.

    Raises:
      KeyError: there is nothing to replace under a name.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.inject_hyperparams(gdjax.adam)(1e-3)
      >>> state = gdjax.tree.set(tx.init(jnp.zeros(2)), learning_rate=jnp.array(0.5))
      >>> print(gdjax.tree.get(state, "learning_rate"))
      0.5
    """
    for key in kwargs:
        if not get_all_with_path(tree, key, filtering):
            kept = " that the filtering keeps" if filtering and get_all_with_path(tree, key) else ""
            raise KeyError(f"gdjax.tree.set: found no value for {key!r}{kept} in {jax.tree.structure(tree)}")
    return _replaced((), tree, kwargs, filtering)


def _found(path: Path, tree: ArrayTree, key: Any) -> list[tuple[Path, Any]]:
    outer, inner = [], []
    for at, node in _owners(path, tree, key):
        outer.append((at, node) if _is_named(node, key) else _under(at, node, key))
        inner += [pair for step, child in _children(node)[0] for pair in _found((*at, step), child, key)]
    return outer + inner


def _owners(path: Path, tree: ArrayTree, key: Any) -> Iterator[tuple[Path, Any]]:
    """The outermost nodes that have the name, or something under it."""
    if _is_named(tree, key) or key in (_fields(tree) or (tree if isinstance(tree, dict) else ())):
        yield path, tree
    else:
        for step, child in _children(tree)[0]:
            yield from _owners((*path, step), child, key)


def _under(path: Path, node: ArrayTree, key: Any) -> tuple[Path, Any]:
    if isinstance(node, dict):
        return (*path, jax.tree_util.DictKey(key)), node[key]
    return (*path, NamedTupleKey(type(node).__name__, key)), getattr(node, key)


def _fields(node: object) -> tuple[str, ...]:
    return getattr(node, "_fields", ()) if isinstance(node, tuple) else ()


def _is_named(node: object, name: object) -> bool:
    return isinstance(node, tuple) and hasattr(node, "_fields") and type(node).__name__ == name


def _children(node: ArrayTree) -> tuple[list[tuple[Any, Any]], Any]:
    """The children of a node, each with the entry that leads to it, and the structure that holds them."""
    paths, structure = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    if fields := _fields(node):
        paths = [((NamedTupleKey(type(node).__name__, f),), x) for f, (_, x) in zip(fields, paths, strict=True)]
    return [(path[0], x) for path, x in paths if path], structure


def _replaced(path: Path, node: ArrayTree, values: Mapping[str, Any], filtering: Filter | None) -> Any:
    def chosen(name: object, at: Path, x: ArrayTree) -> bool:
        return name in values and (filtering is None or filtering(at, unboxed(x)))

    def child(step: Any, x: ArrayTree) -> Any:
        named: Any = step.name if isinstance(step, NamedTupleKey) else step.key if isinstance(node, dict) else None
        at = (*path, step)
        return boxed_like(x, values[named]) if chosen(named, at, x) else _replaced(at, x, values, filtering)

    if isinstance(node, tuple) and hasattr(node, "_fields") and chosen(type(node).__name__, path, node):
        return boxed_like(node, values[type(node).__name__])
    children, structure = _children(node)
    return structure.unflatten([child(step, x) for step, x in children]) if children else node


def map_params(
    initable: Any, f: Callable[..., Any], state: OptState, /, *rest: ArrayTree,
    transform_non_params: Callable[[Any], Any] | None = None, is_leaf: Callable[[Any], bool] | None = None,
) -> Any:  # fmt: skip
    """Applies a function to every part of a state that is shaped like the parameters.

    For instance `map_params(tx, lambda _, spec: spec, state, specs, transform_non_params=lambda _: P())` gives the
    partition specs of a state from those of the parameters.

    Args:
      initable: the transform whose state it is, or its `init`.
      f: `f(x, *others)` of a leaf and of its counterparts in `rest`; of the codes that `quantize_state` keeps in place
        of a leaf, all together.
      state: of the transform.
      *rest: trees shaped like the parameters.
      transform_non_params: a function of each other leaf of the state, such as the count; by default they stay.
      is_leaf: what in those parts to pass to `f` whole. A `MaskedNode` that it does not choose stays what it is.

    Returns:
      The state, its leaves replaced by what the functions returned.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.adam(1e-3)
      >>> state = tx.init({"w": jnp.zeros(2)})
      >>> specs = gdjax.tree.map_params(
      ...     tx, lambda x, spec: spec, state, {"w": "row"}, transform_non_params=lambda x: 0)
      >>> gdjax.tree.get(specs, "mu"), gdjax.tree.get(specs, "count")
      ({'w': 'row'}, 0)
    """
    tx = initable if hasattr(initable, "init") else GradientTransformation(initable, initable)
    trees = {x.path for x in kept(tx, state) if x.of == "each"}
    chosen = lambda x: formats.is_codes(x) or is_leaf is not None and is_leaf(x)

    def of_params(x: Array, *others: ArrayTree) -> Any:
        return x if is_hidden(x) and not chosen(x) else f(x, *others)

    def of_state(path: Path, x: ArrayTree) -> Any:
        if path in trees:
            return jax.tree.map(of_params, x, *rest, is_leaf=lambda x: chosen(x) or is_hidden(x))
        if any(tree[: len(path)] == path for tree in trees):
            paths, structure = jax.tree_util.tree_flatten_with_path(x, is_leaf=lambda y: y is not x)
            return structure.unflatten([of_state((*path, *step), child) for step, child in paths])
        return x if transform_non_params is None else jax.tree.map(transform_non_params, x, is_leaf=chosen)

    return of_state((), state)
