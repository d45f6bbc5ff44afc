"""Yogi."""

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.growth import elementwise_from_0
from gdjax.core.types import Decay, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, sqrt
from gdjax.optimizers.adam import ScaleByAdamState
from gdjax.transforms.decay import descending

__all__ = ["scale_by_yogi", "yogi"]


@leafwise(
    ScaleByAdamState, nu=Moment(wide=True, real=True, fill="initial_accumulator_value"), growth=elementwise_from_0
)
def scale_by_yogi(
    g: Array, s: ScaleByAdamState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.999, eps: hyper.Size = 1e-3, eps_root: hyper.Size = 0.0,
    initial_accumulator_value: hyper.Size = 1e-6,
) -> tuple[Array, ScaleByAdamState]:  # fmt: skip
    """Yogi's direction: Adam's, with a second moment that moves towards g^2 by a bounded step.

    Formulas and other arguments are those of `gdjax.yogi`, without its rate.

    Args:
      eps_root: inside the root, at least 0.
      initial_accumulator_value: nu_0, at least 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_yogi()
      >>> direction, state = tx.update(jnp.array([4.0, -0.5]), tx.init(jnp.zeros(2)))
      >>> print(direction.round())
      [ 1. -1.]

    Reference:
      Zaheer et al. 2018, Algorithm 2
    """
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    nu = s.nu - (1 - b2) * jnp.sign(s.nu - abs_sq(g)) * abs_sq(g)
    return divide(debias(mu, b1, t), sqrt(debias(nu, b2, t) + eps_root), eps), s._replace(mu=mu, nu=nu)


@transform
def yogi(learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-3) -> GradientTransformation:
    """Yogi: Adam whose second moment moves towards g^2 by a step of size (1 - b2) g^2, however far away it is.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t                            mu_hat_t = mu_t / (1 - b1^t)
        nu_t = nu_{t-1} - (1 - b2) sign(nu_{t-1} - g_t^2) g_t^2      nu_hat_t = nu_t / (1 - b2^t),    nu_0 = 1e-6
        x_{t+1} = x_t - lr mu_hat_t / (sqrt(nu_hat_t) + eps)

    Adam's nu forgets a large gradient within 1 / (1 - b2) steps, and the rate rises again; Yogi's falls slowly.

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1: decay of the first moment, in [0, 1).
      b2: of the second, in [0, 1).
      eps: at least 0. Where the denominator is 0 the direction is the numerator.

    Departures: the reference corrects neither moment, Optax both. Optax starts mu at 1e-6 too, and so moves parameters
    that never had a gradient; the reference's mu, and this one, starts at 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.yogi(0.1), steps=300)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Zaheer, Reddi, Sachan, Kale & Kumar 2018, Adaptive methods for nonconvex optimization, Algorithm 2,
      https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization
    """
    return descending(scale_by_yogi(b1, b2, eps), learning_rate)
