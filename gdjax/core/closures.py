"""Transforms as pairs of functions: what arrays these close over, and the extra arguments that they take.

Some programs take an optimizer apart to find its arrays: Optimistix, through Equinox, makes pytrees of the closures
`init` and `update`, so that a traced learning rate is an operand of the compiled solver. They look into the cells of
plain functions only, and a plain function cannot define `==`. Here equal calls get the same function, and its cells the
leaves of a `Form`: the same ones that a compiled eager update takes as operands.
"""

import contextlib
import functools
import itertools
import types
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import numpy as np

from gdjax.core import callers
from gdjax.core.contexts import WHERE, within
from gdjax.core.keys import identity, of_plain_dict
from gdjax.core.number_domains import is_operand
from gdjax.core.part import Operand, Pair, Part, keywords
from gdjax.core.types import ArrayTree, OptState, Params, ScalarOrSchedule, Transform, Updates
from gdjax.core.values import Call, Value, function_behind, is_closure, is_ours, value_of


def takes_extra_args(tx: Transform) -> bool:
    """Whether `tx.update` accepts extra keyword arguments, as every transform of this library does."""
    return isinstance(value_of(tx.update), Value) or keywords(tx.update)[1]


def extra_args_read(update: Any) -> frozenset[str] | None:
    """The extra arguments that an `update` and the transforms inside read; None where that is unknown."""
    made, function = value_of(update), function_behind(update)
    part = getattr(function, "__self__", None)
    if not isinstance(part, Part):
        named, any_other = keywords(function)
        ours = isinstance(made, Value) and is_ours(made.call.factory)
        return None if any_other and not ours else named
    each = [part.asks(), *(None if x.tx is None else extra_args_read(x.tx.update) for x in part.inside())]
    return None if None in each else frozenset().union(*each)


def check_extra_args(label: str, extra_args: Mapping[str, Any], read: frozenset[str] | None) -> None:
    """Raises if an extra argument that nothing reads is one edit away from a missing one that something reads.

    Any other name passes, as in Optax. Functions among the arguments may read some too, such as `value_fn`.
    """
    if read is None or extra_args.keys() <= read:
        return
    known = read.union(*map(argument_names, filter(callable, extra_args.values())))
    for name in extra_args.keys() - known:
        for meant in sorted(read - extra_args.keys()):
            if _one_edit(name, meant):
                raise TypeError(f"{label}: unknown argument {name!r} of update: perhaps {meant}")


def argument_names(f: Any) -> list[str]:
    """The arguments of a function after the first one; none where it has no signature."""
    return [x.name for x in callers.parameters(f)][1:]


def _one_edit(x: str, y: str) -> bool:
    """Whether x and y differ by one letter more, less or changed, or by two exchanged neighbours."""
    x, y = sorted((x, y), key=len)
    i = next((i for i, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), len(x))
    if len(x) < len(y):
        return x[i:] == y[i + 1 :]
    return x[i + 1 :] == y[i + 1 :] or x[i + 1 : i + 2] + x[i : i + 1] + x[i + 2 :] == y[i:]


_functions: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()


def function_of(made: Value) -> Callable[..., Any]:
    """`made`, the `init` or `update` of a transform, as a plain function: the same one for equal values."""
    if made.call.traced or not made.call.lasting:
        return _closure(made)
    function = _functions.get(made)
    if function is None:
        function = _functions[made] = _closure(made)
    return function


def _closure(made: Value) -> Callable[..., Any]:
    form = Form(made, constant=not made.call.may_hold_arrays)
    leaves = tuple(form.leaves)

    def init(params: Params) -> OptState:
        return form.filled(leaves)(params)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        return form.filled(leaves)(updates, state, params, **extra_args)

    function: Any = init if made.part == "init" else update
    function.__qualname__, function.__doc__, function.made = f"{made.call.name}.{made.part}", made.__doc__, made
    return function


class Form:
    """An `init` or `update` without its arrays and the plain numbers of its rules: equal to one with others of these.

    An update outside of `jit` is compiled once for a form, with these leaves as operands, so `adam(rate / step)` made
    anew in each step compiles nothing anew. See `number_domains.is_operand` for the numbers that stay constants.

    Args:
      made: the `init` or `update`.
      constant: whether all its numbers and arrays are constants.
    """

    def __init__(self, made: Value, constant: bool = False):
        self.made = made
        self.leaves, self.key, self._again = ([], made, lambda new: made) if constant else _entry_apart(made)

    def function(self, leaves: Iterable[Any]) -> Callable[..., Any]:
        """The function with other leaves."""
        with within(WHERE, warned=True):
            return value_of(self._again(iter(leaves)))

    def filled(self, leaves: Sequence[Any]) -> Callable[..., Any]:
        """The `init` or `update` with other leaves."""
        if all(x is y for x, y in zip(leaves, self.leaves, strict=True)):
            return self.made
        function = self.function(leaves)
        return function if isinstance(function, Value) else self.made.around(function)

    def __eq__(self, other: object) -> bool:
        return self is other or isinstance(other, Form) and self.hash == other.hash and self.key == other.key

    def __hash__(self) -> int:
        return self.hash

    @functools.cached_property
    def hash(self) -> int:
        return hash(self.key)


