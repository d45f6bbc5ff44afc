"""Choosing leaves by their path."""

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax

from gdjax.core.values import value

Pattern = str | re.Pattern[str] | Callable[[str, Any], bool]  # searched in a path, or a predicate of (path, leaf)


@value
def mask_by_path(*patterns: Pattern) -> Callable[[Any], Any]:
    """A mask that is True for the leaves whose path one of the patterns matches.

    The path of a leaf is its keys joined by "/", for instance "layers/0/bias".

    Args:
      *patterns: a regular expression, searched for anywhere in the path, or a predicate of `(path, leaf)`.

    Returns:
      A function from a tree to a tree of booleans, for `masked`, `freeze` and the `mask` of an optimizer.

    Raises:
      ValueError: (when used) a pattern matches no leaf; the message lists the paths.
    """

    def mask(tree: Any) -> Any:
        paths = paths_of(tree)
        for pattern in patterns:
            if paths and not any(_matches(pattern, *item) for item in paths):
                listed = ", ".join(path for path, _ in paths)
                raise ValueError(f"gdjax.mask_by_path: {_shown(pattern)} matches none of {listed}")
        flags = [any(_matches(pattern, *item) for pattern in patterns) for item in paths]
        return jax.tree.structure(tree).unflatten(flags)

    return mask


@value
def label_by_path(rules: Mapping[Any, Any]) -> Callable[[Any], Any]:
    """Labels for `partition` by the path of a leaf: that of the first rule whose pattern matches, as in `mask_by_path`.

    For instance `label_by_path({"bias$|scale$": "vector", ".*": "matrix"})`: from pattern to label.

    A rule that labels no leaf is a warning (when used): its pattern matches no leaf, or rules before it have labelled
    all that it matches. There is no warning for a rule for the rest, whose pattern matches every leaf.

    Raises:
      ValueError: (when used) leaves that no rule matches; the message lists them. End with the rule `".*"` for a rest.
    """

    def labels(tree: Any) -> Any:
        paths = paths_of(tree)
        found = [[k for k, pattern in enumerate(rules) if _matches(pattern, *item)] for item in paths]
        unmatched = [path for (path, _), matching in zip(paths, found, strict=True) if not matching]
        if unmatched:
            shown = ", ".join(map(_shown, rules))
            raise ValueError(f"gdjax.label_by_path: no rule matches {', '.join(unmatched)}; the rules are {shown}")
        _warn_of_idle(rules, tree, [path for path, _ in paths], found)
        names = list(rules.values())
        return jax.tree.structure(tree).unflatten([names[matching[0]] for matching in found])

    return labels


def _warn_of_idle(rules: Mapping[Any, Any], tree: Any, paths: list[str], found: list[list[int]]) -> None:
    """Warns of rules that label no leaf; not under a mask, which may hide their leaves."""
    if any(map(_is_masked, jax.tree.leaves(tree, is_leaf=_is_masked))):
        return
    labels = list(rules.values())
    used = {matching[0] for matching in found}
    for k, pattern in enumerate(rules):
        matched = [path for path, matching in zip(paths, found, strict=True) if k in matching]
        if k in used or len(matched) == len(paths):
            continue
        why = f"rules before it label {', '.join(matched)}" if matched else f"it matches none of {', '.join(paths)}"
        shown = ", ".join(repr(labels[i]) for i in sorted(used))
        warnings.warn(
            f"gdjax.label_by_path: no leaf is labelled {labels[k]!r} by the rule {_shown(pattern)}: {why}; "
            f"the labels in use are {shown}",
            stacklevel=2,
        )


def _is_masked(x: Any) -> bool:
    """Whether `x` is a `MaskedNode`, of this library or of Optax."""
    return type(x).__name__ == "MaskedNode"


def paths_of(tree: Any) -> list[tuple[str, Any]]:
    return [(path_of(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def path_of(keys: Any) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _matches(pattern: Pattern, path: str, leaf: Any) -> bool:
    if isinstance(pattern, str | re.Pattern):
        return re.search(pattern, path) is not None
    return bool(pattern(path, leaf))


def _shown(pattern: Pattern) -> str:
    return repr(pattern) if isinstance(pattern, str | re.Pattern) else getattr(pattern, "__name__", repr(pattern))
