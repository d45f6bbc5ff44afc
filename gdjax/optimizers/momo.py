"""MoMo and MoMo-Adam: momentum with a step size of Polyak's kind."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax import tree
from gdjax.core import checks
from gdjax.core.types import Params
from gdjax.lift.leafwise import Hyper, Reduced, leafwise
from gdjax.lift.slots import Moment, Shared, second_moment
from gdjax.numerics import Array, abs_sq, bounded, divide, one_minus_pow, scalar, sqrt, widen
from gdjax.xla.sums import summand

_average = Moment()


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


def _inner(xs: Any, ys: Any, real: Any) -> Array:
    return jnp.real(tree.vdot(xs, ys)).astype(real)


def _model_step(
    d: Any, square: Array, barf: Array, gamma: Array, p: Any, lb: Array,
    lr: Any, decay: Hyper, lower_bound: Any, adapt: bool, rho: Any,
) -> tuple[Array, Array]:  # fmt: skip
    """The step size and the new lower bound, from the model max(barf - gamma + <d, x>, rho lb) of the function.

    Args:
      d: the averaged gradients, `square` their squared norm in the metric of the method.
      rho: the sum of the weights of the averages.
    """
    inner, a = _inner(d, p, barf.dtype), 1 + lr * decay
    if adapt:
        cap = a * (barf - gamma) + inner
        lb = jnp.where(cap < a * rho * lb, jnp.maximum(cap / (2 * a * rho), lower_bound), lb)
    gap = jnp.maximum(a * (barf - rho * lb - gamma) + inner, 0)
    zero = square == 0
    tau = jnp.minimum(jnp.where(zero, 0, gap / jnp.where(zero, 1, square)), lr / rho)
    if adapt:
        lb = jnp.maximum((barf + inner - gamma - tau * square / 2) / rho, lower_bound)
    return tau, lb


def _weights(beta: Hyper, t: Array) -> tuple[Any, Any]:
    """The weights of an average and of what is new; at the first step the average is what is new."""
    return jnp.where(t > 1, beta, 0.0), jnp.where(t > 1, 1 - beta, 1.0)


def _momo_step(
    g: list[Array], s: Any, p: list[Array], t: Array,
    learning_rate: Any, beta: Hyper, lower_bound: Any, weight_decay: Any, adapt_lower_bound: bool, value: Any,
) -> dict[str, Any]:  # fmt: skip
    lb = jnp.asarray(s.lb)
    real = lb.dtype
    value = checks.extra("gdjax.momo", "value", value).astype(real)
    numbers = learning_rate, beta, lower_bound, weight_decay, t
    lr, beta, lower_bound, decay, t = (scalar(x, real) for x in numbers)
    g, p, d = widen((g, p, s.exp_avg), real)
    g, factor = [bounded(x, "summed") for x in g], [summand(x) for x in g]
    old, new = _weights(beta, t)
    d = [old * x + new * y for x, y in zip(d, g, strict=True)]
    barf, gamma = old * s.barf + new * value, old * s.gamma + new * _inner(factor, p, real)
    square = tree.norm(d, squared=True).astype(real)
    tau, lb = _model_step(d, square, barf, gamma, p, lb, lr, decay, lower_bound, adapt_lower_bound, 1)
    return {"tau": tau, "lb": lb, "barf": barf, "gamma": gamma}


@leafwise(
    MomoState, reduce=_momo_step,
    exp_avg=_average, barf=Shared(), gamma=Shared(), lb=Shared("lower_bound"),
)  # fmt: skip
def momo(
    g: Array, s: MomoState, p: Array, t: Array,
    learning_rate: Hyper = 1.0, beta: Hyper = 0.9, lower_bound: Hyper = 0.0, weight_decay: Hyper = 0.0,
    adapt_lower_bound: bool = False, *, tau: Reduced = None,
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
    g = bounded(g, "summed")
    old, new = _weights(beta, t)
    d = old * s.exp_avg + new * g
    return _shrunk(tau * d, p, learning_rate * weight_decay), s._replace(exp_avg=d)


def _shrunk(step: Array, p: Array, decay: Hyper) -> Array:
    """The update that leads to (p - step) / (1 + decay)."""
    return -(step + decay * p) * (1 / (1 + decay))


def _momo_adam_step(
    g: list[Array], s: Any, p: list[Array], t: Array,
    learning_rate: Any, b1: Hyper, b2: Hyper, eps: Hyper, lower_bound: Any, weight_decay: Any, adapt_lower_bound: bool,
    value: Any,
) -> dict[str, Any]:  # fmt: skip
    lb = jnp.asarray(s.lb)
    real = lb.dtype
    value = checks.extra("gdjax.momo_adam", "value", value).astype(real)
    numbers = learning_rate, b1, b2, eps, lower_bound, weight_decay, t
    lr, b1, b2, eps, lower_bound, decay, t = (scalar(x, real) for x in numbers)
    g, p, d, v = widen((g, p, s.exp_avg, s.exp_avg_sq), real)
    g, factor = [bounded(x, "summed") for x in g], [summand(x) for x in g]
    moments = [_adam(*xs, t, b1, b2, eps) for xs in zip(g, d, v, strict=True)]
    d, scaled = [d for d, _, _ in moments], [x for _, _, x in moments]
    barf, gamma = b1 * s.barf + (1 - b1) * value, b1 * s.gamma + (1 - b1) * _inner(factor, p, real)
    square, rho = _inner(d, scaled, real), one_minus_pow(b1, t)
    tau, lb = _model_step(d, square, barf, gamma, p, lb, lr, decay, lower_bound, adapt_lower_bound, rho)
    return {"tau": tau, "lb": lb, "barf": barf, "gamma": gamma}


def _adam(g: Array, d: Array, v: Array, t: Array, b1: Hyper, b2: Hyper, eps: Hyper) -> tuple[Array, Array, Array]:
    """The new moments and Adam's direction, without bias correction of the first."""
    d, v = b1 * d + (1 - b1) * g, b2 * v + (1 - b2) * abs_sq(g)
    return d, v, divide(d, sqrt(v * (1 / one_minus_pow(b2, t))), eps)


