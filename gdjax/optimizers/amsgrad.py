"""AMSGrad."""

from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.misuse import Dialect, dialects
from gdjax.core.types import Decay, DType, Params, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import second_moment
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, sqrt
from gdjax.transforms.decay import descending

__all__ = ["ScaleByAmsgradState", "amsgrad", "scale_by_amsgrad"]


class ScaleByAmsgradState(NamedTuple):
    """State of `scale_by_amsgrad`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, first moment
    nu: Params  # like params, second moment, float32 at least
    nu_max: Params  # like params, the largest (corrected) second moment so far, float32 at least


# The maximum remembers each rounding upwards.
_second = replace(second_moment, kind="fine")


@leafwise(ScaleByAmsgradState, nu=_second, nu_max=_second, growth="elementwise")
def scale_by_amsgrad(
    g: Array, s: ScaleByAmsgradState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.999, eps: hyper.Size = 1e-8, eps_root: hyper.Size = 0.0,
    mu_dtype: DType | None = None, bias_correction_mu: bool = True, bias_correction_nu: bool = True,
) -> tuple[Array, ScaleByAmsgradState]:  # fmt: skip
    """AMSGrad's direction: momentum over the root of the largest second moment so far.

    Formulas and arguments are those of `gdjax.amsgrad`, without its rate.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_amsgrad(b1=0.0)
      >>> state = tx.init(jnp.zeros(()))
      >>> for g in (4.0, 1.0, 1.0):
      ...     direction, state = tx.update(jnp.array(g), state)
      >>> print((100 * direction).round())  # 1 over the 4 of the first step
      25.0

    Reference:
      Reddi, Kale & Kumar 2018, Algorithm 2, https://arxiv.org/abs/1904.09237
    """
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    nu = b2 * s.nu + (1 - b2) * abs_sq(g)
    mu_hat = debias(mu, b1, t) if bias_correction_mu else mu
    nu_max = jnp.maximum(s.nu_max, debias(nu, b2, t) if bias_correction_nu else nu)
    return divide(mu_hat, sqrt(nu_max + eps_root), eps), s._replace(mu=mu, nu=nu, nu_max=nu_max)


@leafwise(ScaleByAmsgradState, nu=_second, nu_max=_second, growth="elementwise")
def _by_torchs_amsgrad(
    g: Array, s: ScaleByAmsgradState, p: Array, t: Array,
    b1: hyper.Decay, b2: hyper.Squares, eps: hyper.Size, eps_root: hyper.Size, mu_dtype: DType | None,
    bias_correction_mu: bool, bias_correction_nu: bool,
) -> tuple[Array, ScaleByAmsgradState]:  # fmt: skip
    """AMSGrad's direction with the maximum of nu_t as it is, corrected after it is taken."""
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    nu = b2 * s.nu + (1 - b2) * abs_sq(g)
    nu_max = jnp.maximum(s.nu_max, nu)
    mu_hat = debias(mu, b1, t) if bias_correction_mu else mu
    nu_hat = debias(nu_max, b2, t) if bias_correction_nu else nu_max
    return divide(mu_hat, sqrt(nu_hat + eps_root), eps), s._replace(mu=mu, nu=nu, nu_max=nu_max)


@transform
@dialects(torch={}, paper={"eps": 0.0, "bias_correction_mu": False, "bias_correction_nu": False})
def amsgrad(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-8, eps_root: Size = 0.0,
    mu_dtype: DType | None = None, bias_correction_mu: bool = True, bias_correction_nu: bool = True,
    *, like: Dialect = "optax",
) -> GradientTransformation:  # fmt: skip
    """AMSGrad: Adam whose rate for a parameter never rises, since the second moment is replaced by its maximum so far.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t          mu_hat_t = mu_t / (1 - b1^t)
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2        nu_max_t = max(nu_max_{t-1}, nu_t / (1 - b2^t))
        x_{t+1} = x_t - lr mu_hat_t / (sqrt(nu_max_t + eps_root) + eps)

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1, b2: decay of the first and second moment, in [0, 1).
      eps, eps_root: outside and inside the root, at least 0. Where the denominator is 0 the direction is the numerator.
      mu_dtype: the dtype of mu, the parameter's by default.
      bias_correction_mu: divide mu by 1 - b1^t.
      bias_correction_nu: divide nu by 1 - b2^t before the maximum is taken. The quotient is large in the first steps,
        which the maximum then remembers.
      like: "optax" as above; "torch" takes nu_max_t = max(nu_max_{t-1}, nu_t), and divides that by 1 - b2^t, as
        `torch.optim.Adam(lr, amsgrad=True)` does; "paper" corrects neither by default, and has no eps.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.amsgrad(0.1), steps=200)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Reddi, Kale & Kumar 2018, On the convergence of Adam and beyond, Algorithm 2, https://arxiv.org/abs/1904.09237
    """
    scale_by = _by_torchs_amsgrad if like == "torch" else scale_by_amsgrad
    direction = scale_by(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu)
    return descending(direction, learning_rate)
