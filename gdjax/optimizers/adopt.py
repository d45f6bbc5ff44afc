"""ADOPT."""

from typing import Annotated

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import Check
from gdjax.core.types import Decay, DType, Rate, Schedule, Size, Squares
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.numerics import Array, abs_sq, bounded, divide, sqrt
from gdjax.optimizers.adam import ScaleByAdamState
from gdjax.transforms.decay import descending

__all__ = ["adopt", "scale_by_adopt"]


def _fourth_root(t: Array) -> Array:
    return jnp.asarray(t, float) ** 0.25


@leafwise(ScaleByAdamState, nu=Moment(wide=True, real=True), growth="elementwise")
def scale_by_adopt(
    g: Array, s: ScaleByAdamState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.9999, eps: hyper.Size = 1e-6, mu_dtype: DType | None = None,
    *, nesterov: bool = False, use_clipping: bool = True,
    clip_value_fn: Annotated[Hyper, Check("function")] = _fourth_root,
) -> tuple[Array, ScaleByAdamState]:  # fmt: skip
    """ADOPT's direction: an average of gradients, each over the root of the second moment before it.

    Formulas and arguments are those of `gdjax.adopt`, without its rate.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_adopt()
      >>> g, state = jnp.array([4.0, -0.5]), tx.init(jnp.zeros(2))
      >>> for _ in range(2):  # the first gradient makes nu_0 and moves nothing
      ...     direction, state = tx.update(g, state)
      ...     print((100 * direction).round())
      [0. 0.]
      [ 10. -10.]

    Reference:
      Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853
    """
    g = bounded(g)
    started = t > 1  # the first gradient only starts nu
    n = divide(g, jnp.maximum(sqrt(s.nu), eps))
    if use_clipping:
        n = _clip(n, clip_value_fn)
    b1, b2 = jnp.where(started, b1, 1.0), jnp.where(started, b2, 0.0)
    mu = b1 * s.mu + (1 - b1) * n
    nu = b2 * s.nu + (1 - b2) * abs_sq(g)
    return (b1 * mu + (1 - b1) * n if nesterov else mu), s._replace(mu=mu, nu=nu)


def _clip(x: Array, bound: Array) -> Array:
    """Each element no larger than the bound; a complex number keeps its argument."""
    if jnp.iscomplexobj(x):
        return x * jnp.minimum(1, bound / jnp.maximum(jnp.abs(x), jnp.finfo(x.dtype).tiny))
    return jnp.clip(x, -bound, bound)


@transform
def adopt(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.9999, eps: Size = 1e-6, mu_dtype: DType | None = None,
    *, nesterov: bool = False, use_clipping: bool = True,
    clip_value_fn: Annotated[Schedule, Check("function")] = _fourth_root,
) -> GradientTransformation:  # fmt: skip
    """ADOPT: Adam with the gradient divided first and averaged then, by a second moment that does not contain it.

        nu_0 = g_0^2,    and for t = 1, 2, ...
        n_t = clip(g_t / max(sqrt(nu_{t-1}), eps), c_t)        c_t = t^(1/4)
        mu_t = b1 mu_{t-1} + (1 - b1) n_t
        x_{t+1} = x_t - lr mu_t
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2

    The first update is zero. It converges with any b2, says the reference.

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1: decay of the average, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: the least denominator, at least 0. Where it is 0 and so is nu, the gradient is not divided.
      mu_dtype: the dtype of mu, the parameter's by default.
      nesterov: the direction is b1 mu_t + (1 - b1) n_t.
      use_clipping: False leaves out the clipping, as the reference does at first.
      clip_value_fn: from t (int32, 0 at the first update) to c_t.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.adopt(0.1), steps=200)
      >>> bool(jnp.allclose(result.params, 3.0, atol=0.2))
      True

    Reference:
      Taniguchi et al. 2024, ADOPT: modified Adam can converge with any beta2 with the optimal rate (ADOPT, clipped),
      https://arxiv.org/abs/2411.02853
    """
    direction = scale_by_adopt(
        b1, b2, eps, mu_dtype, nesterov=nesterov, use_clipping=use_clipping, clip_value_fn=clip_value_fn
    )
    return descending(direction, learning_rate)
