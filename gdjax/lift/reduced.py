"""`leafwise(reduce=f)` of version 0.2: f computes numbers of the whole tree from lists of all leaves."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core import callers
from gdjax.lift.meetings import Brought, meet
from gdjax.lift.rule_checks import named

TOLD = "gdjax.leafwise: reduce is deprecated: call gdjax.total, gdjax.largest or gdjax.total_norm in the rule"


def with_numbers(
    rule: Callable[..., Any], reduce: Callable[..., Any], one: Sequence[str]
) -> tuple[Callable[..., Any], list[str]]:
    """The rule, with the numbers from `reduce` in `s` or by name; and the arguments of `update` that `reduce` reads.

    Args:
      one: the fields of the state that are one number.
    """
    callers.warn(TOLD, DeprecationWarning)
    wanted, own = [p.name for p in named(reduce, 4)], inspect.signature(rule)
    extra = [name for name in wanted if name not in own.parameters]

    @functools.wraps(rule)
    def applied(g: Any, s: Any, p: Any, t: Any, **hyper: Any) -> Any:
        given = {name: hyper[name] for name in wanted}
        arrays = {name: x for name, x in given.items() if isinstance(x, jax.Array)}
        shared = {f: x for f, x in s._asdict().items() if f in one}
        mine, structure = jax.tree.flatten((g, s._replace(**dict.fromkeys(shared)), p))
        common, how = jax.tree.flatten((shared, t, arrays))
        names: list[str] = []

        def of_leaves(leaves: list[Brought], common: list[Any]) -> list[list[Any]]:
            gs, slots, ps = zip(*(leaf.own.unflatten(leaf.arrays) for leaf in leaves), strict=True)
            numbers, t, arrays = how.unflatten(common)
            lists = type(s)(*map(list, zip(*slots, strict=True)))
            found = reduce(list(gs), lists._replace(**numbers), list(ps), t, **{**given, **arrays})
            names[:] = found
            return [list(map(jnp.asarray, found.values()))] * len(leaves)

        jax.eval_shape(lambda mine: of_leaves([Brought(mine, structure)], common), mine)  # for the names
        numbers = meet("reduce", of_leaves, mine, common, structure, alike=True)
        found = dict(zip(names, numbers, strict=True))
        s = s._replace(**{f: found.pop(f) for f in shared if f in found})
        return rule(g, s, p, t, **{name: x for name, x in hyper.items() if name not in extra} | found)

    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in extra]
    applied.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    return applied, extra
