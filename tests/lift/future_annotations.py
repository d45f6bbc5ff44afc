"""Rules in a file whose annotations are text, for `test_decorated`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gdjax

if TYPE_CHECKING:
    from jax import Array


def ranks(tree: Any, table: dict[int, float]) -> list[float]:
    return [table[g.ndim] for g in tree.chosen(tree.entries)]


@gdjax.leafwise()
def scaled(g: Array, s: Any, p: Any, t: Any, rate: float) -> Any:
    return rate * gdjax.total_norm(g) * g, s


@gdjax.wrapper()
def wrapped(u: Array, g: Array, s: Any, p: Any, t: Any, rate: Unknown) -> Any:  # noqa: F821
    return rate * gdjax.total_norm(g) * u, s


@gdjax.leafwise(static={"table": ranks})
def by_rank(g: Array, s: Any, p: Any, t: Any, table: Unknown) -> Any:  # noqa: F821
    return table * g, s
