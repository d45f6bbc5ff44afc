"""ADana: averages that reach further back the longer a run is, with damping."""

from typing import NamedTuple

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import DType, Mask, Params, Positive, Rate, Share, Size
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.numerics import Array, abs_sq, bounded, divide, sqrt
from gdjax.transforms.decay import descending

__all__ = ["ScaleByAdanaState", "adana", "scale_by_adana"]


class ScaleByAdanaState(NamedTuple):
    """State of `scale_by_adana`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, average of the gradients
    nu: Params  # like params, that of their squares, float32 at least


# In averages over more and more steps the errors of rounding would be larger than what they keep.
@leafwise(
    ScaleByAdanaState, mu=Moment("mu_dtype", kind="exact"), nu=Moment(wide=True, real=True, kind="exact"),
    growth="elementwise",
)  # fmt: skip
def scale_by_adana(
    g: Array, s: ScaleByAdanaState, p: Array, t: Array,
    kappa: hyper.Share = 0.85, delta: hyper.Positive = 8.0, eps: hyper.Size = 1e-8, mu_dtype: DType | None = None,
) -> tuple[Array, ScaleByAdanaState]:  # fmt: skip
    """ADana's direction: a gradient and an ever longer average of gradients, over the root of one of squares.

    Formulas and arguments are those of `gdjax.adana`, without its rate and decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_adana(kappa=1.0, delta=1.0)
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in (4.0, 1.0):
      ...     u, state = tx.update(jnp.array(g), state)
      ...     print(u.round(2), state.mu.round(2))  # mu: the mean of 0, 4, and of 0, 4, 1
      2.12 2.0
      1.12 1.67

    Reference:
      Ferbach, Paquette, Gidel, Everett & Paquette 2026, https://arxiv.org/abs/2602.05298
    """
    g = bounded(g)
    new = delta / (delta + t)
    mu = s.mu + new * (g - s.mu)
    nu = s.nu + new * (abs_sq(g) - s.nu)
    alpha = (1 + t) ** (1 - kappa)
    return divide(g + alpha * mu, sqrt(nu), eps), s._replace(mu=mu, nu=nu)


@transform
def adana(
    learning_rate: Rate, kappa: Share = 0.85, delta: Positive = 8.0, eps: Size = 1e-8, mu_dtype: DType | None = None,
    weight_decay: Size = 0.0, mask: Mask = None,
) -> GradientTransformation:  # fmt: skip
    """ADana: AdamW whose averages reach further back the longer a run is, and count for more.

        b_t = 1 - delta / (delta + t),    alpha_t = (1 + t)^(1 - kappa)
        mu_t = b_t mu_{t-1} + (1 - b_t) g_t
        nu_t = b_t nu_{t-1} + (1 - b_t) g_t^2
        x_{t+1} = x_t - lr ((g_t + alpha_t mu_t) / (sqrt(nu_t) + eps) + weight_decay_t x_t)

    Args:
      learning_rate: lr, a scalar or a schedule, smaller than Adam's: a direction has numbers up to 1 + alpha_t.
      kappa: of the damping, in [0, 1]; at 1 alpha_t is 1, below that the average counts for more and more.
      delta: above 0. The averages are over about the last t / delta steps. For Adam, AdEMAMix and others
        `log_time_schedule(delta)` is b_t.
      eps: outside the root, at least 0.
      mu_dtype: the dtype of mu, the parameter's by default.
      weight_decay: times lr; a number or a schedule. The authors' falls as omega / (tau + t), with omega = 4 and tau a
        tenth of the steps, times lr over its peak: `lambda count: 4 / (peak * (tau + 1 + count))`. That alone helps
        AdamW.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.

    Departures: the authors' code counts mu once more, 1 + alpha_t in place of alpha_t; here it is as they write it. It
    takes the decay of x after the step. Their variants for sparse gradients are left out.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.adana(gdjax.linear_schedule(0.1, 0.0, 300))
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=300)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Ferbach, Paquette, Gidel, Everett & Paquette 2026, Logarithmic-time schedules for scaling language models with
      momentum, https://arxiv.org/abs/2602.05298, and their code, https://github.com/mlexpos/adana
    """
    return descending(scale_by_adana(kappa, delta, eps, mu_dtype), learning_rate, weight_decay, mask)
