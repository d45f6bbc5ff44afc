"""Functions that are traced and lowered once, for leaves of all shapes that have them in common."""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, jaxpr_as_fun

from gdjax.xla.facts import called


def jitted(closed: ClosedJaxpr, maker: Hashable) -> Callable[..., list[jax.Array]]:
    """The traced function, jitted: the same object for functions of one maker that compute the same.

    Of equal functions with derivatives of their own, a maker has the same derivatives.
    """
    if any(isinstance(x, Tracer) for x in closed.consts):  # which another trace must not see
        return jax.jit(jaxpr_as_fun(closed))
    return _jitted(_Function((maker, _key(closed)), closed))


@dataclass(frozen=True)
class _Function:
    """A traced function, equal to others by its equations."""

    key: Hashable
    closed: ClosedJaxpr = field(compare=False)


@functools.lru_cache(maxsize=4096)
def _jitted(function: _Function) -> Callable[..., list[jax.Array]]:
    return jax.jit(jaxpr_as_fun(function.closed))


def _key(closed: ClosedJaxpr) -> Hashable:
    """The types of the inputs, and the equations with their variables numbered."""
    jaxpr, numbers = closed.jaxpr, dict[Any, int]()

    def of(xs: Sequence[Any]) -> tuple[Hashable, ...]:
        literal = lambda v: (v.aval, np.asarray(v.val).tobytes())  # noqa: E731
        return tuple(literal(v) if isinstance(v, Literal) else numbers.setdefault(v, len(numbers)) for v in xs)

    inputs = of([*jaxpr.invars, *jaxpr.constvars]), *(v.aval for v in jaxpr.invars), *map(id, closed.consts)
    equations = ((e.primitive, of(e.invars), _params(e), of(e.outvars)) for e in jaxpr.eqns)
    return inputs, *equations, of(jaxpr.outvars)


def _params(equation: JaxprEqn) -> Hashable:
    """What an equation does; of a call the function."""
    inside = [x for x in equation.params.values() if isinstance(x, ClosedJaxpr)]
    return tuple(equation.params.items()) if called(equation) is None or len(inside) != 1 else _key(inside[0])
