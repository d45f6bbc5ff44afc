"""Proximal maps of sets, and of nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core.types import ArrayTree
from gdjax.core.values import value
from gdjax.prox.common import Prox

__all__ = ["from_projection", "none"]


@value
def from_projection(projection: Callable[..., Any], *args: Any, separable: bool = False, **kwargs: Any) -> Prox:
    """The set that a projection is onto: h is 0 there and infinite elsewhere. The map does not read the step.

    Args:
      projection: `projection(tree, *args, **kwargs) -> tree`, one of `gdjax.projections` for instance.
      *args, **kwargs: its further arguments.
      separable: whether it takes each number by itself, as those onto boxes do. Only then is it the nearest point in a
        metric with a step for each element too, as `proximal` has around Adam.

    Raises:
      TypeError: `projection` is no function.
      ValueError: (in the map) a tree of steps, where the projection is not separable.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> prox = gdjax.prox.from_projection(gdjax.projections.projection_simplex, scale=1.0)
      >>> print(prox(jnp.array([1.0, 0.5]), 1.0))
      [0.75 0.25]
    """
    label = "gdjax.prox.from_projection"
    if not callable(projection):
        raise TypeError(f"{label}: projection must be a function, got {projection!r}")

    def prox(tree: ArrayTree, step: ArrayTree = 1.0) -> Any:
        one = jax.tree.structure(step) == jax.tree.structure(0) and jnp.ndim(step) == 0
        if not (one or separable):
            raise ValueError(
                f"{label}: a step for each leaf or element needs a projection that takes each number by itself; "
                "if this one does, as onto a box, say separable=True"
            )
        return projection(tree, *args, **kwargs)

    return prox


@value
def none() -> Prox:
    """No penalty: the tree as it is.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> print(gdjax.prox.none()(jnp.ones(2), 1.0))
      [1. 1.]
    """

    def prox(tree: ArrayTree, step: ArrayTree = 1.0) -> Any:
        return tree

    return prox
