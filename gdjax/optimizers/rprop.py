"""Rprop."""

from typing import Annotated, NamedTuple

import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import FINITE_FROM_1
from gdjax.core.types import Bound, Params, Rate, ScalarOrSchedule, Share, Size
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.numerics import Array
from gdjax.transforms.scaling import scale

__all__ = ["ScaleByRpropState", "rprop", "scale_by_rprop"]


class ScaleByRpropState(NamedTuple):
    """State of `scale_by_rprop`."""

    step_sizes: Params  # like params, float32 at least: in 16 bits a factor of 1.2 is rounded
    prev_updates: Params  # like params, the direction before


# The direction before is no average, and becomes an update as it is.
@leafwise(
    ScaleByRpropState,
    step_sizes=Moment(wide=True, fill="learning_rate", kind="exact"),
    prev_updates=Moment("mu_dtype", kind="exact"),
)
def scale_by_rprop(
    g: Array, s: ScaleByRpropState, p: Array, t: Array,
    learning_rate: hyper.Rate, eta_minus: hyper.Share = 0.5, eta_plus: Annotated[Hyper, FINITE_FROM_1] = 1.2,
    min_step_size: hyper.Size = 1e-6, max_step_size: hyper.Bound = 50.0,
    *, delayed: bool = False,
) -> tuple[Array, ScaleByRpropState]:  # fmt: skip
    """Rprop's direction: the sign of the gradient times a step size of the parameter's own.

    Formulas and arguments are those of `gdjax.rprop`.

    Raises:
      TypeError: (in update) a parameter is complex.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_rprop(0.1)
      >>> g, state = jnp.array([4.0, -0.5]), tx.init(jnp.zeros(2))
      >>> for _ in range(2):  # longer while the sign stays
      ...     direction, state = tx.update(g, state)
      ...     print((100 * direction).round())
      [ 10. -10.]
      [ 12. -12.]

    Reference:
      Riedmiller & Braun 1993; Igel & Hüsken 2000, as for `rprop`.
    """
    if jnp.iscomplexobj(g):
        raise TypeError(f"does not support complex numbers ({g.dtype}); take them apart: split_real_and_imaginary")
    agreement = jnp.sign(g) * jnp.sign(s.prev_updates)  # of signs: the product of the numbers may be rounded to 0
    factor = jnp.where(agreement > 0, eta_plus, eta_minus)
    step = jnp.where(agreement == 0, s.step_sizes, jnp.clip(s.step_sizes * factor, min_step_size, max_step_size))
    u = jnp.where(agreement < 0, 0, step * jnp.sign(g))
    return (jnp.where(agreement < 0, 0, s.prev_updates) if delayed else u), ScaleByRpropState(step, u)


@transform
def rprop(
    learning_rate: Rate, eta_minus: Share = 0.5, eta_plus: Annotated[ScalarOrSchedule, FINITE_FROM_1] = 1.2,
    min_step_size: Size = 1e-6, max_step_size: Bound = 50.0,
    *, delayed: bool = False,
) -> GradientTransformation:  # fmt: skip
    """Rprop: every parameter has its own step, longer while the sign of its gradient stays, shorter when it changes.

        delta_t = min(eta_plus delta_{t-1}, max_step_size)     where g_t and the direction before have the same sign
        delta_t = max(eta_minus delta_{t-1}, min_step_size)    where they have opposite signs
        delta_t = delta_{t-1}                                  where one of them is 0
        x_{t+1} = x_t - delta_t sign(g_t), but x_{t+1} = x_t where the signs are opposite

    For gradients of the whole data: the size of the gradient is not used, so that noise decides near a minimum. Through
    steps there are derivatives by the numbers above, and none by the gradient.

    Args:
      learning_rate: delta_0, the first step, at least 0; a schedule counts with its value at 0.
      eta_minus: the factor where the sign changes, in [0, 1].
      eta_plus: the factor where it stays, at least 1.
      min_step_size, max_step_size: the bounds of delta, at least 0.
      delayed: move by the direction of the step before, where the sign has not changed since. This is what Optax does;
        its first step is 0.

    This is the variant iRprop-, which stays where the sign has changed and takes the next gradient as if it were the
    first; the original goes back to where it came from. `rprop(lr)` follows `torch.optim.Rprop(lr)`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: x[0] ** 2 + 1000 * x[1] ** 2  # every number has its own step
      >>> result = gdjax.minimize(loss, jnp.ones(2), gdjax.rprop(0.1), steps=60)
      >>> bool(jnp.abs(result.params).max() < 1e-2)
      True

    Reference:
      Riedmiller & Braun 1993, A direct adaptive method for faster backpropagation learning: the RPROP algorithm; Igel
      & Hüsken 2000, Improving the Rprop learning algorithm, section 2.4 (iRprop-).
    """
    return chain(
        scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size, delayed=delayed), scale(-1.0)
    )
