"""Which values of a traced update belong to single layers, where some arrays are stacks of layers along an axis.

An update may be made layer by layer if what it makes for a layer is made of what that layer has, and of what all have
in common. The trace shows it: each of its values is `Common`, or a stack `Along` an axis, of which entry i is made of
entries i alone, or of the arrays of no layer (`Rest`), or `Mixed`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive, jaxpr_as_fun

from gdjax.codes.random_rounding import rows_p
from gdjax.core.types import Array
from gdjax.lift.layer_axes import Along, Common, Mixed, Rest, Value, all_of, axis_of, equal_axes, ones_of, shape_of
from gdjax.lift.meetings import Brought, Meeting
from gdjax.lift.traced import PLATFORM
from gdjax.xla.facts import has_inside

_CALLS = frozenset("jit pjit closed_call core_call remat checkpoint custom_jvp_call custom_vjp_call".split())

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
    known |= {v: Common(ones_of(v)) for v in jaxpr.constvars}
    read = lambda v: Common(all_of(v)) if isinstance(v, Literal) else known[v]  # noqa: E731
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
        equal = [equal_axes(e, xs) | ones_of(v) for v in e.outvars]
        return [Common(axes, met) for axes in equal]
    axes = {x.axis for x in xs if isinstance(x, Along)}
    if axes == {None}:
        return [Along(None, met)] * len(e.outvars)
    axis = None if None in axes else axis_of(e, xs)
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
    return [Common(ones_of(v), True) if why is None else Mixed(why) for v in e.outvars]


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
        # Releases of JAX name the numbers otherwise; what a round gets or adds one entry of has one more axis outside.
        body = p["jaxpr"].jaxpr
        same = lambda outer, inner: sum(len(shape_of(v)) == len(shape_of(w)) for v, w in zip(outer, inner, strict=True))  # noqa: E731
        m = same(e.outvars, body.outvars)
        n = same(e.invars, body.invars) - m
        consts = xs[:n]
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


def numbers_rows(closed: ClosedJaxpr) -> bool:
    """Whether a traced update rounds by the rows of arrays.

    Raises:
      ValueError: in a condition, a loop or a jitted function.
    """
    if any(has_inside(e, rows_p) for e in closed.jaxpr.eqns):
        raise ValueError("the rows of arrays are numbered in a condition, a loop or a jitted function")
    return any(e.primitive is rows_p for e in closed.jaxpr.eqns)


def from_row(f: Callable[..., Any], start: Array, *args: Any) -> Any:
    """`f(*args)` of arrays that are the rows of larger ones from `start` on."""
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
    found = [e for e in closed.jaxpr.eqns if e.primitive is rows_p]
    rest = [e for e in closed.jaxpr.eqns if e.primitive is not rows_p]
    inputs = [*closed.jaxpr.invars, *(e.outvars[0] for e in found)]
    numbers = [rows_p.bind(**e.params) + start.astype(jnp.uint32) for e in found]
    g = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr.replace(eqns=rest, invars=inputs), closed.consts))
    return jax.tree.structure(shapes).unflatten(g(*jax.tree.leaves(args), *numbers))
