"""Mechanic: learns the scale of another optimizer's updates."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax.core import base, checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Params, Size
from gdjax.lift.leafwise import hyper
from gdjax.lift.meetings import total, total_norm
from gdjax.lift.slots import Shared, initial_parameter
from gdjax.lift.wrapper import wrapper
from gdjax.linalg.vectors import bounded_inner, inner
from gdjax.numerics import Array, divide, sqrt, squarable, sum_sq

__all__ = ["MechanicState", "mechanize"]


class MechanicState(NamedTuple):
    """State of `mechanize`. Each vector has one number for each beta."""

    base_optimizer_state: Any
    count: Array  # () int32, updates made so far
    r: Array  # (num_betas,) reward
    m: Array  # (num_betas,) decaying maximum of |h|
    v: Array  # (num_betas,) decaying sum of h^2
    s: Array  # (num_betas,) their sum is the scale
    x0: Params  # like params, the parameters at the first update


class _ForEachBeta(Shared):
    def __call__(self, params: Sequence[Any], hyper: Mapping[str, Any]) -> Array:
        return jnp.full((hyper["num_betas"],), super().__call__(params, hyper))


@wrapper(
    MechanicState, inner="base_optimizer_state",
    r=_ForEachBeta(), m=_ForEachBeta(), v=_ForEachBeta(), s=_ForEachBeta("s_init"), x0=initial_parameter,
)  # fmt: skip
def _tuned(
    u: Array, g: Array, s: MechanicState, p: Array, t: Array,
    weight_decay: hyper.Size, eps: hyper.Size, s_init: hyper.Size, num_betas: int, bounded: bool,
) -> tuple[Array, MechanicState]:  # fmt: skip
    scale = jnp.sum(s.s)
    length = sqrt(total(sum_sq(p)))
    decay = weight_decay * scale * divide(squarable(total_norm(g), "summed"), length + eps)
    # <g + decay p, Delta>, and Delta is 0 in the first step. The difference is written twice: read by both sums it
    # would be kept in memory.
    h = total(bounded_inner(g, s.x0 - p)) - decay * total(inner(p, p - s.x0))
    h = jnp.where(t > 1, divide(h, scale + eps), 0)
    h = squarable(h, "summed")  # and so do its squares, with decay
    betas = jnp.asarray([1 - 0.1**i for i in range(1, num_betas + 1)], h.dtype)
    m = jnp.maximum(betas * s.m, jnp.abs(h) + eps)
    v = jnp.square(betas) * s.v + jnp.square(h)
    r = betas * s.r + (jnp.clip(h, -s.m, s.m) if bounded else h) * s.s
    r = r if bounded else jnp.maximum(r, 0)
    wealth, root = s_init / num_betas * m + jnp.maximum(r, 0), sqrt(v) + eps
    new = jnp.where(root == 0, s.s, wealth / jnp.where(root == 0, 1, root))
    x0 = jnp.where(t > 1, s.x0, p)
    delta = divide(x0 - p, scale + eps) - u  # the sum of the base's updates is -delta
    return x0 - p - jnp.sum(new) * delta, s._replace(r=r, m=m, v=v, s=new, x0=x0)


@transform
def mechanize(
    base_optimizer: Any, weight_decay: Size = 1e-2, eps: Size = 1e-8, s_init: Size = 1e-6, num_betas: int = 6,
    *, bounded: bool = True,
) -> GradientTransformation:  # fmt: skip
    """Mechanic: learns, step by step, a factor for the sum of another optimizer's updates.

        Delta_t = (x_0 - x_t) / (S_t + eps),    S_t = sum_i s_{t,i},    beta_i = 1 - 0.1^i,    i = 1 ... num_betas
        h_t = <g_t + weight_decay S_t |g_t| x_t / (|x_t| + eps), Delta_t>
        m_{t,i} = max(beta_i m_{t-1,i}, |h_t| + eps)        v_{t,i} = beta_i^2 v_{t-1,i} + h_t^2
        r_{t,i} = beta_i r_{t-1,i} + s_{t,i} clip(h_t, -m_{t-1,i}, m_{t-1,i})
        s_{t+1,i} = (s_init m_{t,i} / num_betas + max(r_{t,i}, 0)) / (sqrt(v_{t,i}) + eps)
        x_{t+1} = x_0 + S_{t+1} (u_t - Delta_t),    u_t the update of the base for g_t

    Args:
      base_optimizer: with a learning rate of 1, or a schedule that has its largest value there. Not one that normalizes
        by the parameters' norm, such as LAMB.
      weight_decay: towards 0, in the tuner only; at least 0.
      eps: at least 0.
      s_init: the first scale, about; above 0.
      num_betas: how many decays compete.
      bounded: False for the reference's rule, which neither clips h_t nor lets r_t be negative. Optax, and the authors
        since, use the other.

    Raises:
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.mechanize(gdjax.sgd(1.0), weight_decay=0.0)  # finds the factor of 1.0
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=200)
      >>> bool(result.history["loss"][-1] < 0.01 * result.history["loss"][0])
      True

    Reference:
      Cutkosky, Defazio & Mehta 2023, Mechanic: a learning rate tuner, Algorithm 1, https://arxiv.org/abs/2306.00144
    """
    label = "gdjax.mechanize"
    base.check_transform(label, 0, base_optimizer)
    num_betas = checks.structural(label, "num_betas", num_betas, 1)
    return _tuned(base_optimizer, weight_decay, eps, s_init, num_betas, bounded)
