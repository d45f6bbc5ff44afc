"""Dialects: where implementations of a method differ, the argument `like` of its factory chooses one.

A dialect is a set of defaults, and where those do not do, another rule. The defaults stand in one table over the
factory. Which rule it is, its body says.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
Dialect = Literal["optax", "torch", "paper"]
_DEFAULTS = "__gdjax_dialects__"  # an attribute of a factory; `functools.wraps` hands it on


def dialects(*, torch: Mapping[str, Any], paper: Mapping[str, Any]) -> Callable[[F], F]:
    """Gives a factory the defaults that it has with like="torch" and like="paper"; those of "optax" are its own.

    They stand for arguments that a call leaves out. What a call gives stays as it is.
    """

    def decorate(factory: F) -> F:
        setattr(factory, _DEFAULTS, {"torch": torch, "paper": paper})
        return factory

    return decorate


def share(factory: Any, other: Any) -> None:
    """Gives `other`, which takes the arguments of `factory`, its dialects."""
    setattr(other, _DEFAULTS, getattr(factory, _DEFAULTS, {}))


def defaults(factory: Any, like: object) -> Mapping[str, Any]:
    """The defaults of a dialect of a factory; none where it has no such dialect, which the check of `like` reports."""
    return getattr(factory, _DEFAULTS, {}).get(like, {}) if isinstance(like, str) else {}
