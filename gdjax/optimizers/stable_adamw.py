"""StableAdamW."""

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Bound, Decay, DType, LayerAxes, Mask, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import second_moment
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, one_minus_pow, shrinking, sqrt, squarable
from gdjax.optimizers.adam import ScaleByAdamState
from gdjax.transforms.decay import decayed, descending, of_some

__all__ = ["scale_by_stable_adamw", "stable_adamw"]


@leafwise(ScaleByAdamState, nu=second_moment, growth="elementwise")
def scale_by_stable_adamw(
    g: Array, s: ScaleByAdamState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.99, eps: hyper.Size = 1e-6, mu_dtype: DType | None = None,
    weight_decay: hyper.Size = 0.0, clipping_threshold: hyper.Bound | None = 1.0,
    *, layer_axes: LayerAxes = None,
) -> tuple[Array, ScaleByAdamState]:  # fmt: skip
    """AdamW's direction, of each array the shorter, the more its gradient exceeds what the second moment expects.

        u_t = (mu_hat_t / (sqrt(nu_hat_t) + eps) + weight_decay x_t) / max(1, rms_t / clipping_threshold)

    Other formulas and other arguments are those of `gdjax.stable_adamw`.

    Args:
      weight_decay: decoupled, at least 0, which is the default. It is divided too: the reference shortens the rate.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_stable_adamw(b1=0.0)
      >>> state = tx.init(jnp.zeros(2))
      >>> for g in (jnp.ones(2), jnp.array([1000.0, 1.0])):
      ...     u, state = tx.update(g, state)
      ...     print(u.round(2))  # a factor of 1 / 1.22 in the second step
      [1. 1.]
      [1.15 0.82]

    Reference:
      Wortsman et al. 2023, Algorithm 2, https://arxiv.org/abs/2304.13013
    """
    wide = g
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    nu = b2 * s.nu + (1 - b2) * abs_sq(g)
    u = decayed(divide(debias(mu, b1, t), sqrt(debias(nu, b2, t)), eps), p, weight_decay)
    if clipping_threshold is not None:
        c = sqrt(one_minus_pow(b2, t))  # sqrt(nu_hat) = sqrt(nu) / c, of which no array is made for the mean
        least = jnp.maximum(eps * c, jnp.finfo(c.dtype).tiny)
        squares = abs_sq(squarable(wide, "each") / jnp.maximum(sqrt(nu), least))
        rms = c * sqrt(jnp.sum(squares) * (1 / max(g.size, 1)))
        u = u * shrinking(rms, clipping_threshold)
    return u, s._replace(mu=mu, nu=nu)


@transform
def stable_adamw(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.99, eps: Size = 1e-6, mu_dtype: DType | None = None,
    weight_decay: Size = 0.2, mask: Mask = None,
    *, clipping_threshold: Bound | None = 1.0, layer_axes: LayerAxes = None,
) -> GradientTransformation:  # fmt: skip
    """StableAdamW: AdamW with Adafactor's clipping, for low precision: an array's rate falls while its gradient leaps.

        rms_t = sqrt(mean of g_t^2 / max(nu_hat_t, eps^2))
        lr_t = lr / max(1, rms_t / clipping_threshold)
        x_{t+1} = x_t - lr_t (mu_hat_t / (sqrt(nu_hat_t) + eps) + weight_decay x_t)

    with Adam's averages mu_hat_t of g and nu_hat_t of g^2, and the mean over each array. Loss spikes come where the
    second moment is out of date, often in the first layer. It stands in the place of `clip_by_global_norm`.

    Args:
      learning_rate: lr, a scalar or a schedule, or `per_leaf(...)` of one.
      b1, b2: decay of the first and second moment, in [0, 1).
      eps: outside the root, and the least root that the mean sees, at least 0.
      mu_dtype: the dtype of mu, the parameter's by default; of a complex one that of the parts, float32 at least.
      weight_decay: times lr_t, at least 0. A scalar or a schedule. The default is that of the authors' code, for CLIP.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.
      clipping_threshold: the largest rms that changes nothing, at least 0; None for no clipping, which is AdamW.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

    The reference corrects b1 and b2 for the start at 0; here, as in Adam, the averages are corrected, which gives the
    same numbers, so that the state is that of `adamw`: `migrate` goes from one to the other.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.stable_adamw(gdjax.cosine_decay_schedule(0.1, 200), weight_decay=0.0)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=200)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Wortsman et al. 2023, Stable and low-precision training for large-scale vision-language models, Algorithm 2,
      https://arxiv.org/abs/2304.13013
    """
    decay = of_some("gdjax.stable_adamw", weight_decay, mask, "mask")
    direction = scale_by_stable_adamw(b1, b2, eps, mu_dtype, decay, clipping_threshold, layer_axes=layer_axes)
    return descending(direction, learning_rate)
