"""What an optimizer was built from: its factory and arguments, which it shows, compares and pickles by.

A factory such as ``adam(1e-3)`` returns functions. A plain closure equals only itself, cannot be pickled and prints as
an address. A `Value` is a function that remembers the *call* that made it, and is equal, hashed, pickled and printed by
that call. So JAX sees two optimizers built with equal arguments as one, and compiles once.
"""

import functools
import inspect
import re
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from types import FunctionType, UnionType
from typing import Annotated, Any, ParamSpec, TypeGuard, TypeVar, Union, get_args, get_origin

import jax
import numpy as np
from jax.core import Tracer

from gdjax.core import misuse
from gdjax.core.misuse import NOT_CALLED, bound_arguments
from gdjax.core.number_domains import AtLeast, Check, Domain, Fact, interval

P = ParamSpec("P")
R = TypeVar("R")
UNIONS = (Union, UnionType)


class Short(inspect.Signature):
    """A signature that prints types by their names. Its annotations are the types, which programs compare."""

    names: Mapping[str, Any]  # types with names; a `replace` of this one does not have them
    facts: Mapping[str, list[Fact]]  # what annotations say of an argument beside its type

    def __str__(self) -> str:
        return by_name(inspect.Signature.__str__(self), getattr(self, "names", {}))

    def format(self, **options: Any) -> str:  # what `help` calls from Python 3.13 on
        return by_name(inspect.Signature.format(self, **options), getattr(self, "names", {}))  # type: ignore[attr-defined]


def short_types(function: Callable[P, R], signature: inspect.Signature | None = None, **names: Any) -> Callable[P, R]:
    """Gives a function the signature that `help` shows: `signature` or its own, with short names of types.

    Only what is shown changes: the annotations of the signature and `typing.get_type_hints` are the types themselves.
    """
    written = signature or inspect.signature(function)
    parts = {name: _parted(function, p) for name, p in written.parameters.items()}
    parameters = [p.replace(annotation=parts[name][0]) for name, p in written.parameters.items()]
    shown = Short(parameters, return_annotation=written.return_annotation)
    shown.names = {**names, **aliases(function)}
    shown.facts = {name: facts for name, (_, facts) in parts.items() if facts}
    function.__signature__ = shown  # type: ignore[attr-defined]
    return function


def aliases(function: Callable[..., Any]) -> dict[str, Any]:
    """The public names in the module of a function that stand for a union or a type of functions."""
    names = getattr(inspect.unwrap(function), "__globals__", {})
    return {name: x for name, x in names.items() if name[0] != "_" and get_origin(x) in (*UNIONS, Callable)}


def by_name(text: str, names: Mapping[str, Any]) -> str:
    """A text with types in it, where each has its name in `names`, or else its own without the module."""

    def without_modules(text: str) -> str:
        return re.sub(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text)

    text = without_modules(text)
    for name, x in sorted(names.items(), key=lambda item: -len(get_args(item[1]))):
        members = get_args(x) if get_origin(x) in UNIONS else [x]
        for between in (", ", " | "):
            text = text.replace(between.join(without_modules(inspect.formatannotation(m)) for m in members), name)
    inside = r"\[((?:[^][]|\[[^][]*\])*)\]"  # what brackets hold, with one pair of brackets more
    text = re.sub(rf"\bOptional{inside}", r"\1 | None", text).replace("NoneType", "None")
    return re.sub(r"\bUnion\[([^][]*)\]", lambda union: union[1].replace(", ", " | "), text)


def facts_of(signature: inspect.Signature, name: str) -> list[Fact]:
    """What the annotation of an argument says beside its type."""
    facts = getattr(signature, "facts", None)
    return parted(signature.parameters[name].annotation)[1] if facts is None else facts.get(name, [])


def _parted(function: Callable[..., Any], parameter: inspect.Parameter) -> tuple[Any, list[Fact]]:
    """`parted`, of an annotation that may be a text, as with `from __future__ import annotations`."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, vars(sys.modules[code_of(function).__module__]))
        except Exception:  # of names that the module does not have
            return parameter.annotation, []
    try:
        plain, facts = parted(annotation)
    except ValueError as e:
        raise ValueError(f"{function.__name__}: the domain of {parameter.name}: {e}") from None
    return (plain if facts or plain != annotation else parameter.annotation), facts


def parted(annotation: Any) -> tuple[Any, list[Fact]]:
    """The type that a caller sees in an annotation, and what it says beside.

    `Annotated[Any, X]`, of an argument of a rule, is X to the caller of its factory. A text that begins as an interval
    is a domain.

    Raises:
      ValueError: it is no interval.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        named = next((x for x in args[1:] if args[0] is Any and get_origin(x) in (*UNIONS, Annotated)), args[0])
        plain, facts = parted(named)
        facts = facts + [x for x in map(_fact, args[1:]) if x]
        return (plain, facts) if facts or named is not args[0] else (annotation, [])
    if origin in UNIONS:
        parts = list(map(parted, args))
        facts = [x for _, more in parts for x in more]
        changed = any(plain is not x for (plain, _), x in zip(parts, args, strict=True))
        return (Union[tuple(plain for plain, _ in parts)] if changed else annotation), facts  # noqa: UP007
    return getattr(annotation, "__forward_arg__", annotation), []  # a text in `Annotated`


def _fact(x: Any) -> Fact | None:
    """What metadata of an annotation say of an argument; None where they are not for us."""
    if isinstance(x, str) and x.lstrip().startswith(("[", "(")):
        return interval(x)
    return x if isinstance(x, Domain | AtLeast | Check) else None


