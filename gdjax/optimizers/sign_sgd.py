"""Sign descent: of the gradient, and of its average."""

import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.core.base import EmptyState, GradientTransformation, transform
from gdjax.core.types import Decay, DType, Rate
from gdjax.lift.leafwise import leafwise
from gdjax.numerics import Array
from gdjax.transforms.averaging import ema
from gdjax.transforms.scaling import scale_by_learning_rate

__all__ = ["scale_by_sign", "sign_sgd", "signum"]


@leafwise(growth="elementwise")
def scale_by_sign(g: Array, s: EmptyState, p: Array, t: Array) -> tuple[Array, EmptyState]:
    """Replaces every element by its sign: -1, 0 or 1; a complex number by g / |g|.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> direction, state = gdjax.scale_by_sign().update(jnp.array([4.0, -0.5, 0.0]), ())
      >>> print(direction)
      [ 1. -1.  0.]

    Reference:
      Bernstein et al. 2018, signSGD, Algorithm 1, https://arxiv.org/abs/1802.04434
    """
    return jnp.sign(g), s


@transform
def sign_sgd(learning_rate: Rate) -> GradientTransformation:
    """Sign descent: every parameter moves by the rate, in the direction of a sign.

        x_{t+1} = x_t - lr sign(g_t)

    The derivative of the sign is 0: through steps there is one by lr, and none by the gradient.

    Args:
      learning_rate: lr, what every parameter moves by; a scalar or a schedule.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.array([1.0, 2.0])
      >>> tx = gdjax.sign_sgd(0.25)
      >>> updates, state = tx.update(jnp.array([4.0, -0.5]), tx.init(params), params)
      >>> print(gdjax.apply_updates(params, updates))
      [0.75 2.25]

    Reference:
      Bernstein, Wang, Azizzadenesheli & Anandkumar 2018, signSGD: compressed optimisation for non-convex problems,
      Algorithm 1, https://arxiv.org/abs/1802.04434
    """
    return chain(scale_by_sign(), scale_by_learning_rate(learning_rate))


@transform
def signum(learning_rate: Rate, beta: Decay = 0.9, accumulator_dtype: DType | None = None) -> GradientTransformation:
    """Sign descent with momentum: the sign is that of an average of gradients.

        m_t = beta m_{t-1} + (1 - beta) g_t
        x_{t+1} = x_t - lr sign(m_t)

    The derivative of the sign is 0: through steps there is one by lr, and none by the gradient or beta.

    Args:
      learning_rate: lr, what every parameter moves by; a scalar or a schedule.
      beta: decay of the average, in [0, 1).
      accumulator_dtype: the dtype of the average, the parameter's by default.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.signum(gdjax.linear_schedule(0.1, 0.0, 200))  # steps of lr: let it fall
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=200)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Bernstein, Wang, Azizzadenesheli & Anandkumar 2018, signSGD: compressed optimisation for non-convex problems,
      Algorithm 2, https://arxiv.org/abs/1802.04434
    """
    return chain(
        ema(beta, debias=False, accumulator_dtype=accumulator_dtype),
        scale_by_sign(),
        scale_by_learning_rate(learning_rate),
    )
