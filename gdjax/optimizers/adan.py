"""Adan."""

from typing import NamedTuple

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, Finite, Mask, Params, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment, Shared, second_moment, slow_moment
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, safe_increment, sqrt
from gdjax.transforms.decay import descending

__all__ = ["ScaleByAdanState", "adan", "scale_by_adan"]


class ScaleByAdanState(NamedTuple):
    """State of `scale_by_adan`, in the reference's letters."""

    m: Params  # like params, average of gradients
    v: Params  # like params, average of their differences
    n: Params  # like params, average of squares, float32 at least
    g: Params  # like params, the gradient before
    t: Array  # () int32, updates made so far


@leafwise(
    ScaleByAdanState, m=slow_moment, n=second_moment, t=Shared(0, jnp.int32), g=Moment(kind="exact"),
    growth="elementwise",
)  # fmt: skip
def scale_by_adan(
    g: Array, s: ScaleByAdanState, p: Array, t: Array,
    b1: hyper.Decay = 0.98, b2: hyper.Squares = 0.92, b3: hyper.Decay = 0.99, eps: hyper.Size = 1e-8,
    eps_root: hyper.Size = 0.0,
    *, lookahead: hyper.Finite | None = None,
) -> tuple[Array, ScaleByAdanState]:  # fmt: skip
    """Adan's direction: Nesterov momentum from differences of gradients, under an adaptive rate.

    Formulas and other arguments are those of `gdjax.adan`, without its rate and decay.

    Args:
      eps_root: inside the root, at least 0; 0 by default, as in Optax.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.scale_by_adan(), gdjax.scale_by_learning_rate(1e-3))
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.array([4.0, -0.5]), tx.init(params), params)
      >>> print((1e3 * updates).round())
      [-1.  1.]

    Reference:
      Xie et al. 2022, Algorithm 1, https://arxiv.org/abs/2208.06677
    """
    g = bounded(g)
    ahead = b2 if lookahead is None else lookahead
    count = safe_increment(s.t)
    step = count.astype(s.n.dtype)
    d = jnp.where(step == 1, 0, g - s.g)
    m = b1 * s.m + (1 - b1) * g
    v = b2 * s.v + (1 - b2) * d
    n = b3 * s.n + (1 - b3) * abs_sq(g + ahead * d)
    m_hat, v_hat, n_hat = debias(m, b1, step), debias(v, b2, step), debias(n, b3, step)
    u = divide(m_hat + ahead * v_hat, sqrt(n_hat + eps_root), eps)
    return u, ScaleByAdanState(m, v, n, g, count)


@transform
def adan(
    learning_rate: Rate, b1: Decay = 0.98, b2: Squares = 0.92, b3: Decay = 0.99, eps: Size = 1e-8,
    eps_root: Size = 1e-8, weight_decay: Size = 0.0, mask: Mask = None,
    *, lookahead: Finite | None = None,
) -> GradientTransformation:  # fmt: skip
    """Adan: Nesterov momentum from differences of gradients, under an adaptive rate.

        d_t = g_t - g_{t-1},    d_1 = 0
        m_t = b1 m_{t-1} + (1 - b1) g_t
        v_t = b2 v_{t-1} + (1 - b2) d_t
        n_t = b3 n_{t-1} + (1 - b3) (g_t + lookahead d_t)^2
        x_{t+1} = x_t - lr (m_hat_t + lookahead v_hat_t) / (sqrt(n_hat_t + eps_root) + eps) - lr weight_decay x_t

    where m_hat_t = m_t / (1 - b1^t) and so on.

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1, b2, b3: decay of the averages, in [0, 1). The reference's betas are 1 - b1, 1 - b2 and 1 - b3.
      eps, eps_root: outside and inside the root, at least 0. Where the denominator is 0 the direction is the numerator.
      weight_decay: decoupled, times lr, at least 0. A scalar or a schedule.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.

      lookahead: the weight of the differences; None for the reference's, which is b2. Optax has 1 - b2, 0.08 and not
        0.92 by default: it takes 1 - beta_2 from the reference for a b2 that is 1 - beta_2 already.

    Departures, with Optax: the averages are corrected for their start at 0, as in the reference's code but not
    its Algorithm 1; and the reference decays after the step, dividing x by 1 + lr weight_decay, which is
    `adan(lr / (1 + lr * weight_decay), weight_decay=weight_decay)`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.adan(gdjax.cosine_decay_schedule(0.2, 300))  # 5 to 10 times AdamW's rate
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=300)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Xie et al. 2022, Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models, Algorithm 1,
      https://arxiv.org/abs/2208.06677
    """
    return descending(scale_by_adan(b1, b2, b3, eps, eps_root, lookahead=lookahead), learning_rate, weight_decay, mask)
