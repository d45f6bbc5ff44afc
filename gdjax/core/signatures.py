"""Signatures of factories: the types of arguments, as programs read and compare them, and the facts about arguments.

`Annotated[float, "[0, 1)"]` says both of an argument: the type is float, and the interval is a fact.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType, UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin

from gdjax.core import types
from gdjax.core.number_domains import AtLeast, Check, Domain, Fact, interval
from gdjax.core.types import ArrayLike, DTypeLike, Scalar, ScalarOrSchedule, Schedule

P = ParamSpec("P")
R = TypeVar("R")
UNIONS = (Union, UnionType)


class Name(str):
    """The name of a type, which a signature prints without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


# Long unions, which a signature prints by their names.
NAMES: dict[Any, Name] = {
    ArrayLike: Name("ArrayLike"), Scalar: Name("Scalar"), ScalarOrSchedule: Name("ScalarOrSchedule"),
    Schedule: Name("Schedule"), DTypeLike: Name("DTypeLike"), get_args(types.DType)[0]: Name("DType"),
    get_args(types.KeyLike)[0]: Name("KeyLike"),
}  # fmt: skip
NAMES |= {kind | None: Name(f"{name} | None") for kind, name in NAMES.items()}


class Signature(inspect.Signature):
    """A signature of types, with facts about arguments, which prints long unions by their names."""

    facts: Mapping[str, list[Fact]] = MappingProxyType({})  # by argument

    def named(self) -> inspect.Signature:
        """The signature with names in place of long unions."""
        parameters = [p.replace(annotation=name_of(p.annotation)) for p in self.parameters.values()]
        return inspect.Signature(parameters, return_annotation=self.return_annotation)

    def __str__(self) -> str:
        return str(self.named())

    def format(self, **options: Any) -> str:  # what `help` calls from Python 3.13 on
        return self.named().format(**options)  # type: ignore[attr-defined]


def name_of(annotation: Any) -> Any:
    """The name of a long union; any other annotation as it is."""
    return next((name for kind, name in NAMES.items() if kind == annotation), annotation)


def plain_types(function: Callable[P, R], signature: inspect.Signature | None = None) -> Callable[P, R]:
    """Gives a function `signature`, or its own, with plain types for annotations and the facts apart."""
    written = signature or inspect.signature(function)
    parts = {name: _parted(function, p) for name, p in written.parameters.items()}
    parameters = [p.replace(annotation=parts[name][0]) for name, p in written.parameters.items()]
    plain = Signature(parameters, return_annotation=written.return_annotation)
    plain.facts = {name: facts for name, (_, facts) in parts.items() if facts}
    function.__signature__ = plain  # type: ignore[attr-defined]
    return function


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
            return annotation, []
    try:
        return parted(annotation)
    except ValueError as e:
        raise ValueError(f"{function.__name__}: the domain of {parameter.name}: {e}") from None


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
