"""Averages: of the updates, of the parameters as slow weights, and of the parameters in the state of the optimizer."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.combine.conditional import as_before, evaluated
from gdjax.core import base, checks, meshes
from gdjax.core.arrays import add
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import SIZE, AtLeast
from gdjax.core.parts import holding
from gdjax.core.types import DType, Floating, OptState, Params, Scalar, Transform, Updates
from gdjax.lift import order, slots
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Moment, Shared
from gdjax.lift.wrapper import wrapper
from gdjax.numerics import Array
from gdjax.tree.updates import moved

__all__ = [
    "EmaState", "LookaheadParams", "LookaheadState", "ParamsEmaState", "SWAState", "SnooState", "TailEmaState", "ema",
    "lookahead", "params_ema", "snoo", "swa", "tail_ema",
]  # fmt: skip


class EmaState(NamedTuple):
    """State of `ema`."""

    count: Array  # () int32, updates made so far
    ema: Updates  # like params, the moving average, not corrected for its start


@leafwise(EmaState, ema=Moment("accumulator_dtype"), growth="same")
def ema(
    g: Array, s: EmaState, p: Array, t: Array,
    decay: hyper.Decay, debias: bool = True, accumulator_dtype: DType | None = None,
) -> tuple[Array, EmaState]:  # fmt: skip
    """The exponential moving average of the updates: m_t = decay m_{t-1} + (1 - decay) g_t, from m_0 = 0.

    Args:
      decay: in [0, 1).
      debias: return m_t / (1 - decay^t), an average whose weights add up to 1. The state keeps m_t.
      accumulator_dtype: the dtype of m, the parameter's by default.

    `trace` is the sum without the factor 1 - decay. This averages updates; for an average of the parameters see
    `params_ema`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.ema(0.5)
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([1.0, 4.0]):
      ...     m, state = tx.update(g, state)
      ...     print(m, state.ema)  # the average, and the sum that it corrects
      1.0 0.5
      3.0 2.25
    """
    m = decay * s.ema + (1 - decay) * g
    return (numerics.debias(m, decay, t) if debias else m), s._replace(ema=m)


class LookaheadState(NamedTuple):
    """State of `lookahead`."""

    fast_state: OptState  # of the fast optimizer
    steps_since_sync: Array  # () int32, fast steps since slow and fast parameters were equal

    def eval_params(self, params: Params) -> Any:
        """The slow parameters of a pair."""
        return getattr(params, "slow", params)


class LookaheadParams(NamedTuple):
    """The two sets of parameters of `lookahead`: gradients are taken at the fast ones, the slow ones are the result."""

    fast: Params
    slow: Params

    @classmethod
    def init_synced(cls, params: Params) -> "LookaheadParams":
        """Both from `params`; the slow ones are a copy, so that both can be donated."""
        checks.leaves("gdjax.LookaheadParams", "params", params)
        return cls(fast=params, slow=jax.tree.map(lambda p: slots.initial_parameter(p, {}), params))


@transform
def lookahead(
    fast_optimizer: Transform, sync_period: int, slow_step_size: Annotated[Scalar, SIZE], reset_state: bool = False
) -> GradientTransformation:
    """Lookahead: k steps forward, one step back.

        phi_{i+1} = phi_i + fast update at phi_i,    i = 0, ..., k - 1,    phi_0 = theta_t
        theta_{t+1} = theta_t + alpha (phi_k - theta_t)

    The parameters are a pair, `LookaheadParams(fast=phi, slow=theta)`, made by `LookaheadParams.init_synced(params)`.
    Gradients are taken at `params.fast` and shaped like it. The updates are a pair like the parameters. Apply them as
    they are: after a synchronisation fast and slow parameters would differ otherwise.

    Args:
      fast_optimizer: makes the fast updates; it sees the fast parameters.
      sync_period: k, an int of at least 1.
      slow_step_size: alpha, a number or scalar array, at least 0; in the reference 0.5.
      reset_state: begin every round with a new state of the fast optimizer.

    `init` takes the pair or the fast parameters alone.

    Raises:
      TypeError: `update` gets parameters that are no pair.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.lookahead(gdjax.sgd(0.5), sync_period=5, slow_step_size=0.5)
      >>> pair = gdjax.LookaheadParams.init_synced(jnp.array(8.0))
      >>> u, state = tx.update(pair.fast, tx.init(pair), pair)  # with the gradient of x^2 / 2
      >>> pair = gdjax.apply_updates(pair, u)
      >>> print(pair.fast, pair.slow)  # the slow one waits for the fifth update
      4.0 8.0

    Reference:
      Zhang, Lucas, Hinton & Ba 2019, Lookahead optimizer: k steps forward, 1 step back, Algorithm 1,
      https://arxiv.org/abs/1907.08610
    """
    label = "gdjax.lookahead"
    base.check_transform(label, 0, fast_optimizer)
    sync_period = checks.structural(label, "sync_period", sync_period, 1)
    checks.unscheduled(label, {"slow_step_size": slow_step_size})

    def init(params: Params) -> LookaheadState:
        fast_state = fast_optimizer.init(getattr(params, "fast", params))
        for average in order.averages(fast_state):
            order.warn(label, average, "", "lookahead")
        return LookaheadState(fast_state, jnp.zeros((), jnp.int32))

    def update(
        updates: Updates, state: OptState, params: Params = None, **extra_args: Any
    ) -> tuple[Updates, LookaheadState]:
        checks.state(label, state, LookaheadState)
        checks.params(label, params)
        if not (hasattr(params, "fast") and hasattr(params, "slow")):
            raise TypeError(f"{label}: params must be LookaheadParams(fast, slow), got {type(params).__name__}")
        fast, fast_state = base.call_update(fast_optimizer, updates, state.fast_state, params.fast, extra_args)
        sync = state.steps_since_sync >= sync_period - 1
        structure = jax.tree.structure(fast)
        columns = [
            checks.flatten_like(label, ("updates", f"params.{name}"), structure, fast, getattr(params, name))
            for name in ("fast", "slow")
        ]
        leaves = zip(structure.flatten_up_to(fast), *columns, strict=True)
        pairs = [_synced(u, f, s, slow_step_size, sync) for u, f, s in leaves]
        if reset_state:
            fast_state = meshes.cond(
                sync, lambda s: as_before(fast_optimizer.init(params.fast), s), lambda s: s, fast_state
            )
        steps = jnp.where(sync, 0, state.steps_since_sync + 1).astype(jnp.int32)
        fast, slow = (structure.unflatten([pair[i] for pair in pairs]) for i in (0, 1))
        return params._replace(fast=fast, slow=slow), LookaheadState(fast_state, steps)

    return holding(init, update, fast_state=fast_optimizer, at_once=False)


def _synced(u: Array, fast: Array, slow: Array, alpha: Hyper, sync: Array) -> tuple[Any, Any]:
    """The updates of a fast parameter and its slow one, from the fast optimizer's `u`."""
    if base.is_float0(u):
        return u, u
    u, fast, slow = map(jnp.asarray, (u, fast, slow))
    u, given_slow = meshes.placed(u, fast), meshes.placed(slow, fast)
    real = numerics.widest_real([u, fast, given_slow])
    wide_u, fast, slow, alpha = (numerics.widen(x, real) for x in (u, fast, given_slow, alpha))
    ahead = fast - slow + wide_u
    back = jnp.where(sync, alpha.astype(ahead.dtype) * ahead, 0).astype(u.dtype)
    way = numerics.widen(add(given_slow, back), real) - fast
    return jnp.where(sync, way, wide_u).astype(u.dtype), back


