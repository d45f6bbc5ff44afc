"""Transforms as pairs of functions: what arrays these close over, and the extra arguments that they take.

Some programs take an optimizer apart to find its arrays: Optimistix, through Equinox, makes pytrees of the closures
`init` and `update`, so that a traced learning rate is an operand of the compiled solver. They look into the cells of
plain functions only, and a plain function cannot define `==`. Here equal calls get the same function.
"""

import functools
import inspect
import types
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gdjax.core.part import Part, keywords
from gdjax.core.types import ArrayTree, OptState, Params, Transform, Updates
from gdjax.core.values import Value, identity, is_ours, of_plain_dict, value_of


def takes_extra_args(tx: Transform) -> bool:
    """Whether `tx.update` accepts extra keyword arguments, as every transform of this library does."""
    return isinstance(value_of(tx.update), Value) or keywords(tx.update)[1]


def extra_args_asked(update: Any) -> frozenset[str] | None:
    """The extra arguments that an `update` and the transforms inside read; None where that is unknown."""
    made = value_of(update)
    function = made.fn if isinstance(made, Value) else made
    part = getattr(function, "__self__", None)
    if not isinstance(part, Part):
        named, any_other = keywords(function)
        hidden = any_other and not (isinstance(made, Value) and is_ours(made.call.factory))
        return None if hidden else named
    each = [part.asks(), *(None if x.tx is None else extra_args_asked(x.tx.update) for x in part.inside())]
    return None if None in each else frozenset().union(*each)


def check_extra_args(label: str, given: Mapping[str, Any], asked: frozenset[str] | None) -> None:
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


_known: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()


def function_of(made: Value) -> Callable[..., Any]:
    """`made`, the `init` or `update` of a transform, as a plain function: the same one for equal values."""
    if made.call.traced or not made.call.lasting:
        return _closure(made)
    function = _known.get(made)
    if function is None:
        function = _known[made] = _closure(made)
    return function


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
        shown, self.key, self.again = _taken_apart(made)
        self.originals = tuple(shown)

    def filled(self, shown: Sequence[Any]) -> Callable[..., Any]:
        """The function with these arrays in place of its own."""
        if all(x is y for x, y in zip(shown, self.originals, strict=True)):
            return self.made
        return self.again(iter(shown))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Template) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _taken_apart(tree: ArrayTree) -> tuple[list[Any], Hashable, Callable[[Iterator[Any]], Any]]:
    """The arrays that a tree of arguments shows, a key of all else, and what makes such a tree of other arrays."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: _opened(x) is not None)
    shown, keys, makers = list[Any](), list[Hashable]([structure]), list[Callable[[Iterator[Any]], Any]]()
    for x in leaves:
        if (opened := _opened(x)) is not None:
            kind, inside, around = opened
            found, key, make = _taken_apart(inside)
            shown += found
            keys.append((kind, key))
            makers.append(lambda new, around=around, make=make: around(make(new)))
        elif isinstance(x, jax.Array | np.ndarray) or isinstance(x, types.FunctionType) and x.__closure__:
            shown.append(x)  # a closure may hold some
            keys.append("shown")
            makers.append(lambda new, x=x: _in_place_of(x, next(new)))
        else:
            keys.append(identity(x))
            makers.append(lambda new, x=x: x)
    return shown, tuple(keys), lambda new: structure.unflatten([make(new) for make in makers])


def _opened(x: Any) -> tuple[Hashable, Any, Callable[[Any], Any]] | None:
    """Of a dict, or what a call made: of which kind it is, what is inside, and what makes one of another inside."""
    if of_plain_dict(x):
        keys = tuple((type(k), k) for k in x)
        return (dict, keys), list(x.values()), lambda values: dict(zip(x, values, strict=True))
    made = value_of(getattr(x, "update", x))
    if not isinstance(made, Value):
        return None
    call, part = made.call, getattr(value_of(x), "part", None)

    def again(arguments: Any) -> Any:
        new = call.factory(*arguments[0], **arguments[1])
        return new if part is None else getattr(new, part)

    return (Value, part, call.factory), (call.args, call.kwargs), again


def _in_place_of(old: object, new: Callable[..., Any]) -> Any:
    """`new`; with the signature of `old` if that is a function, since signatures decide how some are called."""
    if new is old or not isinstance(old, types.FunctionType):
        return new

    @functools.wraps(old)
    def function(*args: Any, **kwargs: Any) -> Any:
        return new(*args, **kwargs)

    return function
