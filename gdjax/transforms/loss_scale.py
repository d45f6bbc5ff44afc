"""A scale for the loss, which keeps the gradients of a float16 model in the range of float16."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics
from gdjax.combine.conditional import all_finite, apply_where
from gdjax.core import base, checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import FINITE_FROM_1, FRACTION, POSITIVE, AtLeast
from gdjax.core.parts import holding
from gdjax.core.types import OptState, Params, Scalar, Transform, Updates
from gdjax.numerics import Array

__all__ = ["DynamicLossScaleState", "dynamic_loss_scale"]


class DynamicLossScaleState(NamedTuple):
    """State of `dynamic_loss_scale`."""

    inner_state: OptState
    loss_scale: Array  # () float32, what the next loss is to be multiplied by
    fin_steps: Array  # () int32, steps with finite gradients since the scale changed
    last_finite: Array  # () bool, whether the last gradients were
    total_notfinite: Array  # () int32, steps that were skipped


@transform
def dynamic_loss_scale(
    inner: Transform, init_scale: Annotated[Scalar, POSITIVE] = 2.0**15,
    *, growth_factor: Annotated[Scalar, FINITE_FROM_1] = 2.0, backoff_factor: Annotated[Scalar, FRACTION] = 0.5,
    growth_interval: Annotated[int | Array, AtLeast(1)] = 2000, minimum_scale: Annotated[Scalar, POSITIVE] = 1.0,
) -> GradientTransformation:  # fmt: skip
    """Takes gradients of the loss times a scale, and chooses the scale: as large as float16 lets it be.

        g = gradient / scale for `inner`; scale = growth_factor scale after `growth_interval` finite steps in a row.
        Gradients that are not finite: updates of 0, the inner state as it is, scale = backoff_factor scale

    The gradients of a float16 model are often below 6e-8, where float16 ends, and come out as 0. Those of a
    loss that is 2^15 times as large do not. Multiply the loss by the scale of the state where you differentiate:

        scale = gdjax.tree.get(state, "loss_scale")
        loss, grads = jax.value_and_grad(lambda p: scale * loss_fn(p))(params)
        updates, state = tx.update(grads, state, params)      # and loss / scale is the loss

    Args:
      inner: the optimizer. It gets the gradients of the loss itself, of 16-bit leaves in float32, and the update of
        such a leaf is float32. A clip by norm belongs inside, and metrics: around it the gradients are scaled. Where
        the parameters are float16 too, `inner` is `with_master_weights(...)`.
      init_scale: the first scale.
      growth_factor: at least 1. Powers of two lose no bit of a gradient.
      backoff_factor: above 0 and below 1.
      growth_interval: finite steps before the scale grows.
      minimum_scale: it does not fall below.

    Extra arguments of `update`, `value` and `value_fn` among them, reach `inner` as they are: give the loss without the
    scale. bfloat16 has the range of float32 and needs no scale.

    `inner` is evaluated in every step, with gradients of 0 where its result is not used.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx, p = gdjax.dynamic_loss_scale(gdjax.sgd(1.0)), jnp.array(1.0)
      >>> state = tx.init(p)
      >>> for g in (3.0 * 2**15, jnp.inf):  # of a loss times the scale
      ...     u, state = tx.update(jnp.array(g), state, p)
      ...     print(u, state.loss_scale)
      -3.0 32768.0
      0.0 16384.0

    Reference:
      Micikevicius et al. 2018, Mixed precision training, section 3.2, https://arxiv.org/abs/1710.03740. The numbers are
      those of Flax's `DynamicScale` and PyTorch's `GradScaler`, the first scale that of jmp.
    """
    label = "gdjax.dynamic_loss_scale"
    base.check_transform(label, 0, inner)

    def init(params: Params) -> DynamicLossScaleState:
        first = jnp.full((), init_scale, jnp.float32)
        zero = jnp.zeros((), jnp.int32)
        return DynamicLossScaleState(inner.init(params), first, zero, jnp.ones((), bool), jnp.copy(zero))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, DynamicLossScaleState]:
        checks.state(label, state, DynamicLossScaleState)
        checks.gradients(label, updates, params)
        finite = all_finite(updates)
        of_loss = base.map_arrays(lambda g: _divided(g, state.loss_scale), updates)
        new, inner_state = apply_where(finite, inner, of_loss, state.inner_state, params, extra_args)
        steps = numerics.safe_increment(state.fin_steps)
        grows = finite & (steps >= growth_interval)
        largest = jnp.finfo(jnp.float32).max
        up = jnp.minimum(jnp.float32(growth_factor) * state.loss_scale, largest)
        down = jnp.maximum(jnp.float32(backoff_factor) * state.loss_scale, jnp.float32(minimum_scale))
        scale = jnp.where(finite, jnp.where(grows, up, state.loss_scale), down)
        total = jnp.where(finite, state.total_notfinite, numerics.safe_increment(state.total_notfinite))
        fin_steps = jnp.where(finite & ~grows, steps, 0).astype(jnp.int32)
        return new, DynamicLossScaleState(inner_state, scale, fin_steps, finite, total)

    return holding(init, update, inner_state=inner, growth="same")


@jax.jit
def _divided(g: Any, scale: Array) -> Array:
    """g over the scale, in float32 at least."""
    g = numerics.widen(jnp.asarray(g), numerics.widest_real(g))
    return g / scale.astype(g.dtype)
