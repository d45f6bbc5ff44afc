"""D-Adaptation and Prodigy: AdamW that estimates its learning rate, the distance to the solution."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax.core import domains
from gdjax.core.base import transform
from gdjax.core.number_domains import DECAY
from gdjax.core.types import Decay, Mask, Params, Positive, Rate, Size
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.meetings import total
from gdjax.lift.slots import Moment, Shared, initial_parameter
from gdjax.linalg.vectors import bounded_inner, sum_abs
from gdjax.numerics import Array, abs_sq, bounded, divide, one_minus_pow, sqrt
from gdjax.transforms.decay import decayed, of_some

__all__ = ["DAdaptAdamWState", "ProdigyState", "dadapt_adamw", "prodigy"]

# All that is multiplied by the estimate, 1e-6 at first, would underflow in float16.
_wide = Moment(wide=True)
_sum = Moment(wide=True, kind="exact")
_square = Moment(wide=True, real=True, kind="exact")  # it has the estimate squared as a factor, 1e-12 at first


class ProdigyState(NamedTuple):
    """State of `prodigy`."""

    exp_avg: Params  # like params, first moment of d g, float32 at least
    exp_avg_sq: Params  # like params, second moment of d g, float32 at least
    grad_sum: Params  # like params, weighted sum of gradients, float32 at least
    params0: Params  # like params, the parameters at the start
    estim_lr: Array  # () d, the estimate
    numerator_weighted: Array  # () r
    count: Array  # () int32, updates made so far


class DAdaptAdamWState(NamedTuple):
    """State of `dadapt_adamw`."""

    exp_avg: Params  # like params, first moment of the steps, float32 at least
    exp_avg_sq: Params  # like params, second moment, float32 at least
    grad_sum: Params  # like params, weighted sum of gradients, float32 at least
    estim_lr: Array  # () d, the estimate
    numerator_weighted: Array  # () r
    count: Array  # () int32, updates made so far


def _effective_rate(d: Array, lr: Any, beta1: Hyper, beta2: Hyper, t: Array, bias_correction: bool) -> Array:
    """d lr, times what Adam's two bias corrections come to."""
    correction = jnp.sqrt(one_minus_pow(beta2, t)) / one_minus_pow(beta1, t) if bias_correction else 1
    return d * lr * correction


def _raised(d: Array, numerator: Array, denominator: Array) -> Array:
    """The estimate after a step; as it was while all gradients have been zero."""
    zero = denominator == 0
    return jnp.maximum(d, jnp.where(zero, d, numerator / jnp.where(zero, 1, denominator)))


def _pair(label: str, betas: Any) -> tuple[Any, Any]:
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"{label}: betas must be a pair of numbers, got {betas!r}")
    for name, beta in zip(("beta1", "beta2"), betas, strict=True):
        domains.number(DECAY, label, name, beta)
    return betas[0], betas[1]


@leafwise(
    ProdigyState, exp_avg=_wide, exp_avg_sq=_square, grad_sum=_sum, params0=initial_parameter,
    estim_lr=Shared("estim_lr0"), numerator_weighted=Shared(),
)  # fmt: skip
def _prodigy(
    g: Array, s: ProdigyState, p: Array, t: Array,
    learning_rate: hyper.Rate, beta1: hyper.Decay, beta2: hyper.Decay, eps: hyper.Size, estim_lr0: hyper.Positive,
    estim_lr_coef: hyper.Size, weight_decay: hyper.Size, safeguard_warmup: bool, bias_correction: bool,
    beta3: hyper.Decay = None,
) -> tuple[Array, ProdigyState]:  # fmt: skip
    beta3 = beta2**0.5 if beta3 is None else beta3
    d = s.estim_lr
    w = _effective_rate(d, learning_rate, beta1, beta2, t, bias_correction)
    r = beta3 * s.numerator_weighted + d / estim_lr0 * w * total(bounded_inner(g, s.params0 - p))
    g = bounded(g, "summed")
    grad_sum = beta3 * s.grad_sum + d * (d if safeguard_warmup else w) / estim_lr0 * g
    new_d = _raised(d, estim_lr_coef * r, total(sum_abs(grad_sum)))
    m = beta1 * s.exp_avg + (1 - beta1) * d * g
    v = beta2 * s.exp_avg_sq + (1 - beta2) * abs_sq(d * g)
    u = -w * decayed(divide(m, sqrt(v) + new_d * eps), p, weight_decay)
    return u, s._replace(exp_avg=m, exp_avg_sq=v, grad_sum=grad_sum, estim_lr=new_d, numerator_weighted=r)


@transform
def prodigy(
    learning_rate: Rate = 1.0, betas: tuple[Any, Any] = (0.9, 0.999), beta3: Decay | None = None, eps: Size = 1e-8,
    estim_lr0: Positive = 1e-6, estim_lr_coef: Size = 1.0, weight_decay: Size = 0.0, safeguard_warmup: bool = False,
    weight_decay_mask: Mask = None,
    *, bias_correction: bool = True,
) -> Any:  # fmt: skip
    """Prodigy: AdamW whose rate is an estimate d of the distance to the solution, which can only grow.

        c_t = sqrt(1 - beta2^t) / (1 - beta1^t)        w_t = d_t lr c_t
        r_{t+1} = beta3 r_t + (d_t / d_0) w_t <g_t, x_0 - x_t>
        s_{t+1} = beta3 s_t + (d_t / d_0) w_t g_t
        d_{t+1} = max(d_t, estim_lr_coef r_{t+1} / |s_{t+1}|_1),    inner product and norm over the whole tree
        m_t = beta1 m_{t-1} + (1 - beta1) d_t g_t        v_t = beta2 v_{t-1} + (1 - beta2) d_t^2 g_t^2
        x_{t+1} = x_t - w_t (m_t / (sqrt(v_t) + d_{t+1} eps) + weight_decay x_t)

    Args:
      learning_rate: lr, a scalar or a schedule; 1, or a schedule that has its largest value there.
      betas: decay of the first and second moment, each in [0, 1).
      beta3: decay of r and s, in [0, 1); sqrt(beta2) by default.
      eps: at least 0. An element that has only had zero gradients does not move.
      estim_lr0: d_0, above 0 and below what a rate could be.
      estim_lr_coef: a factor of the estimate; to be tuned before lr is.
      weight_decay: decoupled, times w_t.
      safeguard_warmup: s adds up d_t in the place of w_t: for long warm-ups, in which lr is small.
      weight_decay_mask: which leaves decay, as in `masked`.
      bias_correction: False for c_t = 1, as in the reference; Optax has no such switch.

    Departures: the eps is times d_t in the reference and times d_{t+1} in its code. While all gradients, or all rates,
    have been zero the estimate stays as it is (NaN for ever in Optax, also in a warm-up from 0). `init` needs the
    parameters themselves, since x_0 is kept.

    Raises:
      ValueError: betas is not a pair.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> rate = gdjax.cosine_decay_schedule(1.0, 300)  # of 1, times the estimate
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.prodigy(rate), steps=300)
      >>> print(result.params.round(1), bool(result.state.estim_lr > 1e-3))
      [3. 3.] True

    Reference:
      Mishchenko & Defazio 2023, Prodigy: an expeditiously adaptive parameter-free learner (Adam version),
      https://arxiv.org/abs/2306.06101
    """
    beta1, beta2 = _pair("gdjax.prodigy", betas)
    decay = of_some("gdjax.prodigy", weight_decay, weight_decay_mask)
    return _prodigy(
        learning_rate, beta1, beta2, eps, estim_lr0, estim_lr_coef, decay, safeguard_warmup, bias_correction, beta3
    )


@leafwise(
    DAdaptAdamWState, exp_avg=_wide, exp_avg_sq=_square, grad_sum=_sum, estim_lr=Shared("estim_lr0"),
    numerator_weighted=Shared(),
)  # fmt: skip
def _dadapt_adamw(
    g: Array, s: DAdaptAdamWState, p: Array, t: Array,
    learning_rate: hyper.Rate, beta1: hyper.Decay, beta2: hyper.Decay, eps: hyper.Size, estim_lr0: hyper.Positive,
    weight_decay: hyper.Size, bias_correction: bool,
) -> tuple[Array, DAdaptAdamWState]:  # fmt: skip
    beta3, d = beta2**0.5, s.estim_lr
    w = _effective_rate(d, learning_rate, beta1, beta2, t, bias_correction)
    step = divide(s.grad_sum, sqrt(s.exp_avg_sq) + eps)
    r = beta3 * s.numerator_weighted + (1 - beta3) * w * total(bounded_inner(g, step))
    g = bounded(g, "summed")
    grad_sum = beta3 * s.grad_sum + (1 - beta3) * w * g
    new_d = _raised(d, r, (1 - beta3) * total(sum_abs(grad_sum)))
    m = beta1 * s.exp_avg + (1 - beta1) * w * g
    v = beta2 * s.exp_avg_sq + (1 - beta2) * abs_sq(g)
    u = -(weight_decay * w * p + divide(m, sqrt(v), eps))
    return u, s._replace(exp_avg=m, exp_avg_sq=v, grad_sum=grad_sum, estim_lr=new_d, numerator_weighted=r)


@transform
def dadapt_adamw(
    learning_rate: Rate = 1.0, betas: tuple[Any, Any] = (0.9, 0.999), eps: Size = 1e-8, estim_lr0: Positive = 1e-6,
    weight_decay: Size = 0.0,
    *, bias_correction: bool = True,
) -> Any:  # fmt: skip
    """AdamW by D-Adaptation: its rate is a lower bound d on the distance to the solution, which can only grow.

        c_t = sqrt(1 - beta2^t) / (1 - beta1^t)        w_t = d_t lr c_t        beta3 = sqrt(beta2)
        r_{t+1} = beta3 r_t + (1 - beta3) w_t <g_t, s_t / (sqrt(v_{t-1}) + eps)>
        s_{t+1} = beta3 s_t + (1 - beta3) w_t g_t
        d_{t+1} = max(d_t, r_{t+1} / ((1 - beta3) |s_{t+1}|_1)),    inner product and norm over the whole tree
        m_t = beta1 m_{t-1} + (1 - beta1) w_t g_t        v_t = beta2 v_{t-1} + (1 - beta2) g_t^2
        x_{t+1} = x_t - m_t / (sqrt(v_t) + eps) - w_t weight_decay x_t

    Arguments are those of `gdjax.prodigy`.

    While all gradients, or all rates, have been zero the estimate stays as it is (NaN for ever in Optax, also in a
    warm-up from 0).

    Raises:
      ValueError: betas is not a pair.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> rate = gdjax.cosine_decay_schedule(1.0, 300)  # of 1, times the estimate
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.dadapt_adamw(rate), steps=300)
      >>> print(result.params.round(1), bool(result.state.estim_lr > 1e-3))
      [3. 3.] True

    Reference:
      Defazio & Mishchenko 2023, Learning-rate-free learning by D-Adaptation (Adam version), in the form of the authors'
      code, https://arxiv.org/abs/2301.07733
    """
    beta1, beta2 = _pair("gdjax.dadapt_adamw", betas)
    return _dadapt_adamw(learning_rate, beta1, beta2, eps, estim_lr0, weight_decay, bias_correction)
