"""Adamax and AdamaxW."""

from typing import Any

import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import ScalarOrSchedule
from gdjax.lift.leafwise import Hyper, leafwise
from gdjax.lift.slots import second_moment
from gdjax.numerics import Array, bounded, debias, divide
from gdjax.optimizers.adam import ScaleByAdamState
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate


@leafwise(ScaleByAdamState, nu=second_moment)
def scale_by_adamax(
    g: Array, s: Any, p: Any, t: Any, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-8
) -> Any:  # fmt: skip
    """Adamax's direction, mu_hat_t / nu_t. See `adamax`.

    Args:
      b1, b2, eps: see `adamax`. Where nu_t is 0 the direction is the numerator, which is 0 too.

    Reference:
      Kingma & Ba 2015, Algorithm 2, https://arxiv.org/abs/1412.6980
    """
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    nu = jnp.maximum(b2 * s.nu, jnp.abs(g) + eps)
    return divide(debias(mu, b1, t), nu), s._replace(mu=mu, nu=nu)


@transform
def adamax(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
) -> GradientTransformation:
    """Adamax: Adam with a decaying maximum in place of the root of the average of squares.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t          mu_hat_t = mu_t / (1 - b1^t)
        nu_t = max(b2 nu_{t-1}, |g_t| + eps)
        x_{t+1} = x_t - lr mu_hat_t / nu_t

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the maximum, in [0, 1).
      eps: at least 0; the reference has none, which is eps = 0.

    `adamax(lr)` follows `torch.optim.Adamax(lr)`.

    Reference:
      Kingma & Ba 2015, Adam: a method for stochastic optimization, Algorithm 2, https://arxiv.org/abs/1412.6980
    """
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


@transform
def adamaxw(
    learning_rate: ScalarOrSchedule,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any = None,
) -> GradientTransformation:
    """AdamaxW: `adamax` with decoupled weight decay, x_{t+1} = x_t - lr (mu_hat_t / nu_t + weight_decay x_t).

    Args:
      learning_rate, b1, b2, eps: see `adamax`.
      weight_decay: times lr, at least 0. A scalar or a schedule.
      mask: which leaves decay, as in `masked`.

    Reference:
      Kingma & Ba 2015, Algorithm 2, https://arxiv.org/abs/1412.6980; Loshchilov & Hutter 2019, Decoupled weight decay
      regularization, https://arxiv.org/abs/1711.05101
    """
    return chain(
        scale_by_adamax(b1, b2, eps), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate)
    )
