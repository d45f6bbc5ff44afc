"""Updates times a number: the learning rate, its sign and its schedule."""

from typing import Annotated

from gdjax.core.base import EmptyState
from gdjax.core.number_domains import Kind
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import ScaleByScheduleState
from gdjax.numerics import Array


@leafwise()
def scale(g: Array, s: EmptyState, p: Array, t: Array, step_size: hyper.Finite) -> tuple[Array, EmptyState]:
    """Multiplies the updates by a number.

        u = step_size g

    Args:
      step_size: any finite scalar, of either sign, or a schedule.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.trace(0.9), gdjax.scale(-0.5))  # SGD with momentum
      >>> u, _ = tx.update(jnp.array([3.0, -1.0]), tx.init(jnp.zeros(2)))
      >>> print(u)
      [-1.5  0.5]
    """
    return step_size * g, s


@leafwise(ScaleByScheduleState)
def scale_by_schedule(
    g: Array, s: ScaleByScheduleState, p: Array, t: Array, step_size_fn: Annotated[Hyper, Kind("schedule_or_none")]
) -> tuple[Array, ScaleByScheduleState]:
    """Multiplies the updates by a schedule.

        u_t = step_size_fn(t - 1) g_t,    t = 1, 2, ...

    Args:
      step_size_fn: from the int32 count of updates made so far to a scalar, which keeps its sign: to descend with a
        learning rate use `scale_by_learning_rate`.

    Raises:
      TypeError: (in update) step_size_fn is None, of which the factory warns.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> rate = gdjax.linear_schedule(1.0, 0.0, transition_steps=4)
      >>> descent = gdjax.scale_by_schedule(lambda count: -rate(count))
      >>> tx = gdjax.chain(gdjax.scale_by_adam(), descent)
      >>> u, state = tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)))
      >>> round(float(u), 3)
      -1.0
    """
    if step_size_fn is None:
        raise TypeError("step_size_fn is None: give a function of the count")
    return step_size_fn * g, s


@leafwise()
def scale_by_learning_rate(
    g: Array, s: EmptyState, p: Array, t: Array, learning_rate: hyper.Rate, *, flip_sign: bool = True
) -> tuple[Array, EmptyState]:
    """Turns a direction of ascent into an update of descent.

        u = -learning_rate g

    Args:
      learning_rate: a scalar or a schedule, at least 0, or `per_leaf(...)` of one.
      flip_sign: whether to multiply by -1 (False keeps the sign, to ascend).

    Raises:
      TypeError: learning_rate is None, which Optax takes for "leave the updates as they are", an ascent.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> schedule = gdjax.linear_schedule(1.0, 0.0, transition_steps=4)
      >>> tx = gdjax.chain(gdjax.scale_by_adam(), gdjax.scale_by_learning_rate(schedule))
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([3.0, 3.0, 3.0]):
      ...     u, state = tx.update(g, state)
      >>> round(float(u), 3)  # the third rate is 0.5
      -0.5
    """
    return (-learning_rate if flip_sign else learning_rate) * g, s
