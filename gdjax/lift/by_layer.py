"""Which values of a traced update belong to single layers, where some arrays are stacks of layers along an axis.

An update may be made layer by layer if what it makes for a layer is made of what that layer has, and of what all have
in common. The trace shows it: each of its values is `Common`, or a stack `Along` an axis, of which entry i is made of
entries i alone, or of the arrays of no layer (`Rest`), or `Mixed`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from jax.extend.core import Jaxpr, Literal, Primitive

from gdjax.core.types import Array
from gdjax.lift.meetings import Brought, Meeting
from gdjax.lift.traced import PLATFORM
from gdjax.xla.facts import CHEAP, DEAR

_OTHER_SHAPES = frozenset("broadcast_in_dim expand_dims pad reshape slice squeeze transpose".split())
_BY_ELEMENT = (CHEAP | DEAR) - _OTHER_SHAPES | frozenset(
    "clamp erf_inv shift_left shift_right_arithmetic shift_right_logical population_count copy_p".split()
)
_CALLS = frozenset("jit pjit closed_call core_call remat checkpoint custom_jvp_call custom_vjp_call".split())
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

asked_p = Primitive("gdjax_asked")  # what comes of a meeting, while it is not known
asked_p.multiple_results = True
asked_p.def_abstract_eval(lambda *xs, types, **_: types)


def ask(key: Any, meeting: Meeting, brought: list[Brought], common: list[Array]) -> list[list[Array]]:
    """Stands in a trace for the results of a meeting, see `meetings.answered`.

    Matrices that meet are computed by themselves: the trace then shows whether those of one array, the layers, are.
    """
    if not meeting.alike:
        return [meeting.f([leaf], common)[0] for leaf in brought]
    types = tuple(v.aval for v in meeting.results)
    xs, name = [x for leaf in brought for x in leaf.arrays], meeting.place.name
    results = asked_p.bind(*xs, *common, types=types, name=name, where=meeting.place.line)
    return [list(results)] * len(brought)


def values_of(jaxpr: Jaxpr, inputs: Sequence[Value], within: str = "") -> list[Value]:
    """What the outputs of a traced function are, given what its inputs are.

    Args:
      within: the name of what calls it, in errors.
    """
    known: dict[Any, Any] = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= {v: Common(_ones(v)) for v in jaxpr.constvars}
    read = lambda v: Common(_all(v)) if isinstance(v, Literal) else known[v]  # noqa: E731
    for e in jaxpr.eqns:
        found = _made(e, [read(v) for v in e.invars], within)
        known.update(zip(e.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _made(e: Any, xs: list[Value], within: str) -> list[Any]:
    name = e.primitive.name
    if name == "platform_index" or PLATFORM in xs and name != "cond":
        return [PLATFORM]
    scope = str(e.source_info.name_stack).rpartition("/")[2]
    within = scope or (str(e.params.get("name") or within) if name in ("jit", "pjit") else within)
    where = f"{name} in {within}" if within else name
    if e.primitive is asked_p:
        return _asked(e, xs)
    if name == "cond":
        return _of_cond(e, xs, within, where)
    if name in ("scan", "while"):
        return _of_loop(e, xs, within, where)
    if (inside := _inside(e)) is not None:
        return values_of(inside, xs, within)
    if name == "optimization_barrier":
        return xs
    met, mixed = any(x.met for x in xs), next((x for x in xs if isinstance(x, Mixed)), None)
    kinds = {type(x) for x in xs}
    if mixed is not None or {Along, Rest} <= kinds:
        return [mixed or Mixed(where, met)] * len(e.outvars)
    if Rest in kinds:
        return [Rest(met)] * len(e.outvars)
    if Along not in kinds:
        equal = [_equal(e, xs) | _ones(v) for v in e.outvars]
        return [Common(axes, met) for axes in equal]
    axes = {x.axis for x in xs if isinstance(x, Along)}
    if axes == {None}:
        return [Along(None, met)] * len(e.outvars)
    axis = None if None in axes else _axis(e, xs)
    return [Mixed(where, met) if axis is None else Along(axis, met)] * len(e.outvars)


def joined(xs: Sequence[Value], why: str) -> Any:
    """What may be any of several values, as after a branch."""

    def of_two(x: Any, y: Any) -> Any:
        x, y = replace(x, met=x.met or y.met), replace(y, met=x.met or y.met)
        if x == y:
            return x
        if isinstance(x, Common) and isinstance(y, Common):
            return replace(x, equal=x.equal & y.equal)
        for one, other in ((x, y), (y, x)):
            same = isinstance(one, Common) and (not isinstance(other, Along) or other.axis in {None, *one.equal})
            if same or isinstance(other, Mixed):
                return other
        return Mixed(why, x.met)

    return reduce(of_two, xs)


def _asked(e: Any, xs: Sequence[Value]) -> list[Value]:
    """What comes of a meeting is common, if it is a norm of whole arrays, and known before anything else is met."""
    name, where = e.params["name"], e.params["where"]
    call = f"gdjax.{name} at {where}"
    arrays = all(isinstance(x, Rest) or isinstance(x, Along) and x.axis is not None for x in xs)
    why = None
    if mixed := next((x for x in xs if isinstance(x, Mixed)), None):
        why = f"{mixed.why}, before {call}"
    elif not arrays:
        why = f"{call} of a number of each stack"
    elif any(x.met for x in xs):
        why = f"{call} of what a meeting before it has changed, which takes one more backward pass"
    return [Common(_ones(v), True) if why is None else Mixed(why) for v in e.outvars]


def _of_cond(e: Any, xs: list[Any], within: str, where: str) -> list[Value]:
    chosen, *operands = xs
    branches = [b.jaxpr for b in e.params["branches"]]
    if chosen is PLATFORM:  # the last one is for all devices, and tells what is computed
        return values_of(branches[-1], operands, within)
    found = [values_of(b, operands, within) for b in branches]
    ways = [joined(ys, where) for ys in zip(*found, strict=True)]
    if isinstance(chosen, Common):
        return ways
    return [Rest(True) if isinstance(chosen, Rest) and isinstance(y, Common | Rest) else
            chosen if isinstance(chosen, Mixed) else Mixed(where) for y in ways]  # fmt: skip


def _of_loop(e: Any, xs: list[Value], within: str, where: str) -> list[Value]:
    """The values of a loop: the carried ones are those that a round leaves as they are."""
    p = e.params
    if e.primitive.name == "scan":
        n, m, body, consts = p["num_consts"], p["num_carry"], p["jaxpr"].jaxpr, xs[: p["num_consts"]]
        each = [_entry(x, where) for x in xs[n + m :]]
        condition: Callable[[list[Value]], Value] = lambda carry: Common()  # noqa: E731
    else:
        first, m, body = p["cond_nconsts"], len(e.outvars), p["body_jaxpr"].jaxpr
        n, each, test = first + p["body_nconsts"], [], p["cond_jaxpr"].jaxpr
        consts = xs[first:n]
        condition = lambda carry: values_of(test, [*xs[:first], *carry], within)[0]  # noqa: E731
    carry, ys = list(xs[n : n + m]), []
    while True:
        new, ys = (found := values_of(body, [*consts, *carry, *each], within))[:m], found[m:]
        stays = condition(carry)
        if not isinstance(stays, Common):
            return [stays if isinstance(stays, Mixed) else Mixed(where)] * len(e.outvars)
        both = [joined(pair, where) for pair in zip(carry, new, strict=True)]
        if both == carry:
            return [*carry, *(_stacked(y, where) for y in ys)]
        carry = both


def _entry(x: Value, where: str) -> Any:
    """What a round of a scan gets of a stack."""
    if isinstance(x, Along) and x.axis is not None:
        return Along(None if x.axis == 0 else x.axis - 1, x.met)
    return Common(frozenset(a - 1 for a in x.equal if a), x.met) if isinstance(x, Common) else x


def _stacked(y: Value, where: str) -> Any:
    if isinstance(y, Along):
        return Along(0 if y.axis is None else y.axis + 1, y.met)
    return Common(frozenset(a + 1 for a in y.equal), y.met) if isinstance(y, Common) else y


def _inside(e: Any) -> Any:
    if e.primitive.name not in _CALLS and not e.primitive.name.startswith("custom_"):
        return None
    called = next((e.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in e.params), None)
    return getattr(called, "jaxpr", called)


def _shape(v: Any) -> tuple[int, ...]:
    return tuple(getattr(v.aval, "shape", ()))


def _all(v: Any) -> frozenset[int]:
    return frozenset(range(len(_shape(v))))


def _ones(v: Any) -> frozenset[int]:
    return frozenset(i for i, n in enumerate(_shape(v)) if n == 1)


def _equal(e: Any, xs: Sequence[Any]) -> frozenset[int]:
    """The axes along which a result is equal, made of common values."""
    name, p, out = e.primitive.name, e.params, _all(e.outvars[0])
    if name == "iota":
        return out - {p["dimension"]}
    if name in _BY_ELEMENT:
        return frozenset.intersection(out, *(x.equal for x, v in zip(xs, e.invars, strict=True) if _shape(v)))
    if name == "broadcast_in_dim":
        places = p["broadcast_dimensions"]
        one = {i for i, n in enumerate(_shape(e.invars[0])) if n == 1} | xs[0].equal
        return out - set(places) | {a for i, a in enumerate(places) if i in one}
    if len(xs) == 1 and xs[0].equal == _all(e.invars[0]) and name in _OTHER_SHAPES - {"pad"}:
        return out
    found = [a for a in xs[0].equal if (b := _moved(e, a)) is not None] if len(xs) == 1 else []
    return frozenset(b for a in found if (b := _moved(e, a)) is not None)


def _axis(e: Any, xs: Sequence[Any]) -> int | None:
    """The axis of the layers in a result, where operands are common or stacks of layers; None where they mix."""
    name, p = e.primitive.name, e.params
    stacks = [(i, x.axis) for i, x in enumerate(xs) if isinstance(x, Along)]
    i, axis = stacks[0]
    equal = lambda a: all(  # noqa: E731  # whether the other operands go along with this axis
        x.axis == a if isinstance(x, Along) else not _shape(v) or a in x.equal for x, v in zip(xs, e.invars, strict=True)
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
        return axis if axis < len(_shape(e.invars[i])) - 2 and equal(axis) else None
    if name == "pad":
        return axis if i == 0 and len(stacks) == 1 and p["padding_config"][axis] == (0, 0, 0) else None
    if name in ("dynamic_slice", "dynamic_update_slice"):
        whole = _shape(e.outvars[0])[axis] == _shape(e.invars[0])[axis] == _shape(e.invars[i])[axis]
        operands = 1 if name == "dynamic_slice" else 2
        fits = all(x.axis == axis if isinstance(x, Along) else axis in x.equal for x in xs[:operands])
        return axis if whole and fits and all(j < operands for j, _ in stacks) else None
    return _moved(e, axis) if len(xs) == 1 or name == "reduce" and equal(axis) else None


def _moved(e: Any, axis: int) -> int | None:
    """Where an axis of the one operand lies in the result; None where it is gone, or no longer whole."""
    name, p, shape, new = e.primitive.name, e.params, _shape(e.invars[0]), _shape(e.outvars[0])
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
        if not isinstance(x, Along):
            continue
        if x.axis in batch[i]:
            at = list(batch[i]).index(x.axis)
            y, b = xs[1 - i], batch[1 - i][at]
            return at if (y.axis == b if isinstance(y, Along) else b in y.equal) else None
        if x.axis in contracted[i] or isinstance(xs[1 - i], Along):
            return None
        gone = lambda k: {*contracted[k], *batch[k]}  # noqa: E731
        free = [a for a in range(len(_shape(operands[i]))) if a not in gone(i)]
        others = len(_shape(operands[0])) - len(gone(0)) if i else 0
        return len(batch[0]) + others + free.index(x.axis)
    return None

