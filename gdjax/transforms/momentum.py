"""Momentum, and what is done to it: Nesterov's average, Grokfast, MARS, caution."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax import numerics
from gdjax.combine.chain import chain
from gdjax.combine.conditional import evaluated
from gdjax.core import base
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Bound, Decay, DType, Finite, LayerAxes, OptState, Params, Size, Transform, Updates
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.lift.slots import Moment, Shared
from gdjax.lift.wrapper import wrapper
from gdjax.linalg.vectors import inner as inner_product
from gdjax.linalg.vectors import share_of_nonzeros
from gdjax.numerics import Array, bounded, real_product, shrinking, spoiled, sqrt

__all__ = [
    "CautiousState", "EmaNesterovState", "GrokfastState", "MarsState", "TraceState", "cautious", "ema_nesterov",
    "grokfast", "mars", "trace",
]  # fmt: skip


class TraceState(NamedTuple):
    """State of `trace`."""

    trace: Updates  # like params, the decaying sum of the updates


@leafwise(TraceState, trace=Moment("accumulator_dtype"), growth="same")
def trace(
    g: Array, s: TraceState, p: Array, t: Array,
    decay: hyper.Share, nesterov: bool = False, accumulator_dtype: DType | None = None,
) -> tuple[Array, TraceState]:  # fmt: skip
    """Momentum: adds up the updates with decay.

        v_t = g_t + decay v_{t-1},    v_0 = 0,    u_t = v_t

    Args:
      decay: the momentum coefficient, in [0, 1]; 1 adds up without decay.
      nesterov: u_t = g_t + decay v_t, the velocity one step ahead.
      accumulator_dtype: the dtype of v, the parameter's by default.

    This is a sum, not an average: with constant g it tends to g / (1 - decay). See `sgd` for the forms of momentum.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.trace(decay=0.5), gdjax.scale_by_learning_rate(1.0))
      >>> state = tx.init(jnp.array(0.0))
      >>> for g in jnp.array([1.0, 1.0]):
      ...     u, state = tx.update(g, state)
      ...     print(u)
      -1.0
      -1.5
    """
    v = g + decay * s.trace
    return (g + decay * v if nesterov else v), TraceState(trace=v)


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
    growth="same",
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


class GrokfastState(NamedTuple):
    """State of the filter of `grokfast`, which comes before that of the optimizer inside."""

    count: Array  # () int32, updates made so far
    mu: Params  # like params, average of the gradients, from the first on


@leafwise(GrokfastState, mu=Moment("accumulator_dtype", kind="slow"), growth="same")
def _grokfast(
    g: Array, s: GrokfastState, p: Array, t: Array, alpha: Hyper, lamb: hyper.Size, accumulator_dtype: DType | None
) -> tuple[Array, GrokfastState]:
    g = bounded(g, "summed")  # so that with lamb times the average it is within what other rules bound squares to
    alpha = jnp.where(t > 1, alpha, 0.0)
    mu = alpha * s.mu + (1 - alpha) * g
    return g + lamb * mu, s._replace(mu=mu)


@transform
def grokfast(
    inner: Transform, alpha: Decay = 0.98, lamb: Size = 2.0, accumulator_dtype: DType | None = None
) -> GradientTransformation:
    """Grokfast around an optimizer: amplifies the slow part of the gradients, for generalisation that comes late.

        mu_t = alpha mu_{t-1} + (1 - alpha) g_t,    mu_1 = g_1
        g_t <- g_t + lamb mu_t

    The optimizer gets the sum for the gradient; its weight decay is not amplified. The reference trains small networks
    on tasks where they fit the training data long before they generalise.

    Args:
      inner: the optimizer. A clip by a norm belongs around this, not inside: `chain(clip, grokfast(...))`.
      alpha: decay of the average, in [0, 1); the authors use 0.8 to 0.99.
      lamb: how much of the average is added, at least 0; the authors use 0.1 to 5.
      accumulator_dtype: the dtype of mu, the parameter's by default.

    This is the authors' `gradfilter_ema`. Their other filter, a mean of the last 100 gradients, keeps all of these, and
    is not here.

    Raises:
      TypeError: `inner` is no transform.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.grokfast(gdjax.sgd(1.0), alpha=0.5, lamb=2.0)
      >>> state = tx.init(jnp.zeros(2))
      >>> for g in (jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0])):
      ...     u, state = tx.update(g, state)
      ...     print(u)  # of the second gradient the half that stays counts three times
      [-3. -3.]
      [-3.  1.]

    Reference:
      Lee, Kang, Kim & Lee 2024, Grokfast: accelerated grokking by amplifying slow gradients, section 3,
      https://arxiv.org/abs/2405.20233
    """
    label = "gdjax.grokfast"
    base.check_transform(label, 0, inner)
    return chain(base.part_of(_grokfast(alpha, lamb, accumulator_dtype)).labelled(label), inner)


class MarsState(NamedTuple):
    """State of the correction of `mars`, which comes before that of the optimizer inside."""

    g: Params  # like params, the gradient before


@leafwise(MarsState, g=Moment(kind="exact"), growth="same")
def _mars(
    g: Array, s: MarsState, p: Array, t: Array,
    b1: hyper.Decay, gamma: hyper.Finite, max_norm: hyper.Bound,
    *, layer_axes: LayerAxes = None,
) -> tuple[Array, MarsState]:  # fmt: skip
    g = bounded(g, "summed")
    c = g + gamma * (b1 / (1 - b1)) * (g - s.g)
    return c * shrinking(sqrt(inner_product(c, c)), max_norm), MarsState(g)


@transform
def mars(
    inner: Transform, b1: Decay = 0.95, gamma: Finite = 0.025, max_norm: Bound = 1.0, *, layer_axes: LayerAxes = None
) -> GradientTransformation:
    """MARS around an optimizer with momentum: gradients that lean forward, by how they changed, for less variance.

        c_t = g_t + gamma b1 / (1 - b1) (g_t - g_{t-1})
        c_t <- c_t min(1, max_norm / |c_t|)

    with the norm of each array. The optimizer gets c_t for the gradient. MARS-AdamW is
    `mars(adamw(3e-3, b1=0.95, b2=0.99))`. MARS-Lion is `mars(signum(1e-3, beta=0.95))`: it is without Lion's
    interpolation. MARS-Shampoo is `mars(muon(2e-2, beta=0.95, nesterov=False))`, MARS-M the same with
    `consistent_rms=0.2`.

    Args:
      inner: the optimizer. A clip by a global norm belongs around this, not inside: `chain(clip, mars(...))`.
      b1: the decay of the momentum of `inner`, in [0, 1): give both the same number.
      gamma: the size of the correction; 1 is that of STORM, 0 none.
      max_norm: the largest norm of an array, at least 0; infinity for no bound.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

    The authors correct matrices alone. What has another number of axes, and in MARS-M embeddings and the head too, gets
    AdamW at b1 = 0.9, b2 = 0.95, a decay of 0.1 and a rate of its own. `partition` does that: see the example.

    The correction is the approximate one, of the gradient that the step before had. The exact one takes g_{t-1} at the
    old parameters with the new batch, a second gradient in each step.

    As in the authors' code g_0 is 0, so that c_1 is (1 + gamma b1 / (1 - b1)) g_1 before its norm is bounded.

    Raises:
      TypeError: `inner` is no transform.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
      >>> matrix = gdjax.mars(gdjax.adamw(6e-3, b1=0.95, b2=0.99, weight_decay=0.01))
      >>> other = gdjax.adamw(3e-3, b2=0.95, weight_decay=0.1)
      >>> tx = gdjax.partition({"m": matrix, "o": other}, {"w": "m", "b": "o"})
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> print(updates["b"])
      [-0.0033 -0.0033]

    Reference:
      Yuan et al. 2024, MARS: unleashing the power of variance reduction for training large models,
      https://arxiv.org/abs/2411.10438; Liu, Yuan & Gu 2025, MARS-M: when variance reduction meets matrices,
      https://arxiv.org/abs/2510.21800
    """
    label = "gdjax.mars"
    base.check_transform(label, 0, inner)
    return chain(base.part_of(_mars(b1, gamma, max_norm, layer_axes=layer_axes)).labelled(label), inner)


class CautiousState(NamedTuple):
    """State of `cautious`."""

    inner_state: OptState  # of the optimizer


@wrapper(CautiousState, growth="same")
def cautious(
    u: Array, g: Array, s: CautiousState, p: Array, t: Array,
    eps: hyper.Size = 0.0, clamp: hyper.Size = 1e-3,
    *, ascends: bool = False, layer_axes: LayerAxes = None,
) -> tuple[Array, CautiousState]:  # fmt: skip
    """Keeps the elements of an update that go down the gradient, and enlarges them to make up for the others.

        m_t = 1 where u_t g_t < 0, else 0        x_{t+1} = x_t + u_t m_t / max(mean(m_t) + eps, clamp)

    with the mean over each array. `cautious(adamw(lr))` is C-AdamW, `cautious(lion(lr))` C-Lion. The state is that of
    the optimizer, which does not learn that its updates were changed.

    Args:
      inner: the optimizer, whose updates are added to the parameters: it has the learning rate, and so the sign.
      eps: added to the mean, at least 0: the paper's Algorithm 1 has it, the authors' code does not.
      clamp: the least denominator, above 0: the authors' code has 1e-3, the paper none. An array without an element
        that agrees does not move.
      ascends: the updates go up the gradient, as those of `scale_by_adam()` alone do: m_t is 1 where u_t g_t > 0.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

    Departure: the authors do not mask the weight decay; here the mask is for all that `inner` does. Theirs is
    `with_weight_decay(cautious(adam(lr)), lr, weight_decay)`.

    Complex numbers agree where the real part of conj(g_t) u_t is negative. Infinity and NaN become NaN in the update.

    Raises:
      TypeError: `inner` is no transform.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.cautious(gdjax.sgd(1.0, momentum=0.5))
      >>> _, state = tx.update(jnp.array([1.0, 1.0]), tx.init(jnp.zeros(2)))
      >>> u, state = tx.update(jnp.array([1.0, -0.25]), state)
      >>> print(u)  # momentum alone gives [-1.5, -0.25], and the second goes uphill
      [-3.  0.]

    Reference:
      Liang, Chen, Liu & Liu 2024, Cautious optimizers: improving training with one line of code, Algorithm 1,
      https://arxiv.org/abs/2411.16085
    """
    along = real_product(g, u)
    drop = along <= 0 if ascends else along >= 0  # not NaN, so that it shows
    # Where u is 0 it is dropped, so what is kept shows the mask; NaN, which the mean must not see, is an infinity.
    masked = jnp.where(drop, 0, jnp.where(jnp.isnan(u), jnp.inf, u))
    mean = share_of_nonzeros(masked).astype(along.dtype)
    return spoiled(masked * (1 / jnp.maximum(mean + eps, clamp)), masked), s