def part_of(tx: Any) -> Any:
    """The `Part` of a transform of this library; None for any other transform."""
    owner = getattr(getattr(value_of(tx.update), "fn", None), "__self__", tx)
    return owner if isinstance(owner, Part) else None


def label_of(call: Call) -> str:
    """The name under which a transform reports errors."""
    return f"gdjax.{call.name}" if is_ours(call.factory) else call.name


Apart = tuple[list[Any], Hashable, Callable[[Iterator[Any]], Any]]  # leaves, all else, what joins both again


def _taken_apart(tree: ArrayTree, closures: tuple[Any, ...] = ()) -> Apart:
    """The arrays and `Operand`s of a tree of arguments, a key of all else, and what makes such a tree of other ones.

    Args:
      closures: that hold the tree.
    """
    entries, structure = jax.tree.flatten(tree, is_leaf=_is_entry)
    each = [_entry_apart(x, closures) for x in entries]
    leaves = list(itertools.chain.from_iterable(leaves for leaves, _, _ in each))
    make = lambda new: structure.unflatten([make(new) for _, _, make in each])
    return leaves, (structure, *(key for _, key, _ in each)), make


def _is_entry(x: Any) -> bool:
    """Whether x is taken apart as a whole, where JAX sees a container."""
    return isinstance(x, Operand) or of_plain_dict(x) or isinstance(value_of(getattr(x, "update", None)), Value)


def _entry_apart(x: Any, closures: tuple[Any, ...] = ()) -> Apart:
    if isinstance(x, Operand):
        return [x.number], Operand, next
    if isinstance(x, jax.Array | np.ndarray):
        return [x], jax.Array, next
    opened = None if any(x is f for f in closures) else _opened(x)
    if opened is None:
        return [], identity(x), lambda new: x
    kind, content, around = opened
    leaves, key, make = _taken_apart(content, (*closures, x) if is_closure(x) else closures)
    return leaves, (kind, key), (lambda new: around(make(new))) if leaves else lambda new: x


def _opened(x: Any) -> tuple[Hashable, Any, Callable[[Any], Any]] | None:
    """The kind of what may hold arrays, its content, and what makes one of another content; None for anything else."""
    if of_plain_dict(x):
        keys = tuple((type(k), k) for k in x)
        return (dict, keys), list(x.values()), lambda values: dict(zip(x, values, strict=True))
    if isinstance(x, functools.partial):
        return functools.partial, (x.func, x.args, x.keywords), lambda new: functools.partial(new[0], *new[1], **new[2])
    made = value_of(getattr(x, "update", x))
    if isinstance(made, Value):
        return _made_opened(x, made)
    if is_dataclass(x) and is_ours(type(x)):
        content = x.content() if isinstance(x, Part) else _fields_of(x)
        return None if content is None else (type(x), content, lambda content: type(x)(**content))
    if is_closure(x):
        with contextlib.suppress(ValueError):  # of a variable without a value
            contents = [cell.cell_contents for cell in x.__closure__ or ()]
            return id(x.__code__), (contents, x.__defaults__, x.__kwdefaults__), functools.partial(_with_content, x)
    return None


def _made_opened(x: Any, made: Any) -> tuple[Hashable, Any, Callable[[Any], Any]]:
    """What a call made: a transform, its `init` or `update`, or a schedule.

    A factory of the program is not called again: it may read what has changed since.
    """
    name = made.part if value_of(x) is made else None
    member = lambda new: new if name is None else getattr(new, name)
    part = getattr(made.fn, "__self__", None)
    content = part.content() if isinstance(part, Part) else None
    if content is not None:
        return (type(part), name), content, lambda content: member(type(part)(**content))
    call = made.calls[-1]
    if is_ours(call.factory):
        return (call.factory, name), (call.args, call.kwargs), lambda new: member(call.factory(*new[0], **new[1]))
    if value_of(x) is made:
        return Value, made.fn, lambda function: function
    return Pair, (function_behind(x.init), made.fn), Pair


def _fields_of(x: Any) -> dict[str, Any]:
    """The fields of a schedule, with the numbers marked that are `Operand`s."""
    each = {f.name: (f.type, getattr(x, f.name)) for f in fields(x)}
    return {k: Operand(v) if kind == ScalarOrSchedule and is_operand(v, ()) else v for k, (kind, v) in each.items()}


def _with_content(function: Any, content: tuple[Any, ...]) -> Any:
    """A closure over other things, with other defaults."""
    cells = tuple(map(types.CellType, content[0]))
    new = types.FunctionType(function.__code__, function.__globals__, None, content[1], cells)
    new.__kwdefaults__ = content[2]
    return functools.update_wrapper(new, function)
