"""ScheduleFree+: schedule-free AdamC whose rate is a step of Polyak's kind."""

import math
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp

from gdjax.combine.conditional import evaluated
from gdjax.core.number_domains import AtLeast
from gdjax.core.types import DType, Floating, Params
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.meetings import total
from gdjax.lift.slots import Shared, first_moment, second_moment
from gdjax.linalg.vectors import inner, sum_abs
from gdjax.numerics import Array, abs_sq, bounded, debias, divide, one_minus_pow, sqrt, squarable
from gdjax.optimizers.schedule_free import average, start_of_z

__all__ = ["ScheduleFreePlusState", "schedule_free_plus"]

TO_L2 = math.sqrt(math.pi / 2)  # of normal numbers, the root of the mean square over the mean size


class ScheduleFreePlusState(NamedTuple):
    """State of `schedule_free_plus`. The numbers are in float32, or float64 where a parameter is."""

    count: Array  # () int32, updates made so far
    norm: Array  # (), average of the gradients' norms, not corrected for its start
    max_lr: Array  # (), the largest rate so far
    weight_sum: Array  # (), the sum of the averaging weights
    sf_b1: Array  # (), the interpolation that made the parameters
    mu: Params  # like params, first moment
    nu: Params  # like params, second moment, float32 at least
    z: Params  # like params, the points of AdamC

    def eval_params(self, params: Params) -> Params:
        """x = z + (y - z) / sf_b1, in the dtypes of `params`."""
        return evaluated(lambda z, y: average(y, z, self.sf_b1), self.z, params)


@leafwise(
    ScheduleFreePlusState, extra="value",
    norm=Shared(), max_lr=Shared("eps"), weight_sum=Shared(), sf_b1=Shared("sf_b1"),
    mu=first_moment, nu=second_moment, z=start_of_z,
)  # fmt: skip
def schedule_free_plus(
    g: Array, s: ScheduleFreePlusState, y: Array, t: Array,
    learning_rate: hyper.Rate = 1.0, b1: hyper.Decay = 0.9, b2: hyper.Squares = 0.95, eps: hyper.Size = 1e-8,
    weight_decay: hyper.Size = 0.0, sf_b1: Annotated[Hyper, "(0, 1)"] = 0.9, weight_lr_power: hyper.Finite = 2.0,
    r: hyper.Finite = 0.0, polyak_beta: hyper.Decay = 0.0, c_warmup: Annotated[Hyper, AtLeast(0)] = 0,
    mu_dtype: DType | None = None, state_dtype: Floating | None = None,
    *, value: Any = None,
) -> tuple[Array, ScheduleFreePlusState]:  # fmt: skip
    """ScheduleFree+: no rate and no schedule. AdamC makes z, its rate comes from the loss, x is the average of z.

        y_t = sf_b1 x_t + (1 - sf_b1) z_t                 the parameters, where f and its gradient g are taken
        n_t = polyak_beta n_{t-1} + (1 - polyak_beta) sqrt(pi / 2) |g|_1
        a_t = lr max(0, f(y_t) + sf_b1 <g, z_t - x_t>) / (n_t / (1 - polyak_beta^t))
        mu_t = b1 mu_{t-1} + (1 - b1) g,    nu_t = b2 nu_{t-1} + (1 - b2) g^2
        z_{t+1} = z_t - a_t^2 weight_decay y_t - a_t (mu_t / (1 - b1^t)) / (sqrt(nu_t / (1 - b2^t)) + eps)
        x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}             what `eval_params(tx, state, params)` gives
        c_t = w_t / (w_{c_warmup + 1} + ... + w_t),    w_t = t^r max(a_1, ..., a_t)^weight_lr_power

    Its `update` needs the value: `update(g, state, params, value=f(y))`. f is at least 0, and near 0 at its best.

    Args:
      learning_rate: lr, a factor of the step; 1, or a warm-up to 1.
      b1, b2: decay of the moments, in [0, 1).
      eps: outside the root, at least 0; max(a_1, ...) is at least eps.
      weight_decay: at least 0. It is times the square of the rate: 20 to 50 where AdamW has 0.1.
      sf_b1: of the interpolation, in (0, 1). A number or a schedule; the authors go from 0.9 to 0.965 with
        `lambda t: 1 - exponential_decay(0.1, steps, 0.35, end_value=0.035)(t)`.
      weight_lr_power, r: of the largest rate so far and of the step, in the weight of z_t; r = 2 for long runs.
      polyak_beta: of the average of norms, in [0, 1).
      c_warmup: first updates with c_t = 1, in which x is z; one or two times those of a warm-up.
      mu_dtype: the dtype of mu, the parameter's by default.
      state_dtype: the dtype of z, the parameter's by default; of a complex one that of the parts, float32 at least.

    Departures: the authors keep x too, here it is recovered from y and z; parameters of 16 bits are too coarse for
    that. Theirs replaces a rate below eps by eps. Where all gradients are 0 the rate is 0, not an error.

    Raises:
      ValueError: (in update) `value` is missing or not a scalar.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.schedule_free_plus(r=2.0)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=300)  # passes value=
      >>> averaged = gdjax.eval_params(tx, result.state, result.params)
      >>> bool(loss(averaged) < 0.01)
      True

    Reference:
      Defazio 2026, ScheduleFree+: scaling learning-rate-free & schedule-free learning to large language models,
      https://arxiv.org/abs/2605.19095; `AdamCScheduleFreePlusPaper` of
      https://github.com/facebookresearch/schedule_free
    """
    g = bounded(g, "summed")
    again = sf_b1 / s.sf_b1  # z - x = (z - y) / s.sf_b1, of the interpolation that made y
    norm = polyak_beta * s.norm + (1 - polyak_beta) * TO_L2 * total(sum_abs(g))
    gap = jnp.maximum(value + again * total(inner(g, s.z - y)), 0)
    lr = learning_rate * jnp.where(norm == 0, 0, divide(gap, norm) * one_minus_pow(polyak_beta, t))
    lr = squarable(lr, "summed")  # a gradient near 0 would make it, and the sum of weights, infinite for good
    max_lr, follows = jnp.maximum(s.max_lr, lr), t <= jnp.asarray(c_warmup, t.dtype)
    weight = jnp.where(follows, 0, t**r * max_lr**weight_lr_power)
    weight_sum = s.weight_sum + weight
    c = jnp.where(follows, 1, divide(weight, weight_sum))
    mu, nu = b1 * s.mu + (1 - b1) * g, b2 * s.nu + (1 - b2) * abs_sq(g)
    d = divide(debias(mu, b1, t), sqrt(nu * (1 / one_minus_pow(b2, t))), eps)
    z = s.z - lr**2 * weight_decay * y - lr * d
    # y_{t+1} - y_t with x_t eliminated.
    u = (1 - sf_b1 * (1 - c)) * (z - s.z) - (1 - again * (1 - c)) * (y - s.z)
    return u, ScheduleFreePlusState(s.count, norm, max_lr, weight_sum, sf_b1, mu, nu, z)
