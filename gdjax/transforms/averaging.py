"""Averages: of the updates, and of the parameters as slow weights."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.combine.conditional import as_before
from gdjax.core import base, checks, meshes
from gdjax.core.arrays import add
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import SIZE
from gdjax.core.parts import holding
from gdjax.core.types import DType, OptState, Params, Scalar, Transform, Updates
from gdjax.lift import order, slots
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.numerics import Array
from gdjax.xla.write_order import after, bound_for


class EmaState(NamedTuple):
    """State of `ema`."""

    count: Array  # () int32, updates made so far
    ema: Updates  # like params, the moving average, not corrected for its start


@leafwise(EmaState, ema=Moment("accumulator_dtype"))
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
        with bound_for(None):  # they become the updates of two sets of parameters
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
    # The caller writes the new slow parameter, which is read there before the fast one is written: no copies are made.
    after_sync = add(given_slow, back)
    way = numerics.widen(after_sync, real) - fast
    return jnp.where(sync, way, after(after_sync, wide_u)).astype(u.dtype), back
