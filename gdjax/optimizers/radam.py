"""RAdam."""

import math

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.misuse import Dialect, dialects
from gdjax.core.types import Bound, Decay, Rate, Size
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import second_moment
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, one_minus_pow, sqrt
from gdjax.optimizers.adam import ScaleByAdamState, corrected_mean
from gdjax.transforms.decay import descending

__all__ = ["radam", "scale_by_radam"]


def sma_length(b: Hyper, t: Array) -> Array:
    """rho_t = rho_inf - 2 t b^t / (1 - b^t), with rho_inf = 2 / (1 - b) - 1: the length of the average that nu_t is.

    That difference loses its digits for b near 1: it takes 1994 from 1999 and leaves 5. With e = -log b, the same is
    2 / e (h(t e) - h(-e)) - 1, where h(x) = 1 - x / (exp(x) - 1) has the sign of x.
    """
    e = -math.log(max(b, 1e-30)) if isinstance(b, int | float) else -jnp.log(jnp.maximum(b, 1e-30))
    return 2 / e * (_h(t * e) - _h(jnp.asarray(-e, t.dtype))) - 1


def _h(x: Array) -> Array:
    """1 - x / (exp(x) - 1), by its series where |x| <= 1 / 4."""
    far = jnp.abs(x) > 0.25
    y = jnp.where(far, 0, x)
    series = y * (1 / 2 + y * (-1 / 12 + y**2 * (1 / 720 + y**2 * (-1 / 30240 + y**2 / 1209600))))
    x = jnp.where(far, x, 1)
    return jnp.where(far, 1 - x / jnp.expm1(x), series)


def _rectification(t: Array, b2: Hyper, threshold: Hyper) -> Array:
    """r_t, and 0 where there is none yet."""
    rho_inf, rho = 2 / (1 - b2) - 1, sma_length(b2, t)
    rectified = (rho >= threshold) & (rho > 4)  # at 4 the variance of the rate is infinite
    rho = jnp.where(rectified, rho, 5)
    return sqrt(jnp.where(rectified, (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho), 0))


@leafwise(ScaleByAdamState, nu=second_moment, growth="elementwise")
def scale_by_radam(
    g: Array, s: ScaleByAdamState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Decay = 0.999, eps: hyper.Size = 1e-8, eps_root: hyper.Size = 0.0,
    threshold: hyper.Bound = 5.0,
    *, nesterov: bool = False,
) -> tuple[Array, ScaleByAdamState]:  # fmt: skip
    """RAdam's direction: Adam's, shorter while its second moment is uncertain.

    Formulas and arguments are those of `gdjax.radam`, without its rate.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_radam()
      >>> g, state = jnp.array([4.0, -2.0]), tx.init(jnp.zeros(2))
      >>> for _ in range(5):
      ...     direction, state = tx.update(g, state)
      >>> print(direction.round(), jnp.abs(tx.update(g, state)[0]) < 0.1)  # the sixth adapts
      [ 4. -2.] [ True  True]

    Reference:
      Liu et al. 2020, Algorithm 2, https://arxiv.org/abs/1908.03265
    """
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    nu = b2 * s.nu + (1 - b2) * abs_sq(g)
    mu_hat, nu_hat = corrected_mean(mu, g, b1, t, nesterov), debias(nu, b2, t)
    r = _rectification(t, b2, threshold)
    return jnp.where(r > 0, r * divide(mu_hat, sqrt(nu_hat + eps_root), eps), mu_hat), s._replace(mu=mu, nu=nu)


@leafwise(ScaleByAdamState, nu=second_moment, growth="elementwise")
def _by_torchs_radam(
    g: Array, s: ScaleByAdamState, p: Array, t: Array,
    b1: hyper.Decay, b2: hyper.Squares, eps: hyper.Size, eps_root: hyper.Size, threshold: hyper.Bound,
    *, nesterov: bool,
) -> tuple[Array, ScaleByAdamState]:  # fmt: skip
    """RAdam's direction with eps beside the root of nu_t, before that is corrected."""
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    nu = b2 * s.nu + (1 - b2) * abs_sq(g)
    mu_hat, root = corrected_mean(mu, g, b1, t, nesterov), sqrt(one_minus_pow(b2, t))
    r = _rectification(t, b2, threshold)
    return jnp.where(r > 0, r * root * divide(mu_hat, sqrt(nu + eps_root), eps), mu_hat), s._replace(mu=mu, nu=nu)


@transform
@dialects(torch={}, paper={"eps": 0.0, "threshold": 4.0})
def radam(
    learning_rate: Rate, b1: Decay = 0.9, b2: Decay = 0.999, eps: Size = 1e-8, eps_root: Size = 0.0,
    threshold: Bound = 5.0,
    *, nesterov: bool = False, like: Dialect = "optax",
) -> GradientTransformation:  # fmt: skip
    """Rectified Adam: Adam whose rate warms up with the variance of its second moment.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t          mu_hat_t = mu_t / (1 - b1^t)
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2        nu_hat_t = nu_t / (1 - b2^t)
        rho_inf = 2 / (1 - b2) - 1,    rho_t = rho_inf - 2 t b2^t / (1 - b2^t)
        r_t = sqrt((rho_t - 4) (rho_t - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho_t))
        x_{t+1} = x_t - lr r_t mu_hat_t / (sqrt(nu_hat_t + eps_root) + eps)    where rho_t >= threshold
        x_{t+1} = x_t - lr mu_hat_t                                            in the steps before

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1, b2: decay of the first and second moment, in [0, 1). With b2 <= 0.6, rho_t never exceeds 4.
      eps, eps_root: outside and inside the root, at least 0. Where the denominator is 0 the direction is r_t mu_hat_t.
      threshold: the length rho_t from which on the step is adaptive, which for b2 = 0.999 is the sixth step. The
        reference has rho_t > 4 in its Algorithm 2 and 5 in its code. Below 4 it means > 4, where r_t begins to exist.
      nesterov: Dozat's NAdam, mu_hat_t = b1 mu_t / (1 - b1^(t+1)) + (1 - b1) g_t / (1 - b1^t).
      like: "optax" as above; "torch" divides by (sqrt(nu_t + eps_root) + eps) / sqrt(1 - b2^t), so that eps counts for
        more at first, as in `torch.optim.RAdam`; "paper", Algorithm 2, has by default no eps and a threshold of 4.

    rho_t is evaluated without cancellation; as written it is wrong by 0.0005 in float32, and r_t by as much.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.radam(0.1)  # warms up by itself
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=300)
      >>> bool(result.history["loss"][-1] < 0.01)
      True

    Reference:
      Liu et al. 2020, On the variance of the adaptive learning rate and beyond, Algorithm 2,
      https://arxiv.org/abs/1908.03265
    """
    scale_by = _by_torchs_radam if like == "torch" else scale_by_radam
    return descending(scale_by(b1, b2, eps, eps_root, threshold, nesterov=nesterov), learning_rate)
