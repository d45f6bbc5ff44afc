"""Samples from a posterior: descent with the noise of Langevin dynamics."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import tree
from gdjax.core import arrays
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, KeyLike, Params, Positive, Rate, Size
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Key, Moment, second_moment
from gdjax.numerics import Array, abs_sq, bounded, divide, sqrt

__all__ = ["PSGLDState", "SGHMCState", "SGLDState", "psgld", "sghmc", "sgld"]


class SGLDState(NamedTuple):
    """State of `sgld`."""

    key: Any  # like params, for each array the key of the next noise


class PSGLDState(NamedTuple):
    """State of `psgld`."""

    nu: Params  # like params, average of squares, float32 at least
    key: Any  # like params, for each array the key of the next noise


class SGHMCState(NamedTuple):
    """State of `sghmc`."""

    velocity: Params  # like params, the last step
    key: Any  # like params, for each array the key of the next noise


def _noise(key: Array, variance: Array, like: Array) -> tuple[Array, Array]:
    """N(0, variance) like an array, in a complex one for each part, and the next key."""
    key, now = jax.random.split(key)
    parts = 2 if jnp.iscomplexobj(like) else 1  # JAX's complex normal has variance 1 in both parts together
    return sqrt(parts * variance).astype(like.dtype) * tree.random_like(now, like), key


@leafwise(SGLDState, key=Key("key"))
def _sgld(
    g: Array, s: SGLDState, p: Array, t: Array,
    learning_rate: hyper.Rate, data_size: hyper.Positive, temperature: hyper.Size, key: KeyLike | None = None,
) -> tuple[Array, SGLDState]:  # fmt: skip
    noise, following = _noise(s.key, 2 * learning_rate * temperature / data_size, g)
    return noise - learning_rate * g, SGLDState(following)


@leafwise(PSGLDState, nu=second_moment, key=Key("key"))
def _psgld(
    g: Array, s: PSGLDState, p: Array, t: Array,
    learning_rate: hyper.Rate, data_size: hyper.Positive, decay: hyper.Decay, eps: hyper.Size, temperature: hyper.Size,
    key: KeyLike | None = None,
) -> tuple[Array, PSGLDState]:  # fmt: skip
    g = bounded(g)
    nu = decay * s.nu + (1 - decay) * abs_sq(g)
    G = divide(jnp.ones_like(nu), sqrt(nu), eps)
    noise, following = _noise(s.key, 2 * learning_rate * temperature / data_size * G, g)
    return noise - learning_rate * G * g, PSGLDState(nu, following)


@leafwise(SGHMCState, velocity=Moment(kind="exact"), key=Key("key"))  # it becomes an update as it is
def _sghmc(
    g: Array, s: SGHMCState, p: Array, t: Array,
    learning_rate: hyper.Rate, data_size: hyper.Positive, momentum: hyper.Decay, temperature: hyper.Size,
    key: KeyLike | None = None,
) -> tuple[Array, SGHMCState]:  # fmt: skip
    noise, following = _noise(s.key, 2 * (1 - momentum) * learning_rate * temperature / data_size, g)
    velocity = momentum * s.velocity - learning_rate * g + noise
    return velocity, SGHMCState(velocity, following)


@transform
def sgld(
    learning_rate: Rate, data_size: Positive, key: KeyLike | None, temperature: Size = 1.0
) -> GradientTransformation:
    """SGLD, stochastic gradient Langevin dynamics: descent whose points, in the end, are samples from the posterior.

        x_{t+1} = x_t - lr g_t + N(0, 2 lr T / N)

    draws from exp(-U(x) / T), where g_t is an estimate of the gradient of U / N. For a posterior of N examples
    U(x) = -sum_i log p(y_i | x) - log p(x), so that U / N is the mean loss plus -log p(x) / N.

    Args:
      learning_rate: lr, a scalar or a schedule, of the size that `sgd` takes. The paper's eps is 2 lr / N.
      data_size: N, above 0: how often the loss that you differentiate goes into U. For a mean over examples, or over a
        batch of them, their number in the whole data set. For a sum over all examples 1.
      key: a PRNG key, or an int to seed one. The noise is a function of the key, the array and the step.
      temperature: T, at least 0: 1 for the posterior, less for a colder one, 0 for descent without noise.

    With a constant rate samples are biased: by the step, of a Gaussian with variance 1 / h it is
    1 / (h (1 - lr h / (2 N))), and by the noise of the batches. The paper lets the rate fall, sum lr_t = infinity and
    sum lr_t^2 finite, and weights samples by it. Regularization is part of the prior: `add_decayed_weights` before it
    makes a Gaussian one of variance 1 / (N weight_decay).

    The state is one key for each array.

    Raises:
      ValueError: no key.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> tx = gdjax.sgld(0.1, data_size=25, key=0)  # U / 25 = (x - 3)^2 / 2
      >>> def step(carry, _):
      ...     x, (u, state) = carry[0], tx.update(carry[0] - 3.0, carry[1], carry[0])
      ...     return (x + u, state), x + u
      >>> _, xs = jax.lax.scan(step, (jnp.zeros(50), tx.init(jnp.zeros(50))), length=1000)
      >>> print(xs[200:].mean().round(1), xs[200:].std().round(1))  # N(3, 1 / 25)
      3.0 0.2

    Reference:
      Welling & Teh 2011, Bayesian learning via stochastic gradient Langevin dynamics, equation 4,
      https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf
    """
    return _sgld(learning_rate, data_size, temperature, key=arrays.required_key("gdjax.sgld", key, None))


@transform
def psgld(
    learning_rate: Rate, data_size: Positive, key: KeyLike | None, decay: Decay = 0.99, eps: Size = 1e-5,
    temperature: Size = 1.0,
) -> GradientTransformation:  # fmt: skip
    """pSGLD: SGLD with RMSProp's rate for each element, in the step and in the noise.

        nu_t = decay nu_{t-1} + (1 - decay) g_t^2,    G_t = 1 / (eps + sqrt(nu_t))
        x_{t+1} = x_t - lr G_t g_t + N(0, 2 lr T G_t / N)

    draws from about exp(-U(x) / T), where g_t is an estimate of the gradient of U / N.

    Args:
      learning_rate: lr, a scalar or a schedule, of the size that `rmsprop` takes. The paper's eps_t is 2 lr / N.
      data_size: N, above 0: how often the loss that you differentiate goes into U. For a mean over examples, or over a
        batch of them, their number in the whole data set. For a sum over all examples 1.
      key: a PRNG key, or an int to seed one. The noise is a function of the key, the array and the step.
      decay: alpha in the paper, in [0, 1).
      eps: lambda in the paper, at least 0. Where eps and nu are 0 G is 1.
      temperature: T, at least 0: 1 for the posterior, less for a colder one, 0 for `rmsprop`.

    Departures: the paper adds lr T Gamma_t / N to the step, Gamma_i = sum_j dG_ij / dx_j, which keeps the samples right
    while G depends on where they are. It takes the diagonal of the Hessian; the paper drops it in its experiments, as
    code does, and so does this. What is left out is proportional to 1 - decay. It is small where G hardly changes while
    a sample moves: `decay` near 1, or gradients that are mostly noise of the batches. Whole gradients and a small
    `decay` give a wrong variance. The paper's nu is of the likelihood's gradient, here it is of g, with the prior's.

    nu begins at 0 and is not corrected, so that the first noise is larger than later ones: leave out the first
    10 / (1 - decay) samples.

    Raises:
      ValueError: no key.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> tx = gdjax.psgld(2e-3, data_size=25, key=0, decay=0.999)  # U / 25 = (x - 3)^2 / 2
      >>> def step(carry, _):
      ...     x, (u, state) = carry[0], tx.update(carry[0] - 3.0, carry[1], carry[0])
      ...     return (x + u, state), x + u
      >>> _, xs = jax.lax.scan(step, (jnp.zeros(50), tx.init(jnp.zeros(50))), length=12_000)
      >>> print(xs[10_000:].mean().round(1), xs[10_000:].std().round(1))  # N(3, 1 / 25)
      3.0 0.2

    Reference:
      Li, Chen, Carlson & Carin 2016, Preconditioned stochastic gradient Langevin dynamics for deep neural networks,
      Algorithm 1, https://arxiv.org/abs/1512.07666
    """
    key = arrays.required_key("gdjax.psgld", key, None)
    return _psgld(learning_rate, data_size, decay, eps, temperature, key=key)


@transform
def sghmc(
    learning_rate: Rate, data_size: Positive, key: KeyLike | None, momentum: Decay = 0.9, temperature: Size = 1.0
) -> GradientTransformation:
    """SGHMC, stochastic gradient Hamiltonian Monte Carlo: descent with momentum whose points are samples in the end.

        v_{t+1} = momentum v_t - lr g_t + N(0, 2 (1 - momentum) lr T / N),    v_0 = 0
        x_{t+1} = x_t + v_{t+1}

    draws from exp(-U(x) / T), where g_t is an estimate of the gradient of U / N.

    Args:
      learning_rate: lr, a scalar or a schedule, of the size that `sgd` with this momentum takes. The paper's eta is
        lr / N.
      data_size: N, above 0: how often the loss that you differentiate goes into U. For a mean over examples, or over a
        batch of them, their number in the whole data set. For a sum over all examples 1.
      key: a PRNG key, or an int to seed one. The noise is a function of the key, the array and the step.
      momentum: in [0, 1); the friction alpha of the paper is 1 - momentum. 0 is `sgld`.
      temperature: T, at least 0: 1 for the posterior, less for a colder one, 0 for `sgd` with momentum.

    The bias of the step is less than that of `sgld`: of a Gaussian with variance 1 / h the samples' is
    1 / (h (1 - lr h / (2 (1 + momentum) N))). The velocity is that of the old rate when a schedule changes it.

    Departures: beta_hat, the estimate of what noise the gradient has itself, is 0, as in the paper's simplest form. The
    paper draws v anew now and then, at no fixed time; here it goes on.

    Raises:
      ValueError: no key.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> tx = gdjax.sghmc(0.1, data_size=25, key=0, momentum=0.5)  # U / 25 = (x - 3)^2 / 2
      >>> def step(carry, _):
      ...     x, (u, state) = carry[0], tx.update(carry[0] - 3.0, carry[1], carry[0])
      ...     return (x + u, state), x + u
      >>> _, xs = jax.lax.scan(step, (jnp.zeros(50), tx.init(jnp.zeros(50))), length=1000)
      >>> print(xs[200:].mean().round(1), xs[200:].std().round(1))  # N(3, 1 / 25)
      3.0 0.2

    Reference:
      Chen, Fox & Guestrin 2014, Stochastic gradient Hamiltonian Monte Carlo, equation 15,
      https://arxiv.org/abs/1402.4102
    """
    key = arrays.required_key("gdjax.sghmc", key, None)
    return _sghmc(learning_rate, data_size, momentum, temperature, key=key)
