"""Transforms as pairs of functions: what arrays these close over, and the extra arguments that they take.

Some programs take an optimizer apart to find its arrays: Optimistix, through Equinox, makes pytrees of the closures
`init` and `update`, so that a traced learning rate is an operand of the compiled solver. They look into the cells of
plain functions only, and a plain function cannot define `==`. Here equal calls get the same function.
"""

import functools
import inspect
import itertools
import types
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gdjax.core.contexts import WHERE, within
from gdjax.core.keys import identity, of_plain_dict
from gdjax.core.part import Operand, Part, keywords
from gdjax.core.types import ArrayTree, OptState, Params, Transform, Updates
from gdjax.core.values import Call, Value, is_ours, value_of


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


def check_extra_args(label: str, extra_args: Mapping[str, Any], asked: frozenset[str] | None) -> None:
    """Raises if an extra argument that nothing reads is one edit away from a missing one that something reads.

    Any other name passes, as in Optax. Functions among the arguments may read some too, such as `value_fn`.
    """
    if asked is None or extra_args.keys() <= asked:
        return
    known = asked.union(*map(argument_names, filter(callable, extra_args.values())))
    for name in extra_args.keys() - known:
        for meant in sorted(asked - extra_args.keys()):
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


class Form:
    """What transforms share that differ in their numbers and arrays alone.

    An update outside of `jit` is compiled once for a form. The operands of that program are the arrays and the plain
    numbers of the rules, so `adam(rate / step)` made anew in each step compiles nothing anew. See
    `number_domains.is_operand` for the numbers that stay constants.

    Args:
      update: the `update` of a transform.
      constant: whether all its numbers and arrays are constants.
    """

    def __init__(self, update: Value, constant: bool = False):
        part = getattr(update.fn, "__self__", None)
        of_fields = isinstance(part, Part) and part.content() is not None
        apart = [], update, lambda new: update
        self.operands, self.key, self._again = apart if constant else _leaf_apart(part if of_fields else update, True)
        self.hash = hash(self.key)

    def update(self, operands: Iterable[Any]) -> Callable[..., Any]:
        """The function with other numbers and arrays."""
        with within(WHERE, warned=True):
            new = value_of(self._again(iter(operands)))
        return new.fn if isinstance(new, Value) else new.update

    def __eq__(self, other: object) -> bool:
        return self is other or isinstance(other, Form) and self.hash == other.hash and self.key == other.key

    def __hash__(self) -> int:
        return self.hash


def part_of(tx: Any) -> Any:
    """The `Part` of a transform of this library; None for any other transform."""
    owner = getattr(getattr(value_of(tx.update), "fn", None), "__self__", tx)
    return owner if isinstance(owner, Part) else None


def label_of(call: Call) -> str:
    """The name under which a transform reports errors."""
    return f"gdjax.{call.name}" if is_ours(call.factory) else call.name


def _taken_apart(
    tree: ArrayTree, numbers: bool = False
) -> tuple[list[Any], Hashable, Callable[[Iterator[Any]], Any]]:  # fmt: skip
    """The arrays that a tree of arguments shows, a key of all else, and what makes such a tree of other arrays.

    Args:
      numbers: whether the numbers of transforms are shown too, and the arrays of closures are not.
    """
    is_leaf = lambda x: isinstance(x, Operand) or _opened(x, numbers) is not None
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_leaf)
    each = [_leaf_apart(x, numbers) for x in leaves]
    shown = list(itertools.chain.from_iterable(arrays for arrays, _, _ in each))
    make = lambda new: structure.unflatten([make(new) for _, _, make in each])
    return shown, (structure, *(key for _, key, _ in each)), make


def _leaf_apart(x: Any, numbers: bool) -> tuple[list[Any], Hashable, Callable[[Iterator[Any]], Any]]:
    if isinstance(x, Operand):
        return [x.number], Operand, next
    if (opened := _opened(x, numbers)) is not None:
        kind, inside, around = opened
        shown, key, make = _taken_apart(inside, numbers)
        return shown, (kind, key), lambda new: around(make(new))
    if isinstance(x, jax.Array | np.ndarray) or not numbers and _has_cells(x):
        return [x], "shown", lambda new: _in_place_of(x, next(new))
    return [], identity(x), lambda new: x


def _has_cells(x: Any) -> bool:
    """Whether x is a closure, which may hold arrays."""
    return isinstance(x, types.FunctionType) and bool(x.__closure__)


def _opened(x: Any, numbers: bool) -> tuple[Hashable, Any, Callable[[Any], Any]] | None:
    """Of a dict, a partial function, a part, or what a call made: its kind, its content, and what makes one of another.

    A factory of the program is not called again: it may read what has changed since.
    """
    if of_plain_dict(x):
        keys = tuple((type(k), k) for k in x)
        return (dict, keys), list(x.values()), lambda values: dict(zip(x, values, strict=True))
    if numbers and isinstance(x, functools.partial):
        return functools.partial, (x.func, x.args, x.keywords), lambda new: functools.partial(new[0], *new[1], **new[2])
    part = part_of(x) if numbers and hasattr(x, "update") else None
    content = None if part is None else part.content()
    if content is not None:
        return type(part), content, lambda content: type(part)(**content)
    made = value_of(getattr(x, "update", x))
    if not isinstance(made, Value):
        return None
    call = getattr(made, "calls", (made.call,))[-1] if numbers else made.call
    if numbers and not is_ours(call.factory):
        return made, (), lambda _: x
    function = getattr(value_of(x), "part", None)  # "init" or "update", if x is one of these

    def again(arguments: Any) -> Any:
        new = call.factory(*arguments[0], **arguments[1])
        return new if function is None else getattr(new, function)

    return (Value, function, call.factory), (call.args, call.kwargs), again


def _in_place_of(old: object, new: Callable[..., Any]) -> Any:
    """`new`; with the signature of `old` if that is a function, since signatures decide how some are called."""
    if new is old or not isinstance(old, types.FunctionType):
        return new

    @functools.wraps(old)
    def function(*args: Any, **kwargs: Any) -> Any:
        return new(*args, **kwargs)

    return function
