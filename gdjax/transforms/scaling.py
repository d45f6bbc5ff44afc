"""Updates times a number, and functions of updates."""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax

from gdjax.core import checks
from gdjax.core.base import EmptyState, GradientTransformation, init_empty_state, map_arrays, transform
from gdjax.core.number_domains import Check
from gdjax.core.types import OptState, Params, Updates
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import ScaleByScheduleState
from gdjax.numerics import Array

__all__ = ["scale", "scale_by_learning_rate", "scale_by_schedule", "stateless", "stateless_with_tree_map"]


@transform
def stateless(f: Annotated[Callable[[Updates, Params], Updates], Check("function")]) -> GradientTransformation:
    """A transform without state from a function of whole trees, `f(updates, params) -> updates`.

    `params` is None in `f` where `update` got none. For a function of one array see `leafwise`.

    Args:
      f: a function `(updates, params) -> updates`, of trees of one structure.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> @gdjax.stateless
      ... def decay(updates, params):
      ...     return jax.tree.map(lambda u, p: u + 0.5 * p, updates, params)
      >>> params = {"w": jnp.array([2.0])}
      >>> u, _ = decay.update({"w": jnp.array([4.0])}, decay.init(params), params)
      >>> print(u["w"])
      [5.]
    """

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        return f(updates, params), state

    return GradientTransformation(init_empty_state, update)


@transform
def stateless_with_tree_map(f: Annotated[Callable[[Any, Any], Any], Check("function")]) -> GradientTransformation:
    """A transform without state from a function of one array and its parameter, `f(g, p) -> update`.

    `p` is None in `f` where `update` got no parameters.

    Args:
      f: a function `(g, p) -> update`, of arrays of one shape.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> sign = gdjax.stateless_with_tree_map(lambda g, p: jnp.sign(g))
      >>> tx = gdjax.chain(sign, gdjax.sgd(0.5))
      >>> u, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
      >>> print(u)
      [-0.5  0.5]
    """
    return stateless(functools.partial(_of_trees, f))


def _of_trees(f: Callable[[Any, Any], Any], updates: Updates, params: Params) -> Any:
    if params is None:
        return map_arrays(lambda g: f(g, None), updates)
    names, structure = ("updates", "params"), jax.tree.structure(updates)
    checks.flatten_like("gdjax.stateless_with_tree_map", names, structure, updates, params)
    return map_arrays(f, updates, params)


@leafwise(growth="same")
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


@leafwise(ScaleByScheduleState, growth="same")
def scale_by_schedule(
    g: Array, s: ScaleByScheduleState, p: Array, t: Array, step_size_fn: Annotated[Hyper, Check("schedule_or_none")]
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


@leafwise(growth="same")
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
