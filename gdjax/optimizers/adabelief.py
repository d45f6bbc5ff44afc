"""AdaBelief."""

from typing import NamedTuple

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, Mask, Params, Rate, Size, Squares
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment, second_moment
from gdjax.linalg.vectors import in_memory
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, sqrt
from gdjax.optimizers.adam import corrected_mean
from gdjax.transforms.decay import descending

__all__ = ["ScaleByBeliefState", "adabelief", "scale_by_belief"]


class ScaleByBeliefState(NamedTuple):
    """State of `scale_by_belief`."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, first moment
    nu: Params  # like params, average square of g - mu, float32 at least


# Of mu the gradient is subtracted, and what is left squared.
@leafwise(ScaleByBeliefState, mu=Moment("mu_dtype", kind="fine"), nu=second_moment, growth="elementwise")
def scale_by_belief(
    g: Array, s: ScaleByBeliefState, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.999, eps: hyper.Size = 1e-16, eps_root: hyper.Size = 1e-16,
    *, nesterov: bool = False,
) -> tuple[Array, ScaleByBeliefState]:  # fmt: skip
    """AdaBelief's direction: momentum over the root of an average of squared deviations from it.

    Formulas and arguments are those of `gdjax.adabelief`, without its rate and decay.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.scale_by_belief(), gdjax.scale_by_learning_rate(1e-3))
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.array([4.0, -0.5]), tx.init(params), params)
      >>> print((1e5 * updates).round())  # 1 / 0.9 of Adam's step: g - mu is 0.9 g
      [-111.  111.]

    Reference:
      Zhuang et al. 2020, Algorithm 2, https://arxiv.org/abs/2010.07468
    """
    g = bounded(g)
    mu = b1 * s.mu + (1 - b1) * g
    nu = in_memory(s.nu, b2 * s.nu + (1 - b2) * abs_sq(g - mu) + eps_root)
    mu_hat, nu_hat = corrected_mean(mu, g, b1, t, nesterov), debias(nu, b2, t)
    return divide(mu_hat, sqrt(nu_hat), eps), s._replace(mu=mu, nu=nu)


@transform
def adabelief(
    learning_rate: Rate, b1: Decay = 0.9, b2: Squares = 0.999, eps: Size = 1e-16, eps_root: Size = 1e-16,
    weight_decay: Size | None = None, weight_decay_mask: Mask = None,
    *, nesterov: bool = False,
) -> GradientTransformation:  # fmt: skip
    """AdaBelief: Adam whose second moment is that of the gradient about its own average, not about 0.

        mu_t = b1 mu_{t-1} + (1 - b1) g_t                          mu_hat_t = mu_t / (1 - b1^t)
        nu_t = b2 nu_{t-1} + (1 - b2) (g_t - mu_t)^2 + eps_root    nu_hat_t = nu_t / (1 - b2^t)
        x_{t+1} = x_t - lr (mu_hat_t / (sqrt(nu_hat_t) + eps) + weight_decay x_t)

    Steps are long where the gradient is as its average predicted, short where it is not.

    Args:
      learning_rate: lr, a scalar or a schedule.
      b1, b2: decay of the first and second moment, in [0, 1).
      eps: outside the root, at least 0. Where the denominator is 0 the direction is the numerator.
      eps_root: added to nu at every step, so that it tends to eps_root / (1 - b2) where gradients are constant; at
        least 0. The reference has one eps of 1e-8 for both places; Optax's default keeps the steps there long.
      weight_decay: decoupled, times lr, at least 0; None for none, which keeps the state of a chain without decay.
      weight_decay_mask: which leaves decay: a tree of booleans, or a function from the parameters to one.
      nesterov: Dozat's NAdam, mu_hat_t = b1 mu_t / (1 - b1^(t+1)) + (1 - b1) g_t / (1 - b1^t).

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.adabelief(0.1, eps=1e-8, eps_root=1e-8)  # the paper's eps
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=200)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Zhuang et al. 2020, AdaBelief optimizer: adapting stepsizes by the belief in observed gradients, Algorithm 2,
      https://arxiv.org/abs/2010.07468
    """
    direction = scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov)
    return descending(direction, learning_rate, weight_decay, weight_decay_mask)
