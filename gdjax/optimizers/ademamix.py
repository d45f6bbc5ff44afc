"""AdEMAMix and its simplification."""

from typing import NamedTuple

import jax.numpy as jnp

from gdjax import numerics
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, DType, Mask, Params, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment, Shared, second_moment
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, sqrt
from gdjax.transforms.decay import descending

__all__ = [
    "ScaleByAdemamixState", "ScaleBySimplifiedAdEMAMixState", "ademamix", "scale_by_ademamix",
    "scale_by_simplified_ademamix", "simplified_ademamix",
]  # fmt: skip


class ScaleByAdemamixState(NamedTuple):
    """State of `scale_by_ademamix`."""

    count: Array  # () int32, updates of m1 and nu made so far
    count_m2: Array  # () int32, updates of m2 made so far: what schedules see
    m1: Params  # like params, fast average
    m2: Params  # like params, slow average
    nu: Params  # like params, second moment, float32 at least


class ScaleBySimplifiedAdEMAMixState(NamedTuple):
    """State of `scale_by_simplified_ademamix`."""

    t: Array  # () int32, updates made so far
    m: Params  # like params, decaying sum of gradients
    n: Params  # like params, second moment, float32 at least


# In an average as slow as m2 the errors of rounding would be larger than what it keeps.
@leafwise(
    ScaleByAdemamixState, count=lambda s: s.count_m2, count_m2=Shared(0, jnp.int32),
    m2=Moment("mu_dtype", kind="exact"), nu=Moment(wide=True, real=True, bounds="m1"),
    growth="elementwise",
)  # fmt: skip
def scale_by_ademamix(
    g: Array, s: ScaleByAdemamixState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.999, b3: hyper.Decay = 0.9999, alpha: hyper.Size = 6.0,
    eps: hyper.Size = 1e-8, eps_root: hyper.Size = 0.0, mu_dtype: DType | None = None,
) -> tuple[Array, ScaleByAdemamixState]:  # fmt: skip
    """AdEMAMix's direction: a fast and a slow average of gradients over the root of one of squares.

    Formulas and other arguments are those of `gdjax.ademamix`, without its rate and decay.

    Args:
      alpha: the weight of the slow average; 6 by default, as in Optax.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> alpha = gdjax.linear_schedule(0.0, 6.0, transition_steps=1000)  # warmed up
      >>> tx = gdjax.scale_by_ademamix(alpha=alpha)
      >>> direction, state = tx.update(jnp.array([4.0, -0.5]), tx.init(jnp.zeros(2)))
      >>> print(direction.round())  # as Adam's
      [ 1. -1.]

    Reference:
      Pagliardini, Ablin & Grangier 2024, Algorithm 1, https://arxiv.org/abs/2409.03137
    """
    g = bounded(g)
    m1 = b1 * s.m1 + (1 - b1) * g
    m2 = b3 * s.m2 + (1 - b3) * g
    nu = b2 * s.nu + (1 - b2) * abs_sq(g)
    count, count_m2 = numerics.safe_increment(s.count), numerics.safe_increment(s.count_m2)
    step = count.astype(s.nu.dtype)
    m1_hat, nu_hat = debias(m1, b1, step), debias(nu, b2, step)
    u = divide(m1_hat + alpha * m2, sqrt(nu_hat + eps_root), eps)
    return u, ScaleByAdemamixState(count, count_m2, m1, m2, nu)


