"""Functions that are values.

A factory such as ``adam(1e-3)`` returns functions. Plain closures are equal only to themselves, cannot be pickled and
print as an address. A `Value` is a function that remembers the *call* that made it, and is equal, hashed, pickled
and printed by that call. JAX then sees two optimizers built with equal arguments as one, and compiles once.
"""

import functools
import inspect
from collections.abc import Callable, Hashable, Iterator
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.core import Tracer

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])


class Call:
    """A call of a factory with its arguments: the identity of what the factory returned."""

    def __init__(self, factory: Callable[..., Any], bound: inspect.BoundArguments):
        bound.apply_defaults()
        self.factory = factory
        self.args, self.kwargs = bound.args, bound.kwargs
        self.arguments = dict(bound.arguments)
        self.key = (factory, _key((self.args, self.kwargs)))
        self.hash = hash(self.key)
        inside = _leaves((self.args, self.kwargs))
        self.traced = any(isinstance(x, Tracer) or isinstance(x, Value) and x.call.traced for x in inside)

    @property
    def name(self) -> str:
        if isinstance(self.factory, Value):
            return repr(self.factory)
        return getattr(self.factory, "__name__", repr(self.factory))

    def __eq__(self, other: object) -> bool:
        return self is other or isinstance(other, Call) and self.hash == other.hash and self.key == other.key

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
    """The function `fn`, as the `part` (None for the whole) of what `call` returned."""

    def __init__(self, call: Call, part: str | None, fn: Callable[..., Any]):
        self.call, self.part, self.fn = call, part, fn
        functools.update_wrapper(self, fn, updated=())
        self.__name__ = call.name if part is None else part
        self.__qualname__ = call.name if part is None else f"{call.name}.{part}"

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

    def __copy__(self) -> "Value":
        return self

    def __deepcopy__(self, memo: Any) -> "Value":
        return self


def value(factory: Callable[P, F]) -> Callable[P, F]:
    """Makes the function that `factory` returns a `Value`: equal, hashed, pickled and printed by the call."""

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Any:
        call = bind(make, args, kwargs)
        return Value(call, None, factory(*call.args, **call.kwargs))

    return make


def bind(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The call `factory(*args, **kwargs)`.

    Raises:
      TypeError: the arguments do not fit the signature; the message lists the valid names.
    """
    signature = inspect.signature(factory)
    try:
        return Call(factory, signature.bind(*args, **kwargs))
    except TypeError as e:
        name = getattr(factory, "__name__", repr(factory))
        raise TypeError(f"gdjax.{name}: {e}; its arguments are {', '.join(signature.parameters)}") from None


def _rebuild(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], part: str | None) -> Any:
    made = factory(*args, **kwargs)
    return made if part is None else getattr(made, part)


def _is_dict(x: Any) -> bool:
    return type(x) is dict  # JAX sorts its keys, which may not compare, and whose order may matter


def _key(x: Any) -> Hashable:
    leaves, structure = jax.tree.flatten(x, is_leaf=_is_dict)
    return structure, tuple(map(_identity, leaves))


def _leaves(x: Any) -> Iterator[Any]:
    for leaf in jax.tree.leaves(x, is_leaf=_is_dict):
        if _is_dict(leaf):
            yield from _leaves(list(leaf.values()))
        else:
            yield leaf


def _identity(leaf: Any) -> Hashable:
    """What makes two arguments the same: type and value, or the object itself where it has no usable equality."""
    if _is_dict(leaf):
        return dict, tuple((_identity(k), _key(v)) for k, v in leaf.items())
    if isinstance(leaf, jax.Array | np.ndarray):
        return id(leaf)
    try:
        hash(leaf)
    except TypeError:
        return id(leaf)
    return type(leaf), leaf


def _show(x: Any) -> str:
    if isinstance(x, type) or inspect.isfunction(x):
        return x.__name__
    return repr(x)
