"""Rates that follow the run: on plateaus, and by the distance gone."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.core import checks
from gdjax.core.base import EmptyState, GradientTransformation, transform
from gdjax.core.number_domains import FRACTION, SHARE, SIZE, AtLeast
from gdjax.core.parts import holding
from gdjax.core.types import ArrayLike, Floating, LayerAxes, OptState, Params, Scalar, Updates
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Factor, New, initial_parameter
from gdjax.lift.slots import start as first_of
from gdjax.numerics import Array, divide, scaled, sqrt, sum_sq, widen, widest_real
from gdjax.transforms.scaling import scale

__all__ = [
    "ReduceLROnPlateauState", "ScaleByDistanceOverGradientsState", "reduce_on_plateau",
    "scale_by_distance_over_gradients",
]  # fmt: skip


class ReduceLROnPlateauState(NamedTuple):
    """State of `reduce_on_plateau`."""

    scale: Array  # () what the updates are multiplied by
    best_value: Array  # () the least average so far
    plateau_count: Array  # () int32, averages since it
    cooldown_count: Array  # () int32, averages still to be let pass
    count: Array  # () int32, values in the average so far
    avg_value: Array  # () the average of the values since the last decision


@transform
def reduce_on_plateau(
    factor: Annotated[Scalar, FRACTION] = 0.1, patience: Annotated[int | Array, AtLeast(0)] = 10,
    rtol: Annotated[Scalar, SHARE] = 1e-4, atol: Annotated[Scalar, SIZE] = 0.0,
    cooldown: Annotated[int | Array, AtLeast(0)] = 0, accumulation_size: Annotated[int | Array, AtLeast(1)] = 1,
    min_scale: Annotated[Scalar, SIZE] = 0.0,
) -> GradientTransformation:  # fmt: skip
    """Multiplies the updates by a scale, from 1 on, which is reduced when the value has stopped falling.

        improved:  f < best - rtol |best| - atol,    f the mean of `accumulation_size` values
        after `patience` means in a row without improvement:  scale = max(factor scale, min_scale)

    Its `update` needs the value: `update(g, state, params, value=f)`; put it behind the optimizer in a `chain`.

    Args:
      factor: between 0 and 1.
      patience: how many means in a row, at least 1; 0 counts as 1.
      rtol, atol: how much less than the best is an improvement; at least 0, not both 0, rtol at most 1.
      cooldown: how many means after a reduction do not count as without improvement.
      accumulation_size: how many values make a mean: 1 for the loss on held-out data, more for that of a mini-batch.
      min_scale: the scale is not reduced below it.

    Raises:
      ValueError: a number outside its domain; (in update) `value` is missing or not a scalar.
      TypeError: a schedule: there is no count of updates for it.

    Optax compares with (1 - rtol) best, which is above best where best is negative: a loss that stays at -1 then
    improves for ever, and no scale is reduced. Its patience of 0 reduces at improvements.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.sgd(1.0), gdjax.reduce_on_plateau(factor=0.5, patience=2))
      >>> state = tx.init(jnp.array(0.0))
      >>> for loss in (3.0, 2.0, 2.0, 2.0):
      ...     u, state = tx.update(jnp.array(1.0), state, value=loss)
      >>> print(u, gdjax.tree.get(state, "scale"))
      -0.5 0.5
    """
    label = "gdjax.reduce_on_plateau"
    checks.unscheduled(label, locals())
    if isinstance(rtol, int | float) and isinstance(atol, int | float) and rtol == atol == 0:
        raise ValueError(f"{label}: rtol or atol must be above 0, got both 0")

    def init(params: Params) -> ReduceLROnPlateauState:
        checks.leaves(label, "params", params)
        real, zero = numerics.widest_real(params), jnp.zeros((), jnp.int32)
        return ReduceLROnPlateauState(
            jnp.ones((), real), jnp.full((), jnp.inf, real), zero, jnp.array(zero), jnp.array(zero), jnp.zeros((), real)
        )

    def update(
        updates: Updates, state: OptState, params: Params | None = None, *, value: ArrayLike | None = None,
        **extra_args: Any,
    ) -> tuple[Updates, ReduceLROnPlateauState]:  # fmt: skip
        checks.state(label, state, ReduceLROnPlateauState)
        checks.gradients(label, updates, params)
        value = checks.extra(label, "value", value).astype(state.avg_value.dtype)
        count = numerics.safe_increment(state.count)
        n = count.astype(value.dtype)
        mean = state.avg_value + (value - state.avg_value) / n
        full = count >= accumulation_size
        decided = _decided(state, mean)
        waiting = state._replace(count=count, avg_value=mean)
        new = ReduceLROnPlateauState(*(jnp.where(full, x, y) for x, y in zip(decided, waiting, strict=True)))
        return scale(new.scale).update(updates, EmptyState())[0], new

    def _decided(state: ReduceLROnPlateauState, mean: Array) -> ReduceLROnPlateauState:
        """The state after a mean is complete."""
        rtol_, atol_, factor_ = (numerics.scalar(x, mean.dtype) for x in (rtol, atol, factor))
        best = state.best_value
        known = jnp.where(jnp.isfinite(best), best, 0)
        improved = mean < best - (rtol_ * jnp.abs(known) + atol_)
        cooling = state.cooldown_count > 0
        bad = jnp.where(improved | cooling, 0, numerics.safe_increment(state.plateau_count))
        reduce = (bad >= patience) & (bad > 0)
        reduced = jnp.maximum(factor_ * state.scale, numerics.scalar(min_scale, state.scale.dtype))
        left = jnp.where(cooling, state.cooldown_count - 1, jnp.where(reduce, jnp.asarray(cooldown, jnp.int32), 0))
        return ReduceLROnPlateauState(
            scale=jnp.where(reduce, reduced, state.scale),
            best_value=jnp.where(improved, mean, best),
            plateau_count=jnp.where(reduce, 0, bad),
            cooldown_count=left,
            count=jnp.zeros((), jnp.int32),
            avg_value=jnp.zeros_like(mean),
        )

    return holding(init, update)


class ScaleByDistanceOverGradientsState(NamedTuple):
    """State of `scale_by_distance_over_gradients`."""

    max_dist: Params  # for each leaf a (), the largest distance from where it started, float32 at least
    grad_sum_of_squares: Params  # for each leaf a (1,), float32 at least
    init_params: Params  # like params, in `param_dtype`


def _first_distance(p: Array, hyper: Mapping[str, Any]) -> Array:
    real = widest_real(p)
    norm = 0 if isinstance(p, jax.ShapeDtypeStruct) else sqrt(sum_sq(widen(p, real)))
    return (first_of("reps_rel", hyper) * (1 + norm)) * jnp.ones((), real)


def _start(p: Array, hyper: Mapping[str, Any]) -> Array:
    return widen(initial_parameter(p, hyper), jnp.dtype(hyper["param_dtype"]))


@leafwise(
    ScaleByDistanceOverGradientsState, max_dist=_first_distance, grad_sum_of_squares=Factor((New(1),)),
    init_params=_start,
)  # fmt: skip
def scale_by_distance_over_gradients(
    g: Array, s: ScaleByDistanceOverGradientsState, p: Array, t: Array,
    reps_rel: hyper.Size = 1e-6, eps: hyper.Size = 1e-8, param_dtype: Floating = jnp.float32,
    global_scale: hyper.Finite = 1.0,
    *, layer_axes: LayerAxes = None,
) -> Any:  # fmt: skip
    """Layer-wise DoG: each leaf's rate is its distance from the start over the root of its summed squared gradients.

        d_t = max(d_{t-1}, |x_t - x_0|),    d_0 = reps_rel (1 + |x_0|)
        u_t = g_t global_scale d_t / sqrt(|g_1|^2 + ... + |g_t|^2 + eps)

    Args:
      reps_rel: the first distance, relative to 1 + |x_0|; at least 0.
      eps: at least 0.
      param_dtype: the dtype in which x_0 is kept (its parts, where it is complex).
      global_scale: a factor for all leaves.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

    Raises:
      ValueError: (in update) params is missing.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> ldog = gdjax.scale_by_distance_over_gradients(reps_rel=0.1)
      >>> tx = gdjax.chain(ldog, gdjax.scale(-1.0))
      >>> params = jnp.array([3.0, 4.0])
      >>> u, _ = tx.update(jnp.array([30.0, 40.0]), tx.init(params), params)
      >>> round(float(gdjax.global_norm(u)), 3)  # 0.1 (1 + 5), however large the gradient is
      0.6

    Reference:
      Ivgi, Hinder & Carmon 2023, DoG is SGD's best friend: a parameter-free dynamic step size schedule, section 3.3 and
      appendix, L-DoG, https://arxiv.org/abs/2302.12022
    """
    max_dist = jnp.maximum(s.max_dist, sqrt(sum_sq(p - s.init_params)))
    total = s.grad_sum_of_squares + sum_sq(g)
    eta = divide(global_scale * max_dist, sqrt(total.reshape(()) + eps))
    return scaled(g, eta), s._replace(max_dist=max_dist, grad_sum_of_squares=total)
