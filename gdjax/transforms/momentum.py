"""Accumulated gradients."""

from typing import NamedTuple

from gdjax.core.types import DType, Updates
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.numerics import Array


class TraceState(NamedTuple):
    """State of `trace`."""

    trace: Updates  # like params, the decaying sum of the updates


@leafwise(TraceState, trace=Moment("accumulator_dtype"))
def trace(
    g: Array, s: TraceState, p: Array, t: Array,
    decay: hyper.Share, nesterov: bool = False, accumulator_dtype: DType | None = None,
) -> tuple[Array, TraceState]:  # fmt: skip
    """Momentum: adds up the updates with decay.

        v_t = g_t + decay v_{t-1},    v_0 = 0,    u_t = v_t

    Args:
      decay: the momentum coefficient, in [0, 1]; 1 adds up without decay.
      nesterov: u_t = g_t + decay v_t, the velocity one step ahead.
      accumulator_dtype: the dtype of v, the parameter's by default.

    This is a sum, not an average: with constant g it tends to g / (1 - decay). See `sgd` for the forms of momentum.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.trace(decay=0.5), gdjax.scale_by_learning_rate(1.0))
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([1.0, 1.0]):
      ...     u, state = tx.update(g, state)
      ...     print(u)
      -1.0
      -1.5
    """
    v = g + decay * s.trace
    return (g + decay * v if nesterov else v), TraceState(trace=v)
