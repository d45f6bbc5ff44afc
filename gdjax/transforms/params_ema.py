"""Averages of the parameters, kept in the state of the optimizer."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp

from gdjax import numerics
from gdjax.combine.evaluation import evaluated
from gdjax.core.number_domains import Integer
from gdjax.core.types import Floating, OptState, Params
from gdjax.lift import slots
from gdjax.lift.leafwise import Hyper, hyper
from gdjax.lift.slots import Shared
from gdjax.lift.wrapper import wrapper
from gdjax.numerics import Array
from gdjax.tree.updates import moved


class ParamsEmaState(NamedTuple):
    """State of `params_ema`."""

    inner_state: OptState
    ema: Params  # like params, the average, corrected for its start; float32 at least
    weight: Array  # (), the sum of the weights in the average, which goes to 1
    step_count: Array  # () int32, updates made so far

    def eval_params(self, params: Params) -> Params:
        """The average, in the dtypes of `params`."""
        return evaluated(_in_dtype, self.ema, params)


class SWAState(NamedTuple):
    """State of `swa`."""

    inner_state: OptState
    mean: Params  # like params, their average, before `start` the last of them; float32 at least
    averaged: Array  # () int32, parameters in the average
    step_count: Array  # () int32, updates made so far

    def eval_params(self, params: Params) -> Params:
        """The average, in the dtypes of `params`."""
        return evaluated(_in_dtype, self.mean, params)


class TailEmaState(NamedTuple):
    """State of `tail_ema`."""

    inner_state: OptState
    ema: Params  # like params, the average, up to `start` the last of them; float32 at least
    blend: Array  # (), the share of the average in what is evaluated
    step_count: Array  # () int32, updates made so far

    def eval_params(self, params: Params) -> Params:
        """The parameters, moved by the share `blend` towards the average; in their dtypes."""
        return evaluated(lambda ema, p: _towards(p, ema, self.blend), self.ema, params)


def _towards(p: Array, ema: Array, blend: Array) -> Array:
    dtype = jnp.result_type(p)
    x, ema = (numerics.widen(a, numerics.widest_real([ema, p])) for a in (p, ema))
    return (x + blend.astype(x.dtype) * (ema - x)).astype(dtype)


def _in_dtype(mean: Array, p: Array) -> Array:
    return mean.astype(jnp.result_type(p))


def _start(p: Array, hyper: Mapping[str, Any]) -> Array:
    x, dtype = slots.initial_parameter(p, hyper), hyper["dtype"]
    return x.astype(numerics.at_least_float32(x.dtype)) if dtype is None else numerics.widen(x, jnp.dtype(dtype))


def _moved(mean: Array, p: Array, u: Array, g: Array, c: Array) -> Array:
    """The average moved by the share c towards the parameter after its update, rounded as `apply_updates` rounds it."""
    x = moved(p, u, g)
    return jnp.where(c == 0, mean, jnp.where(c == 1, x, mean + c * (x - mean)))


@wrapper(
    ParamsEmaState, count=lambda s: s.step_count, step_count=Shared(0, jnp.int32), weight=Shared(), ema=_start,
)  # fmt: skip
def params_ema(
    u: Array, g: Array, s: ParamsEmaState, p: Array, t: Array,
    decay: hyper.Decay,
    *, debias: bool = True, dtype: Floating | None = None, every: hyper.Steps = 1,
) -> tuple[Array, ParamsEmaState]:  # fmt: skip
    """The updates of `inner`, and in the state the exponential moving average of the parameters after each of them.

        m_t = decay m_{t-1} + (1 - decay) x_t,    m_0 = 0,        the average is m_t / (1 - decay^t)

    `eval_params(tx, state, params)` is the average in the dtypes of the parameters. The wrapper stands outermost, so
    that it sees the updates as they are applied. What changes them after it, such as a rate or a projection, is left
    out of the average: `init` warns of that, and `explain` tells it.

    Args:
      inner: the optimizer.
      decay: in [0, 1), commonly 0.99 to 0.9999; a number or a schedule.
      debias: an average of x_1, ..., x_t, whose weights add up to 1. False begins at the first parameters, m_0 = x_0.
      dtype: of the average; by default the parameter's, but float32 at least.
      every: averages x_k, x_2k, ... only. Until x_k the average is the last parameters, without debias the first.

    Inside `MultiSteps` it averages where that calls it, once per accumulation; around it in every mini-step.

    Raises:
      ValueError: (in update) params is missing.

    Warns:
      UserWarning: (in init) a later transform of a chain, or a wrapper around, changes the updates.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.params_ema(gdjax.sgd(1.0), decay=0.5)
      >>> run = gdjax.minimize(lambda p: p, jnp.array(4.0), tx, steps=2)  # to 3.0, then 2.0
      >>> average = gdjax.eval_params(tx, run.state, run.params)
      >>> print(run.params, round(float(average), 3))  # with weights 1/3 and 2/3
      2.0 2.333

    Reference:
      Polyak & Juditsky 1992, Acceleration of stochastic approximation by averaging, is the equal average; the
      exponential one is common practice, as in Ho, Jain & Abbeel 2020, https://arxiv.org/abs/2006.11239
    """
    step, new = numerics.safe_increment(s.step_count), 1 - decay
    due, weight = step % jnp.asarray(every, jnp.int32) == 0, decay * s.weight + new
    share, none_yet = (new / weight, s.weight == 0) if debias else (new, False)
    c = jnp.where(due, share, jnp.where(none_yet, 1, 0).astype(weight.dtype))
    weight = jnp.where(due, weight, s.weight)
    return u, s._replace(ema=_moved(s.ema, p, u, g, c), weight=weight, step_count=step)


@wrapper(
    SWAState, count=lambda s: s.step_count,
    step_count=Shared(0, jnp.int32), averaged=Shared(0, jnp.int32), mean=_start,
)  # fmt: skip
def swa(
    u: Array, g: Array, s: SWAState, p: Array, t: Array,
    start: Annotated[Hyper, Integer(0)], every: hyper.Steps = 1,
    *, dtype: Floating | None = None,
) -> tuple[Array, SWAState]:  # fmt: skip
    """Stochastic weight averaging: the updates of `inner`, and in the state the equal average of the parameters.

        the mean of x_start, x_{start + every}, x_{start + 2 every}, ...        x_t: after the t-th update

    `eval_params(tx, state, params)` is that average in the dtypes of the parameters, and before `start` the parameters.

    Args:
      inner: the optimizer, commonly with a rate that is constant or cyclic from `start` on.
      start: the update from which on to average.
      every: averages every so many updates, for instance once per cycle.
      dtype: of the average; by default the parameter's, but float32 at least.

    It stands outermost, as `params_ema` does. Inside `MultiSteps` it averages once per accumulation.

    Statistics of batch normalization belong to other parameters: compute them anew for the average.

    Raises:
      ValueError: (in update) params is missing.

    Warns:
      UserWarning: (in init) a later transform of a chain, or a wrapper around, changes the updates.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.swa(gdjax.sgd(1.0), start=2)
      >>> run = gdjax.minimize(lambda p: p, jnp.array(4.0), tx, steps=3)  # to 3.0, 2.0, 1.0
      >>> print(run.params, gdjax.eval_params(tx, run.state, run.params))
      1.0 1.5

    Reference:
      Izmailov, Podoprikhin, Garipov, Vetrov & Wilson 2018, Averaging weights leads to wider optima and better
      generalization, Algorithm 1, https://arxiv.org/abs/1803.05407
    """
    step, start = numerics.safe_increment(s.step_count), jnp.asarray(start, jnp.int32)
    due = (step >= start) & ((step - start) % jnp.asarray(every, jnp.int32) == 0)
    averaged = s.averaged + due.astype(jnp.int32)
    equal = 1 / jnp.maximum(averaged, 1).astype(t.dtype)
    c = jnp.where(due | (averaged == 0), equal, 0)
    return u, s._replace(mean=_moved(s.mean, p, u, g, c), averaged=averaged, step_count=step)


@wrapper(
    TailEmaState, count=lambda s: s.step_count,
    step_count=Shared(0, jnp.int32), blend=Shared("blend"), ema=_start,
)  # fmt: skip
def tail_ema(
    u: Array, g: Array, s: TailEmaState, p: Array, t: Array,
    start: Annotated[Hyper, Integer(0)], horizon: Annotated[Hyper, "[1, inf)"] = 150.0, blend: hyper.Share = 0.6,
    *, dtype: Floating | None = None,
) -> tuple[Array, TailEmaState]:  # fmt: skip
    """The updates of `inner`, and in the state an average of the last part of a run, to blend with its last parameters.

        m_start = x_start,    m_t = m_{t-1} + (x_t - m_{t-1}) / horizon        x_t: after the t-th update

    `eval_params(tx, state, params)` is (1 - blend) x_t + blend m_t, and up to `start` the parameters. While the rate
    falls the last parameters are noisy and the average lags behind: what lies between them is better than either.

    Args:
      inner: the optimizer, with a rate that falls at the end.
      start: the update from which on to average; best 5 horizons before the end, when x_start is forgotten.
      horizon: the steps that the average reaches back, at least 1. Where the rate falls as (T - t)^p and the run ends
        at step S the authors take (T - S) / p.
      blend: the share of the average, in [0, 1].
      dtype: of the average; by default the parameter's, but float32 at least.

    It stands outermost, as `params_ema` does. Inside `MultiSteps` it averages once per accumulation. The authors leave
    the embedding of tokens out: `chain(tx, masked(tail_ema(identity(), ...), mask))` averages where the mask is True.

    Raises:
      ValueError: (in update) params is missing.

    Warns:
      UserWarning: (in init) a later transform of a chain, or a wrapper around, changes the updates.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.tail_ema(gdjax.sgd(1.0), start=2, horizon=2, blend=0.5)
      >>> run = gdjax.minimize(lambda p: p, jnp.array(4.0), tx, steps=3)  # to 3.0, 2.0, 1.0
      >>> print(run.state.ema, gdjax.eval_params(tx, run.state, run.params))
      1.5 1.25

    Reference:
      Jordan et al. 2026, modded-nanogpt, track 3, record 45, "Tail-EMA readout",
      https://github.com/KellerJordan/modded-nanogpt/tree/master/records/track_3_optimization
    """
    step = numerics.safe_increment(s.step_count)
    c = jnp.where(step <= jnp.asarray(start, jnp.int32), 1, 1 / horizon).astype(t.dtype)
    return u, s._replace(ema=_moved(s.ema, p, u, g, c), blend=blend, step_count=step)
