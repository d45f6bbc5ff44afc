"""Fromage."""

import jax.numpy as jnp

from gdjax.combine.chain import chain
from gdjax.core.base import EmptyState, GradientTransformation, transform
from gdjax.core.types import LayerAxes, Rate, Size
from gdjax.lift.leafwise import Hyper, hyper, leafwise
from gdjax.numerics import Array
from gdjax.transforms.decay import WeightDecaySchedule
from gdjax.transforms.trust_ratio import scale_by_trust_ratio

__all__ = ["fromage"]


def _root(lr: Hyper, like: Array) -> Array:
    """sqrt(1 + lr^2)."""
    return jnp.sqrt(1 + jnp.square(jnp.asarray(lr, jnp.real(like).dtype)))


@leafwise()
def _descend(g: Array, s: EmptyState, p: Array, t: Array, learning_rate: hyper.Rate) -> tuple[Array, EmptyState]:
    return g * (-learning_rate / _root(learning_rate, g)), s


@leafwise(scheduled=WeightDecaySchedule)
def _shrink(g: Array, s: EmptyState, p: Array, t: Array, learning_rate: hyper.Rate) -> tuple[Array, EmptyState]:
    root = _root(learning_rate, g)
    # 1 / root - 1, which as a difference is 0 in float32 for rates below 0.0002.
    return g - p * (learning_rate * learning_rate / (root * (1 + root))), s


@transform
def fromage(learning_rate: Rate, min_norm: Size = 1e-6, *, layer_axes: LayerAxes = None) -> GradientTransformation:
    """Fromage: every leaf moves by lr times its own norm, and is then shrunk so that norms do not grow.

        x_{t+1} = (x_t - lr g_t |x_t| / |g_t|) / sqrt(1 + lr^2)

    Args:
      learning_rate: lr, the relative length of a step (0.01, say), a scalar or a schedule.
      min_norm: the least that both norms count for, at least 0; a leaf that is zero moves by lr min_norm. With 0, a
        leaf with a norm of 0 takes the step lr g_t.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> params = jnp.array([3.0, 4.0])  # of norm 5
      >>> tx = gdjax.fromage(0.01)
      >>> updates, state = tx.update(jnp.array([100.0, 0.0]), tx.init(params), params)
      >>> print((1e3 * jnp.linalg.norm(updates)).round())  # 1 % of 5, whatever the gradient
      50.0

    Reference:
      Bernstein, Vahdat, Yue & Liu 2020, On the distance between two neural networks and the stability of learning,
      Algorithm 1, https://arxiv.org/abs/2002.03432
    """
    return chain(scale_by_trust_ratio(min_norm, layer_axes=layer_axes), _descend(learning_rate), _shrink(learning_rate))
