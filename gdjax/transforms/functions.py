"""Transforms without state, from functions."""

from collections.abc import Callable
from typing import Any

import jax

from gdjax.core import checks
from gdjax.core.base import GradientTransformation, init_empty_state, is_float0, transform
from gdjax.core.types import OptState, Params, Updates


@transform
def stateless(f: Callable[[Updates, Params], Updates]) -> GradientTransformation:
    """A transform without state from a function of whole trees, `f(updates, params) -> updates`.

    `params` is None in `f` where `update` got none. For a function of one array see `leafwise`.
    """

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        return f(updates, params), state

    return GradientTransformation(init_empty_state, update)


@transform
def stateless_with_tree_map(f: Callable[[Any, Any], Any]) -> GradientTransformation:
    """A transform without state from a function of one array and its parameter, `f(g, p) -> update`.

    `p` is None in `f` where `update` got no parameters.
    """

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        def apply(g: Any, p: Any) -> Any:
            return g if is_float0(g) else f(g, p)

        if params is None:
            return jax.tree.map(lambda g: apply(g, None), updates), state
        names, structure = ("updates", "params"), jax.tree.structure(updates)
        checks.flatten_like("gdjax.stateless_with_tree_map", names, structure, updates, params)
        return jax.tree.map(apply, updates, params), state

    return GradientTransformation(init_empty_state, update)