@transform
def ademamix(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, b3: Decay = 0.9999, alpha: Size = 5.0, eps: Size = 1e-8,
    eps_root: Size = 0.0, mu_dtype: DType | None = None, weight_decay: Size = 0.0, mask: Mask = None,
) -> GradientTransformation:  # fmt: skip
    """AdEMAMix: AdamW with a second, slow average of the gradients, which remembers thousands of steps.

        m1_t = b1 m1_{t-1} + (1 - b1) g_t          m1_hat_t = m1_t / (1 - b1^t)
        m2_t = b3 m2_{t-1} + (1 - b3) g_t
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2        nu_hat_t = nu_t / (1 - b2^t)
        x_{t+1} = x_t - lr ((m1_hat_t + alpha m2_t) / (sqrt(nu_hat_t + eps_root) + eps) + weight_decay x_t)

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1: decay of the fast average, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      b3: decay of the slow average, in [0, 1), a scalar or a schedule.
      alpha: the weight of the slow average, a scalar or a schedule. The reference uses 5 to 10.
      eps: outside the root, at least 0.
      eps_root: inside the root, at least 0.
      mu_dtype: the dtype of m1 and m2, the parameter's by default.
      weight_decay: decoupled, times lr.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.

    m2 is not corrected for its start at 0. Long runs need both warmed up over T steps, as in the reference: alpha
    with `linear_schedule(0, alpha, T)`, b3 from b1 on with the schedule

        exp(ln b1 ln b3 / ((1 - t / T) ln b3 + (t / T) ln b1)),    b3 from t = T on.

    Schedules of the direction count from `state.count_m2`: set to 0 with m2, it restarts them, for instance when going
    on from a run of AdamW.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.ademamix(0.05, alpha=gdjax.linear_schedule(0.0, 5.0, 300))  # warmed up
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=300)
      >>> bool(result.history["loss"][-1] < 0.1)
      True

    Reference:
      Pagliardini, Ablin & Grangier 2024, The AdEMAMix optimizer: better, faster, older, Algorithm 1,
      https://arxiv.org/abs/2409.03137
    """
    return descending(scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype), learning_rate, weight_decay, mask)


@leafwise(
    ScaleBySimplifiedAdEMAMixState, count=lambda s: s.t, t=Shared(0, dtype=jnp.int32), n=second_moment,
    growth="elementwise",
)  # fmt: skip
def scale_by_simplified_ademamix(
    g: Array, s: ScaleBySimplifiedAdEMAMixState, p: Array, t: Array,
    b1: hyper.Decay = 0.99, b2: hyper.Squares = 0.95, alpha: hyper.Size = 0.0, eps: hyper.Size = 1e-8,
    eps_root: hyper.Size = 0.0,
) -> tuple[Array, ScaleBySimplifiedAdEMAMixState]:  # fmt: skip
    """Simplified AdEMAMix's direction: a sum of gradients and the current one, under an adaptive rate.

    Formulas and arguments are those of `gdjax.simplified_ademamix`, some of `gdjax.ademamix`, without rate and decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_simplified_ademamix(b1=0.99, alpha=10.0)
      >>> direction, state = tx.update(jnp.array([4.0, -0.5]), tx.init(jnp.zeros(2)))
      >>> print(direction.round())  # 1 + alpha in the first step
      [ 11. -11.]

    Reference:
      Morwani, Vyas, Zhang & Kakade 2025, https://arxiv.org/abs/2502.02431
    """
    g = bounded(g)
    m = b1 * s.m + g
    n = b2 * s.n + (1 - b2) * abs_sq(g)
    u = divide(m + alpha * g, sqrt(debias(n, b2, t) + eps_root), eps)
    return u, ScaleBySimplifiedAdEMAMixState(numerics.safe_increment(s.t), m, n)


@transform
def simplified_ademamix(
    learning_rate: Rate, b1: Decay = 0.99, b2: Squares = 0.95, alpha: Size = 0.0, eps: Size = 1e-8,
    eps_root: Size = 0.0, weight_decay: Size = 0.0, mask: Mask = None,
) -> GradientTransformation:  # fmt: skip
    """AdEMAMix with the current gradient in the place of the fast average, and one buffer fewer.

        m_t = b1 m_{t-1} + g_t
        n_t = b2 n_{t-1} + (1 - b2) g_t^2        n_hat_t = n_t / (1 - b2^t)
        x_{t+1} = x_t - lr ((m_t + alpha g_t) / (sqrt(n_hat_t + eps_root) + eps) + weight_decay x_t)

    Other arguments are those of `gdjax.ademamix`.

    Args:
      learning_rate: lr, a scalar or a schedule. m is a sum, up to 1 / (1 - b1) times an average: take lr smaller.
      b1: decay of the sum, in [0, 1).
      alpha: the weight of the current gradient, at least 0 and up to 100 in the reference; a scalar or a schedule.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.simplified_ademamix(1e-3, b1=0.9, alpha=10.0)  # m is a sum: a small rate
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=500)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Morwani, Vyas, Zhang & Kakade 2025, Connections between schedule-free optimizers, AdEMAMix, and accelerated SGD
      variants, https://arxiv.org/abs/2502.02431
    """
    return descending(scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root), learning_rate, weight_decay, mask)