def code_of(f: Any) -> Any:
    """The function or class behind decorators, `functools.partial`, a method, an object that can be called."""
    while isinstance(f, functools.partial) or hasattr(f, "__wrapped__") or inspect.ismethod(f):
        f = f.func if isinstance(f, functools.partial) else getattr(f, "__wrapped__", None) or f.__func__
    return f if inspect.isfunction(f) or isinstance(f, type) else type(f)


F = TypeVar("F", bound=Callable[..., Any])


class Call:
    """A call of a factory with its arguments, which identifies its result."""

    def __init__(self, factory: Callable[..., Any], bound: inspect.BoundArguments):
        like = misuse.defaults(factory, bound.arguments.get("like"))
        bound.arguments = {**like, **bound.arguments}
        bound.apply_defaults()
        self.factory = factory
        ours = is_ours(factory)
        self.given = {k: x for k, x in bound.arguments.items() if ours and (of_plain_dict(x) or _has_container(x))}
        if ours:  # copied, so that no one else can change them; the factory of another library may share its own
            bound.arguments = {name: _private(x) for name, x in bound.arguments.items()}
        self.args, self.kwargs = bound.args, bound.kwargs
        self.arguments = dict(bound.arguments)
        self.key = (factory, key_of((self.args, self.kwargs)))
        self.hash = hash(self.key)
        inside = [value_of(x) for x in _leaves((self.args, self.kwargs))]
        calls = [x.call for x in inside if isinstance(x, Value)]
        self.traced = any(isinstance(x, Tracer) for x in inside) or any(call.traced for call in calls)
        self.foreign = is_foreign([*self.args, *self.kwargs.values()])
        # Whether the key has all that the arguments say. Of what can be changed in place it has the identity alone; of
        # lists and dicts what they said at the call, so that an equal call makes the same thing if they are unchanged.
        self.comparable = all(map(_lasts, inside)) and all(call.comparable for call in calls)
        shared = not ours and any(map(_has_container, [*self.args, *self.kwargs.values()]))
        self.lasting = self.comparable and not shared and all(call.lasting for call in calls)

    def changed(self) -> str:
        """The name of an argument that is a list or a dict, and has been changed since; "" for none."""
        return next((name for name, x in self.given.items() if key_of(x) != key_of(self.arguments[name])), "")

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
    """The function `fn`: the `part` of the result of `call`, or with None the result itself."""

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

    def __deepcopy__(self, memo: object) -> "Value":
        return self


def value(factory: Callable[P, F]) -> Callable[P, F]:
    """Makes the function that `factory` returns a `Value`: equal, hashed, pickled and printed by the call."""

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> Any:
        call = bind(make, args, kwargs)
        return Value(call, None, factory(*call.args, **call.kwargs))

    return short_types(make)


def is_ours(factory: object) -> bool:
    """Whether a function is of this library; one made by `exec` may have None for its module."""
    return (getattr(factory, "__module__", None) or "").startswith("gdjax.")


def value_of(x: object) -> Any:
    """The value behind a function made here; anything else as it is."""
    return getattr(x, "made", x) if isinstance(x, FunctionType) else x


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
            label = f"gdjax.{factory.__name__}" if is_ours(factory) else factory.__name__
            raise AttributeError(f"{label} is a function that makes a transform: call it: {label}(...).{call}")

        setattr(instead, NOT_CALLED, True)
        return instead

    factory.init, factory.update = refusal("init(params)"), refusal("update(updates, state, params)")


def bind(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The call `factory(*args, **kwargs)`.

    Raises:
      TypeError: the arguments do not fit the signature; the message says what to write, and lists the valid names.
    """
    name = getattr(factory, "__name__", repr(factory))
    label = f"gdjax.{name}" if is_ours(factory) else name
    return Call(factory, bound_arguments(label, inspect.signature(factory), args, kwargs))


def _rebuild(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], part: str | None) -> Any:
    made = factory(*args, **kwargs)
    return made if part is None else getattr(made, part)


def of_plain_dict(x: object) -> TypeGuard[dict[Any, Any]]:
    """Whether x is a dict and no subclass. JAX sorts its keys, which may not compare and whose order may matter."""
    return type(x) is dict


def key_of(x: Any) -> Hashable:
    """A key that equal trees of arguments share: the structure and the leaves.

    A leaf is compared by type and value, or by identity where it has no usable equality.
    """
    leaves, structure = jax.tree.flatten(x, is_leaf=of_plain_dict)
    return structure, tuple(map(identity, leaves))


def _leaves(x: Any) -> Iterator[Any]:
    for leaf in jax.tree.leaves(x, is_leaf=of_plain_dict):
        if of_plain_dict(leaf):
            yield from _leaves(list(leaf.values()))
        else:
            yield leaf


def identity(leaf: object) -> Hashable:
    """The part of a leaf in `key_of`."""
    if of_plain_dict(leaf):
        return dict, tuple((identity(k), key_of(v)) for k, v in leaf.items())
    if isinstance(leaf, jax.Array | np.ndarray):
        return id(leaf)
    try:
        hash(leaf)
    except TypeError:
        return id(leaf)
    return type(leaf), leaf


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


def _has_container(x: object) -> bool:
    return any(map(_has_container, x)) if type(x) is tuple else isinstance(x, list | dict | set)


def _show(x: object) -> str:
    if isinstance(x, type) or inspect.isfunction(x):
        return x.__name__
    return repr(x)
