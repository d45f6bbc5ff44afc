"""Dialects: where implementations of a method differ, the argument `like` of its factory chooses one.

A dialect is a set of defaults, which stand in one table over the factory. Where defaults are not enough, the body of
the factory chooses another rule.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
Dialect = Literal["optax", "torch", "paper"]
_DEFAULTS = "__gdjax_dialects__"  # an attribute of a factory, which `functools.wraps` copies


def dialects(*, torch: Mapping[str, Any], paper: Mapping[str, Any]) -> Callable[[F], F]:
    """Gives a factory its defaults for like="torch" and like="paper"; those for "optax" are in its signature.

    They take the place of arguments that a call leaves out.
    """

    def decorate(factory: F) -> F:
        setattr(factory, _DEFAULTS, {"torch": torch, "paper": paper})
        return factory

    return decorate


def share(factory: Any, other: Any) -> None:
    """Gives the dialects of `factory` to `other`, which takes the same arguments."""
    setattr(other, _DEFAULTS, getattr(factory, _DEFAULTS, {}))


def defaults(factory: Any, like: object) -> Mapping[str, Any]:
    """The defaults of a dialect of a factory; none for an unknown dialect, which the check of `like` reports."""
    return getattr(factory, _DEFAULTS, {}).get(like, {}) if isinstance(like, str) else {}
