"""RMSProp."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.core.base import GradientTransformation, identity, transform
from gdjax.core.misuse import Dialect, dialects
from gdjax.core.types import Decay, Params, Rate, Share, Size
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, sqrt
from gdjax.transforms.momentum import trace
from gdjax.transforms.scaling import scale_by_learning_rate

__all__ = [
    "ScaleByRStdDevState", "ScaleByRStdDevWithCountState", "ScaleByRmsState", "ScaleByRmsWithCountState", "rmsprop",
    "scale_by_rms", "scale_by_stddev",
]  # fmt: skip

_nu = Moment(wide=True, real=True, fill="initial_scale")
# Their difference, a variance, must not lose its digits.
_mean, _mean_sq = Moment(wide=True, kind="exact"), Moment(wide=True, real=True, fill="initial_scale", kind="exact")


class ScaleByRmsState(NamedTuple):
    """State of `scale_by_rms`."""

    nu: Params  # like params, average of squares, float32 at least


class ScaleByRmsWithCountState(NamedTuple):
    """State of `scale_by_rms` with bias correction."""

    count: Array  # () int32, updates made so far
    nu: Params  # like params, average of squares, float32 at least


class ScaleByRStdDevState(NamedTuple):
    """State of `scale_by_stddev`."""

    mu: Params  # like params, average
    nu: Params  # like params, average of squares, float32 at least


class ScaleByRStdDevWithCountState(NamedTuple):
    """State of `scale_by_stddev` with bias correction."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, average
    nu: Params  # like params, average of squares, float32 at least


def _rms_state(hyper: Mapping[str, Any]) -> Any:
    return ScaleByRmsWithCountState if hyper["bias_correction"] else ScaleByRmsState


def _stddev_state(hyper: Mapping[str, Any]) -> Any:
    return ScaleByRStdDevWithCountState if hyper["bias_correction"] else ScaleByRStdDevState


