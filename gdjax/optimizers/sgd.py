"""Gradient descent: plain, with momentum, Nesterov's, with noise, and perturbed."""

import jax

from gdjax.combine.chain import chain
from gdjax.core import arrays
from gdjax.core.base import GradientTransformation, identity, transform
from gdjax.core.types import Bound, DType, Finite, KeyLike, OptState, Params, Rate, Seed, Share, Size
from gdjax.numerics import Array
from gdjax.transforms.momentum import trace
from gdjax.transforms.noise import add_noise, escape_saddles
from gdjax.transforms.scaling import scale_by_learning_rate

__all__ = ["nesterov_point", "noisy_sgd", "perturbed_gradient_descent", "sgd"]


@transform
def sgd(
    learning_rate: Rate, momentum: Share | None = None, nesterov: bool = False, accumulator_dtype: DType | None = None
) -> GradientTransformation:
    """(Stochastic) gradient descent, with momentum or Nesterov momentum if asked for.

        plain      x_{t+1} = x_t - lr g_t
        momentum   v_{t+1} = momentum v_t + g_t,    v_0 = 0,    x_{t+1} = x_t - lr v_{t+1}
        Nesterov   the same v,                                  x_{t+1} = x_t - lr (g_t + momentum v_{t+1})

    Args:
      learning_rate: lr, a scalar or a schedule.
      momentum: in [0, 1]; None for plain descent, which keeps no state.
      nesterov: the step looks one step ahead.
      accumulator_dtype: the dtype of v, the parameter's by default.

    Lecture notes often write the velocity with the rate inside, V = -lr v: V_{t+1} = momentum V_t - lr g_t and
    x_{t+1} = x_t + V_{t+1}. With a constant rate that is the same descent. Nesterov's own form takes the gradient
    ahead of x, at x_t + momentum V_t, see `nesterov_point`; written for that point it is the form here, whose step is
    -momentum V_t + (1 + momentum) V_{t+1}.

    `sgd(lr, momentum)` follows `torch.optim.SGD(lr, momentum)` (dampening 0), and with `nesterov=True` its Nesterov.

    Raises:
      ValueError: nesterov without momentum.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.sgd(0.05, momentum=0.9, nesterov=True)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=100)
      >>> print(result.params.round(2))
      [3. 3.]

    Reference:
      Polyak 1964; Nesterov 1983; Sutskever, Martens, Dahl & Hinton 2013, equations 1-4,
      https://proceedings.mlr.press/v28/sutskever13.html
    """
    if nesterov and momentum is None:
        raise ValueError("gdjax.sgd: nesterov=True needs a momentum, got None")
    direction = identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype)
    return chain(direction, scale_by_learning_rate(learning_rate))


def nesterov_point(params: Params, state: OptState, learning_rate: float | Array, momentum: float | Array) -> Params:
    """Where Nesterov's original form takes the gradient: x + momentum V, with the velocity V = -lr v of `sgd`.

    Updating x by `sgd(learning_rate, momentum)` with gradients taken here is Nesterov's method as first written, and
    the points so visited are those of `sgd(learning_rate, momentum, nesterov=True)`.

    Args:
      params: x.
      state: the state of `sgd(learning_rate, momentum)`.
      learning_rate: the constant rate of that optimizer.
      momentum: its momentum.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.sgd(0.1, momentum=0.9)
      >>> x, state = jnp.zeros(2), tx.init(jnp.zeros(2))
      >>> updates, state = tx.update(jnp.array([1.0, -2.0]), state)
      >>> x = gdjax.apply_updates(x, updates)
      >>> point = gdjax.nesterov_point(x, state, 0.1, momentum=0.9)
      >>> print((100 * x).round(), (100 * point).round())  # 0.9 of the last step further
      [-10.  20.] [-19.  38.]

    Reference:
      Nesterov 1983; Sutskever et al. 2013, equations 3-4.
    """
    return jax.tree.map(lambda x, v: x - (learning_rate * momentum) * v, params, state[0].trace)


@transform
def noisy_sgd(
    learning_rate: Rate, eta: Size = 0.01, gamma: Finite = 0.55, key: KeyLike | None = None, *, seed: Seed | None = None
) -> GradientTransformation:
    """Gradient descent with Gaussian noise that decays.

        x_{t+1} = x_t - lr (g_t + N(0, eta / t^gamma)),    t = 1, 2, ...

    Args:
      learning_rate: lr, a scalar or a schedule.
      eta: the variance of the noise at the first step.
      gamma: how fast it decays.
      key: a PRNG key, or an int to seed one. Without one it is 0, as in Optax, with a warning.
      seed: Optax's older name for an int `key`.

    Raises:
      ValueError: key and seed.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.noisy_sgd(0.1, eta=0.01, gamma=0.55, key=0)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=100)
      >>> bool(jnp.allclose(result.params, 3.0, atol=0.2))
      True

    Reference:
      Neelakantan et al. 2015, Adding gradient noise improves learning for very deep networks, section 3,
      https://arxiv.org/abs/1511.06807
    """
    key = arrays.key_or_zero("gdjax.noisy_sgd", key, seed)
    return chain(add_noise(eta, gamma, key), scale_by_learning_rate(learning_rate))


@transform
def perturbed_gradient_descent(
    learning_rate: Rate, radius: Size = 1e-2, threshold: Bound = 1e-3, wait: int = 50, key: KeyLike | None = 0
) -> GradientTransformation:
    """Gradient descent that adds noise where the gradient is small, then waits: it leaves saddle points.

        if |g_t| <= threshold and t - t_noise > wait:  x_{t+1} = x_t - lr g_t + xi,  xi uniform in the ball of `radius`
        else                                           x_{t+1} = x_t - lr g_t

    Args:
      learning_rate: lr (eta in the reference, where it is c / l for a gradient with Lipschitz constant l).
      radius: of the perturbation, in units of the parameters.
      threshold: on the global norm of the gradient.
      wait: updates between perturbations.
      key: a PRNG key, or an int to seed one.

    The defaults are round numbers; the reference derives radius, threshold and wait from the smoothness of the function
    and the wanted accuracy. See `escape_saddles` for the departures, and to perturb another optimizer.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> saddle = lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4  # at 0
      >>> tx = gdjax.perturbed_gradient_descent(0.05, key=1)
      >>> result = gdjax.minimize(saddle, jnp.zeros(2), tx, steps=200)
      >>> print(abs(result.params[1]) > 0.7)  # at a minimum, 1 / sqrt(2)
      True

    Reference:
      Jin, Ge, Netrapalli, Kakade & Jordan 2017, How to escape saddle points efficiently, Algorithm 2,
      https://arxiv.org/abs/1703.00887
    """
    return escape_saddles(chain(scale_by_learning_rate(learning_rate)), radius, threshold, wait, key)
