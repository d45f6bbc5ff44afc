"""Choosing leaves by their path."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from gdjax.values import value

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

    Raises:
      ValueError: (when used) leaves that no rule matches; the message lists them. End with the rule `".*"` for a rest.
    """

    def labels(tree: Any) -> Any:
        found = [
            (path, [label for pattern, label in rules.items() if _matches(pattern, path, leaf)])
            for path, leaf in paths_of(tree)
        ]
        unmatched = [path for path, names in found if not names]
        if unmatched:
            shown = ", ".join(map(_shown, rules))
            raise ValueError(f"gdjax.label_by_path: no rule matches {', '.join(unmatched)}; the rules are {shown}")
        return jax.tree.structure(tree).unflatten([names[0] for _, names in found])

    return labels


def paths_of(tree: Any) -> list[tuple[str, Any]]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in flat]


def _matches(pattern: Pattern, path: str, leaf: Any) -> bool:
    if isinstance(pattern, str | re.Pattern):
        return re.search(pattern, path) is not None
    return bool(pattern(path, leaf))


def _shown(pattern: Pattern) -> str:
    return repr(pattern) if isinstance(pattern, str | re.Pattern) else getattr(pattern, "__name__", repr(pattern))
