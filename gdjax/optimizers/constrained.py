"""Descent in the parameters and ascent in the multipliers of a Lagrangian, in one step."""

from collections.abc import Mapping
from typing import Any

from gdjax.combine.chain import chain
from gdjax.combine.groups import partition
from gdjax.core import base
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Finite, Params, Transform
from gdjax.optimizers.optimistic import scale_by_optimistic_gradient
from gdjax.transforms.constraints import keep_params_nonnegative
from gdjax.transforms.scaling import scale

__all__ = ["constrained"]

LABEL = "gdjax.constrained"


@transform
def constrained(tx: Transform, dual_tx: Transform, optimism: Finite = 0.0) -> GradientTransformation:
    """Descent in the parameters and ascent in the multipliers of `gdjax.lagrangian`, in one step.

        x <- x + tx(g_x),    lambda <- lambda + dual_tx(-g_lambda),    mu <- max(0, mu + dual_tx(-g_mu))

    with g the gradient of the Lagrangian, or with optimism g_t + optimism (g_t - g_{t-1}) in its place. For constraints
    in training, with batches and any optimizer; for a loss without noise there is `solve_constrained`.

    Args:
      tx: moves the parameters "x".
      dual_tx: moves the "multipliers", commonly SGD. It gets their gradients negated.
      optimism: 1 for optimistic steps in both, which damp the circling around the saddle point of a Lagrangian that is
        not strictly convex; 0 for none.

    The parameters of this transform are a tree {"x": ..., "multipliers": {"equality": ..., "inequality": ...}}, as
    `lagrangian(...).init` returns it.

    Raises:
      TypeError: `tx` or `dual_tx` is no transform.
      ValueError: (in init) the parameters are no such tree.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> game = gdjax.lagrangian(lambda x: jnp.sum((x - 2) ** 2), inequality=lambda x: 1 - x)
      >>> tx = gdjax.constrained(gdjax.sgd(0.1), gdjax.sgd(0.3))
      >>> run = gdjax.minimize(game.loss, game.init(jnp.zeros(2)), tx, steps=300)
      >>> print(run.params["x"].round(2), run.params["multipliers"]["inequality"].round(2))
      [1. 1.] [2. 2.]

    Reference:
      Platt & Barr 1987, Constrained differential optimization; Gallego-Posada et al. 2025, Cooper, a library for
      constrained optimization in deep learning, https://arxiv.org/abs/2504.01212, whose simultaneous updates these are
    """
    tx, dual_tx = base.check_transform(LABEL, "tx", tx), base.check_transform(LABEL, "dual_tx", dual_tx)
    ascent = chain(scale(-1.0), dual_tx)
    groups = {"x": tx, "equality": ascent, "inequality": chain(ascent, keep_params_nonnegative())}
    step = partition(groups, _labels)
    at_once = isinstance(optimism, int | float) and optimism == 0
    return step if at_once else chain(scale_by_optimistic_gradient(1.0, optimism), step)


def _labels(params: Params) -> Any:
    kinds = {"equality", "inequality"}
    multipliers = params.get("multipliers") if isinstance(params, Mapping) else None
    if not (isinstance(multipliers, Mapping) and set(params) == {"x", "multipliers"} and set(multipliers) <= kinds):
        raise ValueError(
            f'{LABEL}: the parameters must be {{"x": ..., "multipliers": {{"equality": ..., "inequality": ...}}}}, as '
            "lagrangian(...).init(x) returns them"
        )
    return {"x": "x", "multipliers": {kind: kind for kind in multipliers}}
