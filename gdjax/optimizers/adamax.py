"""Adamax and AdamaxW."""

from dataclasses import replace

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, Mask, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import second_moment
from gdjax.numerics import Array, bounded, debias, divide
from gdjax.optimizers.adam import ScaleByAdamState
from gdjax.transforms.decay import descending

__all__ = ["adamax", "adamaxw", "scale_by_adamax"]


# A maximum keeps what was rounded upwards, and is not an average of squares: an update is divided by it, not its root.
@leafwise(ScaleByAdamState, nu=replace(second_moment, kind="fine"), growth="elementwise")
def scale_by_adamax(
    g: Array, s: ScaleByAdamState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.999, eps: hyper.Size = 1e-8,
) -> tuple[Array, ScaleByAdamState]:  # fmt: skip
    """Adamax's direction: momentum over a decaying maximum.

    Formulas and arguments are those of `gdjax.adamax`, without its rate.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_adamax()
      >>> state = tx.init(jnp.zeros(2))
      >>> for g in ([4.0, -0.5], [0.0, -0.5]):
      ...     direction, state = tx.update(jnp.array(g), state)
      >>> print((100 * direction).round())
      [  47. -100.]

    Reference:
      Kingma & Ba 2015, Algorithm 2, https://arxiv.org/abs/1412.6980
    """
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    nu = jnp.maximum(b2 * s.nu, jnp.abs(g) + eps)
    return divide(debias(mu, b1, t), nu), s._replace(mu=mu, nu=nu)


@transform
def adamax(learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-8) -> GradientTransformation:
    """Adamax: Adam with a decaying maximum in place of the root of the average of squares.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t          mu_hat_t = mu_t / (1 - b1^t)
        nu_t = max(b2 nu_{t-1}, |g_t| + eps)
        x_{t+1} = x_t - lr mu_hat_t / nu_t

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the maximum, in [0, 1).
      eps: at least 0; the reference has none, which is eps = 0. Where nu_t is 0, so is the direction.

    `adamax(lr)` follows `torch.optim.Adamax(lr)`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.adamax(0.1), steps=200)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Kingma & Ba 2015, Adam: a method for stochastic optimization, Algorithm 2, https://arxiv.org/abs/1412.6980
    """
    return descending(scale_by_adamax(b1, b2, eps), learning_rate)


@transform
def adamaxw(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-8, weight_decay: Size = 1e-4,
    mask: Mask = None,
) -> GradientTransformation:  # fmt: skip
    """AdamaxW: Adamax with decoupled weight decay.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t          mu_hat_t = mu_t / (1 - b1^t)
        nu_t = max(b2 nu_{t-1}, |g_t| + eps)
        x_{t+1} = x_t - lr (mu_hat_t / nu_t + weight_decay x_t)

    Other arguments are those of `gdjax.adamax`.

    Args:
      weight_decay: times lr, at least 0. A scalar or a schedule.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.array([1.0, 2.0])
      >>> tx = gdjax.adamaxw(2e-3, weight_decay=0.1)
      >>> updates, state = tx.update(jnp.array([4.0, -0.5]), tx.init(params), params)
      >>> print((1e5 * updates).round())  # lr times a sign, and the decay
      [-220.  160.]

    Reference:
      Kingma & Ba 2015, Algorithm 2, https://arxiv.org/abs/1412.6980; Loshchilov & Hutter 2019, Decoupled weight decay
      regularization, https://arxiv.org/abs/1711.05101
    """
    return descending(scale_by_adamax(b1, b2, eps), learning_rate, weight_decay, mask)
