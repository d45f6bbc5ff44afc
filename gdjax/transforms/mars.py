"""MARS: gradients corrected by their change."""

from typing import NamedTuple

from gdjax.combine.chain import chain
from gdjax.core import base
from gdjax.core.base import GradientTransformation, transform
from gdjax.core.types import Bound, Decay, Finite, LayerAxes, Params, Transform
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.slots import Moment
from gdjax.linalg.sums import inner as inner_product
from gdjax.numerics import Array, bounded, shrinking, sqrt


class MarsState(NamedTuple):
    """State of the correction of `mars`, which comes before that of the optimizer inside."""

    g: Params  # like params, the gradient before


@leafwise(MarsState, g=Moment(kind="exact"))
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
      layer_axes: how many leading axes of a leaf are layers, each taken by itself: an int for all leaves; a pattern of
        paths for one, or a dict from patterns to ints; by role, `matrices_by_role()`; or a function from the parameters
        to a tree of ints. None for none.

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
