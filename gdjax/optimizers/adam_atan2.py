"""Adam-atan2."""

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, DType, Mask, Positive, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import second_moment
from gdjax.numerics import Array, abs_sq, bounded, debias, sqrt
from gdjax.optimizers.adam import ScaleByAdamState
from gdjax.transforms.decay import descending

__all__ = ["adam_atan2", "scale_by_adam_atan2"]


@leafwise(ScaleByAdamState, nu=second_moment, growth="elementwise")
def scale_by_adam_atan2(
    g: Array, s: ScaleByAdamState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.99, a: hyper.Positive = 1.27, b: hyper.Positive = 1.0,
    mu_dtype: DType | None = None,
) -> tuple[Array, ScaleByAdamState]:  # fmt: skip
    """Adam's direction with an arc tangent in the place of the quotient, which needs no eps.

    Formulas and arguments are those of `gdjax.adam_atan2`, without its rate and decay.

    A complex number keeps its argument; the arc tangent is of its size. Where nu is 0, and so g^2 always was, the
    direction is a atan(mu_hat_t), which is 0 or next to it.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx, g = gdjax.scale_by_adam_atan2(), jnp.array([4.0, -0.5, 1e-12])
      >>> u, state = tx.update(g, tx.init(g))
      >>> print(u.round(2))  # adam's eps would leave 1e-4 of the last
      [ 1. -1.  1.]

    Reference:
      Everett et al. 2024, section on Adam-atan2, https://arxiv.org/abs/2407.05872
    """
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    nu = b2 * s.nu + (1 - b2) * abs_sq(g)
    mu_hat, root = debias(mu, b1, t), b * sqrt(debias(nu, b2, t))
    return a * _angle(mu_hat, jnp.where(root == 0, 1, root)), s._replace(mu=mu, nu=nu)


def _angle(y: Array, x: Array) -> Array:
    """atan2(y, x) for x above 0; of a complex y that of its size, times its sign."""
    if jnp.iscomplexobj(y):
        size = jnp.abs(y)
        return y * (jnp.arctan2(size, x) / jnp.where(size == 0, 1, size))
    return jnp.arctan2(y, x)


@transform
def adam_atan2(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.99, a: Positive = 1.27, b: Positive = 1.0,
    mu_dtype: DType | None = None, weight_decay: Size = 0.0, mask: Mask = None,
) -> GradientTransformation:  # fmt: skip
    """Adam-atan2: AdamW with an arc tangent in the place of the quotient: no eps, and steps that are bounded.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t          mu_hat_t = mu_t / (1 - b1^t)
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2        nu_hat_t = nu_t / (1 - b2^t)
        x_{t+1} = x_t - lr (a atan2(mu_hat_t, b sqrt(nu_hat_t)) + weight_decay x_t)

    The steps are the same for gradients c g_t as for g_t, with any c > 0 for which g^2 does not underflow: in float32
    |g| is above 1e-18, and below it steps fade to 0. Adam's are shorter where gradients are not much larger than its
    eps, as they can be in large models.

    Args:
      learning_rate: lr, a scalar or a schedule, or `per_leaf(...)` of one. Adam's rates are right here too.
      b1, b2: decay of the first and second moment, in [0, 1).
      a: above 0. The direction is at most a pi / 2. The default is nearly 4 / pi, with which it is 1, as Adam's, where
        mu_hat = sqrt(nu_hat).
      b: above 0. Where |mu_hat| is far less than sqrt(nu_hat), the direction is a / b times Adam's.
      mu_dtype: the dtype of mu, the parameter's by default; of a complex one that of the parts, float32 at least.
      weight_decay: decoupled, times lr, at least 0. A scalar or a schedule.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.

    The paper's authors have published no code. The defaults of a, b and b2 are those of the PyTorch package
    `adam-atan2-pytorch`; the CUDA package `adam-atan2` has a = b = 1.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: 1e-12 * jnp.sum((x - 3.0) ** 2)  # adam's eps is 1e-8
      >>> tx = gdjax.adam_atan2(gdjax.cosine_decay_schedule(0.1, 200))
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=200)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Everett et al. 2024, Scaling exponents across parameterizations and optimizers, section on Adam-atan2,
      https://arxiv.org/abs/2407.05872
    """
    return descending(scale_by_adam_atan2(b1, b2, a, b, mu_dtype), learning_rate, weight_decay, mask)
