"""What the traced program of an update shows: which leaves get no update, their own gradient, or their parameter."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Jaxpr, Literal

from gdjax.core import base
from gdjax.core.types import OptState, Params, Transform
from gdjax.numerics import is_key
from gdjax.xla.facts import called

ZERO = "zero"  # the update is 0 whatever the gradient is
ONE = "one"
POSITIVE, NEGATIVE = "positive", "negative"  # numbers
UP, DOWN = "up", "down"  # the parameter, or its signs, times a positive or a negative number
PLATFORM = "platform"  # the number of the device's kind, by which `jax.lax.platform_dependent` branches
_ALONE = frozenset(
    "neg abs sign sqrt cbrt square tanh expm1 log1p round floor ceil reshape transpose copy squeeze real imag conj "
    "slice split rev reduce_sum reduce_max reduce_min cumsum".split()
)
_ZERO_IF_ONE_IS = frozenset(["mul", "dot_general"])
_ZERO_IF_ALL_ARE = frozenset("add sub add_any max min concatenate dynamic_update_slice".split())
_KEEPS = frozenset(
    "convert_element_type broadcast_in_dim optimization_barrier reduce_precision pvary pcast reshard mesh_cast "
    "sharding_constraint".split()
)

_OPPOSITE = {ZERO: ZERO, ONE: NEGATIVE, POSITIVE: NEGATIVE, NEGATIVE: POSITIVE, UP: DOWN, DOWN: UP}

Known = Any  # one of these, the place of a gradient, or None where nothing is known


def gradients_like(shapes: Any) -> Any:
    """The shapes of gradients; None for a leaf that has none: integers, keys."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.inexact) else None, shapes)


def fates(tx: Transform, shapes: Any, state: OptState, extra_args: dict[str, Any]) -> list[Known]:
    """For each gradient what its update is: `ZERO`, the place of the gradient that it is, or None for anything else.

    Raises:
      Exception: whatever `update` raises, for instance where an argument is missing that only the program has.
    """
    gradients = gradients_like(shapes)

    def update(gs: Any, state: OptState, params: Params) -> Any:
        return tuple(map(jax.tree.leaves, base.call_update(tx, gs, state, params, extra_args)))

    closed, (updates, _) = jax.make_jaxpr(update, return_shape=True)(gradients, state, shapes)
    places, others = range(len(jax.tree.leaves(gradients))), [None] * len(jax.tree.leaves(shapes))
    zero = _zeros_at_first(tx, shapes)
    while True:  # until what is assumed to be 0 in the state is 0 in the next one too
        found = _outputs(closed.jaxpr, [*places, *[ZERO if x else None for x in zero], *others], closed.consts)
        still = [a and b == ZERO for a, b in zip(zero, found[len(updates) :], strict=True)]
        if still == zero:
            return found[: len(updates)]
        zero = still


def of_params(tx: Transform, shapes: Any, state: OptState) -> list[Known]:
    """For each gradient what its update is where the gradients are 0: `UP` and `DOWN` are growth and decay.

    Raises:
      Exception: whatever `update` raises.
    """
    gradients = gradients_like(shapes)

    def update(gs: Any, state: OptState, params: Params) -> Any:
        return jax.tree.leaves(base.call_update(tx, gs, state, params, {})[0])

    closed = jax.make_jaxpr(update)(gradients, state, shapes)
    inputs = [(gradients, ZERO), (state, None), (shapes, UP)]
    return _outputs(closed.jaxpr, [known for tree, known in inputs for _ in jax.tree.leaves(tree)], closed.consts)


def _zeros_at_first(tx: Transform, shapes: Any) -> list[bool]:
    """Which arrays of the state are 0 when it is made."""
    jaxpr = jax.make_jaxpr(tx.init)(shapes).jaxpr
    return [x == ZERO for x in _outputs(jaxpr, [None] * len(jaxpr.invars))]


def _outputs(jaxpr: Jaxpr, inputs: Sequence[Known], consts: Sequence[Any] = ()) -> list[Known]:
    known: dict[Any, Known] = dict(zip(jaxpr.invars, inputs, strict=True))
    known.update(zip(jaxpr.constvars, map(_number, consts), strict=False))

    def of(v: Any) -> Known:
        if isinstance(v, Literal):
            return _number(v.val)
        return known.get(v)

    for equation in jaxpr.eqns:
        results = _results(equation, [of(v) for v in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [of(v) for v in jaxpr.outvars]


def _number(x: Any) -> Known:
    if isinstance(x, Tracer) or jnp.ndim(x) or is_key(x):
        return None
    x = np.asarray(x)  # which a trace around this does not see
    signs = [] if jnp.iscomplexobj(x) else [(POSITIVE, x > 0), (NEGATIVE, x < 0)]
    return next((name for name, holds in [(ZERO, x == 0), (ONE, x == 1), *signs] if holds), None)


def _results(equation: Any, operands: list[Known]) -> list[Known]:
    name, unknown = equation.primitive.name, [None] * len(equation.outvars)
    zeros = [x == ZERO for x in operands]
    if name == "cond":
        branches = [_outputs(branch.jaxpr, operands[1:]) for branch in equation.params["branches"]]
        if operands[0] == PLATFORM:  # they compute the same: what is known of one is true
            return [next((x for x in xs if x is not None), None) for xs in zip(*branches, strict=True)]
        return [xs[0] if all(x == xs[0] for x in xs) else None for xs in zip(*branches, strict=True)]
    if name == "platform_index":
        return [PLATFORM]
    if name in _KEEPS and len(operands) == len(unknown):
        return operands
    if name in _ALONE and zeros[0] or name in _ZERO_IF_ONE_IS and any(zeros) or name in _ZERO_IF_ALL_ARE and all(zeros):
        return [ZERO] * len(unknown)
    if name in ("min", "max") and any(zeros):
        other = operands[1 - zeros.index(True)]
        return [ZERO if other in ((ZERO, ONE, POSITIVE) if name == "min" else (ZERO, NEGATIVE)) else None]
    if name == "select_n":
        return [operands[1] if all(x == operands[1] for x in operands[1:]) else _same(operands[1:])]
    if name in ("add", "sub", "add_any") and zeros[1]:
        return [operands[0]]
    if name in ("neg", "sign") and operands[0] in _OPPOSITE:
        return [_OPPOSITE[operands[0]] if name == "neg" else operands[0]]
    if name in ("add", "sub", "add_any"):
        return [_same([operands[0], operands[1] if name != "sub" else _OPPOSITE.get(operands[1])])]
    if name == "mul" and ONE in operands:
        return [operands[1 - operands.index(ONE)]]
    if name == "div" and (zeros[0] or operands[1] == ONE):
        return [operands[0]]
    if name in ("mul", "div") and (sign := next((x for x in reversed(operands) if x in (POSITIVE, NEGATIVE)), None)):
        other = operands[0] if name == "div" or operands[1] == sign else operands[1]
        return [other if sign == POSITIVE else _OPPOSITE.get(other)] if other in (UP, DOWN) else unknown
    inside = called(equation)
    return unknown if inside is None else _outputs(inside, operands)


def _same(xs: Sequence[Known]) -> Known:
    """What a sum of these is, or a choice among them by element: the parameters up, or down."""
    found = {x for x in xs if x != ZERO}
    return found.pop() if len(found) == 1 and found <= {UP, DOWN} else None
