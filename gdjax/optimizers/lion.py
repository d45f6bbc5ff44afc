"""Lion."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, DType, Mask, Params, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import slow_moment
from gdjax.numerics import Array
from gdjax.transforms.decay import descending

__all__ = ["ScaleByLionState", "lion", "scale_by_lion"]

_SHAPES = {
    "hard": lambda c, beta: jnp.sign(c),
    "smooth": lambda c, beta: jnp.sign(c) * jnp.tanh(beta * jnp.abs(c)),
    "refined": lambda c, beta: jnp.where(jnp.abs(c) < 1, c, jnp.sign(c)),
}


class ScaleByLionState(NamedTuple):
    """State of `scale_by_lion`."""

    count: Array  # () int32, updates made so far; not read by the rule, kept for Optax's checkpoints
    mu: Params  # like params, momentum


@leafwise(ScaleByLionState, mu=slow_moment, growth="elementwise")
def scale_by_lion(
    g: Array, s: ScaleByLionState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.99, mu_dtype: DType | None = None,
    *, mode: Literal["hard", "smooth", "refined"] = "hard", smooth_beta: hyper.Positive = 1.0,
) -> tuple[Array, ScaleByLionState]:  # fmt: skip
    """Lion's direction: the sign of an interpolation between momentum and gradient.

    Formulas and other arguments are those of `gdjax.lion`, without its rate and decay.

    Args:
      mode: "hard" for sign(c); "smooth" for sign(c) tanh(smooth_beta |c|); "refined" for c clipped to [-1, 1].
      smooth_beta: see mode.

    Raises:
      ValueError: an unknown mode.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_lion()
      >>> direction, state = tx.update(jnp.array([4.0, -0.5, 0.0]), tx.init(jnp.zeros(3)))
      >>> print(direction)
      [ 1. -1.  0.]

    Reference:
      Chen et al. 2023, Symbolic discovery of optimization algorithms, Algorithm 2, https://arxiv.org/abs/2302.06675
    """
    c = b1 * s.mu + (1 - b1) * g
    mu = b2 * s.mu + (1 - b2) * g
    return _SHAPES[mode](c, smooth_beta), s._replace(mu=mu)


@transform
def lion(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.99, mu_dtype: DType | None = None, weight_decay: Size = 1e-3,
    mask: Mask = None,
) -> GradientTransformation:  # fmt: skip
    """Lion (evolved sign momentum): every parameter moves by lr, in the direction of a sign.

        c_t = b1 mu_{t-1} + (1 - b1) g_t
        x_{t+1} = x_t - lr (sign(c_t) + weight_decay x_t)
        mu_t = b2 mu_{t-1} + (1 - b2) g_t

    The derivative of the sign is 0: through steps there is one by lr and by the decay, and none by b1 and b2.

    Args:
      learning_rate: lr, a scalar or a schedule; 3 to 10 times smaller than Adam's, says the reference.
      b1: weight of the momentum in the direction, in [0, 1).
      b2: decay of the momentum, in [0, 1).
      mu_dtype: the dtype of mu, the parameter's by default.
      weight_decay: decoupled, times lr; 3 to 10 times larger than AdamW's.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.lion(1e-4, weight_decay=0.1)  # where AdamW has 1e-3 and 0.01
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.array([4.0, -0.5]), tx.init(params), params)
      >>> print((1e5 * updates).round())  # lr times the sign, and the decay
      [-11.   8.]

    Reference:
      Chen et al. 2023, Symbolic discovery of optimization algorithms, Algorithm 2, https://arxiv.org/abs/2302.06675
    """
    return descending(scale_by_lion(b1, b2, mu_dtype), learning_rate, weight_decay, mask)
