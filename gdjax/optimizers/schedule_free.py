"""Schedule-free learning: averaging in place of a falling learning rate."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.combine.chain import chain
from gdjax.combine.conditional import evaluated
from gdjax.core import base, checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import DECAY, FINITE
from gdjax.core.types import (
    Decay,
    Finite,
    Floating,
    Mask,
    OptState,
    Params,
    PerLeaf,
    Rate,
    Scalar,
    ScalarOrSchedule,
    Size,
    Transform,
    base_of,
    unboxed,
)
from gdjax.lift import slots
from gdjax.lift.leafwise import Hyper, hyper
from gdjax.lift.slots import Shared
from gdjax.lift.wrapper import wrapper
from gdjax.numerics import Array
from gdjax.optimizers.adam import scale_by_adam
from gdjax.optimizers.rmsprop import scale_by_rms
from gdjax.optimizers.sgd import sgd
from gdjax.schedules.arguments import check_steps
from gdjax.schedules.warmup import warmup_constant_schedule
from gdjax.transforms.decay import add_decayed_weights, descending, of_some

__all__ = [
    "ScheduleFreeState", "schedule_free", "schedule_free_adamw", "schedule_free_eval_params", "schedule_free_sgd",
]  # fmt: skip

LABEL = "gdjax.schedule_free"


class ScheduleFreeState(NamedTuple):
    """State of `schedule_free`. The numbers are in float32, or float64 where a parameter is."""

    b1: Array  # (), the interpolation, for `schedule_free_eval_params`
    weight_sum: Array  # (), the sum of the averaging weights
    step_count: Array  # () int32, 1 + updates made so far
    max_lr: Array  # (), the largest learning rate so far
    base_optimizer_state: OptState
    z: Params  # like params, the points of the base optimizer

    def eval_params(self, params: Params) -> Any:
        """x, see `schedule_free_eval_params`."""
        return evaluated(lambda z, y: average(y, z, self.b1), self.z, params)


def start_of_z(p: Array, hyper: Mapping[str, Any]) -> Array:
    z, dtype = slots.initial_parameter(p, hyper), hyper["state_dtype"]
    return z if dtype is None else numerics.widen(z, jnp.dtype(dtype))


def step_of_y(y: Array, old_z: Array, z: Array, c: Hyper, b1: Hyper) -> Array:
    """y_{t+1} - y_t with x_t eliminated, so that nothing is divided by b1; z - old_z is the update as z took it."""
    return c * (z - y) + (1 - b1) * (1 - c) * (z - old_z)


@wrapper(
    ScheduleFreeState, inner="base_optimizer_state", count=lambda s: s.step_count - 1,
    z=start_of_z,
    b1=Shared("b1"), weight_sum=Shared(), step_count=Shared(1, jnp.int32), max_lr=Shared(),
    growth="same",
)  # fmt: skip
def _averaged(
    u: Array, g: Array, s: ScheduleFreeState, y: Array, t: Array,
    b1: hyper.Decay, learning_rate: hyper.Rate, weight_lr_power: hyper.Finite, r: hyper.Finite,
    state_dtype: Floating | None, weight_decay: hyper.Size = 0.0,
) -> tuple[Array, ScheduleFreeState]:  # fmt: skip
    max_lr = jnp.maximum(s.max_lr, learning_rate)
    weight = s.step_count.astype(max_lr.dtype) ** r * max_lr**weight_lr_power
    total = s.weight_sum + weight
    c = weight / jnp.where(total == 0, 1, total)
    if not isinstance(weight_decay, int | float) or weight_decay != 0:
        u = u - learning_rate * weight_decay * s.z
    z = s.z + u
    step = step_of_y(y, s.z, z, c, b1)
    steps = numerics.safe_increment(s.step_count)
    return step, s._replace(b1=b1, weight_sum=total, step_count=steps, max_lr=max_lr, z=z)


@transform
def schedule_free(
    base_optimizer: Transform, learning_rate: Rate, b1: Annotated[Scalar, DECAY] = 0.9,
    weight_lr_power: Annotated[Scalar, FINITE] = 2.0, state_dtype: Floating | None = None,
    *, r: Finite = 0.0, weight_decay: Size = 0.0, weight_decay_mask: Mask = None,
) -> GradientTransformation:  # fmt: skip
    """Schedule-free learning around a base optimizer without momentum: no schedule that needs to know the last step.

        y_t = (1 - b1) z_t + b1 x_t                       the parameters, where gradients are taken
        z_{t+1} = z_t + base update at y_t - lr weight_decay z_t    the base optimizer's points, in the state
        x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}             their average: `schedule_free_eval_params(state, params)`
        c_t = w_t / (w_1 + ... + w_t),    w_t = t^r max(lr_1, ..., lr_t)^weight_lr_power

    Args:
      base_optimizer: a transform whose updates contain the learning rate. It sees y: weight decay in it acts at y.
      learning_rate: lr, only for the weights: a scalar or schedule, the one in the base optimizer. It should warm up
        and stay constant.
      b1: in (0, 1). 0.9 by default; 0.95 and 0.98 for long runs.
      weight_lr_power: of the learning rate in the weights.
      state_dtype: the dtype of z, the parameter's by default; of a complex one that of the parts, float32 at least.
      r: of the step in the weights.
      weight_decay, weight_decay_mask: of z, times lr, a scalar or a schedule, at least 0; which leaves decay: a tree of
        booleans, a prefix of the parameters, or a function from them to one; None for all. Decay at z, the fast points,
        keeps long runs of matrix methods stable: SF-NorMuon is
        `schedule_free(normuon(rate, nesterov=False), rate, weight_decay=0.1)`.

    While all learning rates are 0 the average stays at the start. x is not stored but recovered from y and z, so
    parameters of 16 bits, which round y, cannot follow an average that moves by less: keep them in float32.

    Optax evaluates a scheduled learning_rate one step later for the weights than the base optimizer does for the steps;
    here w_t belongs to the rate of step t.

    Raises:
      ValueError: b1 is 0: x could not be recovered.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> rate = gdjax.linear_schedule(0.0, 0.1, transition_steps=10)  # a warm-up, no fall
      >>> tx = gdjax.schedule_free(gdjax.sgd(rate), rate, b1=0.9)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=100)
      >>> print(gdjax.eval_params(tx, result.state, result.params).round(1))  # to evaluate
      [3. 3.]

    Reference:
      Defazio, Yang, Mehta, Mishchenko, Khaled & Cutkosky 2024, The road less scheduled, equations 3-5 and Algorithm 1,
      https://arxiv.org/abs/2405.15682; Apte et al. 2026, Anytime training with schedule-free spectral optimization,
      https://arxiv.org/abs/2605.23061 (decay at z)
    """
    base.check_transform(LABEL, 0, base_optimizer)
    checks.unscheduled(LABEL, {"b1": b1, "weight_lr_power": weight_lr_power, "r": r})
    if not isinstance(b1, jax.Array) and b1 == 0:
        raise ValueError(f"{LABEL}: b1 must be in (0, 1), got {b1!r}: the average could not be recovered")

    decay = of_some(LABEL, weight_decay, weight_decay_mask)
    return _averaged(base_optimizer, b1, base_of(learning_rate), weight_lr_power, r, state_dtype, decay)


def schedule_free_eval_params(state: OptState, params: Params) -> Any:
    """The average x of `schedule_free`, to evaluate and keep, from its state and the parameters y it trains.

        x = z + (y - z) / b1

    Args:
      state: that of `schedule_free`, or one with it inside, of a chain for instance.
      params: y.

    Returns:
      x, in the dtypes of `params`; computed in float32 or wider.

    Raises:
      ValueError: there is no state of `schedule_free`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.schedule_free_sgd(0.1)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=300)
      >>> averaged = gdjax.schedule_free_eval_params(result.state, result.params)
      >>> print(averaged.round(1))
      [3. 3.]
    """
    label = "gdjax.schedule_free_eval_params"
    state, arrays = unboxed(state), unboxed(params)  # nnx has another kind of box in the state than in the parameters
    inner = state if hasattr(state, "z") and hasattr(state, "b1") else tree.get(state, "ScheduleFreeState")
    if inner is None:
        raise ValueError(f"{label}: state is {type(state).__name__}, which has no ScheduleFreeState in it")
    leaves, structure = jax.tree.flatten(params)
    zs = checks.flatten_like(label, ("params", "state.z"), jax.tree.structure(arrays), arrays, inner.z)
    return structure.unflatten([average(y, z, inner.b1) for y, z in zip(leaves, zs, strict=True)])


def average(y: Array, z: Array, b1: Hyper) -> Any:
    """x of y = (1 - b1) z + b1 x, in the dtype of y."""
    y, z = jnp.asarray(y), jnp.asarray(z)
    if not jnp.issubdtype(y.dtype, jnp.inexact):
        return y
    real = numerics.widest_real([y, z])
    wide_y, z, b1 = (numerics.widen(x, real) for x in (y, z, b1))
    return (z + (wide_y - z) / b1.astype(z.dtype)).astype(y.dtype)


@transform
def schedule_free_sgd(
    learning_rate: Rate = 1.0, warmup_steps: int | Array | None = None, b1: Annotated[Scalar, DECAY] = 0.9,
    weight_decay: Size | None = None, weight_lr_power: Annotated[Scalar, FINITE] = 2.0,
    state_dtype: Floating | None = None,
    *, r: Finite = 0.0,
) -> GradientTransformation:  # fmt: skip
    """Schedule-free gradient descent: plain steps of z, and gradients between z and its average x.

        y_t = (1 - b1) z_t + b1 x_t                       the parameters, where gradients are taken
        z_{t+1} = z_t - lr (g(y_t) + weight_decay y_t)
        x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}             their average: `schedule_free_eval_params(state, params)`
        c_t = w_t / (w_1 + ... + w_t),    w_t = t^r max(lr_1, ..., lr_t)^weight_lr_power

    Args:
      learning_rate: lr, larger than for plain descent; the average makes up for a fall. A scalar or a schedule.
      warmup_steps: updates in which the rate rises linearly from 0; None for none.
      weight_decay: at least 0, times lr; None for none.
      b1: of the interpolation y_t = (1 - b1) z_t + b1 x_t, in (0, 1).
      weight_lr_power, r: of the largest rate so far and of the step, in the weight of z_t in the average x_t.
      state_dtype: the dtype of z, the parameter's by default; of a complex one that of the parts, float32 at least.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.schedule_free_sgd(0.2, warmup_steps=10)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=100)
      >>> print(gdjax.eval_params(tx, result.state, result.params).round(1))  # to evaluate
      [3. 3.]

    Reference:
      Defazio et al. 2024, The road less scheduled, equations 3-5, https://arxiv.org/abs/2405.15682
    """
    rate = _warmed_up("schedule_free_sgd", learning_rate, warmup_steps)
    optimizer = sgd(rate)
    if weight_decay is not None:
        optimizer = chain(add_decayed_weights(weight_decay), optimizer)
    return schedule_free(optimizer, rate, b1, weight_lr_power, state_dtype, r=r)


@transform
def schedule_free_adamw(
    learning_rate: Rate = 0.0025, warmup_steps: int | Array | None = None, b1: Annotated[Scalar, DECAY] = 0.9,
    b2: Decay = 0.999, eps: Size = 1e-8, weight_decay: Size = 0.0, weight_lr_power: Annotated[Scalar, FINITE] = 2.0,
    state_dtype: Floating | None = None,
    *, r: Finite = 0.0, inner_momentum: Decay | None = None,
) -> GradientTransformation:  # fmt: skip
    """Schedule-free AdamW: steps of z without momentum, and gradients between z and its average x.

        y_t = (1 - b1) z_t + b1 x_t                       the parameters, where gradients are taken
        nu_t = b2 nu_{t-1} + (1 - b2) g(y_t)^2
        z_{t+1} = z_t - lr (g(y_t) / (sqrt(nu_t / (1 - b2^t)) + eps) + weight_decay y_t)
        x_{t+1} = (1 - c_t) x_t + c_t z_{t+1}             their average: `schedule_free_eval_params(state, params)`
        c_t = w_t / (w_1 + ... + w_t),    w_t = t^r max(lr_1, ..., lr_t)^weight_lr_power

    Other arguments are those of `gdjax.schedule_free_sgd`.

    Args:
      learning_rate: lr, a scalar or a schedule.
      b2: decay of the second moment, in [0, 1).
      eps: outside the root, at least 0.
      weight_decay: at least 0, times lr.
      inner_momentum: in [0, 1), b1 of Adam in the steps of z, whose gradient is then its average mu_t / (1 - b1^t);
        0.9 in the authors' code where it is used, and one more array. None for none.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda x: jnp.sum((x - 3.0) ** 2)
      >>> tx = gdjax.schedule_free_adamw(0.3, warmup_steps=10)
      >>> result = gdjax.minimize(loss, jnp.zeros(2), tx, steps=300)
      >>> averaged = gdjax.eval_params(tx, result.state, result.params)  # to evaluate
      >>> bool(loss(averaged) < 0.01)
      True

    Reference:
      Defazio et al. 2024, The road less scheduled, Algorithm 1, https://arxiv.org/abs/2405.15682
    """
    rate = _warmed_up("schedule_free_adamw", learning_rate, warmup_steps)
    if inner_momentum is None:
        direction = scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)
    else:
        direction = scale_by_adam(inner_momentum, b2, eps)
    optimizer = descending(base.part_of(direction).labelled("gdjax.schedule_free_adamw"), rate, weight_decay)
    return schedule_free(optimizer, rate, b1, weight_lr_power, state_dtype, r=r)


def _warmed_up(factory: str, rate: ScalarOrSchedule, warmup_steps: int | Array | None) -> Any:
    if warmup_steps is None:
        return rate
    if isinstance(rate, PerLeaf):
        return rate.with_base(_warmed_up(factory, rate.number, warmup_steps))
    if callable(rate):
        raise TypeError(f"gdjax.{factory}: learning_rate is a schedule already; give no warmup_steps")
    steps: Any = check_steps(factory, "warmup_steps", warmup_steps)  # an int, or with a fraction
    return warmup_constant_schedule(0.0, rate, steps) if steps else rate
