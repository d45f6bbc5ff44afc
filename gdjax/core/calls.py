"""Calls of a user's functions: the arguments by position or by name, and whether a schedule takes the count."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from gdjax.core import structures


def positional(fun: Callable[..., Any]) -> list[str]:
    """The names of the arguments that a call may pass by position; none of a function without a signature."""
    try:
        parameters = inspect.signature(fun).parameters.values()
    except (TypeError, ValueError):
        return []
    return [x.name for x in parameters if x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)]


def by_position(
    fun: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, as many as possible by position: up to the first that the call leaves out."""
    rest = dict(kwargs)
    for name in positional(fun)[len(args) :]:
        if name not in rest:
            break
        args += (rest.pop(name),)
    return args, rest


def place(label: str, fun: Callable[..., Any], wanted: int | str, count: int, kwargs: Mapping[str, Any]) -> int | str:
    """Where a call has an argument that is given by position or name: a position below `count`, or a name in `kwargs`.

    Raises:
      ValueError: the call has it nowhere.
    """
    names = positional(fun)
    if isinstance(wanted, str):
        at = names.index(wanted) if wanted in names else -1
    else:
        at = wanted + count if wanted < 0 else wanted
    if 0 <= at < count:
        return at
    name = names[at] if 0 <= at < len(names) else wanted
    if name not in kwargs:
        raise ValueError(f"{label}: the call has no argument {wanted!r}, which has a batch axis")
    return name


def schedule(label: str, name: str, value: Callable[..., Any]) -> None:
    """Raises unless a schedule, the value of the hyperparameter `name`, can be called with the count alone."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None)
    except TypeError:
        shown = getattr(value, "__name__", repr(value))
        needed = [p.name for p in signature.parameters.values() if p.default is p.empty and "VAR" not in p.kind.name]
        what, remedy = f"takes {structures.listed(needed)}", f"call it: {shown}(...)"
        if not needed:
            what, remedy = "takes no argument", "write lambda count: ..."
        raise TypeError(f"{label}: {name}: a schedule is called with the count, and {shown} {what}; {remedy}") from None
