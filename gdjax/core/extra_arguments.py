"""The extra arguments of `update`: which ones are read, and which name is a slip."""

import inspect
from collections.abc import Mapping
from typing import Any

from gdjax.core.closures import value_of
from gdjax.core.part import Part, keywords
from gdjax.core.types import Transform
from gdjax.core.values import Value, is_ours


def taken(tx: Transform) -> bool:
    """Whether `tx.update` accepts extra keyword arguments, as every transform of this library does."""
    return isinstance(value_of(tx.update), Value) or keywords(tx.update)[1]


def asked(update: Any) -> frozenset[str] | None:
    """The extra arguments that an `update` and the transforms inside read; None where that is unknown."""
    made = value_of(update)
    function = made.fn if isinstance(made, Value) else made
    part = getattr(function, "__self__", None)
    if not isinstance(part, Part):
        named, any_other = keywords(function)
        hidden = any_other and not (isinstance(made, Value) and is_ours(made.call.factory))
        return None if hidden else named
    each = [part.asks(), *(None if x.tx is None else asked(x.tx.update) for x in part.inside())]
    return None if None in each else frozenset().union(*each)


def check(label: str, given: Mapping[str, Any], asked: frozenset[str] | None) -> None:
    """Raises if an extra argument that nothing reads is one edit away from a missing one that something reads.

    Any other name passes, as in Optax. Functions among the arguments may read some too, such as `value_fn`.
    """
    if asked is None or given.keys() <= asked:
        return
    known = asked.union(*map(argument_names, filter(callable, given.values())))
    for name in given.keys() - known:
        for meant in sorted(asked - given.keys()):
            if _one_edit(name, meant):
                raise TypeError(f"{label}: unknown argument {name!r} of update: perhaps {meant}")


def argument_names(f: Any) -> list[str]:
    """The arguments of a function after the first one; none where it has no signature."""
    try:
        return [*inspect.signature(f).parameters][1:]
    except (TypeError, ValueError):
        return []


def _one_edit(x: str, y: str) -> bool:
    """Whether x and y differ by one letter more, less or changed, or by two exchanged neighbours."""
    x, y = sorted((x, y), key=len)
    i = next((i for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), len(x))
    if len(x) < len(y):
        return x[i:] == y[i + 1 :]
    return x[i + 1 :] == y[i + 1 :] or x[i + 1 : i + 2] + x[i : i + 1] + x[i + 2 :] == y[i:]
