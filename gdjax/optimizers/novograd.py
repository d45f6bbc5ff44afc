"""NovoGrad."""

from typing import NamedTuple

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, DType, LayerAxes, Params, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Factor
from gdjax.numerics import Array, divide, scaled, sqrt, sum_sq
from gdjax.transforms.decay import decayed, descending

__all__ = ["ScaleByNovogradState", "novograd", "scale_by_novograd"]


class ScaleByNovogradState(NamedTuple):
    """State of `scale_by_novograd`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, momentum of the normalised gradients
    nu: Params  # for each leaf a () average of its squared norm, float32 at least


@leafwise(ScaleByNovogradState, nu=Factor(), growth="normalized")
def scale_by_novograd(
    g: Array, s: ScaleByNovogradState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.25, eps: hyper.Size = 1e-8, eps_root: hyper.Size = 0.0,
    weight_decay: hyper.Size = 0.0, mu_dtype: DType | None = None,
    *, layer_axes: LayerAxes = None,
) -> tuple[Array, ScaleByNovogradState]:  # fmt: skip
    """NovoGrad's direction: momentum of gradients over their layer's norm, weight decay included.

    Formulas and other arguments are those of `gdjax.novograd`, without its rate.

    Args:
      eps: outside the root, at least 0; 1e-8 by default, as in Optax.
      mu_dtype: the dtype of mu, the parameter's by default.

    Raises:
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_novograd()
      >>> g = {"w": jnp.array([3.0, 4.0]), "b": jnp.array([30.0, 40.0])}
      >>> direction, state = tx.update(g, tx.init(g), g)
      >>> print((10 * direction["w"]).round(), (10 * direction["b"]).round())  # of norm 1
      [6. 8.] [6. 8.]

    Reference:
      Ginsburg et al. 2019, Algorithm 1, https://arxiv.org/abs/1905.11286
    """
    b2 = jnp.where(t == 1, 0, b2)
    nu = b2 * s.nu + (1 - b2) * sum_sq(g)
    # One quotient for the leaf, one product per element.
    unit = scaled(g, divide(jnp.ones_like(nu), sqrt(nu + eps_root), eps))
    mu = b1 * s.mu + decayed(unit, p, weight_decay)
    return mu, s._replace(mu=mu, nu=nu)


@transform
def novograd(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.25, eps: Size = 1e-6, eps_root: Size = 0.0,
    weight_decay: Size = 0.0,
    *, layer_axes: LayerAxes = None,
) -> GradientTransformation:  # fmt: skip
    """NovoGrad: gradients normalised by layer, then momentum; one second moment for each layer (leaf).

        nu_t = b2 nu_{t-1} + (1 - b2) |g_t|^2,    nu_1 = |g_1|^2
        mu_t = b1 mu_{t-1} + g_t / (sqrt(nu_t + eps_root) + eps) + weight_decay x_t
        x_{t+1} = x_t - lr mu_t

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1: of the momentum, which is a sum and not an average, in [0, 1).
      b2: decay of the second moment, in [0, 1). Optax's default is 0.25, the reference's is 0.98 with b1 = 0.95.
      eps, eps_root: outside and inside the root, at least 0. Where the denominator is 0, so is the gradient.
      weight_decay: part of the momentum, at least 0. A scalar or a schedule.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

    In float32 gradients count as 2^45 at most, and |g_t|^2 as if all did, so that none makes nu infinite for good.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.novograd(gdjax.cosine_decay_schedule(0.05, 200), b1=0.95, b2=0.98)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=200)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Ginsburg et al. 2019, Stochastic gradient methods with layer-wise adaptive moments for training of deep networks,
      Algorithm 1, https://arxiv.org/abs/1905.11286
    """
    return descending(scale_by_novograd(b1, b2, eps, eps_root, weight_decay, layer_axes=layer_axes), learning_rate)
