"""Bounds on the gradient of each unit, an output of a layer, by the norm of the unit's weights."""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics
from gdjax.core.base import EmptyState
from gdjax.core.number_domains import Kind
from gdjax.core.types import Axis, LayerAxes
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.linalg import matrices
from gdjax.numerics import Array
from gdjax.numerics.norms import safe_norm

# The axes of the inputs, by the number of axes: a matrix (in, out), attention (in, heads, size), convolutions
# (height, width, in, out) and (depth, height, width, in, out).
_INPUTS = {2: (0,), 3: (0,), 4: (0, 1, 2), 5: (0, 1, 2, 3)}


def unitwise_norm(x: Array | np.ndarray, axis: Axis = None) -> Array:
    """The Euclidean norm of each unit, repeated for each of its elements.

    Args:
      x: weights or their gradient.
      axis: the axes that a unit extends along, an int or a tuple. By default all of a scalar or vector (of an array
        with at most one axis longer than 1), the first axis of two or three, and all but the last of four or five.

    Returns:
      An array shaped like x in its real dtype. The sum is in float32 or wider, without overflow.

    Raises:
      ValueError: x has more than five axes and `axis` is None.

    Departure: Optax's documentation names the axes (0, 1, 2) of an array of three; its code, as this one, takes axis 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> kernel = jnp.array([[3.0, 1.0], [4.0, 0.0]])  # of inputs, outputs
      >>> print(gdjax.unitwise_norm(kernel))  # a norm for each output
      [[5. 1.]
       [5. 1.]]
    """
    x = jnp.asarray(x)
    axes = _axes("gdjax.unitwise_norm", x, axis)
    rest = [i for i in range(x.ndim) if i not in axes]
    units = x.transpose(*axes, *rest).reshape(-1, *(x.shape[i] for i in rest))
    norms = safe_norm(units, 0.0, axis=0)
    return jnp.broadcast_to(jnp.expand_dims(norms, axes), x.shape)


def _axes(label: str, x: Array, axis: Axis) -> list[int]:
    """The axes that a unit extends along."""
    if axis is not None:
        return sorted(matrices.axes_of(f"{label}: x has shape {x.shape}", "axis", axis, x.ndim))
    if sum(n != 1 for n in x.shape) <= 1:
        return list(range(x.ndim))
    if x.ndim in _INPUTS:
        return list(_INPUTS[x.ndim])
    raise ValueError(f"{label}: x has shape {x.shape}; give the axes of a unit for more than five axes")


def unitwise_clip(
    g_norm: Array | np.ndarray, max_norm: float | Array, grad: Array | np.ndarray, div_eps: float | Array = 1e-6
) -> Array:
    """Scales each unit of a gradient down to a bound.

        u = g where |g| < max_norm,    else g max_norm / |g|

    Args:
      g_norm: |g|, the norms of the gradient's units, as from `unitwise_norm`.
      max_norm: the bounds.
      grad: g, the gradient, all three of one shape.
      div_eps: the smallest denominator.

    Raises:
      ValueError: the shapes differ.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> g = jnp.array([[3.0, 1.0], [4.0, 0.0]])
      >>> print(gdjax.unitwise_clip(gdjax.unitwise_norm(g), jnp.full((2, 2), 2.5), g))
      [[1.5 1. ]
       [2.  0. ]]
    """
    g, norm, most = jnp.asarray(grad), jnp.asarray(g_norm), jnp.asarray(max_norm)
    if not g.shape == norm.shape == most.shape:
        raise ValueError(
            f"gdjax.unitwise_clip: grad has shape {g.shape}, g_norm {norm.shape}, max_norm {most.shape}; expected one"
        )
    dtypes = {numerics.real_dtype(numerics.at_least_float32(x.dtype)) for x in (g, norm, most)}
    real = max(dtypes, key=lambda d: d.itemsize)
    wide, norm, most = (numerics.widen(x, real) for x in (g, norm, most))
    with jax.numpy_dtype_promotion("standard"):  # the gradient may be complex, its norm is real
        return jnp.where(norm < most, wide, wide * (most / jnp.maximum(norm, div_eps))).astype(g.dtype)


@leafwise()
def adaptive_grad_clip(
    g: Array, s: EmptyState, p: Array, t: Array,
    clipping: hyper.Size, eps: hyper.Size = 1e-3, axis: Annotated[Axis, Kind("axes")] = None,
    *, layer_axes: LayerAxes = None,
) -> tuple[Array, EmptyState]:  # fmt: skip
    """Scales the gradient of each unit so that its norm is at most a fraction of the norm of the unit's weights.

        u_i = g_i min(1, clipping max(|p_i|, eps) / |g_i|)

    Args:
      clipping: the fraction, finite and at least 0; the reference uses 0.01 to 0.16.
      eps: the least norm that weights count as, so that weights that start at 0 can move; at least 0.
      axis: the axes that a unit extends along, an int or a tuple. By default all of a scalar or vector (of an array
        with at most one axis longer than 1), the first axis of two or three, and all but the last of four or five.
      layer_axes: how many leading axes of a leaf are layers, each taken by itself: an int for all leaves; a pattern of
        paths for one, or a dict from patterns to ints; by role, `matrices_by_role()`; or a function from the parameters
        to a tree of ints. None for none.

    Raises:
      ValueError: (in update) params is missing; an array of more than five axes, and no `axis`.

    Norms are in float32 or wider. A norm below 1e-19 counts as 0; in float32 the norm of n numbers counts as
    sqrt(n) 2^45 at most. Elements of the gradient count as 2^45 at most, so that the result is no larger than it should
    be.

    Departure: Optax divides by 1e-6 at least, and so clips gradients with a smaller norm too much where
    clipping * eps < 1e-6.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.adaptive_grad_clip(clipping=0.5), gdjax.sgd(1.0))
      >>> params = jnp.array([[0.6, 1.0], [0.8, 0.0]])  # units, here columns, of norm 1
      >>> u, _ = tx.update(jnp.array([[3.0, 0.25], [4.0, 0.0]]), tx.init(params), params)
      >>> [round(float(norm), 3) for norm in jnp.linalg.norm(u, axis=0)]
      [0.5, 0.25]

    Reference:
      Brock, De, Smith & Simonyan 2021, High-performance large-scale image recognition without normalization,
      equation 3, https://arxiv.org/abs/2102.06171
    """
    axes = _axes("gdjax.adaptive_grad_clip", g, axis)
    g_norm, p_norm = (numerics.sqrt(numerics.sum_sq(x, axes)) for x in (g, p))
    factor = numerics.shrinking(g_norm, clipping * jnp.maximum(p_norm, eps))
    return numerics.scaled(g, factor), s
