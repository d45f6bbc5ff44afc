"""Clipping and centring of gradients."""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import numerics
from gdjax.core import callers, checks
from gdjax.core.base import EmptyState
from gdjax.core.number_domains import Check
from gdjax.core.paths import label_by_path
from gdjax.core.types import Axis, LayerAxes
from gdjax.lift.leafwise import hyper, leafwise
from gdjax.lift.meetings import total_norm
from gdjax.lift.slots import Tree
from gdjax.linalg import matrices
from gdjax.linalg.vectors import means
from gdjax.numerics import Array, shrinking
from gdjax.numerics.norms import safe_norm, safe_root_mean_squares

__all__ = [
    "NormalizeState", "adaptive_grad_clip", "centralize", "clip", "clip_by_block_rms", "clip_by_global_norm",
    "normalize", "unitwise_clip", "unitwise_norm",
]  # fmt: skip

NormalizeState = EmptyState  # Optax's name for it


def _group(tree: Tree, groups: Any) -> list[Any]:
    """For each leaf the label of its group, None without groups."""
    if groups is None:
        return tree.of_each([None] * len(tree.paths))
    full = tree.structure.unflatten(tree.entries)
    names = callers.of_tree(tree.label, "groups", groups, full) if callable(groups) else label_by_path(groups)(full)
    checks.returned(tree.label, "the groups' function", names)
    each = jax.tree.map(lambda name, part: jax.tree.map(lambda _: name, part), names, full)
    return tree.of_each(jax.tree.leaves(each))


@leafwise(growth="same")
def clip(g: Array, s: EmptyState, p: Array, t: Array, max_delta: hyper.Bound) -> tuple[Array, EmptyState]:
    """Clips every element to [-max_delta, max_delta]; a complex number keeps its argument.

    Args:
      max_delta: the bound, at least 0.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.chain(gdjax.clip(1.0), gdjax.sgd(0.5))
      >>> u, _ = tx.update(jnp.array([0.5, -3.0]), tx.init(jnp.zeros(2)))
      >>> print(u)
      [-0.25  0.5 ]
    """
    if jnp.iscomplexobj(g):
        size = jnp.abs(g)
        return g * jnp.where(size > max_delta, max_delta / jnp.where(size == 0, 1, size), 1), s
    return jnp.clip(g, -max_delta, max_delta), s


@leafwise(static={"groups": _group}, growth="same")
def clip_by_global_norm(
    g: Array, s: EmptyState, p: Array, t: Array, max_norm: hyper.Bound,
    *, groups: Annotated[Any, Check("groups")] = None,
) -> tuple[Array, EmptyState]:  # fmt: skip
    """Scales all updates by one factor so that their global norm is at most max_norm.

        u = g min(1, max_norm / |g|)

    Args:
      max_norm: the bound on `global_norm(updates)`, at least 0. 0 gives zeros, infinity changes nothing.
      groups: clips each group of leaves by its own norm: a dict from pattern to label, where the first pattern that is
        found in the path of a leaf counts; or a function from the tree to a tree of labels, or to a prefix of one. None
        is one group.

    The norm is that of the leaves that the clipping sees: inside a group of `partition` that group's alone. For the
    norm over all groups it stands before: `chain(clip_by_global_norm(1.0), partition(...))`.

    The norm is taken in float32 without overflow (see `global_norm`). A NaN in a group makes its every update NaN.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> g = {"encoder": jnp.array([3.0, 0.0]), "decoder": jnp.array([0.0, 4.0])}
      >>> for tx in (gdjax.clip_by_global_norm(2.5),
      ...            gdjax.clip_by_global_norm(2.5, groups={"encoder": "a", ".*": "b"})):
      ...     u, _ = tx.update(g, tx.init(g))
      ...     print(u["encoder"], u["decoder"])
      [1.5 0. ] [0. 2.]
      [2.5 0. ] [0.  2.5]

    Reference:
      Pascanu, Mikolov & Bengio 2013, On the difficulty of training recurrent neural networks, Algorithm 1,
      https://arxiv.org/abs/1211.5063
    """
    # One quotient for the whole tree, one product per element.
    return g * shrinking(total_norm(g, groups), max_norm), s


