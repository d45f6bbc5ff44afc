"""MoMo and MoMo-Adam: momentum with a step size of Polyak's kind."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax.core.types import Params
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.meetings import total
from gdjax.lift.slots import Moment, Shared, second_moment
from gdjax.linalg.vectors import bounded_inner, inner
from gdjax.numerics import Array, abs_sq, bounded, divide, one_minus_pow, sqrt

__all__ = ["MomoAdamState", "MomoState", "momo", "momo_adam"]

# The step is made of its inner product with the parameters less an average of such products, and of its norm.
_average = Moment(kind="exact")


class MomoState(NamedTuple):
    """State of `momo`."""

    exp_avg: Params  # like params, average of gradients
    barf: Array  # () average of values
    gamma: Array  # () average of <gradient, parameters>
    lb: Array  # () lower bound of the function
    count: Array  # () int32, updates made so far


class MomoAdamState(NamedTuple):
    """State of `momo_adam`."""

    exp_avg: Params  # like params, average of gradients
    exp_avg_sq: Params  # like params, second moment, float32 at least
    barf: Array  # () average of values
    gamma: Array  # () average of <gradient, parameters>
    lb: Array  # () lower bound of the function
    count: Array  # () int32, updates made so far


def _model_step(
    inner: Array, square: Array, barf: Array, gamma: Array, lb: Array,
    lr: Hyper, decay: Hyper, lower_bound: Hyper, adapt: bool, rho: Array | float,
) -> tuple[Array, Array]:  # fmt: skip
    """The step size and the new lower bound, from the model max(barf - gamma + <d, x>, rho lb) of the function.

    Args:
      inner: <d, x>.
      square: the squared norm of d, the averaged gradients, in the metric of the method.
      rho: the sum of the weights of the averages.
    """
    a = 1 + lr * decay
    if adapt:
        cap = a * (barf - gamma) + inner
        lb = jnp.where(cap < a * rho * lb, jnp.maximum(cap / (2 * a * rho), lower_bound), lb)
    gap = jnp.maximum(a * (barf - rho * lb - gamma) + inner, 0)
    zero = square == 0
    tau = jnp.minimum(jnp.where(zero, 0, gap / jnp.where(zero, 1, square)), lr / rho)
    if adapt:
        lb = jnp.maximum((barf + inner - gamma - tau * square / 2) / rho, lower_bound)
    return tau, lb


@leafwise(MomoState, extra="value", exp_avg=_average, barf=Shared(), gamma=Shared(), lb=Shared("lower_bound"))
def momo(
    g: Array, s: MomoState, p: Array, t: Array,
    learning_rate: hyper.Rate = 1.0, beta: hyper.Decay = 0.9, lower_bound: hyper.Finite = 0.0,
    weight_decay: hyper.Size = 0.0, adapt_lower_bound: bool = False,
    *, value: Any = None,
) -> tuple[Array, MomoState]:  # fmt: skip
    """MoMo: momentum with a step no longer than to where a model of the function reaches its lower bound.

        d_t = beta d_{t-1} + (1 - beta) g_t                  d_0 = g_1, and so for the two below
        f_t = beta f_{t-1} + (1 - beta) f(x_t)
        gamma_t = beta gamma_{t-1} + (1 - beta) <g_t, x_t>
        tau_t = min(lr, max(a (f_t - gamma_t - lower_bound) + <d_t, x_t>, 0) / |d_t|^2),    a = 1 + lr weight_decay
        x_{t+1} = (x_t - tau_t d_t) / a

    Its `update` needs the value: `update(g, state, params, value=f(x))`.

    Args:
      learning_rate: lr, the longest step, a scalar or a schedule.
      beta: decay of the averages, in [0, 1).
      lower_bound: of the function; 0 suits most losses.
      weight_decay: at least 0; the proximal step of an L2 penalty.
      adapt_lower_bound: estimate the bound from step to step; the estimate does not fall below `lower_bound`.

    Raises:
      ValueError: (in update) `value` is missing or not a scalar.

    With weight decay Optax divides x_t alone by a, not the step. It takes no step where |d_t|^2 < 2.2e-16; here the
    step is zero only where |d_t|^2 is.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> params, tx = jnp.zeros(2), gdjax.momo(1.0)
      >>> value, grads = jax.value_and_grad(loss)(params)
      >>> updates, state = tx.update(grads, tx.init(params), params, value=value)
      >>> print((100 * updates).round())  # to where the linear model is 0
      [150. 150.]

    Reference:
      Schaipp, Ohana, Eickenberg, Defazio & Gower 2023, MoMo: momentum models for adaptive learning rates, Algorithm 1,
      https://arxiv.org/abs/2305.07583
    """
    old, new = jnp.where(t > 1, beta, 0.0), jnp.where(t > 1, 1 - beta, 1.0)  # at first the average is what is new
    f, gamma = old * s.barf + new * value, old * s.gamma + new * total(bounded_inner(g, p))
    d = old * s.exp_avg + new * bounded(g, "summed")
    along, square = total(inner(d, p)), total(jnp.sum(abs_sq(d)))
    numbers = learning_rate, weight_decay, lower_bound, adapt_lower_bound
    tau, lb = _model_step(along, square, f, gamma, s.lb, *numbers, 1)
    return _shrunk(tau * d, p, learning_rate * weight_decay), MomoState(d, f, gamma, lb, s.count)


def _shrunk(step: Array, p: Array, decay: Hyper) -> Array:
    """The update that leads to (p - step) / (1 + decay)."""
    return -(step + decay * p) * (1 / (1 + decay))


@leafwise(
    MomoAdamState,
    extra="value",
    exp_avg=_average,
    exp_avg_sq=second_moment,
    barf=Shared(),
    gamma=Shared(),
    lb=Shared("lower_bound"),
)  # fmt: skip
def momo_adam(
    g: Array, s: MomoAdamState, p: Array, t: Array,
    learning_rate: hyper.Rate = 1e-2, b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.999, eps: hyper.Size = 1e-8,
    lower_bound: hyper.Finite = 0.0, weight_decay: hyper.Size = 0.0, adapt_lower_bound: bool = False,
    *, value: Any = None,
) -> tuple[Array, MomoAdamState]:  # fmt: skip
    """MoMo-Adam: MoMo in Adam's metric.

        d_t = b1 d_{t-1} + (1 - b1) g_t                      d_0 = 0, and so for the three below
        v_t = b2 v_{t-1} + (1 - b2) g_t^2                    D_t = sqrt(v_t / (1 - b2^t)) + eps
        f_t = b1 f_{t-1} + (1 - b1) f(x_t)
        gamma_t = b1 gamma_{t-1} + (1 - b1) <g_t, x_t>
        tau_t = min(lr / rho_t, max(a (f_t - gamma_t - rho_t lower_bound) + <d_t, x_t>, 0) / <d_t, d_t / D_t>)
        x_{t+1} = (x_t - tau_t d_t / D_t) / a,               rho_t = 1 - b1^t,    a = 1 + lr weight_decay

    Its `update` needs the value: `update(g, state, params, value=f(x))`.

    Other arguments are those of `gdjax.momo`.

    Args:
      b1: decay of the averages, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: at least 0. An element that has only had zero gradients does not move.

    Raises:
      ValueError: (in update) `value` is missing or not a scalar.

    Departs from Optax as `momo` does.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.momo_adam(1.0)  # a bound that need not be tuned
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=100)  # passes value=
      >>> bool(result.history["loss"][-1] < 0.1)
      True

    Reference:
      Schaipp, Ohana, Eickenberg, Defazio & Gower 2023, MoMo: momentum models for adaptive learning rates, Algorithm 2,
      https://arxiv.org/abs/2305.07583
    """
    f, gamma = b1 * s.barf + (1 - b1) * value, b1 * s.gamma + (1 - b1) * total(bounded_inner(g, p))
    g = bounded(g, "summed")
    d, v = b1 * s.exp_avg + (1 - b1) * g, b2 * s.exp_avg_sq + (1 - b2) * abs_sq(g)
    u = divide(d, sqrt(v * (1 / one_minus_pow(b2, t))), eps)
    along, square = total(inner(d, p)), total(inner(d, u))
    numbers = learning_rate, weight_decay, lower_bound, adapt_lower_bound
    tau, lb = _model_step(along, square, f, gamma, s.lb, *numbers, one_minus_pow(b1, t))
    return _shrunk(tau * u, p, learning_rate * weight_decay), MomoAdamState(d, v, f, gamma, lb, s.count)
