"""A step on a mesh beside the same step on one device: what differs, and why."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gdjax.core.types import ArrayTree, Params
from gdjax.inspection.table import Table


class Beside(NamedTuple):
    """A row of `ShardedStep.check`."""

    what: str  # loss, aux['correct'], update of params['w']
    mesh: float  # the number, or the norm of the array
    one_device: float
    difference: float  # the norm of their difference, over the norm on one device
    differs: bool


class Made(NamedTuple):
    """What a step has made."""

    loss: Any
    aux: ArrayTree
    params: Params


def beside(before: Params, on_mesh: Made, on_one: Made, rtol: float, weighted: bool, with_key: bool) -> Table:
    """The table of `ShardedStep.check`."""
    aux = [_row(f"aux{path}", x, y, 0.0, rtol) for path, x, y in _paired(on_mesh.aux, on_one.aux)]
    loss = _row("loss", on_mesh.loss, on_one.loss, 0.0, rtol)
    updates = []
    for (path, x, y), p in zip(_paired(on_mesh.params, on_one.params), jax.tree.leaves(before), strict=True):
        p = _wide(p)
        updates.append(_row(f"update of params{path}", _wide(x) - p, _wide(y) - p, _unit(y) * _norm(p), rtol))
    rows = [loss, *aux, *updates]
    return Table(rows, Beside._fields, warnings=_reasons(loss, aux, updates, weighted, with_key))


def _reasons(
    loss: Beside, aux: Sequence[Beside], updates: Sequence[Beside], weighted: bool, with_key: bool
) -> list[str]:
    differs = [any(row.differs for row in rows) for rows in ([loss], aux, updates)]
    if not any(differs):
        return []
    if with_key:
        return ["each part of the batch has a key of its own, so that what the loss draws differs; compare without"]
    if differs[0] and weighted:
        return ["total and weight of the batch are not the sums of those of its parts, as with statistics of a batch"]
    if differs[0]:
        return [
            "the loss is no mean over the rows of the batch: if it is one over tokens or a mask, or a sum, return "
            "(total, weight) and pass weighted=True; statistics of a batch are those of each part"
        ]
    if differs[1]:
        return [
            "the loss agrees and aux does not: of the parts floats are averaged, with the weights of the parts, and "
            'integers added; return counts as integers, or pass aux="stack"'
        ]
    return [
        "the loss agrees and updates do not: the optimizer enlarges the rounding of gradients, as Adam does where they "
        "are 0 but for rounding; or the loss has other gradients for parts of the batch"
    ]


def _row(what: str, x: Any, y: Any, rounding: float, rtol: float) -> Beside:
    least = max(rtol, _unit(y)) if jnp.issubdtype(y.dtype, jnp.inexact) else 0.0  # counts are exact
    x, y = _wide(x), _wide(y)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        off, size = _norm(np.where(same, 0, x - y)), _norm(y)
    differs = not off <= least * size + rounding
    told = [a.item() if not a.ndim and np.isrealobj(a) else _norm(a) for a in (x, y)]
    return Beside(what, told[0], told[1], off / size if size else np.inf if off else 0.0, differs)


def _paired(x: ArrayTree, y: ArrayTree) -> list[tuple[str, Any, Any]]:
    both = zip(jax.tree_util.tree_flatten_with_path(x)[0], jax.tree.leaves(y), strict=True)
    return [(jax.tree_util.keystr(path), a, b) for (path, a), b in both]


def _unit(x: Any) -> float:
    """The rounding of a number of this dtype."""
    return float(jnp.finfo(x.dtype).eps) if jnp.issubdtype(x.dtype, jnp.inexact) else 0.0


def _wide(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.complex128 if jnp.iscomplexobj(x) else np.float64)


def _norm(x: np.ndarray) -> float:
    return float(np.linalg.norm(x.reshape(-1)))
