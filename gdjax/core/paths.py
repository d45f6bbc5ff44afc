"""Leaves by their paths: patterns and prefixes."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from gdjax.core import callers, structures
from gdjax.core.types import ArrayTree, check_patterns, is_box, is_hidden, is_skipped
from gdjax.core.values import value

__all__ = ["label_by_path", "mask_by_path"]

Pattern = str | re.Pattern[str] | Callable[[str, Any], bool]  # searched in a path, or a predicate of (path, leaf)


@value
def mask_by_path(*patterns: Pattern) -> Callable[[Any], Any]:
    """A mask that is True for the leaves whose path one of the patterns matches.

    The path of a leaf is its keys joined by "/", for instance "layers/0/bias". The box that Flax puts an array in, a
    `Param` of nnx or a `Partitioned` of linen, adds no key.

    Args:
      *patterns: a regular expression, searched for anywhere in the path, or a predicate of `(path, leaf)`.

    Returns:
      A function from a tree to a tree of booleans, for `masked`, `freeze` and the `mask` of an optimizer.

    Raises:
      ValueError: a pattern is no regular expression; (when used) a pattern matches no leaf, those without a gradient or
        hidden by a mask around included; the message lists the paths.
      TypeError: a pattern is neither text nor a function.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"layers": [{"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}]}
      >>> gdjax.mask_by_path("kernel$")(params)
      {'layers': [{'bias': False, 'kernel': True}]}
      >>> matrices = gdjax.mask_by_path(lambda path, leaf: leaf.ndim > 1)
      >>> tx = gdjax.adamw(1e-3, mask=matrices)  # only these decay
    """
    label = "gdjax.mask_by_path"
    check_patterns(label, patterns)

    def mask(tree: ArrayTree) -> Any:
        every, paths = paths_of(tree, is_skipped), paths_of(tree)
        for pattern in patterns:
            if paths and not any(may_match(pattern, *item) for item in every):
                listed = ", ".join(path for path, _ in every)
                raise ValueError(f"{label}: {shown(pattern)} matches none of {listed}")
        flags = [any(matches(label, pattern, *item) for pattern in patterns) for item in paths]
        return jax.tree.structure(tree).unflatten(flags)

    def may_match(pattern: Pattern, path: str, leaf: object) -> bool:
        if not is_skipped(leaf) or isinstance(pattern, str | re.Pattern):
            return matches(label, pattern, path, leaf)
        return is_hidden(leaf)  # a predicate needs the leaf, which is not here

    return mask


@value
def label_by_path(rules: Mapping[Any, Any]) -> Callable[[Any], Any]:
    """Labels for `partition` by the path of a leaf: that of the first rule whose pattern matches.

    For instance `label_by_path({"bias$|scale$": "vector", ".*": "matrix"})`.

    Args:
      rules: from pattern to label. A pattern is a regular expression, searched for anywhere in the path, the keys of a
        leaf joined by "/"; or a predicate of `(path, leaf)`.

    Returns:
      A function from a tree to a tree of labels.

    A rule that labels no leaf is a warning (when used): its pattern matches no leaf, or rules before it have labelled
    all that it matches. There is no warning for a rule for the rest, whose pattern matches every leaf.

    Raises:
      ValueError: a pattern is no regular expression; (when used) leaves that no rule matches; the message lists them.
        End with the rule `".*"` for a rest.
      TypeError: a pattern is neither text nor a function.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"head": {"bias": jnp.ones(1), "kernel": jnp.ones(1)}, "out": jnp.ones(1)}
      >>> gdjax.label_by_path({"bias$": "vector", "head": "head", ".*": "rest"})(params)
      {'head': {'bias': 'vector', 'kernel': 'head'}, 'out': 'rest'}
    """
    label = "gdjax.label_by_path"
    check_patterns(label, rules)

    def labels(tree: ArrayTree) -> Any:
        paths = paths_of(tree)
        matching_rules = [matching(label, rules, *item) for item in paths]
        unmatched = [path for (path, _), places in zip(paths, matching_rules, strict=True) if not places]
        if unmatched:
            listed = ", ".join(map(shown, rules))
            text = f'no rule matches {", ".join(unmatched)}; the rules are {listed}; end with ".*" for the rest'
            raise ValueError(f"{label}: {text}")
        names = list(rules.values())
        warn_of_idle(label, "labelled", rules, tree, [path for path, _ in paths], matching_rules)
        return jax.tree.structure(tree).unflatten([names[places[0]] for places in matching_rules])

    return labels


def factors_by_path(label: str, rules: Mapping[Any, Any], tree: ArrayTree, warn: bool) -> list[Any]:
    """For each leaf, also without a gradient, the factor of the first rule that matches; 1 where none does."""
    leaves = paths_of(tree, is_skipped)
    paths = [path for path, leaf in leaves if not is_skipped(leaf)]
    matching_rules = [[] if is_skipped(leaf) else matching(label, rules, path, leaf) for path, leaf in leaves]
    if warn and paths:
        of_arrays = [places for places, (_, leaf) in zip(matching_rules, leaves, strict=True) if not is_skipped(leaf)]
        warn_of_idle(label, "given the factor", rules, tree, paths, of_arrays)
    factors = list(rules.values())
    return [factors[places[0]] if places else 1.0 for places in matching_rules]


def warn_of_idle(
    label: str, verb: str, rules: Mapping[Any, Any], tree: ArrayTree, paths: list[str], matching_rules: list[list[int]]
) -> None:
    """Warns of rules that decide for no leaf, but not under a mask, which may hide their leaves."""
    if is_masked(tree):
        return
    labels = list(rules.values())
    used = {places[0] for places in matching_rules if places}
    for k, pattern in enumerate(rules):
        matched = [path for path, places in zip(paths, matching_rules, strict=True) if k in places]
        if k in used or len(matched) == len(paths):
            continue
        why = f"rules before it match {', '.join(matched)}" if matched else f"it matches none of {', '.join(paths)}"
        listed = ", ".join(repr(labels[i]) for i in sorted(used))
        in_use = f"; the labels in use are {listed}" if verb == "labelled" else ""
        callers.warn(f"{label}: no leaf is {verb} {labels[k]!r} by the rule {shown(pattern)}: {why}{in_use}")


def check_prefix(label: str, name: str, prefix: ArrayTree, tree: ArrayTree) -> None:
    """Raises unless `prefix`, a mask or labels that errors call `name`, is a prefix of `tree`."""
    try:
        if jax.tree_util.tree_structure(tree).num_leaves:
            jax.tree.map(lambda *_: None, prefix, tree)
    except ValueError:
        verb = "are" if name.endswith("s") else "is"
        text = _difference(name, verb, prefix, tree)
        text += f": {slip}" if (slip := structures.slip(tree, prefix)) else ""
        raise ValueError(f"{label}: the {name} {verb} not a prefix of the tree: {text}") from None


def _difference(name: str, verb: str, prefix: ArrayTree, tree: ArrayTree) -> str:
    theirs, ours = {p for p, _ in paths_of(prefix)}, {p for p, _ in paths_of(tree)}
    only = [p for p in sorted(theirs) if not any(q == p or q.startswith(f"{p}/") for q in ours)]
    lacks = [q for q in sorted(ours) if not any(q == p or q.startswith(f"{p}/") for p in theirs)]
    place = structures.difference(prefix, tree, lambda x: jax.tree_util.all_leaves([x]))
    if place and (not (only or lacks) or "" in lacks):  # the tree may be one array
        at = f"at {place.path} " if place.path else ""
        one, other = map(structures.described, place[1:])
        return f"{at}the {name} {verb} {one}, the tree is {other}"
    show = lambda paths: f"[{structures.listed([repr(path) for path in paths])}]"
    has = "have" if verb == "are" else "has"
    sides = [f"only the {name} {has} {show(only)}"] * bool(only) + [f"only the tree has {show(lacks)}"] * bool(lacks)
    remedy = "; give each an entry, or one to a branch of them" if lacks and not only else ""
    flat = jax.tree_util.tree_flatten_with_path(prefix, is_leaf=lambda x: x is None)[0]
    nones = [path_of(path) for path, x in flat if x is None and path_of(path) in lacks]
    return ", ".join(sides) + (f"; None at {nones} is no entry" if nones else remedy)


def is_masked(tree: ArrayTree) -> bool:
    """Whether a mask hides leaves of a tree."""
    return any(map(is_hidden, jax.tree.leaves(tree, is_leaf=is_hidden)))


def paths_of(tree: ArrayTree, is_leaf: Callable[[Any], bool] = lambda x: False) -> list[tuple[str, Any]]:
    """The paths and the leaves of a tree, without the keys of boxes."""
    return [(path_of(keys), leaf) for keys, leaf in keys_of(tree, is_leaf)]


def named_leaves(name: str, tree: ArrayTree) -> list[tuple[str, Any]]:
    """The leaves of a tree, each with what it is called in errors, such as "params['w']"."""
    return [(name + jax.tree_util.keystr(keys), leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def keys_of(tree: ArrayTree, is_leaf: Callable[[Any], bool] = lambda x: False) -> list[tuple[Any, Any]]:
    """The keys and the leaves of a tree, without the keys of boxes."""
    leaves: list[tuple[Any, Any]] = []
    for keys, x in jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: is_leaf(x) or is_box(x))[0]:
        inside = jax.tree_util.tree_flatten_with_path(x, is_leaf=is_leaf)[0] if is_box(x) else [((), x)]
        leaves += [((*keys, *inner[1:]), leaf) for inner, leaf in inside]
    return leaves


def path_of(keys: Sequence[Any]) -> str:
    return jax.tree_util.keystr(tuple(keys), simple=True, separator="/")


def matches(label: str, pattern: Pattern, path: str, leaf: object) -> bool:
    if isinstance(pattern, str | re.Pattern):
        return re.search(pattern, path) is not None
    return callers.of_leaf(label, pattern, path, leaf)


def matching(label: str, patterns: Iterable[Pattern], path: str, leaf: object) -> list[int]:
    """The places of the patterns that match a leaf."""
    return [k for k, pattern in enumerate(patterns) if matches(label, pattern, path, leaf)]


def shown(pattern: Pattern) -> str:
    return repr(pattern) if isinstance(pattern, str | re.Pattern) else callers.shown(pattern)