@leafwise(
    MomoAdamState, reduce=_momo_adam_step,
    exp_avg=_average, exp_avg_sq=second_moment, barf=Shared(), gamma=Shared(), lb=Shared("lower_bound"),
)  # fmt: skip
def momo_adam(
    g: Array, s: MomoAdamState, p: Array, t: Array,
    learning_rate: Hyper = 1e-2, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-8, lower_bound: Hyper = 0.0,
    weight_decay: Hyper = 0.0, adapt_lower_bound: bool = False, *, tau: Reduced = None,
) -> tuple[Array, MomoAdamState]:  # fmt: skip
    """MoMo-Adam: MoMo in Adam's metric.

        d_t = b1 d_{t-1} + (1 - b1) g_t                      d_0 = 0, and so for the three below
        v_t = b2 v_{t-1} + (1 - b2) g_t^2                    D_t = sqrt(v_t / (1 - b2^t)) + eps
        f_t = b1 f_{t-1} + (1 - b1) f(x_t)
        gamma_t = b1 gamma_{t-1} + (1 - b1) <g_t, x_t>
        tau_t = min(lr / rho_t, max(a (f_t - gamma_t - rho_t lower_bound) + <d_t, x_t>, 0) / <d_t, d_t / D_t>)
        x_{t+1} = (x_t - tau_t d_t / D_t) / a,               rho_t = 1 - b1^t,    a = 1 + lr weight_decay

    Its `update` needs the value: `update(g, state, params, value=f(x))`.

    Args:
      learning_rate: lr, the longest step, a scalar or a schedule.
      b1: decay of the averages, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: at least 0. An element that has only had zero gradients does not move.
      lower_bound: of the function; 0 suits most losses.
      weight_decay: at least 0; the proximal step of an L2 penalty.
      adapt_lower_bound: estimate the bound from step to step; the estimate does not fall below `lower_bound`.

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
    g = bounded(g, "summed")
    d, v, scaled = _adam(g, s.exp_avg, s.exp_avg_sq, t, b1, b2, eps)
    return _shrunk(tau * scaled, p, learning_rate * weight_decay), s._replace(exp_avg=d, exp_avg_sq=v)
