"""Rules in a file whose annotations are text, for `test_decorated`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

import gdjax

if TYPE_CHECKING:
    from jax import Array


def norm(gs: list[Array], s: Any, ps: Any, t: Any) -> dict[str, Array]:
    return {"norm": gdjax.global_norm(gs)}


@gdjax.leafwise(reduce=norm)
def scaled(g: Array, s: Any, p: Any, t: Any, rate: float, norm: Any = gdjax.Reduced) -> Any:
    return rate * norm * g, s


@gdjax.wrapper()
def wrapped(u: Array, g: Array, s: Any, p: Any, t: Any, rate: Unknown) -> Any:  # noqa: F821, UP037
    return rate * gdjax.total_norm(g) * u, s


def by_table(gs: Any, s: Any, ps: Any, t: Any, table: dict[int, float]) -> Any:
    return {"factor": [jnp.asarray(table[g.ndim]) for g in gs]}


@gdjax.leafwise(reduce=by_table, staged="table")
def by_rank(g: Array, s: Any, p: Any, t: Any, table: Unknown, *, factor: Any = gdjax.Reduced) -> Any:  # noqa: F821
    return factor * g, s


def local() -> Any:
    from gdjax import Reduced

    @gdjax.leafwise(reduce=norm)
    def rule(g: Array, s: Any, p: Any, t: Any, rate: float, *, norm: Any = Reduced) -> Any:
        return rate * norm * g, s

    return rule
