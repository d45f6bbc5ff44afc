"""What is done about spikes: steps far above the running mean are left out, or their gradients clipped."""

from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.combine.conditional import apply_where
from gdjax.core import base, checks
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.number_domains import POSITIVE, AtLeast
from gdjax.core.parts import holding
from gdjax.core.types import ArrayLike, Count, OptState, Params, Scalar, Transform, Updates
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.meetings import total_norm
from gdjax.lift.slots import Shared
from gdjax.numerics import Array, bounded, shrinking

__all__ = ["SkipSpikesState", "ZClipState", "skip_spikes", "zclip"]


class SkipSpikesState(NamedTuple):
    """State of `skip_spikes`."""

    inner_state: OptState
    losses: Array  # (rolling_interval_length,), the last finite ones; entry i is that of call i, i + length, ...
    grad_norms: Array  # (rolling_interval_length,), those of the same calls
    count: Array  # () int32, calls with a finite loss and norm
    last_skipped: Array  # () bool, whether the last call was
    total_skipped: Array  # () int32, calls that were


class ZClipState(NamedTuple):
    """State of `zclip`."""

    count: Array  # () int32, finite norms so far
    mean: Array  # (), average of the norms
    var: Array  # (), average of their squared distances from it


@transform
def skip_spikes(
    inner: Transform, rolling_interval_length: Annotated[int, AtLeast(4, static=True)] = 128,
    sigma_factor: Annotated[Scalar, POSITIVE] = 6.0,
) -> GradientTransformation:  # fmt: skip
    """Skips the steps whose loss or gradient norm is far above what it was: a spike moves nothing.

        x > mean + sigma_factor std,    x the loss or the norm, mean and std those of the last 128 calls before this one

    gives updates of 0, and the state of `inner` stays as it is. `update` needs the loss:
    `update(g, state, params, value=loss)`.

    Args:
      inner: the optimizer. It gets `value` too. The norm is the global one of the gradients that reach this wrapper: a
        clip belongs inside.
      rolling_interval_length: how many calls mean and standard deviation (with n - 1) are taken over, at least 4. Until
        half as many are there, with this one, nothing but what is not finite is skipped.
      sigma_factor: above 0.

    What is skipped counts in the mean and the standard deviation of the steps after it, so that a new level is accepted
    after some steps: in 128 quiet ones the fifth spike of one height. One high spike therefore hides lower ones for as
    long as it is among the last 128.

    Departure: a loss or norm that is NaN or infinite is skipped in every step, and does not count. In the authors' code
    it makes mean and standard deviation NaN, and skips every step for as long as it is remembered.

    `inner` is evaluated in every call, with gradients of 0 where its result is not used.

    Raises:
      ValueError: (in update) `value` is missing or not a scalar.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.skip_spikes(gdjax.sgd(0.5), rolling_interval_length=8)
      >>> state = tx.init(jnp.array(0.0))
      >>> for loss in (1.0, 1.1, 0.9, 1.0, 9.0):
      ...     u, state = tx.update(jnp.array(1.0), state, value=loss)
      >>> print(u, state.total_skipped)
      0.0 1

    Reference:
      OLMo team 2025, 2 OLMo 2 Furious, https://arxiv.org/abs/2501.00656; the rule is that of OLMo-core's
      `SkipStepOptimizer`.
    """
    label = "gdjax.skip_spikes"
    base.check_transform(label, 0, inner)
    checks.unscheduled(label, {"sigma_factor": sigma_factor})
    length = rolling_interval_length

    def init(params: Params) -> SkipSpikesState:
        checks.leaves(label, "params", params)
        none, zero = jnp.zeros(length, numerics.widest_real(params)), jnp.zeros((), jnp.int32)
        return SkipSpikesState(inner.init(params), none, jnp.copy(none), zero, jnp.zeros((), bool), jnp.copy(zero))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, *, value: ArrayLike | None = None,
        **extra_args: Any,
    ) -> tuple[Updates, SkipSpikesState]:  # fmt: skip
        checks.state(label, state, SkipSpikesState)
        checks.gradients(label, updates, params)
        seen = state.losses, state.grad_norms
        now = [x.astype(state.losses.dtype) for x in (checks.extra(label, "value", value), tree.global_norm(updates))]
        finite = jnp.isfinite(now[0]) & jnp.isfinite(now[1])
        skipped = ~finite
        for x, xs in zip(now, seen, strict=True):
            skipped |= _is_spike(x, xs, state.count, sigma_factor)
        extra_args = {**extra_args, "value": value}
        new, inner_state = apply_where(~skipped, inner, updates, state.inner_state, params, extra_args)
        i = state.count % length
        windows = [xs.at[i].set(jnp.where(finite, x, xs[i])) for x, xs in zip(now, seen, strict=True)]
        count = jnp.where(finite, numerics.safe_increment(state.count), state.count)
        total = jnp.where(skipped, numerics.safe_increment(state.total_skipped), state.total_skipped)
        return new, SkipSpikesState(inner_state, windows[0], windows[1], count, skipped, total)

    return holding(init, update, inner_state=inner, growth="same")


