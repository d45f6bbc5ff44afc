"""The trace of a rule of one matrix, evaluated in parts."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, Var, jaxpr_as_fun

from gdjax.xla.loops import inside

# Elementwise operations that cost more than to read their result again: a compiler does not repeat them.
DEAR = frozenset(
    "acos acosh asin asinh atan atan2 atanh cbrt cos cosh digamma div erf erf_inv erfc exp exp2 expm1 lgamma log log1p "
    "logistic pow rem rsqrt sin sinh sqrt tan tanh".split()
)
# Those that a compiler repeats in each loop that reads them.
CHEAP = frozenset(
    "abs add add_any and bitcast_convert_type broadcast_in_dim ceil clamp complex conj convert_element_type copy "
    "eq expand_dims floor ge gt imag integer_pow is_finite le lt max min mul ne neg nextafter not "
    "optimization_barrier or pad pcast platform_index pvary real reduce_precision reshape reshard round select_n "
    "sharding_constraint sign slice square squeeze stop_gradient sub transpose xor".split()
)


def has_inside(equation: JaxprEqn, primitive: Primitive) -> bool:
    """Whether a function inside an equation, at any depth, has an equation of that primitive."""
    return any(e.primitive is primitive or has_inside(e, primitive) for x in inside(equation) for e in x.eqns)


class Evaluation:
    """The values of a traced function for given arguments, one by one; each equation is evaluated once."""

    def __init__(self, closed: ClosedJaxpr, known: Mapping[Var, Any]):
        self.closed, self.known = closed, dict(known)

    def value(self, variable: Var | Literal) -> Any:
        if isinstance(variable, Literal):
            return jnp.asarray(variable.val, getattr(variable.aval, "dtype", None))
        jaxpr = self.closed.jaxpr
        if variable in jaxpr.constvars:
            return jnp.asarray(self.closed.consts[jaxpr.constvars.index(variable)])
        if variable not in self.known:
            self._evaluate(jaxpr, variable)
        return self.known[variable]

    def _evaluate(self, jaxpr: Jaxpr, variable: Var) -> None:
        needed, left = {variable}, []
        for e in reversed(jaxpr.eqns):
            if any(v in needed and v not in self.known for v in e.outvars):
                left.insert(0, e)
                needed.update(v for v in e.invars if isinstance(v, Var))
        used = [v for v in self.known if v in needed]
        new = [v for e in left for v in e.outvars if v not in self.known and type(v) is Var]
        part = ClosedJaxpr(jaxpr.replace(eqns=left, invars=used, outvars=new), self.closed.consts)
        values = jaxpr_as_fun(part)(*(self.known[v] for v in used))
        self.known.update(zip(new, values, strict=True))
