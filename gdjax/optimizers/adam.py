"""Adam and AdamW."""

from typing import NamedTuple

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, DType, Mask, Params, Rate, Size, Squares
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import second_moment
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, sqrt
from gdjax.transforms.decay import descending

__all__ = ["ScaleByAdamState", "adam", "adamw", "scale_by_adam"]


class ScaleByAdamState(NamedTuple):
    """State of `scale_by_adam`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, first moment
    nu: Params  # like params, second moment, float32 at least


def corrected_mean(mu: Array, g: Array, b1: Hyper, t: Array, nesterov: bool) -> Array:
    """mu / (1 - b1^t), or Dozat's b1 mu / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t)."""
    if nesterov:
        return debias(b1 * mu, b1, t + 1) + debias((1 - b1) * g, b1, t)
    return debias(mu, b1, t)


@leafwise(ScaleByAdamState, nu=second_moment, growth="elementwise")
def scale_by_adam(
    g: Array, s: ScaleByAdamState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.999, eps: hyper.Size = 1e-8, eps_root: hyper.Size = 0.0,
    mu_dtype: DType | None = None,
    *, nesterov: bool = False, nu_dtype: DType | None = None,
) -> tuple[Array, ScaleByAdamState]:  # fmt: skip
    """Adam's direction: momentum over the root of an average of squares.

    Formulas and arguments are those of `gdjax.adam`, without its rate.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.scale_by_adam(), gdjax.scale_by_learning_rate(1e-3))
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.array([4.0, -0.5]), tx.init(params), params)
      >>> print((1e3 * updates).round())  # as adam(1e-3)
      [-1.  1.]

    Reference:
      Kingma & Ba 2015, Algorithm 1, https://arxiv.org/abs/1412.6980
    """
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    nu = b2 * s.nu + (1 - b2) * abs_sq(g)
    mu_hat, nu_hat = corrected_mean(mu, g, b1, t, nesterov), debias(nu, b2, t)
    return divide(mu_hat, sqrt(nu_hat + eps_root), eps), s._replace(mu=mu, nu=nu)


@transform
def adam(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-8, eps_root: Size = 0.0,
    mu_dtype: DType | None = None,
    *, nesterov: bool = False, nu_dtype: DType | None = None,
) -> GradientTransformation:  # fmt: skip
    """Adam: momentum over the root of an average of squares, both corrected for their start at 0.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t          mu_hat_t = mu_t / (1 - b1^t)
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2        nu_hat_t = nu_t / (1 - b2^t)
        x_{t+1} = x_t - lr mu_hat_t / (sqrt(nu_hat_t + eps_root) + eps)

    Args:
      learning_rate: lr, a scalar or a schedule, or `per_leaf(...)` of one.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: outside the root, at least 0. 0 is allowed: an element that has only had zero gradients does not move.
      eps_root: inside the root, at least 0.
      mu_dtype: the dtype of mu, the parameter's by default; of a complex one that of the parts, float32 at least.
      nesterov: Dozat's NAdam, mu_hat_t = b1 mu_t / (1 - b1^(t+1)) + (1 - b1) g_t / (1 - b1^t).
      nu_dtype: the dtype of nu; by default the parameter's, but float32 at least.

    Some lecture notes divide the stored moments themselves by the bias correction, which then compounds from step to
    step. Here the corrected values are used once and not kept. Such notes also have an eps of 1e-7; the paper has 1e-8.

    `adam(lr)` follows `torch.optim.Adam(lr)`.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> loss = lambda params: jnp.sum((params["w"] - 3.0) ** 2)
      >>> params, tx = {"w": jnp.zeros(2)}, gdjax.adam(1e-3)
      >>> state = tx.init(params)
      >>> updates, state = tx.update(jax.grad(loss)(params), state, params)
      >>> params = gdjax.apply_updates(params, updates)
      >>> print((1e3 * params["w"]).round())
      [1. 1.]

    Reference:
      Kingma & Ba 2015, Adam: a method for stochastic optimization, Algorithm 1, https://arxiv.org/abs/1412.6980;
      Dozat 2016, Incorporating Nesterov momentum into Adam.
    """
    direction = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype)
    return descending(direction, learning_rate)


@transform
def adamw(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-8, eps_root: Size = 0.0,
    mu_dtype: DType | None = None, weight_decay: Size = 1e-4, mask: Mask = None,
    *, nesterov: bool = False, nu_dtype: DType | None = None,
) -> GradientTransformation:  # fmt: skip
    """AdamW: Adam with weight decay beside the adaptive direction, not inside it.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t          mu_hat_t = mu_t / (1 - b1^t)
        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2        nu_hat_t = nu_t / (1 - b2^t)
        x_{t+1} = x_t - lr (mu_hat_t / (sqrt(nu_hat_t + eps_root) + eps) + weight_decay x_t)

    Args:
      learning_rate: lr, a scalar or a schedule, or `per_leaf(...)` of one.
      b1, b2: decay of the first and second moment, in [0, 1).
      eps, eps_root: outside and inside the root, at least 0.
      mu_dtype: the dtype of mu, the parameter's by default; of a complex one that of the parts, float32 at least.
      weight_decay: times lr, as in Optax and torch; at least 0. A scalar or a schedule, or `per_leaf(...)` of one.
      mask: which leaves decay, commonly the matrices, not biases and norms: a tree of booleans, a prefix of the
        parameters, or a function from them to one; None for all.
      nesterov: Dozat's NAdam, mu_hat_t = b1 mu_t / (1 - b1^(t+1)) + (1 - b1) g_t / (1 - b1^t).
      nu_dtype: the dtype of nu; by default the parameter's, but float32 at least.

    Departure: the reference multiplies the decay by a schedule factor but not by lr.

    `adamw(lr, weight_decay=0.01)` follows `torch.optim.AdamW(lr)`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> rate = gdjax.warmup_cosine_decay_schedule(1e-5, 3e-4, 100, 1000)  # steps
      >>> tx = gdjax.adamw(rate, weight_decay=0.1, mask=gdjax.mask_by_path("kernel"))
      >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}
      >>> no_gradient = {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}
      >>> updates, state = tx.update(no_gradient, tx.init(params), params)
      >>> print(updates["kernel"][0] < 0, updates["bias"] < 0)  # the kernel alone decays
      [ True  True] [False False]

    Reference:
      Loshchilov & Hutter 2019, Decoupled weight decay regularization, Algorithm 2, https://arxiv.org/abs/1711.05101
    """
    direction = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype)
    return descending(direction, learning_rate, weight_decay, mask)