def _is_spike(x: Array, xs: Array, count: Array, sigma_factor: Scalar) -> Array:
    """Whether x is far above the first `count` numbers of xs, or all of them."""
    known = jnp.arange(xs.size, dtype=jnp.int32) < count
    n = jnp.minimum(count, xs.size)
    mean = jnp.sum(jnp.where(known, xs, 0)) / jnp.maximum(n, 1).astype(xs.dtype)
    square = jnp.sum(jnp.where(known, (xs - mean) ** 2, 0)) / jnp.maximum(n - 1, 1).astype(xs.dtype)
    far = x - mean > numerics.scalar(sigma_factor, xs.dtype) * numerics.sqrt(square)
    return far & (n + 1 >= xs.size // 2) & (n >= 2)


@leafwise(ZClipState, count=lambda s: s.count, mean=Shared(), var=Shared(), growth="same")
def zclip(
    g: Array, s: ZClipState, p: Array, t: Array,
    z_thresh: hyper.Positive = 2.5, alpha: hyper.Decay = 0.97, max_norm: hyper.Bound = 1.0, warmup_steps: Count = 25,
    eps: hyper.Size = 1e-6,
) -> tuple[Array, ZClipState]:  # fmt: skip
    """ZClip: clips a gradient norm that is far above its running mean, and the more the farther it is.

        z = (|g| - mean_{t-1}) / (std_{t-1} + eps)
        c = mean_{t-1} + std_{t-1} z_thresh^2 / z    where z > z_thresh, else |g|
        u = g min(1, c / |g|, max_norm / |g|)
        mean_t = alpha mean_{t-1} + (1 - alpha) c
        std_t^2 = alpha std_{t-1}^2 + (1 - alpha) (c - mean_t)^2

    In the first steps mean and std^2 are those of all norms so far, and max_norm alone clips.

    Args:
      z_thresh: how many standard deviations a norm may be above the mean, above 0.
      alpha: decay of mean and variance, in [0, 1).
      max_norm: the largest norm in any case, at least 0; infinity for no bound.
      warmup_steps: how many norms the first mean and variance are of, at least 1.
      eps: at least 0.

    The norm is that of all leaves together, as in `clip_by_global_norm`. One that is not finite counts neither in the
    mean nor in the variance. A NaN makes every update NaN, an infinity that element, and all others are 0.

    Departures: none in numbers, but for 1e-6 that the authors' code adds to |g| where it divides by it. Of its options
    the paper's are here, z-scores with adaptive scaling.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.zclip(max_norm=jnp.inf, warmup_steps=4), gdjax.sgd(1.0))
      >>> state = tx.init(jnp.zeros(1))
      >>> for g in (1.0, 1.2, 0.8, 1.0, 50.0):
      ...     u, state = tx.update(jnp.array([g]), state)
      >>> print(u.round(2))
      [-1.]

    Reference:
      Kumar, Owen, Roy Chowdhury & Güra 2025, ZClip: adaptive spike mitigation for LLM pre-training, Algorithm 1,
      https://arxiv.org/abs/2504.02507
    """
    norm = total_norm(g).astype(s.mean.dtype)  # of arrays without elements it is float32
    known = jnp.isfinite(norm)
    x = jnp.where(known, bounded(norm), s.mean)
    z = (x - s.mean) / (numerics.sqrt(s.var) + eps)
    warm, far = s.count < warmup_steps, z > z_thresh
    c = jnp.where(far & ~warm, s.mean + numerics.sqrt(s.var) * z_thresh**2 / jnp.where(far, z, 1), x)
    # The mean and variance of n numbers from those of n - 1; later averages with a decay.
    n = numerics.safe_increment(s.count)
    new = jnp.where(warm, 1 / n.astype(c.dtype), 1 - alpha).astype(c.dtype)
    mean = s.mean + new * (c - s.mean)
    var = s.var + new * ((c - mean) * jnp.where(warm, c - s.mean, c - mean) - s.var)
    keep = lambda a, b: jnp.where(known, a, b)
    most = keep(jnp.minimum(jnp.where(c < x, c, norm), max_norm), 0).astype(norm.dtype)
    return g * shrinking(norm, most), ZClipState(keep(n, s.count), mean, keep(var, s.var))