@leafwise(growth="same")
def clip_by_block_rms(
    g: Array, s: EmptyState, p: Array, t: Array, threshold: hyper.Bound, *, layer_axes: LayerAxes = None
) -> tuple[Array, EmptyState]:
    """Scales each array so that its root mean square is at most threshold.

        u = g min(1, threshold / rms(g))

    Args:
      threshold: the bound, at least 0. 0 gives zeros, infinity changes nothing.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

    A NaN in an array makes that array NaN.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.clip_by_block_rms(2.5)
      >>> g = {"w": jnp.array([1.0, 7.0]), "b": jnp.array([0.5])}
      >>> u, _ = tx.update(g, tx.init(g))
      >>> print(u["w"], u["b"])  # the root mean square of w was 5
      [0.5 3.5] [0.5]

    Reference:
      Shazeer & Stern 2018, Adafactor: adaptive learning rates with sublinear memory cost, section 6,
      https://arxiv.org/abs/1804.04235
    """
    return g * shrinking(safe_root_mean_squares(g, 0.0), threshold), s


@leafwise(growth="same")
def normalize(g: Array, s: EmptyState, p: Array, t: Array) -> tuple[Array, EmptyState]:
    """Scales all updates by one factor so that their global norm is 1.

        u = g / |g|

    Zeros stay zeros. The norm is that of `global_norm`.

    Example:
      >>> import gdjax, jax.numpy as jnp
      >>> tx = gdjax.normalize()
      >>> u, _ = tx.update({"b": jnp.array([-4.0]), "w": jnp.array([3.0])}, tx.init(None))
      >>> {name: round(float(x[0]), 3) for name, x in u.items()}
      {'b': -0.8, 'w': 0.6}
    """
    # Two factors: for norms below 1e-38 or above 8e37 the reciprocal would be infinite or denormal.
    norm = total_norm(g)
    root = jnp.sqrt(jnp.where(norm == 0, 1, norm))
    return g * (1 / root) * (1 / root), s


@leafwise(growth="same")
def centralize(
    g: Array, s: EmptyState, p: Array, t: Array,
    *, output_axis: Annotated[int, Check("axes")] = 0, layer_axes: LayerAxes = None,
) -> tuple[Array, EmptyState]:  # fmt: skip
    """Subtracts its mean from the gradient of each output's weights; scalars and vectors stay as they are.

        u_i = g_i - mean(g_i),    g_i the gradient of the weights that lead to output i

    Args:
      output_axis: the axis of the outputs. 0, the default, is Optax's and right for torch's layout (out, in, ...); the
        reference's rule for the layout of flax and other JAX libraries, (..., in, out), is -1.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

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
    (output,) = matrices.axes_of(f"gdjax.centralize: gradient of shape {g.shape}", "output_axis", output_axis, g.ndim)
    return g - means(g, tuple(i for i in range(g.ndim) if i != output)), s


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
    units = x.transpose(*axes, *rest).reshape(math.prod(x.shape[i] for i in axes), *(x.shape[i] for i in rest))
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


@leafwise(growth="same")
def adaptive_grad_clip(
    g: Array, s: EmptyState, p: Array, t: Array,
    clipping: hyper.Size, eps: hyper.Size = 1e-3, axis: Annotated[Axis, Check("axes")] = None,
    *, layer_axes: LayerAxes = None,
) -> tuple[Array, EmptyState]:  # fmt: skip
    """Scales the gradient of each unit so that its norm is at most a fraction of the norm of the unit's weights.

        u_i = g_i min(1, clipping max(|p_i|, eps) / |g_i|)

    Args:
      clipping: the fraction, finite and at least 0; the reference uses 0.01 to 0.16.
      eps: the least norm that weights count as, so that weights that start at 0 can move; at least 0.
      axis: the axes that a unit extends along, an int or a tuple. By default all of a scalar or vector (of an array
        with at most one axis longer than 1), the first axis of two or three, and all but the last of four or five.
      layer_axes: how many leading axes of a leaf are layers, each by itself: an int; a pattern of paths for one; a dict
        from patterns to ints; `matrices_by_role()`; or a function from the parameters to a tree of ints. None for none.

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
