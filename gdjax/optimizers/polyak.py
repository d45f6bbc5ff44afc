"""Gradient descent with Polyak's step size."""

from typing import Any, Literal

import jax.numpy as jnp

from gdjax.combine.chain import Chain
from gdjax.core.base import EmptyState, transform
from gdjax.core.types import Bound, Finite, Size
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.meetings import total
from gdjax.numerics import Array, bounded, sum_sq
from gdjax.optimizers.sgd import sgd

__all__ = ["polyak_sgd", "scale_by_polyak"]


@leafwise(extra="value")
def scale_by_polyak(
    g: Array, s: EmptyState, p: Array, t: Array,
    f_min: hyper.Finite = 0.0, max_learning_rate: hyper.Bound = 1.0, eps: hyper.Size = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
    *, value: Any = None,
) -> tuple[Array, EmptyState]:  # fmt: skip
    """Multiplies the gradients by Polyak's step size.

    Its `update` needs the value: `update(g, state, params, value=f(x))`.

    Formulas and arguments are those of `gdjax.polyak_sgd`, without its scaling.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> params, tx = jnp.zeros(2), gdjax.chain(gdjax.scale_by_polyak(), gdjax.scale(-1.0))
      >>> value, grads = jax.value_and_grad(loss)(params)
      >>> updates, state = tx.update(grads, tx.init(params), params, value=value)
      >>> print(updates)  # (f - f_min) / |g|^2 = 18 / 72
      [1.5 1.5]

    Reference:
      Loizou et al. 2021, https://arxiv.org/abs/2002.10542
    """
    gap = jnp.maximum(value - f_min, 0) if variant == "sps+" else value - f_min
    square = total(sum_sq(g)) + eps
    zero = square == 0
    step = jnp.where(zero, 0, jnp.minimum(gap / jnp.where(zero, 1, square), max_learning_rate))
    return step * bounded(g, "summed"), s


def _reversed(states: Any) -> Any:
    return tuple(reversed(states))


@transform
def polyak_sgd(
    max_learning_rate: Bound = 1.0, scaling: Size = 1.0, f_min: Finite = 0.0, eps: Size = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
) -> Any:  # fmt: skip
    """Gradient descent with Polyak's step size: as far as a linear model of the function says its minimum is.

        x_{t+1} = x_t - scaling min((f(x_t) - f_min) / (|g_t|^2 + eps), max_learning_rate) g_t

    Its `update` needs the value: `update(g, state, params, value=f(x))`.

    Args:
      max_learning_rate: a bound on the step size, at least 0.
      scaling: a factor, a scalar or a schedule (1 / c in the reference, but outside the minimum).
      f_min: the least value of the function, or a lower bound; 0 suits losses that a model can interpolate. Above the
        true one the method does not converge.
      eps: at least 0. With a zero gradient the step is zero, whatever eps.
      variant: "sps+" takes a step of zero where f < f_min; "sps" then steps uphill.

    Raises:
      ValueError: (in update) `value` is missing or not a scalar; an unknown variant.

    Optax takes the norm of scaling g: with scaling = 1/2 its step is up to twice as long, not half. It also takes no
    step where |g|^2 < 2.2e-16.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> params, tx = jnp.zeros(2), gdjax.polyak_sgd(max_learning_rate=0.4)
      >>> value, grads = jax.value_and_grad(loss)(params)
      >>> updates, state = tx.update(grads, tx.init(params), params, value=value)
      >>> print(gdjax.apply_updates(params, updates))  # half of the way
      [1.5 1.5]

    Reference:
      Loizou, Vaswani, Laradji & Lacoste-Julien 2021, Stochastic Polyak step-size for SGD (SPS_max),
      https://arxiv.org/abs/2002.10542; "sps+": Garrigos, Gower & Schaipp 2023, https://arxiv.org/abs/2307.14528
    """
    # The states stand in the order that Optax's checkpoints have.
    parts = scale_by_polyak(f_min, max_learning_rate, eps, variant), sgd(scaling)
    return Chain("gdjax.polyak_sgd", parts, _reversed, _reversed)
