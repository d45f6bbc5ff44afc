"""MADGRAD."""

from typing import NamedTuple

import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, Params, Rate, Size
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment, initial_parameter
from gdjax.numerics import Array, abs_sq, bounded, divide
from gdjax.transforms.decay import add_decayed_weights

__all__ = ["MadgradState", "madgrad", "scale_by_madgrad"]


class MadgradState(NamedTuple):
    """State of `scale_by_madgrad`."""

    count: Array  # () int32, updates made so far
    grad_sum_sq: Params  # like params, weighted sum of squares, float32 at least
    s: Params  # like params, weighted sum of gradients, float32 at least
    x0: Params  # like params, the parameters at the start


# Where a parameter is follows from both sums: it would jump with each rounding.
@leafwise(
    MadgradState, grad_sum_sq=Moment(wide=True, real=True, kind="exact"), s=Moment(wide=True, kind="exact"),
    x0=initial_parameter,
)  # fmt: skip
def scale_by_madgrad(
    g: Array, s: MadgradState, p: Array, t: Array,
    learning_rate: hyper.Rate, momentum: hyper.Decay = 0.9, eps: hyper.Size = 1e-6,
) -> tuple[Array, MadgradState]:  # fmt: skip
    """MADGRAD's step, with the learning rate in it.

    Formulas and arguments are those of `gdjax.madgrad`, without its decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.chain(gdjax.clip_by_global_norm(1.0), gdjax.scale_by_madgrad(0.1))
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=300)
      >>> bool(result.history["loss"][-1] < 0.1)
      True

    Reference:
      Defazio & Jelassi 2021, Algorithm 1, https://arxiv.org/abs/2101.11075
    """
    g = bounded(g, "summed")
    lamb = (learning_rate + eps) * jnp.sqrt(t)
    grad_sum_sq = s.grad_sum_sq + lamb * abs_sq(g)
    total = s.s + lamb * g
    z = s.x0 - divide(total, _cbrt(grad_sum_sq) + eps)
    return (1 - momentum) * (z - p), s._replace(grad_sum_sq=grad_sum_sq, s=total)


def _cbrt(x: Array) -> Array:
    """The cube root, with derivative 0 (not infinity) at 0."""
    return jnp.where(x == 0, 0, jnp.cbrt(jnp.where(x == 0, 1, x)))


@transform
def madgrad(
    learning_rate: Rate, momentum: Decay = 0.9, weight_decay: Size = 0.0, eps: Size = 1e-6
) -> GradientTransformation:
    """MADGRAD: dual averaging with the cube root of the sum of squares, and momentum as an average of the iterates.

        lamb_t = (lr + eps) sqrt(t)
        nu_t = nu_{t-1} + lamb_t g_t^2        s_t = s_{t-1} + lamb_t g_t
        z_t = x_1 - s_t / (cbrt(nu_t) + eps)
        x_{t+1} = momentum x_t + (1 - momentum) z_t

    Args:
      learning_rate: lr, a scalar or a schedule; not comparable with that of Adam or SGD.
      momentum: in [0, 1).
      weight_decay: L2: weight_decay x_t is added to the gradient. What suits SGD is too much here, says the reference.
      eps: at least 0. An element that has only had zero gradients does not move.

    The eps beside lr is in the authors' code, not in the paper.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.madgrad(0.1), steps=200)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Defazio & Jelassi 2021, Adaptivity without compromise: a momentumized, adaptive, dual averaged gradient method for
      stochastic optimization, Algorithm 1, https://arxiv.org/abs/2101.11075
    """
    return chain(add_decayed_weights(weight_decay), scale_by_madgrad(learning_rate, momentum, eps))
