"""The variance among the gradients of examples, measured while they are averaged."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax import numerics, tree
from gdjax.combine.chain import chain
from gdjax.core import checks
from gdjax.core.base import EmptyState, GradientTransformation, identity, transform
from gdjax.core.parts import holding
from gdjax.core.types import ArrayLike, ArrayTree, OptState, Params, Transform, Updates
from gdjax.experimental.aggregators import Aggregator, PerElementUpdates, aggregator_factory, axes_of, process
from gdjax.lift.slots import Moment, first_moment, second_moment
from gdjax.numerics import Array, abs_sq

__all__ = [
    "PerElementMeanAndSumSqDiffGradsState", "PerElementMeanAndVarianceEMAState", "add_mean_variance_to_opt",
    "get_batch_size_from_per_elt_updates", "get_per_element_mean_and_sum_sq_diff_grads",
    "get_unbiased_mean_and_variance_ema", "track_per_element_mean_and_variance_with_ema",
]  # fmt: skip


def get_batch_size_from_per_elt_updates(per_elt_updates: PerElementUpdates, per_elt_axis: int | Sequence[int]) -> int:
    """How many examples there are along the given axes.

    Raises:
      ValueError: the leaves differ; the message lists their paths. There are none.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> from gdjax.experimental.aggregating import get_batch_size_from_per_elt_updates
      >>> get_batch_size_from_per_elt_updates({"w": jnp.ones((8, 3))}, 0)
      8
    """
    label = "gdjax.get_batch_size_from_per_elt_updates"
    axes = [per_elt_axis] if isinstance(per_elt_axis, int) else list(per_elt_axis)
    sizes = {
        f"updates{jax.tree_util.keystr(path)}": math.prod(g.shape[i] for i in axes)
        for path, g in jax.tree_util.tree_flatten_with_path(per_elt_updates)[0]
    }
    if len(set(sizes.values())) != 1:
        raise ValueError(f"{label}: the leaves must have one number of examples along axis {per_elt_axis}, got {sizes}")
    return next(iter(sizes.values()))


class PerElementMeanAndSumSqDiffGradsState(NamedTuple):
    """State of `get_per_element_mean_and_sum_sq_diff_grads`."""

    micro_step: Array  # () int32, calls in the sums
    ready: Array  # () bool, whether the last call completed them
    mean_grads: Updates  # like params
    sum_sq_diff_grads: Updates  # like params, of the squared differences from the mean, real, float32 at least


@aggregator_factory
def get_per_element_mean_and_sum_sq_diff_grads(
    per_elt_axis: int | Sequence[int] = 0, accumulation_steps: int = 1
) -> Any:
    """The mean over the examples, and for each parameter the sum of their squared differences from it.

    The sums of several calls of m examples are joined without looking at the examples again: with d the difference of
    the new mean from that of n calls, S = S_n + S_new + d^2 m n / (n + 1).

    Args:
      per_elt_axis: the axes of the examples.
      accumulation_steps: calls to join, at least 1.

    Returns:
      An `Aggregator` for `process(..., aggregator_has_aux=True)`: its update returns `(mean, aux)` with
      `aux["sum_sq_diff_grads"]` and the number of examples as `aux["sample_size"]`, zeros where more calls are needed.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> aggregating = gdjax.experimental.aggregating
      >>> tx = aggregating.get_per_element_mean_and_sum_sq_diff_grads()
      >>> (mean, aux), _ = tx.update(jnp.array([1.0, 2.0, 6.0]), tx.init(jnp.array(0.0)))
      >>> print(mean, aux["sum_sq_diff_grads"], aux["sample_size"])
      3.0 14.0 3

    Reference:
      Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance, equations 2.1,
      https://doi.org/10.1080/00031305.1983.10483115
    """
    label = "gdjax.get_per_element_mean_and_sum_sq_diff_grads"
    steps = checks.structural(label, "accumulation_steps", accumulation_steps, 1)
    axes = axes_of(per_elt_axis)

    def of_batch(g: Array) -> tuple[Array, Array]:
        g = g.astype(numerics.at_least_float32(g.dtype))
        mean = jnp.mean(g, axes, keepdims=True)
        return jnp.squeeze(mean, axes), jnp.sum(abs_sq(g - mean), axes)

    def with_batch(n: Array, m: int, g: Array, mean: Array, squares: Array) -> tuple[Array, Array]:
        n = n.astype(squares.dtype)
        new_mean, new_squares = of_batch(g)
        d = new_mean - mean.astype(new_mean.dtype)
        mean = mean.astype(d.dtype) + d * (1 / (n + 1)).astype(d.dtype)
        return mean, squares + new_squares + abs_sq(d) * (m * n / (n + 1))

    def init(params: Params) -> Any:
        if steps == 1:
            return EmptyState()
        zero, mean, squares = jnp.zeros((), jnp.int32), _zeros(params, first_moment), _zeros(params)
        return PerElementMeanAndSumSqDiffGradsState(zero, jnp.zeros((), bool), mean, squares)

    def update(updates: Updates, state: OptState, params: Params = None, **extra_args: Any) -> tuple[Any, Any]:
        m = get_batch_size_from_per_elt_updates(updates, per_elt_axis)
        if steps == 1:
            means, squares = _unzip(of_batch, updates)
            return (tree.cast_like(means, updates), {"sum_sq_diff_grads": squares, "sample_size": m}), state
        checks.state(label, state, PerElementMeanAndSumSqDiffGradsState)
        n = state.micro_step
        means, squares = _unzip(functools.partial(with_batch, n, m), updates, state.mean_grads, state.sum_sq_diff_grads)
        ready, sums = n + 1 >= steps, (means, squares, n + 1)
        out, kept = (jax.tree.map(lambda x, zero=zero: jnp.where(zero, 0, x), sums) for zero in (~ready, ready))
        aux = {"sum_sq_diff_grads": out[1], "sample_size": m * out[2]}
        mean = tree.cast_like(kept[0], state.mean_grads)
        new = PerElementMeanAndSumSqDiffGradsState(kept[2], ready, mean, kept[1])
        return (tree.cast_like(out[0], updates), aux), new

    return Aggregator(*holding(init, update, like="mean_grads sum_sq_diff_grads"))


class PerElementMeanAndVarianceEMAState(NamedTuple):
    """State of `track_per_element_mean_and_variance_with_ema`."""

    count: Array  # () int32, updates made so far
    ema_decay: Array  # ()
    mean_grads_ema: Updates  # like params, not corrected for its start
    variance_grads_ema: Updates  # like params, likewise, real, float32 at least


@transform
def track_per_element_mean_and_variance_with_ema(ema_decay: float | Array = 0.9) -> GradientTransformation:
    """Keeps moving averages of the mean gradient and of the variance among the examples; passes the updates through.

    Its update needs `sum_sq_diff_grads` and `sample_size`, as `process` hands them on from
    `get_per_element_mean_and_sum_sq_diff_grads`. The variance is sum_sq_diff_grads / (sample_size - 1), and 0 of one
    example. Read the averages with `get_unbiased_mean_and_variance_ema`.

    Args:
      ema_decay: of the averages, in [0, 1).

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> aggregating = gdjax.experimental.aggregating
      >>> tx = aggregating.track_per_element_mean_and_variance_with_ema(0.5)
      >>> sums = {"sum_sq_diff_grads": jnp.array(14.0), "sample_size": 3}
      >>> _, state = tx.update(jnp.array(3.0), tx.init(jnp.array(0.0)), **sums)
      >>> print(*aggregating.get_unbiased_mean_and_variance_ema(state))
      3.0 7.0
    """
    label = "gdjax.track_per_element_mean_and_variance_with_ema"

    def init(params: Params) -> PerElementMeanAndVarianceEMAState:
        decay = jnp.array(ema_decay, dtype=numerics.widest_real(params), copy=True)
        mean, variance = _zeros(params, first_moment), _zeros(params)
        return PerElementMeanAndVarianceEMAState(jnp.zeros((), jnp.int32), decay, mean, variance)

    def update(
        updates: Updates, state: OptState, params: Params = None, *, sum_sq_diff_grads: Updates, sample_size: ArrayLike,
        **extra_args: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        checks.state(label, state, PerElementMeanAndVarianceEMAState)
        weight = 1 / jnp.maximum(jnp.asarray(sample_size) - 1, 1).astype(jnp.float32)
        variance = jax.tree.map(lambda x: x * weight.astype(x.dtype), sum_sq_diff_grads)
        olds = state.mean_grads_ema, state.variance_grads_ema
        averages = tree.cast_like(tree.update_moment((updates, variance), olds, ema_decay, 1), olds)
        count = numerics.safe_increment(state.count)
        return updates, PerElementMeanAndVarianceEMAState(count, state.ema_decay, *averages)

    return holding(init, update, like="mean_grads_ema variance_grads_ema")


def get_unbiased_mean_and_variance_ema(state: OptState) -> tuple[Any, Any]:
    """The moving averages of the mean and the variance, corrected for their start at 0; zeros before the first update.

    Args:
      state: of an optimizer that has `track_per_element_mean_and_variance_with_ema` in it.

    Raises:
      ValueError: it has none.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> aggregating = gdjax.experimental.aggregating
      >>> tx = aggregating.add_mean_variance_to_opt(gdjax.sgd(0.5))
      >>> u, state = tx.update(jnp.array([1.0, 2.0, 6.0]), tx.init(jnp.array(0.0)))
      >>> mean, variance = aggregating.get_unbiased_mean_and_variance_ema(state)
      >>> round(float(mean), 3), round(float(variance), 3)
      (3.0, 7.0)
    """
    found = tree.get(state, "PerElementMeanAndVarianceEMAState")
    if found is None:
        raise ValueError(
            "gdjax.get_unbiased_mean_and_variance_ema: there is no PerElementMeanAndVarianceEMAState in the state"
        )
    averages, t = (found.mean_grads_ema, found.variance_grads_ema), jnp.maximum(found.count, 1)
    return tree.bias_correction(averages, found.ema_decay, t)


def add_mean_variance_to_opt(
    opt: Transform, ema_decay: float | Array = 0.9, per_elt_axis: int | list[int] = 0, accumulation_steps: int = 1
) -> Any:
    """An optimizer of the gradients of single examples that keeps moving averages of their mean and variance.

    Args:
      opt: gets the mean gradient.
      ema_decay: of the averages, in [0, 1).
      per_elt_axis: the axes of the examples, in every leaf.
      accumulation_steps: calls whose examples count as one batch, at least 1.

    Returns:
      An `Aggregator`; `get_unbiased_mean_and_variance_ema(state)` reads the averages.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> aggregating = gdjax.experimental.aggregating
      >>> tx = aggregating.add_mean_variance_to_opt(gdjax.sgd(0.5), ema_decay=0.5)
      >>> u, state = tx.update(jnp.array([1.0, 2.0, 6.0]), tx.init(jnp.array(0.0)))
      >>> print(u)
      -1.5
      >>> print(*aggregating.get_unbiased_mean_and_variance_ema(state))
      3.0 7.0
    """
    return process(
        identity(),
        get_per_element_mean_and_sum_sq_diff_grads(per_elt_axis, accumulation_steps),
        chain(track_per_element_mean_and_variance_with_ema(ema_decay), opt),
        aggregator_has_aux=True,
    )


def _zeros(params: Params, moment: Moment = second_moment) -> Any:
    return jax.tree.map(lambda p: moment(p, {}), params)


def _unzip(f: Callable[..., tuple[Any, Any]], updates: Updates, *others: ArrayTree) -> tuple[Any, Any]:
    """The two trees that a function of leaves with two results gives."""
    pairs = jax.tree.map(f, updates, *others)
    return jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0, 0)), pairs)
