"""SM3."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Decay, LayerAxes, Params, Rate
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Factor
from gdjax.numerics import Array, abs_sq, bounded, divide, sqrt
from gdjax.transforms.decay import descending

__all__ = ["ScaleBySM3State", "scale_by_sm3", "sm3"]


class ScaleBySM3State(NamedTuple):
    """State of `scale_by_sm3`."""

    mu: Params  # for each leaf a list, of a vector for each of its axes: bounds on sums of squares, float32 at least
    nu: Params  # like params, momentum


@leafwise(
    ScaleBySM3State, mu=Factor(lambda shape, hyper: [(i,) for i in range(len(shape))] or [()]), growth="elementwise"
)
def scale_by_sm3(
    g: Array, s: ScaleBySM3State, p: Array, t: Array,
    b1: hyper.Decay = 0.9, b2: hyper.Share = 1.0, eps: hyper.Size = 1e-8,
    *, layer_axes: LayerAxes = None,
) -> Any:  # fmt: skip
    """SM3's direction: momentum of gradients over the root of bounds on the sums of their squares.

        v_t[i, j] = b2 min(r_{t-1}[i], c_{t-1}[j]) + (1 - b2) g_t[i, j]^2,    for b2 = 1 the sum of both
        r_t[i] = max_j v_t[i, j],    c_t[j] = max_i v_t[i, j]
        u_t = b1 u_{t-1} + (1 - b1) g_t / sqrt(v_t + eps)

    Other arguments are those of `gdjax.sm3`.

    Args:
      b1: decay of the momentum, an average, in [0, 1).
      b2: 1 for sums of squares; in [0, 1) for averages with that decay.
      eps: inside the root, at least 0. Where the sum under it is 0 the direction is the gradient, which is 0.

    Example:
      >>> import gdjax, jax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((6, 4)), "b": jnp.ones(4)}
      >>> state = gdjax.scale_by_sm3().init(params)
      >>> jax.tree.map(jnp.shape, state.mu["w"]), jax.tree.map(jnp.shape, state.mu["b"])
      ([(6,), (4,)], [(4,)])

    Reference:
      Anil, Gupta, Koren & Singer 2019, Algorithm SM3-II, https://arxiv.org/abs/1901.11150
    """
    g = bounded(g, "summed")
    axes = range(g.ndim)
    # By index: Flax makes a mapping with the keys 0, 1, ... of a list in the state.
    bounds = [jnp.expand_dims(s.mu[i], [a for a in axes if a != i]) for i in axes] or [s.mu[0]]
    weight = jnp.where(b2 == 1, 1, 1 - b2)
    least = functools.reduce(jnp.minimum, [jnp.broadcast_to(b, g.shape) for b in bounds])
    v = weight * abs_sq(g) + b2 * least
    nu = b1 * s.nu + (1 - b1) * divide(g, sqrt(v + eps))
    known = jnp.where(jnp.isnan(v), 0, v)  # NaN stays with its element
    new = [jnp.max(known, axis=tuple(a for a in axes if a != i), initial=0) for i in axes] or [v]
    return nu, ScaleBySM3State(new, nu)


@transform
def sm3(learning_rate: Rate, momentum: Decay = 0.9, *, layer_axes: LayerAxes = None) -> GradientTransformation:
    """SM3: Adagrad in little memory. Of the sums of squares it keeps bounds, one for each row, column, and so on.

        v_t[i, j] = min(r_{t-1}[i], c_{t-1}[j]) + g_t[i, j]^2
        r_t[i] = max_j v_t[i, j],    c_t[j] = max_i v_t[i, j]
        nu_t = momentum nu_{t-1} + (1 - momentum) g_t / sqrt(v_t + 1e-8)
        x_{t+1} = x_t - lr nu_t

    for a matrix; an array of n axes has n such vectors, a vector or scalar its own sum, as in Adagrad.

    Args:
      learning_rate: lr, a scalar or a schedule.
      momentum: in [0, 1); nu is an average.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

    Departure: the reference has no number beside v_t, and 0 for 0 / 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> loss = lambda w: jnp.sum((w - 3.0) ** 2)
      >>> result = gdjax.minimize(loss, jnp.zeros((2, 3)), gdjax.sm3(1.0), steps=100)
      >>> print(result.params[0].round(1))
      [3. 3. 3.]

    Reference:
      Anil, Gupta, Koren & Singer 2019, Memory-efficient adaptive optimization, Algorithm SM3-II,
      https://arxiv.org/abs/1901.11150
    """
    return descending(scale_by_sm3(momentum, layer_axes=layer_axes), learning_rate)
