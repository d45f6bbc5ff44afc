"""Which gradients `MultiSteps` leaves out."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.combine.conditional import all_finite
from gdjax.core import base, meshes
from gdjax.core.signatures import short_types
from gdjax.core.types import Params, Scalar, Updates
from gdjax.numerics import Array


class ShouldSkipUpdateFunction(Protocol):
    """`should_skip(updates, gradient_step, params) -> (skip, info)`.

    `skip` is a boolean scalar: leave these gradients out. `info` is any tree of arrays, to be read in
    `MultiStepsState.skip_state`; it has the same structure in every call.
    """

    def __call__(self, updates: Updates, gradient_step: Array, params: Params) -> tuple[Any, Any]: ...


def skip_not_finite(updates: Updates, gradient_step: Array, params: Params) -> tuple[Array, dict[str, Array]]:
    """Skips gradients with a NaN or an infinity in them; a `ShouldSkipUpdateFunction`.

    Args:
      updates: the gradients, a tree of arrays.
      gradient_step: the steps made so far; not read.
      params: the parameters, or None; not read.

    Returns:
      Whether to skip, and a dict with that as "should_skip" and the number of such elements as "num_not_finite".

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.MultiSteps(gdjax.sgd(1.0), 2, True, gdjax.skip_not_finite)
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([1.0, jnp.nan, 3.0]):
      ...     u, state = tx.update(g, state)
      >>> print(u)  # of the mean of the two that are finite
      -2.0
    """
    skip = ~all_finite(updates)
    leaves = [x for x in jax.tree.leaves(updates) if not base.is_float0(x)]

    def count() -> Array:
        counts = [jnp.sum(~jnp.isfinite(x), dtype=jnp.int32) for x in leaves]
        return jnp.sum(jnp.asarray(counts, jnp.int32), dtype=jnp.int32)

    number = meshes.cond(skip, count, lambda: jnp.zeros((), jnp.int32))
    return skip, {"should_skip": skip, "num_not_finite": number}


@short_types
def skip_large_updates(
    updates: Updates, gradient_step: Array, params: Params, max_squared_norm: Scalar
) -> tuple[Array, dict[str, Array]]:
    """Skips gradients whose squared global norm is not below `max_squared_norm`, or is NaN.

    Fill in the bound to make it a `ShouldSkipUpdateFunction`:
    `functools.partial(skip_large_updates, max_squared_norm=42.0)`.

    Args:
      updates: the gradients, a tree of arrays.
      gradient_step: the steps made so far; not read.
      params: the parameters, or None; not read.
      max_squared_norm: the least squared norm that is skipped, sum_i |g_i|^2 over all leaves.

    Returns:
      Whether to skip, and a dict with that as "should_skip" and the squared norm, taken in float32 or wider, as
      "norm_squared".

    Example:
      >>> import functools, gdjax, jax.numpy as jnp
      >>> skip = functools.partial(gdjax.skip_large_updates, max_squared_norm=100.0)
      >>> tx = gdjax.MultiSteps(gdjax.sgd(1.0), 1, should_skip_update_fn=skip)
      >>> u, state = tx.update(jnp.array([12.0, 16.0]), tx.init(jnp.zeros(2)))
      >>> print(u, state.skip_state["should_skip"], state.skip_state["norm_squared"])
      [0. 0.] True 400.0
    """
    norm_squared = tree.norm(updates, squared=True)
    skip = ~(norm_squared < jnp.asarray(max_squared_norm).astype(norm_squared.dtype))
    return skip, {"should_skip": skip, "norm_squared": norm_squared}
