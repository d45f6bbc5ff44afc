"""Plain functions that show the arrays they were made with, and are still values.

Some programs take an optimizer apart to find its arrays: Optimistix, through Equinox, makes pytrees of the closures
`init` and `update`, so that a traced learning rate is an operand of the compiled solver. They look into the cells of
plain functions only, and a plain function cannot define `==`. Here equal calls get the same function.
"""

import functools
import types
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from gdjax.core.types import ArrayTree, OptState, Params, Updates
from gdjax.core.values import Call, Value, key_of, of_plain_dict

_known: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()


def function_of(made: Value) -> Callable[..., Any]:
    """`made`, the `init` or `update` of a transform, as a plain function: the same one for equal values."""
    if made.call.traced or not made.call.lasting:
        return _closure(made)
    function = _known.get(made)
    if function is None:
        function = _known[made] = _closure(made)
    return function


def value_of(function: object) -> Any:
    """The value behind a function made here; anything else as it is."""
    return getattr(function, "made", function)


def _closure(made: Value) -> Callable[..., Any]:
    template = _Template(made)
    shown = template.originals

    def init(params: Params) -> OptState:
        return template.filled(shown)(params)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        return template.filled(shown)(updates, state, params, **extra_args)

    function: Any = init if made.part == "init" else update
    function.__qualname__, function.__doc__, function.made = f"{made.call.name}.{made.part}", made.__doc__, made
    return function


class _Template:
    """The rest of a closure, without its arrays. Two are equal if their calls differ in the arrays alone."""

    def __init__(self, made: Value):
        self.made = made
        self.key = made.part, made.call.factory, key_of((made.call.args, made.call.kwargs), _but_shown)
        self.originals = tuple(_shown((made.call.args, made.call.kwargs)))

    def filled(self, shown: Sequence[Any]) -> Callable[..., Any]:
        """The function with these arrays in place of its own."""
        if all(x is y for x, y in zip(shown, self.originals, strict=True)):
            return self.made
        return getattr(_made_again(self.made.call, iter(shown)), self.made.part or "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Template) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _is_leaf(x: object) -> bool:
    return of_plain_dict(x) or _call_of(x) is not None


def _call_of(x: object) -> Call | None:
    """The call that made a value or a transform; None where no call did."""
    made = value_of(getattr(x, "update", x))
    return made.call if isinstance(made, Value) else None


def _is_shown(x: object) -> bool:
    """Whether a leaf is an array, or a function that may hold arrays."""
    return isinstance(x, jax.Array | np.ndarray) or isinstance(x, types.FunctionType) and bool(x.__closure__)


def _shown(tree: ArrayTree) -> list[Any]:
    found: list[Any] = []
    for x in jax.tree.leaves(tree, is_leaf=_is_leaf):
        if of_plain_dict(x):
            found += _shown(list(x.values()))
        elif (call := _call_of(x)) is not None:
            found += _shown((call.args, call.kwargs))
        elif _is_shown(x):
            found.append(x)
    return found


def _but_shown(x: object) -> Hashable | None:
    """The key of a leaf that holds arrays, without the arrays; None for any other leaf, which is its own key."""
    call = _call_of(x)
    if call is not None:
        part = getattr(value_of(x), "part", None)
        return Value, part, call.factory, key_of((call.args, call.kwargs), _but_shown)
    return ("shown",) if _is_shown(x) else None


def _with(tree: ArrayTree, shown: Iterator[Any]) -> Any:
    """The tree with each array it shows replaced by the next of `shown`."""

    def leaf(x: object) -> Any:
        if of_plain_dict(x):
            return {k: _with(v, shown) for k, v in x.items()}
        if (call := _call_of(x)) is not None:
            again, part = _made_again(call, shown), getattr(value_of(x), "part", None)
            return again if part is None else getattr(again, part)
        return _in_place_of(x, next(shown)) if _is_shown(x) else x

    return jax.tree.map(leaf, tree, is_leaf=_is_leaf)


def _in_place_of(old: object, new: Callable[..., Any]) -> Any:
    """`new`; with the signature of `old` if that is a function, since signatures decide how some are called."""
    if new is old or not isinstance(old, types.FunctionType):
        return new

    @functools.wraps(old)
    def function(*args: Any, **kwargs: Any) -> Any:
        return new(*args, **kwargs)

    return function


def _made_again(call: Call, shown: Iterator[Any]) -> Any:
    args, kwargs = _with((call.args, call.kwargs), shown)
    return call.factory(*args, **kwargs)
