"""Nesterov's look-ahead along a smooth direction."""

from typing import Any, NamedTuple

from gdjax import numerics
from gdjax.combine.evaluation import evaluated
from gdjax.core.types import DType, OptState, Params
from gdjax.lift.leafwise import hyper
from gdjax.lift.slots import Moment, Shared
from gdjax.lift.wrapper import wrapper
from gdjax.numerics import Array


class EmaNesterovState(NamedTuple):
    """State of `ema_nesterov`."""

    inner_state: OptState
    m: Params  # like params, the average of their steps; float32 at least
    lookahead: Array  # (), the steps of m that the parameters are ahead

    def eval_params(self, params: Params) -> Params:
        """x, the parameters without the look-ahead; in their dtypes."""
        return evaluated(lambda m, y: _behind(y, m, self.lookahead), self.m, params)


def _behind(y: Array, m: Array, lookahead: Array) -> Any:
    wide, m = (numerics.widen(a, numerics.widest_real([m, y])) for a in (y, m))
    return (wide - lookahead.astype(wide.dtype) * m).astype(y.dtype)


@wrapper(
    EmaNesterovState,
    m=Moment("accumulator_dtype", wide=True, kind="slow"), lookahead=Shared(),
)  # fmt: skip
def ema_nesterov(
    u: Array, g: Array, s: EmaNesterovState, y: Array, t: Array,
    lookahead: hyper.Decay, decay: hyper.Decay = 0.99,
    *, accumulator_dtype: DType | None = None,
) -> tuple[Array, EmaNesterovState]:  # fmt: skip
    """Nesterov's look-ahead, along the exponential average of the steps in place of the last one.

        y_t = x_t + lookahead_t m_t                      the parameters, where gradients are taken
        x_{t+1} = y_t + update of `inner` at y_t
        m_{t+1} = decay m_t + (1 - decay) (x_{t+1} - x_t),    m_0 = 0

    The average is a direction without the noise of one step. `eval_params(tx, state, params)` is x_t.

    Args:
      inner: the optimizer, of any kind. It sees y_t: weight decay in it acts there.
      lookahead: in [0, 1); steps of one direction become 1 / (1 - lookahead) times as long. 0.3 to 0.6 at its largest
        in the reference. A number, or better a schedule that is 0 in the warm-up and in the last part of the run and
        follows the rate between. As every schedule it gets the number of updates before this one: its value at t is
        lookahead_{t+1}, as the authors take it from the rate of update t.
      decay: in [0, 1).
      accumulator_dtype: the dtype of m; by default the parameter's, but float32 at least.

    It stands outermost, so that the steps it averages are those of the parameters. The reference keeps x_t as well;
    here x_{t+1} - x_t is the update plus lookahead_t m_t, and m is all there is to keep.

    Warns:
      UserWarning: (in init) a later transform of a chain, or a wrapper around, changes the updates.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.ema_nesterov(gdjax.sgd(0.5), lookahead=0.5, decay=0.5)
      >>> run = gdjax.minimize(lambda x: x**2 / 2, jnp.array(8.0), tx, steps=1)
      >>> print(run.params, gdjax.eval_params(tx, run.state, run.params))  # y_1, x_1
      3.0 4.0
      >>> rate = gdjax.linear_schedule(0.02, 0.0, transition_steps=3000)
      >>> ahead = lambda t: jnp.where((t >= 300) & (t < 2000), 0.3 * rate(t) / 0.02, 0.0)
      >>> tx = gdjax.ema_nesterov(gdjax.adamw(rate), ahead)

    Reference:
      Yau, Li, Glentis, Boreiko, Wai & Hong 2026, EMA-Nesterov: stabilizing Nesterov's lookahead for accelerated deep
      learning optimization, https://arxiv.org/abs/2605.25395
    """
    m = decay * s.m + (1 - decay) * (u + s.lookahead * s.m)
    return u + lookahead * m, s._replace(m=m, lookahead=lookahead)