class SnooState(NamedTuple):
    """State of `snoo`."""

    inner_state: OptState
    slow: Params  # like params, the parameters after the last outer step
    b: Params  # like params, the outer momentum
    step_count: Array  # () int32, updates made so far

    def eval_params(self, params: Params) -> Params:
        """The slow parameters."""
        return evaluated(_in_dtype, self.slow, params)


@wrapper(
    SnooState, count=lambda s: s.step_count,
    step_count=Shared(0, jnp.int32), slow=slots.initial_parameter, b=Moment("accumulator_dtype"),
    growth="same",
)  # fmt: skip
def snoo(
    u: Array, g: Array, s: SnooState, p: Array, t: Array,
    every: hyper.Steps = 28, learning_rate: hyper.Rate = 0.68, momentum: hyper.Decay = 0.37,
    *, accumulator_dtype: DType | None = None,
) -> tuple[Array, SnooState]:  # fmt: skip
    """SNOO: every K steps an outer step with Nesterov's momentum, along the way that the optimizer went in them.

        x_{i+1} = x_i + update of `inner` at x_i,    i = 0, ..., K - 1,    x_0 = w_t
        s_t = w_t - x_K,    b_t = momentum b_{t-1} + s_t,    b_0 = 0
        w_{t+1} = w_t - learning_rate (momentum b_t + s_t)

    It is DiLoCo of one worker, and with momentum = 0 `lookahead`. It keeps two arrays more a parameter, w and b. The
    parameters that you train are x, and w after each outer step. `eval_params(tx, state, params)` is w of the last
    outer step; let a run end with one.

    Args:
      inner: the optimizer, of any kind, at the rate that it has by itself or a larger one.
      every: K, at least 1. The defaults are those of the authors' record with Muon; another has 30, 0.7 and 0.5.
      learning_rate: at least 0. At 1 and momentum 0 it is the optimizer; a number or a schedule of the inner steps.
      momentum: in [0, 1). Steps of one direction become learning_rate / (1 - momentum) times as long.
      accumulator_dtype: the dtype of b, the parameter's by default.

    It stands outermost, so that the way is that of the parameters. The state of `inner` goes on through outer steps.
    The authors' script makes outer steps after updates 1, K + 1, 2 K + 1, ...; here, as in the paper, after K, 2 K, ...

    Raises:
      ValueError: (in update) params is missing.

    Warns:
      UserWarning: (in init) a later transform of a chain, or a wrapper around, changes the updates.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.snoo(gdjax.sgd(1.0), every=2, learning_rate=0.5, momentum=0.5)
      >>> run = gdjax.minimize(lambda p: p, jnp.array(8.0), tx, steps=3)  # to 7.0, 6.5, 5.5
      >>> print(run.params, gdjax.eval_params(tx, run.state, run.params))
      5.5 6.5

    Reference:
      Kallusky, Rao, Nandavanam & Shi 2025, SNOO: step-K Nesterov outer optimizer, https://arxiv.org/abs/2510.15830;
      the numbers are from modded-nanogpt, https://github.com/KellerJordan/modded-nanogpt/pull/128
    """
    step = numerics.safe_increment(s.step_count)
    due = step % jnp.asarray(every, jnp.int32) == 0
    way = s.slow - moved(p, u, g)
    b = jnp.where(due, momentum * s.b + way, s.b)
    u = jnp.where(due, s.slow - learning_rate * (momentum * b + way) - p, u)
    return u, s._replace(slow=jnp.where(due, moved(p, u, g), s.slow), b=b, step_count=step)


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
    growth="unchanged",
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
    growth="unchanged",
)  # fmt: skip
def swa(
    u: Array, g: Array, s: SWAState, p: Array, t: Array,
    start: Annotated[Hyper, AtLeast(0)], every: hyper.Steps = 1,
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
    growth="unchanged",
)  # fmt: skip
def tail_ema(
    u: Array, g: Array, s: TailEmaState, p: Array, t: Array,
    start: Annotated[Hyper, AtLeast(0)], horizon: Annotated[Hyper, "[1, inf)"] = 150.0, blend: hyper.Share = 0.6,
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
