"""What an optimizer was built from: its factory and arguments, which it shows, compares and pickles by.

A factory such as ``adam(1e-3)`` returns functions. A plain closure equals only itself, cannot be pickled and prints as
an address. A `Value` is a function that remembers the *call* that made it, and is equal, hashed, pickled and printed by
that call. So JAX sees two optimizers built with equal arguments as one, and compiles once.
"""

import functools
import inspect
from collections.abc import Callable, Hashable, Iterator
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any, ParamSpec, TypeGuard, TypeVar

import jax
import numpy as np
from jax.core import Tracer

from gdjax.core import misuse
from gdjax.core.keys import key_of, of_plain_dict
from gdjax.core.misuse import NOT_CALLED, bound_arguments
from gdjax.core.signatures import plain_types

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])


class Call:
    """A call of a factory with its arguments, which identifies its result."""

    def __init__(self, factory: Callable[..., Any], bound: inspect.BoundArguments):
        like = misuse.defaults(factory, bound.arguments.get("like"))
        bound.arguments = {**like, **bound.arguments}
        bound.apply_defaults()
        self.factory = factory
        ours = is_ours(factory)
        # Lists and dicts as the program has them.
        self.mutable = {k: x for k, x in bound.arguments.items() if ours and _has_container(x)}
        if ours:  # copied, so that no one else can change them; the factory of another library may share its own
            bound.arguments = {name: _private(x) for name, x in bound.arguments.items()}
        self.args, self.kwargs = bound.args, bound.kwargs
        self.arguments = dict(bound.arguments)
        self.key = (factory, key_of((self.args, self.kwargs)))
        self.hash = hash(self.key)
        inside = [value_of(x) for x in _leaves((self.args, self.kwargs))]
        calls = [x.call for x in inside if isinstance(x, Value)]
        self.traced = any(isinstance(x, Tracer) for x in inside) or any(call.traced for call in calls)
        self.may_hold_arrays = any(map(_may_hold_arrays, inside))
        self.foreign = is_foreign([*self.args, *self.kwargs.values()])
        # Whether the key has all that the arguments say. Of what can be changed in place it has the identity alone; of
        # lists and dicts what they said at the call, so that an equal call makes the same thing if they are unchanged.
        self.comparable = all(map(_lasts, inside)) and all(call.comparable for call in calls)
        shared = not ours and any(map(_has_container, [*self.args, *self.kwargs.values()]))
        self.lasting = self.comparable and not shared and all(call.lasting for call in calls)

    def changed(self) -> str:
        """The name of an argument that is a list or a dict, and has been changed since; "" for none."""
        return next((name for name, x in self.mutable.items() if key_of(x) != key_of(self.arguments[name])), "")

    @property
    def name(self) -> str:
        if isinstance(self.factory, Value):
            return repr(self.factory)
        return getattr(self.factory, "__name__", repr(self.factory))

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Call):
            return self is other
        return self.comparable and other.comparable and self.hash == other.hash and self.key == other.key

    def __hash__(self) -> int:
        return self.hash

    def __repr__(self) -> str:
        kinds = {name: p.kind for name, p in inspect.signature(self.factory).parameters.items()}
        shown = []
        for name, value in self.arguments.items():
            if kinds[name] is inspect.Parameter.VAR_POSITIONAL:
                shown += [_show(v) for v in value]
            elif kinds[name] is inspect.Parameter.VAR_KEYWORD:
                shown += [f"{k}={_show(v)}" for k, v in value.items()]
            else:
                shown.append(f"{name}={_show(value)}")
        return f"{self.name}({', '.join(shown)})"


class Value:
    """The function `fn`: the `part` of the result of `call`, or with None the result itself.

    Args:
      inner: the calls that made the result before this one, the outermost first: of `freeze(...)`, `masked(...)`.
      foreign: whether the function is of someone else.
    """

    def __init__(
        self, call: Call, part: str | None, fn: Callable[..., Any], inner: tuple[Call, ...] = (), foreign: bool = False
    ):
        self.call, self.part, self.fn, self.foreign = call, part, fn, foreign
        self.calls = (call, *inner)
        functools.update_wrapper(self, fn, updated=())
        self.__name__ = call.name if part is None else part
        self.__qualname__ = call.name if part is None else f"{call.name}.{part}"

    def around(self, fn: Callable[..., Any]) -> "Value":
        """The same with another function inside."""
        return type(self)(self.call, self.part, fn, self.calls[1:], self.foreign)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return self is other or isinstance(other, Value) and self.part == other.part and self.call == other.call

    def __hash__(self) -> int:
        return hash((self.call.hash, self.part))

    def __repr__(self) -> str:
        return repr(self.call) if self.part is None else f"{self.call!r}.{self.part}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.call.factory, self.call.args, self.call.kwargs, self.part)

    def __deepcopy__(self, memo: object = None) -> "Value":
        return self

    __copy__ = __deepcopy__


