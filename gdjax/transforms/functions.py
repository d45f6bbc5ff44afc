"""Transforms without state, from functions."""

from collections.abc import Callable
from typing import Any

import jax

from gdjax.base import GradientTransformation, OptState, Params, Updates, init_empty_state, transform


@transform
def stateless(f: Callable[[Updates, Params], Updates]) -> GradientTransformation:
    """A transform without state from a function of whole trees, `f(updates, params) -> updates`.

    `params` is None in `f` where `update` got none. For a function of one array see `leafwise`.
    """

    def update(updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any) -> Any:
        return f(updates, params), state

    return GradientTransformation(init_empty_state, update)


@transform
def stateless_with_tree_map(f: Callable[[Any, Any], Any]) -> GradientTransformation:
    """A transform without state from a function of one array and its parameter, `f(g, p) -> update`.

    `p` is None in `f` where `update` got no parameters.
    """

    def update(updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any) -> Any:
        if params is None:
            return jax.tree.map(lambda g: f(g, None), updates), state
        return jax.tree.map(f, updates, params), state

    return GradientTransformation(init_empty_state, update)