@leafwise(_rms_state, nu=_nu, growth="elementwise")
def scale_by_rms(
    g: Array, s: ScaleByRmsState | ScaleByRmsWithCountState, p: Array, t: Array,
    decay: hyper.Decay = 0.9, eps: hyper.Size = 1e-8, initial_scale: hyper.Size = 0.0, eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> tuple[Array, ScaleByRmsState | ScaleByRmsWithCountState]:  # fmt: skip
    """RMSProp's direction: the gradient over the root of the average of its squares.

    Formulas and arguments are those of `gdjax.rmsprop`, without its rate.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_rms(decay=0.99)
      >>> direction, state = tx.update(jnp.array([4.0, -0.5]), tx.init(jnp.zeros(2)))
      >>> print(direction.round())  # 1 / sqrt(1 - decay), without bias_correction
      [ 10. -10.]

    Reference:
      Tieleman & Hinton 2012, Coursera lecture 6.5, slide 29.
    """
    g = bounded(g)
    nu = decay * s.nu + (1 - decay) * abs_sq(g)
    nu_hat = debias(nu, decay, t) if bias_correction else nu
    return divide(g, _root(nu_hat, eps, eps_in_sqrt)), s._replace(nu=nu)


@leafwise(_stddev_state, mu=_mean, nu=_mean_sq, growth="elementwise")
def scale_by_stddev(
    g: Array, s: ScaleByRStdDevState | ScaleByRStdDevWithCountState, p: Array, t: Array,
    decay: hyper.Decay = 0.9, eps: hyper.Size = 1e-8, initial_scale: hyper.Size = 0.0, eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> tuple[Array, ScaleByRStdDevState | ScaleByRStdDevWithCountState]:  # fmt: skip
    """The gradient over its standard deviation: centred RMSProp's direction.

        mu_t = decay mu_{t-1} + (1 - decay) g_t,    nu_t = decay nu_{t-1} + (1 - decay) g_t^2
        u_t = g_t / sqrt(nu_t - mu_t^2 + eps)

    Arguments are those of `gdjax.rmsprop`. The variance is taken as 0 where rounding makes it negative.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_stddev(decay=0.5)
      >>> state = tx.init(jnp.zeros(()))
      >>> for g in (1.0, 3.0):
      ...     direction, state = tx.update(jnp.array(g), state)
      >>> print((100 * direction).round())  # 3 over the root of 4.75 - 1.75^2
      231.0

    Reference:
      Graves 2013, Generating sequences with recurrent neural networks, equations 38-40, https://arxiv.org/abs/1308.0850
    """
    g = bounded(g)
    mu = decay * s.mu + (1 - decay) * g
    nu = decay * s.nu + (1 - decay) * abs_sq(g)
    mu_hat, nu_hat = (debias(mu, decay, t), debias(nu, decay, t)) if bias_correction else (mu, nu)
    variance = jnp.maximum(nu_hat - abs_sq(mu_hat), 0)
    return divide(g, _root(variance, eps, eps_in_sqrt)), s._replace(mu=mu, nu=nu)


def _root(x: Array, eps: Hyper, eps_in_sqrt: bool) -> Array:
    return sqrt(x + eps) if eps_in_sqrt else sqrt(x) + eps


@transform
@dialects(torch={"decay": 0.99, "eps_in_sqrt": False}, paper={"eps": 0.0})
def rmsprop(
    learning_rate: Rate, decay: Decay = 0.9, eps: Size = 1e-8, initial_scale: Size = 0.0, eps_in_sqrt: bool = True,
    centered: bool = False, momentum: Share | None = None, nesterov: bool = False, bias_correction: bool = False,
    *, like: Dialect = "optax",
) -> GradientTransformation:  # fmt: skip
    """RMSProp: Adagrad with a moving average in place of the sum, so that the rate does not fall for ever.

        nu_t = decay nu_{t-1} + (1 - decay) g_t^2,    nu_0 = initial_scale
        x_{t+1} = x_t - lr g_t / sqrt(nu_t + eps)

    Args:
      learning_rate: lr, a scalar or a schedule.
      decay: of the average, in [0, 1).
      eps: at least 0. Where the denominator is 0 the direction is g_t, which is 0 or squares to 0.
      initial_scale: nu_0, at least 0.
      eps_in_sqrt: False divides by sqrt(nu_t) + eps.
      centered: divide by the standard deviation instead: nu_t less the square of the average of gradients.
      momentum: in [0, 1], applied to the steps; None for none.
      nesterov: that momentum looks one step ahead.
      bias_correction: correct the averages for their start at 0.
      like: "optax" as above; "torch", by default with a decay of 0.99 and sqrt(nu_t) + eps, adds up directions in its
        momentum, and multiplies the sum by the rate of the step; "paper" has no eps by default.

    A common listing in lecture notes adds the new average to the cache, `cache += decay * cache + (1 - decay) * dx**2`.
    That grows without bound, as in Adagrad; the average must replace the cache, as it does here.

    `rmsprop(lr, like="torch")` follows `torch.optim.RMSprop(lr)`, its options `centered` and `momentum` too. Optax's
    momentum adds up steps, each with the rate of its time; with a constant rate the two are the same.

    Raises:
      ValueError: nesterov without momentum.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.rmsprop(gdjax.linear_schedule(0.1, 0.0, 200), momentum=0.9)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=200)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Tieleman & Hinton 2012, Coursera lecture 6.5, slide 29; centred: Graves 2013, https://arxiv.org/abs/1308.0850
    """
    if nesterov and momentum is None:
        raise ValueError("gdjax.rmsprop: nesterov=True needs a momentum, got None")
    scale_by = scale_by_stddev if centered else scale_by_rms
    direction = scale_by(decay, eps, initial_scale, eps_in_sqrt, bias_correction)
    rate = scale_by_learning_rate(learning_rate)
    momentum_ = identity() if momentum is None else trace(momentum, nesterov)
    return chain(direction, momentum_, rate) if like == "torch" else chain(direction, rate, momentum_)
