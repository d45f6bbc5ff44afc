"""Transforms without state, from functions."""

from collections.abc import Callable
from typing import Annotated, Any

import jax

from gdjax.core import checks
from gdjax.core.base import GradientTransformation, init_empty_state, map_arrays, transform
from gdjax.core.number_domains import Kind
from gdjax.core.types import OptState, Params, Updates


@transform
def stateless(f: Annotated[Callable[[Updates, Params], Updates], Kind("function")]) -> GradientTransformation:
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
def stateless_with_tree_map(f: Annotated[Callable[[Any, Any], Any], Kind("function")]) -> GradientTransformation:
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

    def of_trees(updates: Updates, params: Params) -> Any:
        if params is None:
            return map_arrays(lambda g: f(g, None), updates)
        names, structure = ("updates", "params"), jax.tree.structure(updates)
        checks.flatten_like("gdjax.stateless_with_tree_map", names, structure, updates, params)
        return map_arrays(f, updates, params)

    return stateless(of_trees)
