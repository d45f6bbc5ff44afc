"""Along which axis of a result layers lie that lie along an axis of the operands: one operation of a trace."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gdjax.codes.random_rounding import rows_p
from gdjax.xla.facts import CHEAP, DEAR

_OTHER_SHAPES = frozenset("broadcast_in_dim expand_dims pad reshape slice squeeze transpose".split())
_BY_ELEMENT = (CHEAP | DEAR) - _OTHER_SHAPES | frozenset(
    "clamp device_put erf_inv shift_left shift_right_arithmetic shift_right_logical population_count".split()
)
_OF_MATRICES = frozenset("cholesky eigh lu qr householder_product svd triangular_solve tridiagonal_solve".split())
_ALONG_ONE = {"sort": "dimension", "cumsum": "axis", "cumprod": "axis", "cummax": "axis", "cummin": "axis"}


@dataclass(frozen=True)
class Common:
    """The same for all layers; equal along these axes."""

    equal: frozenset[int] = frozenset()
    met: bool = False  # whether it is made of what comes of a meeting of all leaves


@dataclass(frozen=True)
class Along:
    """A stack of layers along an axis; None for what one of them has, without the axis."""

    axis: int | None
    met: bool = False


@dataclass(frozen=True)
class Rest:
    """Made of the arrays that no layer has."""

    met: bool = False


@dataclass(frozen=True)
class Mixed:
    """Made of several layers, or of a layer and the rest, by the operation named."""

    why: str
    met: bool = False


Value = Common | Along | Rest | Mixed


def shape_of(v: Any) -> tuple[int, ...]:
    return tuple(getattr(v.aval, "shape", ()))


def all_of(v: Any) -> frozenset[int]:
    return frozenset(range(len(shape_of(v))))


def ones_of(v: Any) -> frozenset[int]:
    return frozenset(i for i, n in enumerate(shape_of(v)) if n == 1)


def equal_axes(e: Any, xs: Sequence[Any]) -> frozenset[int]:
    """The axes along which a result is equal, made of common values."""
    name, p, out = e.primitive.name, e.params, all_of(e.outvars[0])
    if name == "iota":
        return out - {p["dimension"]}
    if e.primitive is rows_p:  # those of a layer are told, if rows are layers
        return frozenset({0})
    if name in _BY_ELEMENT:
        return frozenset.intersection(out, *(x.equal for x, v in zip(xs, e.invars, strict=True) if shape_of(v)))
    if name == "broadcast_in_dim":
        places = p["broadcast_dimensions"]
        one = {i for i, n in enumerate(shape_of(e.invars[0])) if n == 1} | xs[0].equal
        return out - set(places) | {a for i, a in enumerate(places) if i in one}
    if len(xs) == 1 and xs[0].equal == all_of(e.invars[0]) and name in _OTHER_SHAPES - {"pad"}:
        return out
    found = [_moved(e, a) for a in xs[0].equal] if len(xs) == 1 else []
    return frozenset(b for b in found if b is not None)


def axis_of(e: Any, xs: Sequence[Any]) -> int | None:
    """The axis of the layers in a result, where operands are common or stacks of layers; None where they mix."""
    name, p = e.primitive.name, e.params
    stacks = [(i, x.axis) for i, x in enumerate(xs) if isinstance(x, Along) and x.axis is not None]
    i, axis = stacks[0]
    equal = lambda a: all(  # noqa: E731  # whether the other operands go along with this axis
        x.axis == a if isinstance(x, Along) else not shape_of(v) or a in x.equal
        for x, v in zip(xs, e.invars, strict=True)
    )
    if name in _BY_ELEMENT:
        return axis if equal(axis) else None
    if name == "dot_general":
        return _of_product(p["dimension_numbers"], xs, e.invars)
    if name == "concatenate":
        return axis if axis != p["dimension"] and equal(axis) else None
    if name in _ALONG_ONE:
        return axis if axis != p[_ALONG_ONE[name]] and equal(axis) else None
    if name in _OF_MATRICES:
        return axis if axis < len(shape_of(e.invars[i])) - 2 and equal(axis) else None
    if name == "pad":
        return axis if i == 0 and len(stacks) == 1 and p["padding_config"][axis] == (0, 0, 0) else None
    if name in ("dynamic_slice", "dynamic_update_slice"):
        whole = shape_of(e.outvars[0])[axis] == shape_of(e.invars[0])[axis] == shape_of(e.invars[i])[axis]
        operands = 1 if name == "dynamic_slice" else 2
        fits = all(x.axis == axis if isinstance(x, Along) else axis in x.equal for x in xs[:operands])
        return axis if whole and fits and all(j < operands for j, _ in stacks) else None
    return _moved(e, axis) if len(xs) == 1 or name == "reduce" and equal(axis) else None


def _moved(e: Any, axis: int) -> int | None:
    """Where an axis of the one operand lies in the result; None where it is gone, or no longer whole."""
    name, p, shape, new = e.primitive.name, e.params, shape_of(e.invars[0]), shape_of(e.outvars[0])
    if name == "broadcast_in_dim":
        return p["broadcast_dimensions"][axis]
    if name == "transpose":
        return list(p["permutation"]).index(axis)
    if name == "squeeze":
        return None if axis in p["dimensions"] else axis - sum(a < axis for a in p["dimensions"])
    if name == "reshape":
        before = math.prod(shape[:axis])
        ways = [j for j, n in enumerate(new) if math.prod(new[:j]) == before and n == shape[axis]]
        return ways[0] if ways and p.get("dimensions") is None else None
    if name == "slice":
        return axis if new[axis] == shape[axis] else None
    if name == "rev":
        return None if axis in p["dimensions"] else axis
    if name == "split":
        return None if axis == p["axis"] else axis
    if name.startswith(("reduce", "arg")) and (axes := p.get("axes", p.get("dimensions"))) is not None:
        return None if axis in axes else axis - sum(a < axis for a in axes)
    return None


def _of_product(numbers: Any, xs: Sequence[Any], operands: Sequence[Any]) -> int | None:
    """The axis of the layers in a product of matrices."""
    contracted, batch = numbers
    for i, x in enumerate(xs):
        if not isinstance(x, Along) or x.axis is None:
            continue
        if x.axis in batch[i]:
            at = list(batch[i]).index(x.axis)
            y, b = xs[1 - i], batch[1 - i][at]
            return at if (y.axis == b if isinstance(y, Along) else b in y.equal) else None
        if x.axis in contracted[i] or isinstance(xs[1 - i], Along):
            return None
        gone = lambda k: {*contracted[k], *batch[k]}  # noqa: E731
        free = [a for a in range(len(shape_of(operands[i]))) if a not in gone(i)]
        others = len(shape_of(operands[0])) - len(gone(0)) if i else 0
        return len(batch[0]) + others + free.index(x.axis)
    return None
