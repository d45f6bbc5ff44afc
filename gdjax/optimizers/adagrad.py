"""Adagrad."""

from typing import NamedTuple

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.growth import elementwise_from_0
from gdjax.core.misuse import Dialect, dialects
from gdjax.core.types import Params, Rate, Size
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.numerics import Array, abs_sq, bounded, divide, sqrt
from gdjax.transforms.decay import descending

__all__ = ["ScaleByRssState", "adagrad", "scale_by_rss"]


class ScaleByRssState(NamedTuple):
    """State of `scale_by_rss`."""

    sum_of_squares: Params  # like params, float32 at least


# It grows without a bound, which codes have.
_sum = Moment(wide=True, real=True, fill="initial_accumulator_value", kind="exact")


@leafwise(ScaleByRssState, sum_of_squares=_sum, growth=elementwise_from_0)
def scale_by_rss(
    g: Array, s: ScaleByRssState, p: Array, t: Array,
    initial_accumulator_value: hyper.Size = 0.1, eps: hyper.Size = 1e-7,
    *, eps_in_sqrt: bool = True,
) -> tuple[Array, ScaleByRssState]:  # fmt: skip
    """Adagrad's direction: the gradient over the root of the sum of its squares so far.

    Formulas and other arguments are those of `gdjax.adagrad`, without its rate.

    Args:
      eps_in_sqrt: False divides by sqrt(s_t) + eps, as the reference does.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.scale_by_rss(initial_accumulator_value=0.0, eps=0.0)
      >>> g, state = jnp.array([4.0, -0.5]), tx.init(jnp.zeros(2))
      >>> for _ in range(2):  # 1 / sqrt(t) for a constant gradient
      ...     direction, state = tx.update(g, state)
      ...     print((100 * direction).round())
      [ 100. -100.]
      [ 71. -71.]

    Reference:
      Duchi, Hazan & Singer 2011, figure 1 (diagonal case), https://jmlr.org/papers/v12/duchi11a.html
    """
    g = bounded(g, "summed")
    total = s.sum_of_squares + abs_sq(g)
    root = sqrt(total + eps) if eps_in_sqrt else sqrt(total) + eps
    return divide(g, root), ScaleByRssState(sum_of_squares=total)


@transform
@dialects(torch={"initial_accumulator_value": 0.0, "eps": 1e-10}, paper={"initial_accumulator_value": 0.0, "eps": 0.0})
def adagrad(
    learning_rate: Rate, initial_accumulator_value: Size = 0.1, eps: Size = 1e-7, *, like: Dialect = "optax"
) -> GradientTransformation:
    """Adagrad: a rate per parameter that falls with the gradients it has seen.

        s_t = s_{t-1} + g_t^2,    s_0 = initial_accumulator_value
        x_{t+1} = x_t - lr g_t / sqrt(s_t + eps)

    Args:
      learning_rate: lr, a scalar or a schedule.
      initial_accumulator_value: s_0, at least 0; keeps the first steps from being of size lr whatever the gradient.
      eps: at least 0. Where the denominator is 0 the direction is g_t, which is 0 or squares to 0.
      like: "optax" as above. With "torch" and "paper" s_0 is 0 by default, and the quotient g_t / (sqrt(s_t) + eps),
        with an eps of 1e-10 in `torch.optim.Adagrad`, and of 0 here for the reference, which leaves it open.

    Some lecture notes divide by sqrt(s_t) + 1e-7: `adagrad(lr, eps=1e-7, like="paper")`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), gdjax.adagrad(1.0), steps=100)
      >>> print(result.params.round(1))
      [3. 3.]

    Reference:
      Duchi, Hazan & Singer 2011, figure 1 (diagonal case), https://jmlr.org/papers/v12/duchi11a.html
    """
    return descending(scale_by_rss(initial_accumulator_value, eps, eps_in_sqrt=like == "optax"), learning_rate)