def value(factory: Callable[P, F]) -> Callable[P, F]:
    """Makes the function that `factory` returns a `Value`: equal, hashed, pickled and printed by the call."""

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Any:
        call = bind(make, args, kwargs)
        return Value(call, None, factory(*call.args, **call.kwargs))

    return plain_types(make)


def is_ours(factory: object) -> bool:
    """Whether a function is of this library; one made by `exec` may have None for its module."""
    return (getattr(factory, "__module__", None) or "").startswith("gdjax.")


def value_of(x: object) -> Any:
    """The value behind a function made here; anything else as it is."""
    return getattr(x, "made", x) if isinstance(x, FunctionType) else x


def function_behind(f: Any) -> Any:
    """The function that a factory returned, behind one made here; any other as it is."""
    made = value_of(f)
    return made.fn if isinstance(made, Value) else made


def is_foreign(x: Any) -> bool:
    """Whether x is or holds a function or a transform of someone else's: each call of it may give something else."""
    x = value_of(x)
    if isinstance(x, Value):
        return x.call.foreign or not getattr(x, "compiles", True)
    if isinstance(x, functools.partial):
        return is_foreign([x.func, x.args, x.keywords])
    if isinstance(x, dict):
        return any(map(is_foreign, [*x.keys(), *x.values()]))  # a pattern may be a function
    if isinstance(x, list | tuple | set | frozenset):
        return any(map(is_foreign, x))
    if is_ours(type(x)):
        return is_foreign(getattr(x, "__dict__", {}))
    a_function = not isinstance(x, type) and (callable(x) or hasattr(x, "update"))
    return a_function and not (getattr(x, "__module__", None) or "").startswith(("gdjax.", "jax."))


def not_called(factory: Any) -> None:
    """Gives a factory an `init` and an `update` that say to call the factory first."""

    def refusal(call: str) -> Callable[..., Any]:
        def instead(*args: Any, **kwargs: Any) -> Any:
            label = _label(factory)
            raise AttributeError(f"{label} is a function that makes a transform: call it: {label}(...).{call}")

        setattr(instead, NOT_CALLED, True)
        return instead

    factory.init, factory.update = refusal("init(params)"), refusal("update(updates, state, params)")


def bind(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The call `factory(*args, **kwargs)`.

    Raises:
      TypeError: the arguments do not fit the signature; the message says what to write, and lists the valid names.
    """
    return Call(factory, bound_arguments(_label(factory), inspect.signature(factory), args, kwargs))


def _label(factory: Any) -> str:
    name = getattr(factory, "__name__", repr(factory))
    return f"gdjax.{name}" if is_ours(factory) else name


def _rebuild(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], part: str | None) -> Any:
    made = factory(*args, **kwargs)
    return made if part is None else getattr(made, part)


def _leaves(x: Any) -> Iterator[Any]:
    for leaf in jax.tree.leaves(x, is_leaf=of_plain_dict):
        if of_plain_dict(leaf):
            yield from _leaves(list(leaf.values()))
        else:
            yield leaf


def _private(x: Any) -> Any:
    """x with its lists and dicts copied."""
    if of_plain_dict(x):
        return {k: _private(v) for k, v in x.items()}
    return type(x)(map(_private, x)) if type(x) in (list, tuple) else x


def _lasts(x: object) -> bool:
    """Whether an argument stays as it is, as far as can be seen; a NumPy array, a namespace or an instance of a plain
    class may not.
    """
    plain = type(x).__hash__ is object.__hash__ and not callable(x) and not is_ours(type(x))
    return isinstance(x, jax.Array) or isinstance(x, Hashable) and not plain


def _may_hold_arrays(x: Any) -> bool:
    """Whether `closures.Form` may find arrays in an argument."""
    if isinstance(x, jax.Array | np.ndarray | functools.partial):
        return True
    x = value_of(getattr(x, "update", x))
    if isinstance(x, Value):
        return x.call.may_hold_arrays
    if is_dataclass(x) and is_ours(type(x)):
        return any(map(_may_hold_arrays, _leaves([getattr(x, f.name) for f in fields(x)])))
    return is_closure(x)


def is_closure(x: object) -> TypeGuard[FunctionType]:
    """Whether x is a function that reads variables of the call that made it, and no decorated one."""
    return isinstance(x, FunctionType) and bool(x.__closure__) and not hasattr(x, "__wrapped__")


def _has_container(x: object) -> bool:
    return any(map(_has_container, x)) if type(x) is tuple else isinstance(x, list | dict | set)


def _show(x: object) -> str:
    if isinstance(x, type) or inspect.isfunction(x):
        return x.__name__
    return repr(x)
