"""Gradients with mean 0."""

from typing import Annotated

from gdjax.core.base import EmptyState
from gdjax.core.number_domains import Kind
from gdjax.core.types import LayerAxes
from gdjax.lift.leafwise import leafwise
from gdjax.linalg import matrices
from gdjax.linalg.sums import means
from gdjax.numerics import Array


@leafwise()
def centralize(
    g: Array, s: EmptyState, p: Array, t: Array,
    *, output_axis: Annotated[int, Kind("axes")] = 0, layer_axes: LayerAxes = None,
) -> tuple[Array, EmptyState]:  # fmt: skip
    """Subtracts its mean from the gradient of each output's weights; scalars and vectors stay as they are.

        u_i = g_i - mean(g_i),    g_i the gradient of the weights that lead to output i

    Args:
      output_axis: the axis of the outputs. 0, the default, is Optax's and right for torch's layout (out, in, ...); the
        reference's rule for the layout of flax and other JAX libraries, (..., in, out), is -1.
      layer_axes: how many leading axes of a leaf are layers, each taken by itself: an int for all leaves; a pattern of
        paths for one, or a dict from patterns to ints; by role, `matrices_by_role()`; or a function from the parameters
        to a tree of ints. None for none.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.centralize(output_axis=-1)
      >>> g = {"kernel": jnp.array([[1.0, 2.0], [3.0, 6.0]]), "bias": jnp.array([1.0, 2.0])}
      >>> u, _ = tx.update(g, tx.init(g))
      >>> print(u["kernel"], u["bias"])
      [[-1. -2.]
       [ 1.  2.]] [1. 2.]

    Reference:
      Yong, Huang, Hua & Zhang 2020, Gradient centralization: a new optimization technique for deep neural networks,
      equation 1, https://arxiv.org/abs/2004.01461
    """
    if g.ndim < 2:
        return g, s
    (kept,) = matrices.axes_of(f"gdjax.centralize: gradient of shape {g.shape}", "output_axis", output_axis, g.ndim)
    return g - means(g, tuple(i for i in range(g.ndim) if i != kept)), s
