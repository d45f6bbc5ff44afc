"""Step sizes from the distance travelled."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gdjax.core.types import Floating, LayerAxes, Params
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Factor, New, initial_parameter
from gdjax.lift.slots import start as first_of
from gdjax.numerics import Array, divide, scaled, sqrt, sum_sq, widen, widest_real


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
    ScaleByDistanceOverGradientsState,
    max_dist=_first_distance,
    grad_sum_of_squares=Factor((New(1),)),
    init_params=_start,
)
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
      layer_axes: how many leading axes of a leaf are layers, each taken by itself: an int for all leaves; a pattern of
        paths for one, or a dict from patterns to ints; by role, `matrices_by_role()`; or a function from the parameters
        to a tree of ints. None for none.

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
