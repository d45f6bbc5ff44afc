"""Optimistic gradient descent and optimistic Adam."""

from typing import NamedTuple

import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, DType, Finite, Params, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment, Shared
from gdjax.numerics import Array
from gdjax.optimizers.adam import scale_by_adam
from gdjax.transforms.scaling import scale_by_learning_rate

__all__ = [
    "ScaleByOptimisticGradientState", "optimistic_adam", "optimistic_adam_v2", "optimistic_gradient_descent",
    "scale_by_optimistic_gradient",
]  # fmt: skip


class ScaleByOptimisticGradientState(NamedTuple):
    """State of `scale_by_optimistic_gradient`."""

    is_initial_step: Array  # () bool, whether no update has been made
    previous_gradient: Params  # like params


@leafwise(
    ScaleByOptimisticGradientState, previous_gradient=Moment("mu_dtype", kind="exact"),
    is_initial_step=Shared(True, jnp.bool_), growth="same",
)  # fmt: skip
def scale_by_optimistic_gradient(
    g: Array, s: ScaleByOptimisticGradientState, p: Array, t: Array, alpha: hyper.Finite = 1.0, beta: hyper.Finite = 1.0
) -> tuple[Array, ScaleByOptimisticGradientState]:
    """Adds the change of the gradient.

        u_t = alpha g_t + beta (g_t - g_{t-1}),    g_0 = g_1

    Args:
      alpha: weight of the gradient.
      beta: weight of its change, as much as is expected of the next one. 0 is plain descent.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_optimistic_gradient()
      >>> state = tx.init(jnp.zeros(2))
      >>> for g in ([4.0, -0.5], [3.0, -0.5]):
      ...     direction, state = tx.update(jnp.array(g), state)
      >>> print(direction)
      [ 2.  -0.5]

    Reference:
      Mokhtari, Ozdaglar & Pattathil 2020, A unified analysis of extra-gradient and optimistic gradient methods for
      saddle point problems, equation 8, https://arxiv.org/abs/1901.08511
    """
    before = jnp.where(s.is_initial_step, g, s.previous_gradient)
    return (alpha + beta) * g - beta * before, ScaleByOptimisticGradientState(jnp.asarray(False), g)


@transform
def optimistic_gradient_descent(learning_rate: Rate, alpha: Finite = 1.0, beta: Finite = 1.0) -> GradientTransformation:
    """Optimistic gradient descent: a step more in the direction in which the gradient changes.

        x_{t+1} = x_t - lr (alpha g_t + beta (g_t - g_{t-1})),    g_0 = g_1

    For games and saddle points, around which plain descent circles.

    Args:
      learning_rate: lr, a scalar or a schedule.
      alpha: weight of the gradient, a scalar or a schedule.
      beta: weight of its change, a scalar or a schedule.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.optimistic_gradient_descent(0.3)
      >>> p, state = jnp.ones(2), tx.init(jnp.ones(2))
      >>> for _ in range(100):  # of x y, where x falls and y rises: plain descent circles
      ...     updates, state = tx.update(jnp.stack([p[1], -p[0]]), state)
      ...     p = gdjax.apply_updates(p, updates)
      >>> bool(jnp.abs(p).max() < 0.1)
      True

    Reference:
      Mokhtari, Ozdaglar & Pattathil 2020, equation 8, https://arxiv.org/abs/1901.08511
    """
    return chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))


@transform
def optimistic_adam(
    learning_rate: Rate, optimism: Finite | None = None, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-8,
    eps_root: Size = 0.0, mu_dtype: DType | None = None,
    *, nesterov: bool = True,
) -> GradientTransformation:  # fmt: skip
    """Optimistic Adam with the rate inside.

        x_{t+1} = x_t - (learning_rate u_t + optimism (u_t - u_{t-1}))

    u_t is Adam's direction, mu_hat_t / (sqrt(nu_hat_t + eps_root) + eps). Optax deprecates this form, and takes no
    schedules in it; `optimistic_adam_v2` has the rate outside.

    Args:
      learning_rate: weight of the direction, a scalar or a schedule.
      optimism: weight of its change, by default learning_rate, as in the reference.
      b1, b2: decay of the first and second moment, in [0, 1).
      eps, eps_root: outside and inside the root, at least 0.
      mu_dtype: the dtype of mu, the parameter's by default.
      nesterov: Dozat's NAdam momentum in u_t. The reference has none: `nesterov=False`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.array([1.0, 2.0])
      >>> tx = gdjax.optimistic_adam(1e-3, optimism=1e-3, nesterov=False)
      >>> updates, state = tx.update(jnp.array([4.0, -0.5]), tx.init(params), params)
      >>> print((1e3 * updates).round())
      [-1.  1.]

    Reference:
      Daskalakis, Ilyas, Syrgkanis & Zeng 2018, Training GANs with optimism, Algorithm 1,
      https://arxiv.org/abs/1711.00141
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(learning_rate, learning_rate if optimism is None else optimism),
        scale_by_learning_rate(1.0),
    )


@transform
def optimistic_adam_v2(
    learning_rate: Rate,
    *, alpha: Finite = 1.0, beta: Finite = 1.0, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-8,
    eps_root: Size = 0.0, mu_dtype: DType | None = None, nesterov: bool = True,
) -> GradientTransformation:  # fmt: skip
    """Optimistic Adam: Adam with a step more in the direction in which its own direction changes.

        x_{t+1} = x_t - lr (alpha u_t + beta (u_t - u_{t-1}))

    u_t is Adam's direction, mu_hat_t / (sqrt(nu_hat_t + eps_root) + eps).

    Other arguments are those of `gdjax.optimistic_adam`.

    Args:
      learning_rate: lr, a scalar or a schedule.
      alpha: weight of the direction.
      beta: weight of its change.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> generator, critic = gdjax.optimistic_adam_v2(1e-4), gdjax.optimistic_adam_v2(4e-4)
      >>> tx = gdjax.partition({"g": generator, "d": critic}, {"gen": "g", "disc": "d"})
      >>> params = {"gen": jnp.ones(2), "disc": jnp.ones(2)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print((updates["disc"] / updates["gen"]).round())
      [4. 4.]

    Reference:
      Daskalakis, Ilyas, Syrgkanis & Zeng 2018, Training GANs with optimism, Algorithm 1,
      https://arxiv.org/abs/1711.00141
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )
