"""ACProp."""

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, Mask, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, sqrt
from gdjax.optimizers.adabelief import ScaleByBeliefState
from gdjax.transforms.decay import descending

__all__ = ["acprop", "scale_by_acprop"]


@leafwise(ScaleByBeliefState, nu=Moment(wide=True, real=True), growth="elementwise")
def scale_by_acprop(
    g: Array, s: ScaleByBeliefState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.999, eps: hyper.Size = 1e-16, eps_root: hyper.Size = 1e-16,
    *, new_mean: bool = False,
) -> tuple[Array, ScaleByBeliefState]:  # fmt: skip
    """ACProp's direction: the gradient over its standard deviation before it.

    Formulas and arguments are those of `gdjax.acprop`, without its rate and decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_acprop()
      >>> g, state = jnp.array([4.0, -2.0]), tx.init(jnp.zeros(2))
      >>> for _ in range(2):  # at first there is nothing to divide by
      ...     direction, state = tx.update(g, state)
      ...     print(direction.round())
      [ 4. -2.]
      [ 1. -1.]

    Reference:
      Zhuang et al. 2021, https://arxiv.org/abs/2110.05454
    """
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    nu = b2 * s.nu + (1 - b2) * abs_sq(g - (mu if new_mean else s.mu)) + eps_root
    nu_hat = jnp.where(t > 1, debias(s.nu, b2, jnp.maximum(t - 1, 1)), 1)
    return divide(g, sqrt(nu_hat), eps), s._replace(mu=mu, nu=nu)


@transform
def acprop(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-16, eps_root: Size = 1e-16,
    weight_decay: Size = 0.0, mask: Mask = None,
    *, new_mean: bool = False,
) -> GradientTransformation:  # fmt: skip
    """ACProp: AdaBelief's denominator, but of the step before, so that it does not depend on the gradient it divides.

        x_{t+1} = x_t - lr (g_t / (sqrt(nu_hat_{t-1}) + eps) + weight_decay x_t)
        nu_t = b2 nu_{t-1} + (1 - b2) (g_t - mu_{t-1})^2 + eps_root        nu_hat_t = nu_t / (1 - b2^t)
        mu_t = b1 mu_{t-1} + (1 - b1) g_t

    The first step has nothing to divide by: nu_hat_0 = 1.

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1: decay of the mean, in [0, 1).
      b2: decay of the variance, in [0, 1).
      eps: outside the root, at least 0. Where the denominator is 0 the direction is g_t.
      eps_root: at least 0. After a first gradient of 0 the next step is as long as this is small.
      weight_decay: decoupled, times lr.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.
      new_mean: take the deviation from mu_t, as the reference and its code do, instead of from mu_{t-1}, as Optax does.
        It is b1 times as large, and the steps then 1 / b1 times as long.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.acprop(1e-2, weight_decay=1e-4, new_mean=True)  # as the paper's code
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=200)
      >>> bool(result.history["loss"][-1] < 0.01 * result.history["loss"][0])
      True

    Reference:
      Zhuang et al. 2021, Momentum centering and asynchronous update for adaptive gradient methods, section 2 (ACProp),
      https://arxiv.org/abs/2110.05454
    """
    return descending(scale_by_acprop(b1, b2, eps, eps_root, new_mean=new_mean), learning_rate, weight_decay, mask)
