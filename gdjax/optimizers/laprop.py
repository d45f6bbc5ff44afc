"""LaProp."""

from typing import NamedTuple

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, DType, Mask, Params, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, sqrt
from gdjax.transforms.decay import descending

__all__ = ["ScaleByLapropState", "laprop", "scale_by_laprop"]


# Not Adam's, though alike: `migrate` would take Adam's average of gradients for one of normalised gradients.
class ScaleByLapropState(NamedTuple):
    """State of `scale_by_laprop`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, average of the gradients over their roots
    nu: Params  # like params, second moment, float32 at least


@leafwise(ScaleByLapropState, nu=Moment(wide=True, real=True), growth="elementwise")
def scale_by_laprop(
    g: Array, s: ScaleByLapropState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.999, eps: hyper.Size = 1e-15, mu_dtype: DType | None = None,
) -> tuple[Array, ScaleByLapropState]:  # fmt: skip
    """LaProp's direction: an average of gradients, each over the root of the second moment of its own step.

    Formulas and arguments are those of `gdjax.laprop`, without its rate and decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_laprop(b1=0.5)
      >>> state = tx.init(jnp.zeros(2))
      >>> for g in (jnp.array([4.0, -0.5]), jnp.array([-4.0, -0.5])):
      ...     u, state = tx.update(g, state)
      ...     print((3 * u).round())  # thirds: signs, the second counts twice
      [ 3. -3.]
      [-1. -3.]

    Reference:
      Ziyin, Wang & Ueda 2020, https://arxiv.org/abs/2002.04839
    """
    g = bounded(g)
    nu = b2 * s.nu + (1 - b2) * abs_sq(g)
    n = divide(g, sqrt(debias(nu, b2, t)), eps)
    mu = b1 * s.mu + (1 - b1) * n
    return debias(mu, b1, t), s._replace(mu=mu, nu=nu)


@transform
def laprop(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-15, mu_dtype: DType | None = None,
    weight_decay: Size = 0.0, mask: Mask = None,
) -> GradientTransformation:  # fmt: skip
    """LaProp: Adam with the gradient divided first and averaged then, so that b1 and b2 are chosen independently.

        nu_t = b2 nu_{t-1} + (1 - b2) g_t^2                 nu_hat_t = nu_t / (1 - b2^t)
        mu_t = b1 mu_{t-1} + (1 - b1) g_t / (sqrt(nu_hat_t) + eps)
        x_{t+1} = x_t - lr (mu_t / (1 - b1^t) + weight_decay x_t)

    Adam's direction can be large without limit where b1 is above sqrt(b2): a large old gradient over a second moment
    that has forgotten it. LaProp's is at most 1 / sqrt(1 - b2), whatever b1 is. `rmsprop(lr, momentum=b1)` is LaProp
    with a sum in the place of the average, and without the two corrections.

    Args:
      learning_rate: lr, a scalar or a schedule, or `per_leaf(...)` of one. The authors' code has 4e-4.
      b1: decay of the average, in [0, 1). The paper's mu.
      b2: decay of the second moment, in [0, 1). The paper's nu; with 0 this is `signum`, corrected for its start.
      eps: outside the root, at least 0; the authors' code has this 1e-15, and none in the root. Where the
        denominator is 0 the gradient is not divided.
      mu_dtype: the dtype of mu, the parameter's by default; of a complex one that of the parts, float32 at least.
      weight_decay: decoupled, times lr, at least 0. A scalar or a schedule.
      mask: which leaves decay: a tree or prefix of booleans, or a function from the parameters to one; None for all.

    Departures, from the authors' code: it puts lr_t into the average, and divides by an average of the rates, so that
    under a schedule gradients count by the rates of their steps; with a constant rate that is the same. It multiplies
    the decay by no rate, and decays after the step. Its centred form and its maximum of second moments, both off by
    default, are not here.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.laprop(gdjax.cosine_decay_schedule(0.1, 200), b1=0.95, b2=0.9)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=200)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Ziyin, Wang & Ueda 2020, LaProp: separating momentum and adaptivity in Adam, https://arxiv.org/abs/2002.04839
    """
    return descending(scale_by_laprop(b1, b2, eps, mu_dtype), learning_rate, weight_decay, mask)
