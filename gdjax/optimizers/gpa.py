"""Generalized primal averaging."""

from typing import Annotated, NamedTuple

from gdjax.combine.conditional import evaluated
from gdjax.core import base, checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, Floating, OptState, Params, Scalar, Transform
from gdjax.lift.leafwise import Hyper
from gdjax.lift.slots import Shared
from gdjax.lift.wrapper import wrapper
from gdjax.numerics import Array
from gdjax.optimizers.schedule_free import average, start_of_z, step_of_y

__all__ = ["GPAState", "gpa"]

LABEL = "gdjax.gpa"


class GPAState(NamedTuple):
    """State of `gpa`."""

    mu_y: Array  # (), the interpolation, for `eval_params`
    base_optimizer_state: OptState
    z: Params  # like params, the points of the base optimizer

    def eval_params(self, params: Params) -> Params:
        """x = z + (y - z) / mu_y, in the dtypes of `params`."""
        return evaluated(lambda z, y: average(y, z, self.mu_y), self.z, params)


@wrapper(GPAState, inner="base_optimizer_state", z=start_of_z, mu_y=Shared("mu_y"), growth="same")
def _averaged(
    u: Array, g: Array, s: GPAState, y: Array, t: Array, mu_x: Hyper, mu_y: Hyper, state_dtype: Floating | None
) -> tuple[Array, GPAState]:
    z = s.z + u
    return step_of_y(y, s.z, z, 1 - mu_x, mu_y), s._replace(mu_y=mu_y, z=z)


@transform
def gpa(
    base_optimizer: Transform, mu_x: Decay = 0.9967, mu_y: Annotated[Scalar, "(0, 1]"] = 0.7,
    state_dtype: Floating | None = None,
) -> GradientTransformation:  # fmt: skip
    """Generalized primal averaging: gradients between the points of an optimizer and their exponential average.

        y_t = mu_y x_t + (1 - mu_y) z_t                   the parameters, where gradients are taken
        z_{t+1} = z_t + base update at y_t                the base optimizer's points, in the state
        x_{t+1} = mu_x x_t + (1 - mu_x) z_{t+1}           their average, which `eval_params` gives

    It does at every step what DiLoCo on one worker does every H steps, with one copy of the parameters less.
    `schedule_free` averages equally where this forgets, so here the rate keeps its schedule with its fall to the end.

    Args:
      base_optimizer: a transform whose updates contain the learning rate, commonly AdamW.
      mu_x: of the average, in [0, 1); 0 is the base optimizer. 0.9 is DiLoCo with H = 1, 0.9869 with 8, 0.9934 with 16,
        0.9967 with 32, 0.9984 with 64. A number or a schedule.
      mu_y: of the interpolation, in (0, 1]; 1 takes gradients at the average. The paper allows 0, plain averaging,
        which is `params_ema`; x could not be recovered from y.
      state_dtype: the dtype of z, the parameter's by default; of a complex one that of the parts, float32 at least.

    x is not stored but recovered from y and z, so parameters of 16 bits, which round y, cannot follow an average that
    moves by less: keep them in float32, or put `with_master_weights` around.

    Departure: in the paper the weight decay acts at z, here at y, which is what the base optimizer sees. The authors'
    code has had both.

    Raises:
      ValueError: (in update) params is missing.
      TypeError: mu_y is a schedule.

    Warns:
      UserWarning: (in init) a later transform of a chain, or a wrapper around, changes the updates.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> rate = gdjax.linear_schedule(0.1, 0.0, 300)
      >>> tx = gdjax.gpa(gdjax.adam(rate), mu_x=0.9)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=300)
      >>> print(gdjax.eval_params(tx, result.state, result.params).round(1))  # to evaluate
      [3. 3.]

    Reference:
      Defazio, Mishchenko, Raman, Shi & Xiao 2025, Smoothing DiLoCo with primal averaging for faster training of LLMs,
      https://arxiv.org/abs/2512.17131; their GPAAdamW, https://github.com/facebookresearch/optimizers
    """
    base.check_transform(LABEL, 0, base_optimizer)
    checks.unscheduled(LABEL, {"mu_y": mu_y})
    return _averaged(base_optimizer, mu_x, mu_y, state_dtype)
