"""Adadelta."""

from typing import NamedTuple

from gdjax.combine.chain import chain
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, Mask, Params, Rate, Size
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.numerics import Array, abs_sq, bounded, divide, sqrt
from gdjax.transforms.decay import add_decayed_weights
from gdjax.transforms.scaling import scale_by_learning_rate

__all__ = ["ScaleByAdaDeltaState", "adadelta", "scale_by_adadelta"]

# e_x is an average of what was computed from it: an error of rounding would grow in it from step to step.
_average = Moment(wide=True, real=True, kind="exact")


class ScaleByAdaDeltaState(NamedTuple):
    """State of `scale_by_adadelta`."""

    e_g: Params  # like params, average of squared gradients, float32 at least
    e_x: Params  # like params, average of squared directions, float32 at least


@leafwise(ScaleByAdaDeltaState, e_g=_average, e_x=_average)
def scale_by_adadelta(
    g: Array, s: ScaleByAdaDeltaState, p: Array, t: Array, rho: hyper.Decay = 0.9, eps: hyper.Size = 1e-6
) -> tuple[Array, ScaleByAdaDeltaState]:
    """Adadelta's direction, in units of the parameters: RMS of directions over RMS of gradients.

    Formulas and arguments are those of `gdjax.adadelta`, without its rate and decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_adadelta(rho=0.95)
      >>> direction, state = tx.update(jnp.array([4.0, -0.5]), tx.init(jnp.zeros(2)))
      >>> print((1e4 * direction).round())  # sqrt(eps / (1 - rho)), whatever the gradient
      [ 45. -45.]

    Reference:
      Zeiler 2012, Algorithm 1, https://arxiv.org/abs/1212.5701
    """
    g = bounded(g)
    e_g = rho * s.e_g + (1 - rho) * abs_sq(g)
    u = divide(sqrt(s.e_x + eps) * g, sqrt(e_g + eps))
    e_x = rho * s.e_x + (1 - rho) * abs_sq(u)
    return u, ScaleByAdaDeltaState(e_g, e_x)


@transform
def adadelta(
    learning_rate: Rate | None = None, rho: Decay = 0.9, eps: Size = 1e-6, weight_decay: Size = 0.0,
    weight_decay_mask: Mask = None,
) -> GradientTransformation:  # fmt: skip
    """Adadelta: steps of the size of the steps before, relative to the gradients before; no rate to choose.

        e_g <- rho e_g + (1 - rho) g_t^2
        u_t = g_t sqrt(e_x + eps) / sqrt(e_g + eps)
        e_x <- rho e_x + (1 - rho) u_t^2
        x_{t+1} = x_t - lr u_t

    Args:
      learning_rate: lr, a scalar or a schedule; None for the reference's 1. (Optax leaves out the sign too when it is
        None, and ascends.)
      rho: decay of both averages, in [0, 1); the reference uses 0.95.
      eps: inside both roots, at least 0; with 0 nothing ever moves. The first step is of size sqrt(eps / (1 - rho)).
      weight_decay: times the parameters, added to the gradients (an L2 penalty); at least 0, or a schedule.
      weight_decay_mask: which leaves decay: a tree of booleans, a prefix of the parameters, or a function from them to
        one; None for all.

    `adadelta(lr)` follows `torch.optim.Adadelta(lr)`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.adadelta(rho=0.95), steps=500)
      >>> bool(result.history["loss"][-1] < result.history["loss"][0])  # without any rate
      True

    Reference:
      Zeiler 2012, Adadelta: an adaptive learning rate method, Algorithm 1, https://arxiv.org/abs/1212.5701
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(1.0 if learning_rate is None else learning_rate),
    )
