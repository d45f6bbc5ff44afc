"""NaN for an infinity in fewer operations: a rule's gradient is clipped, and NaN added where its loops end.

`gdjax.numerics.bounded` makes an infinity NaN by ten operations with constants, which XLA:CPU repeats, and compiles, in
each loop that reads the gradient. Here the gradient of a traced rule is clipped, which is two, and each loop that reads
it ends with `+ 0 g`, two more: NaN where g is not finite, and nothing elsewhere.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var

from gdjax.numerics.bounds import TERMS, clipped, form, spoiled
from gdjax.xla.facts import Graph
from gdjax.xla.loops import Plan

Array = jax.Array
Late = dict[int, tuple[Var, ...]]  # for each loop what is added to its result, times 0


def with_late_nan(closed: ClosedJaxpr, graph: Graph, plan: Plan) -> tuple[ClosedJaxpr, Late]:
    """The traced rule with its bounds clipped where that is the same, and what its loops must end with then."""
    late: Late = {}
    equations = []
    for equation in closed.jaxpr.eqns:
        loops = _loops_of(equation, closed, graph, plan)
        if loops:
            equation = _clipping(equation)
            late |= {i: (*late.get(i, ()), equation.invars[0]) for i in loops}
        equations.append(equation)
    return ClosedJaxpr(closed.jaxpr.replace(eqns=equations), closed.consts), late


def nan_where_not_finite(x: Array, *gs: Array) -> Array:
    """x, and NaN where one of gs is not finite."""
    return functools.reduce(spoiled, gs, x)


def _loops_of(equation: Any, closed: ClosedJaxpr, graph: Graph, plan: Plan) -> list[int]:
    """The loops that read a bounded array; none where `+ 0 g` at their ends would not give what the bound gives."""
    # A value kept on the way would not be NaN, and its readers would have to read the gradient too. A TPU computes once
    # what loops compute anew here, as long as both are the same expression: `+ 0 g` would make them two.
    if plan.keeps or any(loop.again for loop in plan.loops):
        return []
    if _squares(equation) is None or isinstance(equation.invars[0], Literal):
        return []
    (x,), (y,) = equation.invars, equation.outvars
    if not _is_cheap(graph, graph.numbers[x]) or any(graph.numbers[y] in graph.reach(w, ()) for w in graph.written):
        return []
    found = []
    for loop in plan.loops:
        ends = [graph.outputs[i] for i in loop.uses]
        if graph.numbers[y] in graph.reach(graph.outputs[loop.index], ends):
            out = closed.jaxpr.outvars[loop.index].aval
            if (out.shape, out.dtype) != (x.aval.shape, x.aval.dtype):
                return []
            found.append(loop.index)
    return found


def _is_cheap(graph: Graph, x: int) -> bool:
    """Whether a value is an input, or made of one array by operations that a loop repeats."""
    size = graph.sizes[x]
    while graph.made_of[x]:
        large = [y for y in graph.made_of[x] if graph.sizes[y] == size]
        if x in graph.dear | graph.written or len(large) != 1:
            return False
        x = large[0]
    return x in graph.inputs


def _squares(equation: JaxprEqn) -> str | None:
    """Which of the bounds an equation is, None for other equations."""
    if equation.primitive.name != "custom_jvp_call" or len(equation.invars) != 1:
        return None
    dtype = getattr(equation.invars[0].aval, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return None
    operations = _operations(equation.params["call_jaxpr"].jaxpr)
    return next((x for x in TERMS if operations == _operations_of_bound(dtype, x)), None)


def _operations(jaxpr: Any) -> tuple[Any, ...]:
    """The operations of a function and their constants, those of what it calls in the place of the call."""
    found: list[Any] = []
    for e in jaxpr.eqns:
        inner = e.params.get("jaxpr")
        constants = [v.val.item() for v in e.invars if isinstance(v, Literal) and getattr(v.val, "size", 0) == 1]
        found += [(e.primitive.name, *constants)] if inner is None else _operations(inner.jaxpr)
    return tuple(found)


@functools.cache
def _operations_of_bound(dtype: Any, squares: str) -> tuple[Any, ...]:
    return _operations(jax.make_jaxpr(lambda g: form(g, squares))(jax.ShapeDtypeStruct((2,), dtype)).jaxpr)


def _clipping(equation: JaxprEqn) -> Any:
    squares = _squares(equation)
    (new,) = jax.make_jaxpr(lambda x: clipped(x, squares))(equation.invars[0].aval).eqns
    return new.replace(invars=equation.invars, outvars=equation.outvars)
