"""Value and gradient that a line search left in the state of an optimizer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gdjax.core import meshes
from gdjax.core.types import OptState, Params
from gdjax.core.values import value as as_value


@as_value
def value_and_grad_from_state(value_fn: Callable[..., Any], *, has_aux: bool = False) -> Callable[..., tuple[Any, Any]]:
    """Like `jax.value_and_grad(value_fn)`, but takes value and gradient from the state where a line search left them.

    A line search has evaluated both at the point it chose, where the next step starts: this saves one evaluation a
    step. It is right only if the function is the same in both steps (no mini-batches) and nothing after the line search
    changes the update.

    Args:
      value_fn: `value_fn(params, *args, **kwargs)` returns a real scalar.
      has_aux: `value_fn` returns a pair of that and anything else, which no search stores: it is evaluated at `params`,
        without the gradient. `update` still wants a function of the value alone, `value_fn=lambda p: f(p)[0]`.

    Returns:
      A function `(params, *args, state, **kwargs) -> (value, gradient)`, with `has_aux` `((value, aux), gradient)`.
      Where the value in `state` is not finite, as after `init`, where a backtracking search without `store_grad` left
      no gradient, and where a search under a mask left that of its part of the parameters, it evaluates both.

    Raises:
      ValueError: (when called) `state` has not the state of exactly one line search.

    Departs from Optax, which raises where the gradient is None.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> search = gdjax.scale_by_backtracking_linesearch(15, store_grad=True)
      >>> tx, x, f = gdjax.chain(gdjax.sgd(0.25), search), jnp.ones(2), lambda x: x @ x
      >>> value_and_grad = gdjax.value_and_grad_from_state(f)
      >>> value, g = value_and_grad(x, state=tx.init(x))  # evaluated
      >>> u, state = tx.update(g, tx.init(x), x, value=value, grad=g, value_fn=f)
      >>> print(*value_and_grad(gdjax.apply_updates(x, u), state=state))  # read
      0.5 [1. 1.]
    """

    def value_and_grad(params: Params, *args: Any, state: OptState, **kwargs: Any) -> tuple[Any, Any]:
        stored = searches(state)
        if len(stored) != 1:
            raise ValueError(
                f"gdjax.value_and_grad_from_state: state has {len(stored)} parts with a value and a grad; "
                "expected one, the state of a line search"
            )
        value, grad = jnp.asarray(stored[0].value), stored[0].grad
        if grad is None or jax.tree.structure(grad) != jax.tree.structure(params):
            return jax.value_and_grad(value_fn, has_aux=has_aux)(params, *args, **kwargs)

        def read() -> tuple[Any, Any]:
            return (value, value_fn(params, *args, **kwargs)[1]) if has_aux else value, grad

        def evaluate() -> tuple[Any, Any]:
            new, new_grad = jax.value_and_grad(value_fn, has_aux=has_aux)(params, *args, **kwargs)
            found = new[0] if has_aux else new
            kept = jax.tree.map(
                lambda x, old: jax.lax.convert_element_type(x, old.dtype), (found, new_grad), (value, grad)
            )
            return ((kept[0], new[1]) if has_aux else kept[0]), kept[1]

        return meshes.cond(jnp.isfinite(value), read, evaluate)

    return value_and_grad


def searches(state: OptState) -> list[Any]:
    """The states of line searches, this library's or Optax's, in the state of an optimizer."""
    return [x for x in jax.tree.leaves(state, is_leaf=_keeps_both) if _keeps_both(x)]


def _keeps_both(x: object) -> bool:
    return hasattr(x, "value") and hasattr(x, "grad")
