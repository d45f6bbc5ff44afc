"""The parameters to evaluate with, where an optimizer keeps better ones than those it trains."""

from collections.abc import Callable
from typing import Any

import jax

from gdjax.core import base
from gdjax.core.boxes import boxed_like, unboxed
from gdjax.core.skipped import is_skipped
from gdjax.core.types import OptState, Params, Transform
from gdjax.lift.order import averages

LABEL = "gdjax.eval_params"


def eval_params(tx: Transform, state: OptState, params: Params) -> Params:
    """The parameters to evaluate, keep and serve.

    These are the averages of `params_ema` and `swa`, the blend of `tail_ema`, x of `schedule_free`, `gpa` and
    `ema_nesterov`, the slow parameters of `lookahead`; for any other optimizer `params` themselves. They are found in
    the state of chains, masks, groups, accumulation, guards and other wrappers, Optax's too, and so is x of Optax's own
    `schedule_free`. A leaf that an average does not cover, in another group for instance, keeps its parameter. Of an
    average around another the outer one counts.

    A state class of your own takes part with a method `eval_params(self, params)`.

    Args:
      tx: the optimizer.
      state: the state that `update` returned, or the `opt_state` of `nnx.Optimizer`.
      params: the parameters after that update; of an nnx model `nnx.state(model, nnx.Param)`.

    Returns:
      A tree like params, in its dtypes.

    Raises:
      ValueError: an average has another structure than params, as inside `flatten`.
      TypeError: tx is no transform, as where the state comes first.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> averaged = gdjax.params_ema(gdjax.sgd(1.0), decay=0.0, every=2)
      >>> tx = gdjax.apply_if_finite(averaged, max_consecutive_errors=5)
      >>> run = gdjax.minimize(lambda p: p, jnp.array(4.0), tx, steps=3)  # to 3.0, 2.0, 1.0
      >>> print(run.params, gdjax.eval_params(tx, run.state, run.params))
      1.0 2.0
    """
    base.check_transform(LABEL, "tx", tx)
    for own in averages(unboxed(state)):  # nnx has another kind of box in the state than in the parameters
        found = own.eval_params(unboxed(params))
        fits = jax.tree.structure(found) == jax.tree.structure(unboxed(params))
        params = boxed_like(params, found) if fits else own.eval_params(params)  # a part of them, as of `lookahead`
    return params


def evaluated(f: Callable[[Any, Any], Any], slot: Any, params: Params) -> Params:
    """f of a slot and its parameter, leaf by leaf; the parameter where a mask hides the slot."""
    try:
        return jax.tree.map(lambda x, p: p if is_skipped(x) else f(x, p), slot, params, is_leaf=is_skipped)
    except ValueError as e:
        raise ValueError(f"{LABEL}: the state has an average of another structure than the parameters: {e}") from e
