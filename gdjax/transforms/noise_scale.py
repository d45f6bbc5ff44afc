"""The gradient noise scale, from the gradients of parts of a batch beside their mean."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.core import base, checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.parts import holding
from gdjax.core.types import Array, OptState, Params, Transform, Updates

__all__ = ["NoiseScaleState"]

DECAY = 0.99


class NoiseScaleState(NamedTuple):
    """State of `accumulate` and of `sharded_step` with `noise_scale=True`, around that of the optimizer."""

    inner_state: OptState
    count: Array  # () int32, batches in the averages
    parts: Array  # () int32, gradients of this batch so far, of a weight above 0
    grad_sq: Array  # () float32, the average of estimates of |G|^2, not debiased
    grad_noise: Array  # () float32, that of estimates of tr(Sigma)
    weight: Array  # () float32, the sum of the weights of the gradients of this batch so far
    squares: Array  # () float32, that of weight |g|^2


@transform
def with_noise_scale(inner: Transform) -> GradientTransformation:
    """`inner`, with the noise scale of the gradients that its state was told of by `noted`, and of their mean.

    Of n gradients g_i with weights w_i, of the sum W, whose weighted mean m is what `update` gets:

        S = (sum_i w_i |g_i|^2 - W |m|^2) / (n - 1)        G2 = |m|^2 - S / W

    With E g_i = G and the covariance Sigma / w_i of independent g_i, E S = tr(Sigma) and E G2 = |G|^2. Each is averaged
    by itself, with decay 0.99 and the correction of Adam. A batch of fewer than two gradients, or of gradients that are
    not finite, is not measured.

    Of equal weights these are the estimates of the paper for two batch sizes, one gradient and all.

    Reference:
      McCandlish et al. 2018, An empirical model of large-batch training, Appendix A.1, https://arxiv.org/abs/1812.06162
    """

    def init(params: Params) -> NoiseScaleState:
        checks.leaves("gdjax.noise_scale", "params", params)
        dtypes = [jnp.dtype("int32")] * 2 + [numerics.widest_real(params)] * 4
        return NoiseScaleState(inner.init(params), *(jnp.zeros((), dtype) for dtype in dtypes))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, NoiseScaleState]:
        checks.state("gdjax.noise_scale", state, NoiseScaleState)
        n, total = (x.astype(state.weight.dtype) for x in (state.parts, state.weight))
        square = tree.norm(updates, squared=True).astype(total.dtype)
        noise = (state.squares - total * square) / jnp.maximum(n - 1, 1)
        estimate = square - noise / jnp.where(total > 0, total, 1)
        known = (n > 1) & jnp.isfinite(estimate)
        count = jnp.where(known, numerics.safe_increment(state.count), state.count)
        mix = lambda old, x: jnp.where(known, DECAY * old + (1 - DECAY) * x, old)
        averages = mix(state.grad_sq, estimate), mix(state.grad_noise, noise)
        updates, inner_state = base.call_update(inner, updates, state.inner_state, params, extra_args)
        parts, *sums = (jnp.zeros_like(x) for x in (state.parts, state.weight, state.squares))
        return updates, NoiseScaleState(inner_state, count, parts, *averages, *sums)

    return holding(init, update, inner_state=inner)


def noted(state: NoiseScaleState, gradient: Sequence[Array], weight: Array | None) -> NoiseScaleState:
    """The state with one gradient more, of these leaves; one of weight 0 counts nothing, NaN or not."""
    square = square_of(gradient, weight).astype(state.squares.dtype)
    w = jnp.ones((), square.dtype) if weight is None else weight.astype(square.dtype)
    return state._replace(
        parts=state.parts + (w > 0).astype(jnp.int32), weight=state.weight + w, squares=state.squares + square
    )


def square_of(gradient: Updates, weight: Array | None) -> Array:
    """weight |g|^2."""
    square = tree.norm(gradient, squared=True)
    return square if weight is None else jnp.where(weight == 0, 0, weight.astype(square.dtype) * square)


def found_in(state: NoiseScaleState) -> dict[str, Array]:
    """The metrics: 0 before the first measurement; a noise scale of infinity where the noise hides the gradient."""
    batches = jnp.maximum(state.count, 1).astype(state.grad_sq.dtype)
    square, noise = (numerics.debias(x, DECAY, batches) for x in (state.grad_sq, state.grad_noise))
    scale = jnp.where(square > 0, noise / jnp.where(square > 0, square, 1), jnp.where(noise > 0, jnp.inf, 0))
    return {"noise_scale": scale, "grad_sq": square, "grad_noise": noise}
