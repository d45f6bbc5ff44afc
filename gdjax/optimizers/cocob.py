"""COCOB."""

from typing import NamedTuple

import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Mask, Params, Positive, Rate, Size
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment, initial_parameter
from gdjax.linalg.vectors import in_memory
from gdjax.numerics import Array, bounded, divide
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate

__all__ = ["COCOBState", "cocob", "scale_by_cocob"]

_sum = Moment(wide=True, real=True, kind="exact")


class COCOBState(NamedTuple):
    """State of `scale_by_cocob`."""

    init_particles: Params  # like params, the parameters at the start
    cumulative_gradients: Params  # like params, -sum of gradients, float32 at least
    scale: Params  # like params, the largest |gradient|, float32 at least
    subgradients: Params  # like params, sum of |gradient|, float32 at least
    reward: Params  # like params, what the bets have won, float32 at least


@leafwise(
    COCOBState, init_particles=initial_parameter, cumulative_gradients=Moment(wide=True, kind="exact"),
    scale=Moment(wide=True, real=True, fill="eps", kind="exact"), subgradients=_sum, reward=_sum,
)  # fmt: skip
def scale_by_cocob(
    g: Array, s: COCOBState, p: Array, t: Array, alpha: hyper.Positive = 100.0, eps: hyper.Size = 1e-8
) -> tuple[Array, COCOBState]:
    """COCOB's step, of a size of its own: every element bets on the sign of its next gradient.

    Formulas and arguments are those of `gdjax.cocob`, without its rate and decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_cocob()  # makes the steps themselves: no rate goes behind it
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.array([4.0, -0.5]), tx.init(params), params)
      >>> print((100 * updates).round())
      [-1.  1.]

    Reference:
      Orabona & Tommasi 2017, Algorithm 2, https://arxiv.org/abs/1705.07795
    """
    g = bounded(g)
    moved = p - s.init_particles
    L = jnp.maximum(s.scale, jnp.abs(g))
    G = s.subgradients + jnp.abs(g)
    reward = in_memory(s.reward, jnp.maximum(s.reward - jnp.real(jnp.conj(g) * moved), 0))
    theta = s.cumulative_gradients - g
    # (L + reward) / L first: L^2 would underflow in float32 where gradients are below 1e-19.
    bet = divide(theta, jnp.maximum(G + L, alpha * L)) * (1 + divide(reward, L))
    return bet - moved, COCOBState(s.init_particles, theta, L, G, reward)


@transform
def cocob(
    learning_rate: Rate = 1.0, alpha: Positive = 100.0, eps: Size = 1e-8, weight_decay: Size = 0.0, mask: Mask = None
) -> GradientTransformation:
    """COCOB: every element bets on the sign of its next gradient; there is no learning rate to tune.

        L_t = max(L_{t-1}, |g_t|)        G_t = G_{t-1} + |g_t|        theta_t = theta_{t-1} - g_t
        reward_t = max(reward_{t-1} - g_t (x_t - x_1), 0)
        x_{t+1} = x_1 + theta_t / (L_t max(G_t + L_t, alpha L_t)) (L_t + reward_t),    L_0 = eps

    Args:
      learning_rate: a factor of the gradients, a scalar or a schedule. The method does not depend on a constant one but
        through eps.
      alpha: the first bets are at most 1 / alpha of the wealth; above 0.
      eps: L_0, above 0 and below any gradient that counts.
      weight_decay: L2: weight_decay x_t is added to the gradient.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.cocob(), steps=300)  # no rate
      >>> bool(result.history["loss"][-1] < 0.1)
      True

    Reference:
      Orabona & Tommasi 2017, Training deep networks without learning rates through coin betting, Algorithm 2
      (COCOB-Backprop), https://arxiv.org/abs/1705.07795
    """
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )
