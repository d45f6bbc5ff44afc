"""Code for one kind of device, chosen when a program is lowered, or earlier if the kind is known."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from gdjax.core.contexts import WHERE, within


def by_platform(*args: Any, default: Callable[..., Any], **others: Callable[..., Any]) -> Any:
    """`jax.lax.platform_dependent`; inside `branches` the choice is already made.

    A choice already made costs no trace of the other functions and no condition in the program.
    """
    chosen = {others.get(kind, default) for kind in WHERE.get().platforms}
    if len(chosen) == 1:
        return chosen.pop()(*args)
    return jax.lax.platform_dependent(*args, default=default, **others)


def branches(*args: Any, default: Callable[..., Any], **others: Callable[..., Any]) -> Any:
    """The same, for functions that call `by_platform` themselves.

    Inside them use `jitted` for `jax.jit`, which would reuse the trace for one kind of device on another.
    """
    kinds: dict[Any, frozenset[str]] = {}
    for kind in WHERE.get().platforms:
        f = others.get(kind, default)
        kinds[f] = kinds.get(f, frozenset()) | {kind}
    inside = {f: functools.partial(_where, mine, f) for f, mine in kinds.items()}
    return by_platform(*args, default=inside.get(default, default), **{k: inside.get(f, f) for k, f in others.items()})


def may_be(kind: str) -> bool:
    """Whether the program may run on a device of this kind."""
    return kind in WHERE.get().platforms


def _where(kinds: frozenset[str], f: Callable[..., Any], *args: Any) -> Any:
    with within(WHERE, platforms=kinds):
        return f(*args)


def jitted(f: Callable[..., Any], static: Sequence[int] = ()) -> Callable[..., Any]:
    """`jax.jit` of a function that calls `by_platform`."""
    traced = jax.jit(lambda _, *args: f(*args), static_argnums=(0, *(i + 1 for i in static)))

    @functools.wraps(f)
    def called(*args: Any) -> Any:
        return traced(WHERE.get().platforms, *args)

    return called
