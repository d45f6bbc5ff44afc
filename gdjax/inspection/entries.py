"""The arrays of a state by name.

Each goes by the names of the transforms around it, its field, and the path of its parameter:
"scale_by_adam/mu/dense/kernel". A transform has the name of its state's class. The place in a chain is no part of it;
what occurs twice is numbered, "scale_by_adam_2". Optax's states have the same names.

`state_to_dict` gets a state without its transform, and what it writes is read for another one. So the names come from
the classes and the fields of the state alone (`guesses.holds_states`), also where a transform is known.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from gdjax.core.guesses import holds_states
from gdjax.core.paths import path_of, paths_of
from gdjax.core.types import OptState
from gdjax.lift.order import name_of_state


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
    found = list(_entries(state, (), Counter()))
    repeated = [path for path, n in Counter(entry.path for entry in found).items() if n > 1]
    if repeated:
        raise ValueError(f"{label}: several arrays of the state go by the name {', '.join(map(repr, repeated))}")
    return found


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
    found = {path: path for path in set(paths) & set(theirs)}
    rest = [(path, end) for path, end in zip(paths, ends, strict=True) if path not in found]
    wanted = Counter(end for _, end in rest)
    left = [path for path in theirs if path not in found]
    for path, end in rest:
        alike = [other for other in left if other == end or other.endswith(f"/{end}")]
        if len(alike) == wanted[end] == 1:
            found[path] = alike[0]
    return found
