"""Signatures as their authors wrote them: with the names of types, where Python shows what the names stand for."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from gdjax.core.number_domains import Domain, Fact, Integer, Kind, interval

P = ParamSpec("P")
R = TypeVar("R")
UNIONS = (Union, UnionType)


class Written(str):
    """The text of an annotation, as the source has it. It prints without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Short(inspect.Signature):
    """A signature that prints as `written`, if it has that. Its annotations are the types, which programs compare."""

    of: tuple[Any, Mapping[str, Any]]  # the function, and types with names; a `replace` of this one does not have it
    facts: Mapping[str, list[Fact]]  # what annotations say of an argument beside its type

    @functools.cached_property
    def written(self) -> inspect.Signature:
        function, named = self.of
        return shortened(function, inspect.Signature.replace(self), **named)

    def __str__(self) -> str:
        return inspect.Signature.__str__(getattr(self, "written", self))

    def format(self, **options: Any) -> str:  # what `help` calls from Python 3.13 on
        return inspect.Signature.format(getattr(self, "written", self), **options)  # type: ignore[attr-defined]


def short_types(function: Callable[P, R], signature: inspect.Signature | None = None, **named: Any) -> Callable[P, R]:
    """Gives a function the signature that `help` shows: `signature` or its own, with short types.

    A type has the name that it has in the module of the function, or in `named`. Only what is shown changes: the
    annotations of the signature and `typing.get_type_hints` are the types themselves.
    """
    own = signature or inspect.signature(function)
    parts = {name: _parted(function, p) for name, p in own.parameters.items()}
    parameters = [p.replace(annotation=parts[name][0]) for name, p in own.parameters.items()]
    shown = Short(parameters, return_annotation=own.return_annotation)
    shown.of = function, named
    shown.facts = {name: facts for name, (_, facts) in parts.items() if facts}
    function.__signature__ = shown  # type: ignore[attr-defined]
    return function


def facts_of(signature: inspect.Signature, name: str) -> list[Fact]:
    """What the annotation of an argument says beside its type."""
    found = getattr(signature, "facts", None)
    return parted(signature.parameters[name].annotation)[1] if found is None else found.get(name, [])


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
    return x if isinstance(x, Domain | Integer | Kind) else None


def code_of(f: Any) -> Any:
    """The function or class behind decorators, `functools.partial`, a method, an object that can be called."""
    while isinstance(f, functools.partial) or hasattr(f, "__wrapped__") or inspect.ismethod(f):
        f = f.func if isinstance(f, functools.partial) else getattr(f, "__wrapped__", None) or f.__func__
    return f if inspect.isfunction(f) or isinstance(f, type) else type(f)


def shortened(function: Callable[..., Any], signature: inspect.Signature, **named: Any) -> inspect.Signature:
    """A signature of the function with short types; the site shows it too."""
    if isinstance(signature, Short) and hasattr(signature, "of"):
        return signature.written
    aliases = [*named.items(), *_aliases(getattr(inspect.unwrap(function), "__globals__", {}))]
    parameters = [p.replace(annotation=_shown(p.annotation, aliases)) for p in signature.parameters.values()]
    returned = _shown(signature.return_annotation, aliases)
    return signature.replace(parameters=parameters, return_annotation=returned)


def _aliases(names: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The public names of a module that stand for a union or a type of functions, the longest unions first."""
    found = [(name, x) for name, x in names.items() if name[0] != "_" and get_origin(x) in (*UNIONS, Callable)]
    return sorted(found, key=lambda item: -len(get_args(item[1])) * (get_origin(item[1]) in UNIONS))


def _shown(annotation: Any, aliases: list[tuple[str, Any]]) -> Any:
    """`annotation` if Python shows it as short as can be, so that `int` stays the type; else its text."""
    if annotation is inspect.Parameter.empty:
        return annotation
    text = text_of(annotation, aliases)
    return annotation if text == inspect.formatannotation(annotation) else Written(text)


def text_of(annotation: Any, aliases: list[tuple[str, Any]]) -> str:
    """A type as a program would name it: by an alias, which may stand for a part of a union, or without its module."""
    if isinstance(annotation, str):
        return str(annotation)
    if annotation is None or annotation is NoneType:
        return "None"
    if annotation is ...:
        return "..."
    if isinstance(annotation, list):  # the arguments of a Callable
        return f"[{', '.join(text_of(x, aliases) for x in annotation)}]"
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in UNIONS:
        return _union(list(args), aliases)
    named = [name for name, x in aliases if x == annotation]
    if named:
        return named[0]
    if origin is not None:
        inside = map(repr, args) if origin is Literal else (text_of(x, aliases) for x in args)
        return f"{getattr(origin, '__name__', origin)}[{', '.join(inside)}]"
    if isinstance(annotation, type):
        return annotation.__name__.rpartition(".")[2]  # that of `jax.Array` is "jaxlib._jax.Array"
    return inspect.formatannotation(annotation)


def _union(members: list[Any], aliases: list[tuple[str, Any]]) -> str:
    """The members of a union, those together that make up a union with a name."""
    found = []
    for name, x in aliases:
        own = get_args(x)
        if get_origin(x) in UNIONS and all(member in members for member in own):
            found.append((members.index(own[0]), name))
            members = [None if member in own else member for member in members]
    found += [(i, text_of(member, aliases)) for i, member in enumerate(members) if member is not None]
    return " | ".join(text for _, text in sorted(found))
